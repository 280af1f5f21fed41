"""A folder of images as a sequence of frames."""

import re
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from dfflib.errors import DffError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")


def natural_key(name: str) -> list:
    """Sort key that reads digits as numbers: ``frame2`` before ``frame10``."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name.lower())]


class ImageFolder:
    """The images of one folder (jpg, jpeg, png, bmp; not of its subfolders) in natural order of their names.

    Grey, palette and 16-bit images become RGB uint8 (16 bits are divided by 257); an alpha channel is dropped; the
    orientation that a camera wrote into a JPEG is applied. Only headers are read here, pixels when asked for.

    Args:
        path: the folder.
        fps: frames per second, since images have none.

    Raises:
        DffError: no images, an image that cannot be read, or images of more than one size.
    """

    def __init__(self, path: Path, fps: float = 25.0):
        if not fps > 0:
            raise DffError(f"{fps} frames per second is no frame rate: choose a number above 0.")
        self.fps = float(fps)
        files = [f for f in path.iterdir() if f.suffix.lower() in SUFFIXES and f.is_file()]
        files = [f for f in files if not f.name.startswith(".")]  # macOS leaves ._ files on foreign disks
        if not files:
            raise DffError(
                f"{path} holds no images: give a folder of jpg, jpeg, png or bmp files, or the path of a video file."
            )
        self._files = sorted(files, key=lambda f: (natural_key(f.name), f.name))
        first = _header_size(self._files[0])
        for file in self._files[1:]:
            size = _header_size(file)
            if size != first:
                raise DffError(
                    f"{file} has {size[0]}x{size[1]} pixels but {self._files[0].name} has {first[0]}x{first[1]}: "
                    f"resize the images of a clip to one size, or remove those that do not belong to it."
                )

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int) -> np.ndarray:
        """One frame, ``(H, W, 3)`` uint8 RGB."""
        file = self._files[index]
        try:
            data = np.frombuffer(file.read_bytes(), np.uint8)  # not cv2.imread, which fails on some names on Windows
            image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH) if data.size else None
        except (OSError, cv2.error):
            image = None
        if image is None:
            raise _unreadable(file)
        if image.dtype == np.uint16:
            image = (image / 257 + 0.5).astype(np.uint8)
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def rest(self) -> None:
        """Nothing runs in the background."""


def _header_size(file: Path) -> tuple[int, int]:
    """Width and height, as shown, without decoding the pixels."""
    try:
        with Image.open(file) as image:
            turned = image.getexif().get(0x0112, 1) >= 5 if file.suffix.lower() in (".jpg", ".jpeg") else False
            return image.size[::-1] if turned else image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise _unreadable(file) from None


def _unreadable(file: Path) -> DffError:
    return DffError(f"{file} cannot be read as an image: replace the damaged file, or remove it from the folder.")
