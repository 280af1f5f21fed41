"""Colours: of methods in plots, of labels laid over frames (in figures and overlay videos alike), and of flow."""

import cv2
import flowiz
import numpy as np
import torch
from torch import Tensor

from dfflib.data.clips import IGNORE
from dfflib.warp import known

COLOURS = {
    "grey": "#444444", "blue": "#2a6f97", "light blue": "#8ab6d6", "green": "#6a994e", "light green": "#a7c957",
    "orange": "#d1603d", "purple": "#9c6ade", "teal": "#2a9d8f", "pale": "#b8b8b8",
}  # fmt: skip

METHODS = {
    "Frame": ("grey", "o-"), "copy": ("orange", "o-"), "DFF": ("blue", "o-"), "DFF, S = 1": ("blue", "o--"),
    "S alone": ("light blue", "o:"), "separate": ("light blue", "o-"), "pre-trained flow": ("light blue", "o-"),
    "fix N": ("teal", "o-"), "detached": ("teal", "o-"), "detached, S = 1": ("teal", "o--"), "DIS": ("green", "o-"),
    "DIS, chained": ("light green", "o-"), "SFF slow": ("green", "o-"), "DIS + N": ("green", "o--"), "network": ("blue", "o-"),
    "exact": ("purple", "o:"), "exact, occlusion known": ("purple", "o--"), "DFF in the paper, Cityscapes": ("grey", "--"),
    "average": ("blue", "o-"), "last offset": ("orange", "s--"), "eq. 7": ("blue", "-"), "Cityscapes": ("orange", "o"),
    "ImageNet VID": ("green", "o"), "full run": ("blue", "-"), "this run": ("orange", "-"), "all pixels": ("pale", "-"),
    "feature network": ("grey", "-"), "flow network": ("blue", "-"), "warp and task": ("orange", "-"),
    "DFF's N": ("grey", "o--"), "Light": ("teal", "-"), "Lighter": ("light green", "-"), "N": ("grey", "-"),
    "carphone": ("blue", "-"), "bikes": ("orange", "-"), "bigbuckbunny": ("green", "-"),
}  # fmt: skip
"""Name of a method, or of another curve or bar -> its colour, and marker and line as matplotlib writes them."""


def look(name: str, n: int = 0) -> tuple[str, str]:
    """Colour and line of a method; of the ``n``-th curve of a figure if the name is none of `METHODS`."""
    another = ("blue", "light blue", "green")[n % 3], ("o-", "s:", "^--")[n // 3 % 3]
    colour, line = METHODS.get(name, another)
    return COLOURS[colour], line


CLASS_COLOURS = np.array(
    [(40, 44, 52), (240, 180, 41), (42, 111, 151), (209, 96, 61), (106, 153, 78), (156, 106, 222), (86, 180, 200),
     (220, 120, 170), (150, 120, 90), (120, 140, 160), (200, 200, 90), (90, 60, 110)], dtype=np.uint8,
)  # fmt: skip
"""Label colours, class 0 first; they repeat after twelve. Ignored pixels are drawn white."""

PALETTE = CLASS_COLOURS[np.arange(256) % len(CLASS_COLOURS)][:, None]  # of every byte, as OpenCV takes it
PALETTE[IGNORE] = 255

DARKER = 0.45 * np.eye(3) + 0.05  # what `overlay` does to class 0: less of each colour, and some grey


def to_image(frame: Tensor | np.ndarray) -> np.ndarray:
    """A frame ``(3, H, W)``, uint8 or float in [0, 1], or ``(H, W)``, as an array for ``imshow``."""
    if isinstance(frame, Tensor):
        frame = frame.detach().cpu()
        frame = frame.float().clamp(0, 1).mul(255).round().to(torch.uint8) if frame.is_floating_point() else frame
        frame = frame.squeeze(0) if frame.ndim == 4 else frame
        frame = (frame.permute(1, 2, 0) if frame.ndim == 3 else frame).numpy()
    return frame


def colour_labels(labels: Tensor) -> np.ndarray:
    """Labels ``(H, W)`` int64 as RGB uint8 ``(H, W, 3)``; 255 (ignore) is white."""
    return cv2.applyColorMap(_bytes(labels), PALETTE)


def overlay(frame: Tensor, labels: Tensor, strength: float = 0.55, outline: bool = True) -> np.ndarray:
    """A frame with its labels laid over it: class 0 keeps the picture, darkened; other classes are tinted and outlined.

    Args:
        frame: ``(3, H, W)`` uint8 or float.
        labels: ``(H, W)``.
        strength: share of the tint.
        outline: draw a white line between classes; small regions are hidden by it.

    Returns:
        uint8 ``(H, W, 3)``.
    """
    picture, mask = np.ascontiguousarray(to_image(frame)), _bytes(labels)
    result = cv2.addWeighted(picture, 1 - strength, cv2.applyColorMap(mask, PALETTE), strength, 0)
    cv2.copyTo(cv2.transform(picture, DARKER), (mask == 0).view(np.uint8), result)
    if outline:
        edge = np.zeros_like(mask)
        edge[:, 1:] = mask[:, 1:] != mask[:, :-1]
        edge[1:] |= mask[1:] != mask[:-1]
        cv2.copyTo(np.full_like(result, 255), edge, result)
    return result


def _bytes(labels: Tensor) -> np.ndarray:
    return labels.detach().to(torch.uint8).cpu().contiguous().numpy()


UNKNOWN_GREY = 128  # of every colour, where `flow_to_rgb` has no flow to draw


def flow_to_rgb(flow: Tensor, max_motion: float | None = None) -> np.ndarray:
    """Colour-code a flow field with flowiz: hue is direction, saturation is length; grey is unknown (`dfflib.warp.known`).

    Args:
        flow: ``(2, H, W)``.
        max_motion: length in pixels that gets full saturation; None takes the longest known vector of this field. Set it
            when several fields are shown side by side, or their colours cannot be compared.

    Returns:
        uint8 ``(H, W, 3)`` for ``imshow``.
    """
    flow = flow.detach().float().cpu()
    seen = known(flow)
    field = torch.where(seen, flow, 0).permute(1, 2, 0).numpy().copy()
    if max_motion is not None:  # flowiz scales by the longest vector, so long ones are shortened to the limit
        length = np.linalg.norm(field, axis=-1, keepdims=True)
        field /= np.maximum(np.maximum(length, max_motion), 1e-9)
        # a hidden row carries one vector of full length, so that flowiz takes that as its unit
        field = np.pad(field, ((0, 1), (0, 0), (0, 0)))
        field[-1, 0] = (1.0, 0.0)
    colours = flowiz.convert_from_flow(np.ascontiguousarray(field, dtype=np.float32))[: flow.shape[1]]
    colours[~seen[0].numpy()] = UNKNOWN_GREY
    return colours
