"""A folder of images as a sequence of frames."""

import os
import re
import struct
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from dfflib.data.video.orientation import EXIF, UPRIGHT, Orientation, turned
from dfflib.errors import DffError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")


def natural_key(name: str) -> list:
    """Sort key that reads digits as numbers: ``frame2`` before ``frame10``."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name.lower())]


class ImageFolder:
    """The images of one folder (jpg, jpeg, png, bmp; not of its subfolders) in natural order of their names.

    Grey, palette and 16-bit images become RGB uint8 (16 bits are divided by 257); an alpha channel is dropped; the
    orientation that a camera wrote into a JPEG or PNG is applied. Only headers are read here, pixels when asked for.

    Args:
        path: the folder.
        fps: frames per second, since images have none.

    Attributes:
        size: height and width of all images, upright.

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
        first = _header(self._files[0])[0]
        for file in self._files[1:]:
            size = _header(file)[0]
            if size != first:
                raise DffError(
                    f"{file} has {size[0]}x{size[1]} pixels but {self._files[0].name} has {first[0]}x{first[1]}: "
                    f"resize the images of a clip to one size, or remove those that do not belong to it."
                )
        self.size = first[::-1]

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int) -> np.ndarray:
        """One frame, ``(H, W, 3)`` uint8 RGB."""
        file = self._files[index]
        try:
            data = np.frombuffer(file.read_bytes(), np.uint8)  # not cv2.imread, which fails on some names on Windows
            flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
            image = cv2.imdecode(data, flags) if data.size else None
        except (OSError, cv2.error):
            image = None
        if image is None:
            raise _unreadable(file)
        if image.dtype == np.uint16:
            image = (image / 257 + 0.5).astype(np.uint8)
        return turned(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), _header(file)[1])

    def rest(self) -> None:
        """Nothing runs in the background."""

    close = rest


def _header(file: Path) -> tuple[tuple[int, int], Orientation]:
    """Width and height as shown, and the orientation, without decoding the pixels."""
    try:
        with Image.open(file) as image:
            exif = Image.Exif()
            exif.load(image.info.get("exif") or _late_exif(file))
            orientation = EXIF.get(exif.get(0x0112, 1), UPRIGHT)
            return image.size if orientation[0] else image.size[::-1], orientation
    except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError):
        raise _unreadable(file) from None


def _late_exif(file: Path) -> bytes:
    """EXIF data that lie behind the pixels of a PNG, where Pillow looks only after decoding them."""
    with open(file, "rb") as data:
        if data.read(8) == b"\x89PNG\r\n\x1a\n":
            while len(head := data.read(8)) == 8:
                length, kind = struct.unpack(">I4s", head)
                if kind == b"eXIf":
                    return data.read(length)
                data.seek(length + 4, os.SEEK_CUR)
    return b""


def _unreadable(file: Path) -> DffError:
    return DffError(f"{file} cannot be read as an image: replace the damaged file, or remove it from the folder.")
