"""Textures of the Shapes world: photographs out of the scikit-image wheel, and procedural patterns.

A texture is a float32 array ``(S, S, 3)`` in 0..255, slightly blurred so that looking it up between its texels is as exact as
8-bit frames can tell. It continues beyond its edges by reflection, so no camera motion ever shows a seam.
"""

from functools import lru_cache, reduce
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from dfflib.errors import DffError

PHOTOGRAPHS = {
    "train": ("astronaut.png", "brick.png", "camera.png", "chelsea.png", "coins.png", "grass.png", "hubble_deep_field.jpg",
              "text.png"),
    "val": ("coffee.png", "moon.png", "page.png"),
    "test": ("gravel.png", "ihc.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg"),
}  # fmt: skip
"""Files of ``skimage.data`` by split: no photograph serves two of them."""

PATTERNS = ("stripes", "checks", "dots", "rings", "waves", "cells", "noise")
"""Procedural textures."""

LARGEST = 640  # photographs are kept with their shorter side no longer than this many pixels


@lru_cache(maxsize=None)
def photograph(name: str) -> np.ndarray:
    """One photograph of ``skimage.data``, ``(H, W, 3)`` uint8 RGB, read once in each process.

    Raises:
        DffError: scikit-image is installed without it.
    """
    spec = find_spec("skimage")
    path = Path(spec.origin if spec and spec.origin else "skimage").parent / "data" / name
    try:
        with Image.open(path) as file:
            image = np.asarray(file.convert("RGB"))
    except OSError:
        raise DffError(
            f"{path} is missing or damaged: install scikit-image again from PyPI, whose wheel holds it."
        ) from None
    shrink = LARGEST / min(image.shape[:2])
    if shrink < 1:
        image = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    return image


def photo_patch(rng: np.random.Generator, split: str, size: int, share: tuple[float, float]) -> np.ndarray:
    """A random square cut from a random photograph of a split, at a random multiple of 90 degrees, perhaps mirrored.

    Args:
        rng: source of the choices.
        split: ``"train"``, ``"val"`` or ``"test"``.
        size: side of the result in texels.
        share: bounds of the cut's side, as a share of the photograph's shorter side.

    Returns:
        ``(size, size, 3)`` float32 in 0..255.
    """
    image = photograph(PHOTOGRAPHS[split][rng.integers(len(PHOTOGRAPHS[split]))])
    side = int(rng.uniform(*share) * min(image.shape[:2]))
    top, left = (int(rng.integers(length - side + 1)) for length in image.shape[:2])
    turns, mirrored = int(rng.integers(4)), rng.random() < 0.5
    cut = np.rot90(image[top : top + side, left : left + side], turns)
    cut = np.ascontiguousarray(cut[:, ::-1] if mirrored else cut)
    method = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    return cv2.resize(cut, (size, size), interpolation=method).astype(np.float32)


def pattern(rng: np.random.Generator, kind: str, size: int, period: float) -> np.ndarray:
    """A procedural texture, grey, about -1 to 1: ``(size, size)`` float32.

    Args:
        rng: source of angle, phase and other details.
        kind: one of `PATTERNS`.
        size: side in texels.
        period: distance between two stripes, dots and so on, in texels.
    """
    angle, phase = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi, 2)
    y, x = np.mgrid[:size, :size].astype(np.float32) * (2 * np.pi / period)
    u, v = x * np.cos(angle) + y * np.sin(angle) + phase[0], y * np.cos(angle) - x * np.sin(angle) + phase[1]
    if kind == "stripes":
        wave = np.sin(u)
    elif kind == "checks":
        wave = 1.5 * np.sin(u) * np.sin(v)
    elif kind == "dots":
        wave = (np.cos(u) + np.cos(v)) - 0.6
    elif kind == "rings":
        middle = size * np.pi / period
        wave = np.sin(1.5 * np.hypot(x - middle, y - middle) + phase[0])
    elif kind == "waves":
        wave = np.sin(u + 1.5 * np.sin(0.7 * v))
    elif kind == "cells":
        wave = np.abs(_noise(rng, size, period)) * 3 - 1
    elif kind == "noise":
        return reduce(np.add, (_noise(rng, size, period / 2**octave) * 0.7**octave for octave in range(3)))
    else:
        raise ValueError(f"pattern is {kind!r}: choose one of {', '.join(PATTERNS)}.")
    return np.tanh(2 * wave).astype(np.float32)


def _noise(rng: np.random.Generator, size: int, period: float) -> np.ndarray:
    """Smooth random bumps, about ``period`` texels apart, of variance about 1."""
    coarse = rng.standard_normal((max(4, round(2 * size / period)),) * 2).astype(np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def coloured(texture: np.ndarray, mean: np.ndarray, detail: float, hue_kept: float = 0.5) -> np.ndarray:
    """A texture with the given mean colour and strength of detail.

    Args:
        texture: ``(S, S)`` or ``(S, S, 3)``, any range.
        mean: colour that the result has on average, ``(3,)`` in 0..255.
        detail: standard deviation of the result around it, in grey levels, before values are cut off at 0 and 255.
        hue_kept: share of a photograph's own colours that remain in its detail.

    Returns:
        ``(S, S, 3)`` float32 in 0..255.
    """
    if texture.ndim == 2:
        texture = cv2.merge([texture] * 3)
    mixed = cv2.transform(
        texture, hue_kept * np.eye(3) + (1 - hue_kept) / 3
    )  # NumPy's reductions take ten times as long
    own_mean, own_deviation = (values.ravel() for values in cv2.meanStdDev(mixed))
    gain = detail / max(np.sqrt(np.mean(own_deviation**2)), 1e-3)
    offset = np.asarray(mean) - gain * own_mean
    result = cv2.transform(mixed, np.column_stack((gain * np.eye(3), offset)))
    return np.clip(result, 0, 255, out=result)


def finish(texture: np.ndarray, size: int, blur: float = 1.0) -> np.ndarray:
    """A texture at the size it is rendered from, blurred by ``blur`` texels: float32 ``(size, size, 3)``."""
    if texture.shape[0] != size:
        method = cv2.INTER_AREA if texture.shape[0] > size else cv2.INTER_CUBIC
        texture = cv2.resize(texture, (size, size), interpolation=method)
    return cv2.GaussianBlur(texture, (0, 0), blur, borderType=cv2.BORDER_REFLECT_101)
