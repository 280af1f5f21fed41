"""Which way is up: the eight orientations that cameras write into files instead of turning the pixels.

An orientation is the 2x2 part ``(a, b, c, d)`` of a display matrix: the pixel at ``(x, y)`` is shown at
``(a x + c y, b x + d y)``, up to a shift. Entries are 0, 1 and -1; mirrors have determinant -1.
"""

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer, Type

Orientation = tuple[int, int, int, int]
UPRIGHT: Orientation = (1, 0, 0, 1)
EXIF: dict[int, Orientation] = {
    1: UPRIGHT, 2: (-1, 0, 0, 1), 3: (-1, 0, 0, -1), 4: (1, 0, 0, -1),
    5: (0, 1, 1, 0), 6: (0, 1, -1, 0), 7: (0, -1, -1, 0), 8: (0, -1, 1, 0),
}  # fmt: skip
"""Orientation by the number of the EXIF tag 0x0112."""


def is_mirrored(orientation: Orientation) -> bool:
    """True if no rotation alone turns the pixels upright."""
    a, b, c, d = orientation
    return a * d - b * c < 0


def turned(pixels: np.ndarray, orientation: Orientation) -> np.ndarray:
    """A view of pixels ``(H, W, ...)`` as they are to be shown, ``(W, H, ...)`` where the image lies on its side."""
    a, b, c, d = orientation
    if a == 0:
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[::d, ::a]


def of_frame(frame: av.VideoFrame) -> Orientation:
    """Orientation by the display matrix of a decoded frame; upright where it has none, or one that is none of the eight."""
    try:
        # not frame.side_data: the two would hold each other until the garbage collector runs
        data = SideDataContainer(frame).get(Type.DISPLAYMATRIX)  # type: ignore[call-arg]  # PyAV's stubs lack it
    except ValueError:  # some other side data is too new for PyAV
        return EXIF[(1, 8, 3, 6)[round(frame.rotation / 90) % 4]]
    if data is None:
        return UPRIGHT
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5] / 2**16
    rows = np.array([[a, b], [c, d]])
    largest = np.abs(rows).max(axis=1, keepdims=True)
    # what writers make of NaN and infinity lies far outside these bounds, and so do scales that nobody means
    if largest.min() < 0.01 or largest.max() > 100:
        return UPRIGHT
    signs = np.rint(rows / largest)
    exact = np.abs(rows / largest - signs).max() < 0.1 and abs(round(np.linalg.det(signs))) == 1
    if not exact or np.abs(signs).sum() != 2:
        return UPRIGHT
    a, b, c, d = (int(value) for value in signs.ravel())
    return a, b, c, d
