"""Frames and label maps that lie in image files, one by one, as the published data sets keep them."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dfflib.data.images import SUFFIXES, natural_key
from dfflib.data.video import resize, resized_shape, to_tensor
from dfflib.errors import DffError

_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


class LabelledFiles:
    """Frames and label maps of one clip, each read from its file when it is asked for.

    Args:
        frames: image files, all of one size.
        labels: the label map of each frame, or None.
        decode: makes labels of the raw values of a label map, its path, and whether it has a palette.
        short_side: resize so that the shorter side has that many pixels: frames by area, label maps by nearest neighbour.
    """

    def __init__(
        self,
        frames: Sequence[Path],
        labels: Sequence[Path | None],
        decode: Callable[[np.ndarray, Path, bool], np.ndarray],
        short_side: int | None = None,
    ):
        if short_side is not None and short_side < 1:
            raise DffError(f"the shorter side of the frames cannot be {short_side} pixels: choose 1 or more.")
        self._frames, self._labels, self._decode, self._short_side = frames, labels, decode, short_side

    def frame(self, index: int) -> Tensor:
        """One frame ``(3, H, W)`` uint8."""
        image = np.asarray(_read(self._frames[index]).convert("RGB"))
        if index:
            check_size(self._frames[index], image.shape[:2], self._frames[0])
        return to_tensor(resize(image, resized_shape(image.shape[:2], self._short_side)))

    def labels(self, index: int) -> Tensor:
        """One label map ``(H, W)`` int64, as ``decode`` makes it."""
        file = self._labels[index]
        if file is None:
            raise DffError(f"{self._frames[index]} has no annotation: ask for the frames in clip.labelled only.")
        values, palette = read_labels(file)
        check_size(file, values.shape, self._frames[index])
        labels = self._decode(values, file, palette)
        return torch.from_numpy(resize_labels(labels, resized_shape(labels.shape, self._short_side)).astype(np.int64))


def read_labels(file: Path) -> tuple[np.ndarray, bool]:
    """The values ``(H, W)`` of a grey or palette image (palette indices, not colours), and whether it has a palette.

    Raises:
        DffError: it cannot be read, or it is a colour image.
    """
    image = _read(file)
    values = np.asarray(image)
    if values.ndim == 3:
        bands = values[..., : 1 if image.mode == "LA" else 3]  # without the alpha channel
        if (bands != bands[..., :1]).any():
            raise DffError(f"{file} is a colour image: give annotations as grey or palette PNG, one number a pixel.")
        values = values[..., 0]
    return values.astype(np.int32), image.mode == "P"


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Labels ``(H, W)`` at another size: each pixel takes the label at its centre."""
    rows, columns = (((2 * np.arange(new) + 1) * old) // (2 * new) for new, old in zip(size, labels.shape, strict=True))
    return labels[rows[:, None], columns]


def image_files(folder: Path) -> list[Path]:
    """The images of a folder in natural order of their names; only names are read."""
    names = [name for name in os.listdir(folder) if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    return [folder / name for name in sorted(names, key=lambda name: (natural_key(name), name))]


def _read(file: Path, pixels: bool = True) -> Image.Image:
    """An image, or only what its header says."""
    try:
        with Image.open(file) as image:
            if pixels:
                image.load()
            return image
    except _DAMAGE:
        raise DffError(f"{file} cannot be read as an image: replace it by the file of the original download.") from None


def check_size(file: Path, size: tuple[int, int], other: Path) -> None:
    """An error unless ``size`` (height, width) of ``file`` is that of ``other``, of which only the header is read."""
    expected = _read(other, pixels=False).size[::-1]
    if size != expected:
        raise DffError(
            f"{file} has {size[1]}x{size[0]} pixels but {other} has {expected[1]}x{expected[0]}: "
            f"replace both by the files of the original download."
        )
