"""Frames and label maps that lie in image files, one by one, as the published data sets keep them."""

import io
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dfflib.data.stacks import LazyStack
from dfflib.data.video.image_folder import SUFFIXES, natural_key
from dfflib.data.video.reader import resize, resized_shape, to_tensor
from dfflib.errors import DffError

DAMAGE = (
    OSError, SyntaxError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, EOFError, MemoryError,
    ArithmeticError, struct.error, zlib.error, cv2.error, Image.DecompressionBombError,
)  # fmt: skip
"""What the libraries that read files raise where a file is not what it should be."""

PNG, LARGEST_LABEL = b"\x89PNG\r\n\x1a\n", 2**16 - 1


class Files(Protocol):
    """Files by number: a list, or what makes their names when asked."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Path: ...


class FrameFiles:
    """Frames of one clip, each read from its file when it is asked for.

    Args:
        files: images, all of one size.
        short_side: resize so that the shorter side has that many pixels, by area.
    """

    def __init__(self, files: Files, short_side: int | None = None):
        if short_side is not None and short_side < 1:
            raise DffError(f"the shorter side of the frames cannot be {short_side} pixels: choose 1 or more.")
        self._frames, self._short_side = files, short_side
        self.frames = LazyStack(self.frame, len(files))

    def frame(self, index: int) -> Tensor:
        """One frame ``(3, H, W)`` uint8."""
        image = np.asarray(read_image(self._frames[index]).convert("RGB"))
        if index:
            check_size(self._frames[index], image.shape[:2], self._frames[0])
        return to_tensor(resize(image, resized_shape(image.shape[:2], self._short_side)))


class LabelledFiles(FrameFiles):
    """Frames and label maps of one clip.

    Args:
        files: images, all of one size.
        labels: the label map of each frame, or None.
        decode: makes labels of the raw values of a label map, its path, and whether it has a palette.
        short_side: resize so that the shorter side has that many pixels: frames by area, label maps by nearest neighbour.
    """

    def __init__(
        self,
        files: Files,
        labels: Sequence[Path | None],
        decode: Callable[[np.ndarray, Path, bool], np.ndarray],
        short_side: int | None = None,
    ):
        super().__init__(files, short_side)
        self._labels, self._decode = labels, decode

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
        DffError: it cannot be read, or it is a colour image, or its values are not whole numbers of two bytes.
    """
    image = read_image(file)
    values = np.asarray(image)
    if values.ndim == 3:
        bands = values[..., : 1 if image.mode == "LA" else 3]  # without the alpha channel
        if (bands != bands[..., :1]).any():
            raise DffError(f"{file} is a colour image: give annotations as grey or palette PNG, one number a pixel.")
        values = values[..., 0]
    if values.dtype.kind not in "bui" or not 0 <= values.min() <= values.max() <= LARGEST_LABEL:
        raise DffError(f"{file} holds no labels: give annotations as grey or palette PNG, one number a pixel.")
    return values.astype(np.int32), image.mode == "P"


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Labels ``(H, W)`` at another size: each pixel takes the label at its centre."""
    rows, columns = (((2 * np.arange(new) + 1) * old) // (2 * new) for new, old in zip(size, labels.shape, strict=True))
    return labels[rows[:, None], columns]


def image_files(folder: Path) -> list[Path]:
    """The images of a folder in natural order of their names; only names are read."""
    names = [name for name in os.listdir(folder) if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    return [folder / name for name in sorted(names, key=lambda name: (natural_key(name), name))]


def read_image(file: str | os.PathLike) -> Image.Image:
    """An image with its pixels.

    Raises:
        DffError: it cannot be read.
    """
    try:
        check_png(data := Path(file).read_bytes())
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return image
    except DAMAGE:
        raise _unreadable(file) from None


def check_png(data: bytes) -> None:
    """Compare the checksums of a PNG file, which decoders skip to save time; other files pass.

    Raises:
        ValueError: a chunk is damaged, or the last one is missing.
    """
    if not data.startswith(PNG):
        return
    place, kind = len(PNG), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 8 + length
        if zlib.crc32(data[place + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise ValueError(f"the checksum of a {kind!r} chunk is wrong")
        place = end + 4


def _unreadable(file: str | os.PathLike) -> DffError:
    return DffError(f"{file} cannot be read as an image: replace it by the file of the original download.")


def check_size(file: Path, size: tuple[int, int], other: Path) -> None:
    """An error unless ``size`` (height, width) of ``file`` is that of ``other``, of which only the header is read."""
    try:
        with Image.open(other) as image:
            expected = image.size[::-1]
    except DAMAGE:
        raise _unreadable(other) from None
    if size != expected:
        raise DffError(
            f"{file} has {size[1]}x{size[0]} pixels but {other} has {expected[1]}x{expected[0]}: "
            f"replace both by the files of the original download."
        )
