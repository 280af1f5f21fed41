"""Training pairs of the Shapes world that are drawn once and read ever after: several pairs of frames from each scene.

Drawing a scene's textures takes longer than rendering a frame of it. So where many stages and seeds learn from the same scenes,
they read the same pairs from one file, which fills as they are asked for, and makes
new ones of them by turning, mirroring, exchanging colours and cutting out parts.
"""

import hashlib
import os
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from dfflib.data.pairs import Batch
from dfflib.data.shapes.clip import ShapesClip
from dfflib.data.shapes.pairs import LATEST
from dfflib.data.shapes.scenes import SEEDS_PER_SPLIT, Level, first_seed, get_level
from dfflib.errors import DffError, system_error

FRACTIONS = 64  # of a pixel, in which flow is kept
CHECK = 4  # bytes of a checksum before each pair


class RenderedPairs:
    """Pairs of a key frame and a current frame, with labels and exact flow.

    Args:
        folder: where the file is kept; it and the folder are made when the first pair is. Several processes may use it.
        split: ``"train"``, ``"val"`` or ``"test"``.
        level: of difficulty, by name or a `Level`.
        size: ``(height, width)``; of training a square, which can be turned.
        max_interval: l; distances are uniform in 0 .. l - 1.
        scenes: so many of the split, from its first seed on.
        views: pairs of each scene, spread over its time.
        augment: turn by a multiple of 90 degrees, mirror, and exchange the colour channels, at random, both frames alike.
        crop: batches show a random part of so many rows and columns, of both frames the same; None shows all.

    Raises:
        DffError: no such split or level, no scene or view, pictures that cannot be turned, or a crop larger than they are.
    """

    def __init__(
        self, folder: str | os.PathLike, split: str = "train", level: str | Level = "study",
        size: tuple[int, int] = (128, 128), max_interval: int = 10, scenes: int = 3000, views: int = 4, augment: bool = True,
        crop: tuple[int, int] | None = None,
    ):  # fmt: skip
        self.first_seed = first_seed(split)
        if not 1 <= scenes <= SEEDS_PER_SPLIT or not 1 <= views <= LATEST // max(max_interval, 1) or max_interval < 1:
            raise DffError(
                f"{views} pairs up to {max_interval - 1} frames apart cannot be taken from each of {scenes} scenes: choose "
                f"1 to {SEEDS_PER_SPLIT} scenes, and views times interval up to {LATEST}."
            )
        if augment and size[0] != size[1]:
            raise DffError(f"pictures of {size[1]}x{size[0]} pixels cannot be turned: give a square, or augment=False.")
        if crop is not None and not (1 <= crop[0] <= size[0] and 1 <= crop[1] <= size[1]):
            raise DffError(f"parts of {crop[1]}x{crop[0]} pixels cannot be cut out of pictures of {size[1]}x{size[0]}.")
        self.level, self.crop = get_level(level), size if crop is None else crop
        self.size, self.max_interval, self.views, self.augment = size, max_interval, views, augment
        self.length = scenes * views
        pixels = size[0] * size[1]
        self.parts = (3 * pixels, 3 * pixels, pixels, 4 * pixels, 1)  # bytes: key, current, labels, flow, distance
        self.stride = CHECK + sum(self.parts)
        name = f"{split}_{_digest(repr((self.level, size, max_interval, views)))}.pairs"
        self.path = Path(folder) / name

    def __len__(self) -> int:
        return self.length

    def pair(self, index: int) -> tuple[np.ndarray, ...]:
        """Key and current frame ``(3, H, W)`` uint8, labels ``(H, W)`` uint8, flow ``(2, H, W)`` int16 in 1/64 pixel, and the
        distance as an array of one."""
        record = self._kept(index)
        if record is None:
            start = index - index % self.views
            made = [_packed(pair) for pair in self._drawn(start // self.views)]
            self._keep(start, made)
            record = made[index - start]
        cuts = np.cumsum(self.parts)[:-1]
        key, current, labels, flow, distance = np.split(np.frombuffer(record, np.uint8), cuts)
        shape = self.size
        return (
            key.reshape(3, *shape), current.reshape(3, *shape), labels.reshape(shape),
            flow.view("<i2").reshape(2, *shape), distance,
        )  # fmt: skip

    def batch(self, size: int, seed: int, step: int) -> Batch:
        """The batch of a training step, a pure function of the three arguments (see `dfflib.data.pairs`)."""
        rng = np.random.default_rng([seed, step, 5])
        pairs = []
        for index in rng.integers(self.length, size=size):
            key, current, labels, flow, distance = self.pair(int(index))
            if self.augment:
                colours = rng.permutation(3)
                key, current, labels, flow = _turned(
                    key[colours], current[colours], labels, flow, int(rng.integers(4)), bool(rng.integers(2))
                )
            top, left = (int(rng.integers(whole - part + 1)) for whole, part in zip(self.size, self.crop, strict=True))
            part = (..., slice(top, top + self.crop[0]), slice(left, left + self.crop[1]))
            pairs.append((key[part], current[part], labels[part], flow[part], distance[0]))
        frames, frames_now, classes, moved, apart = (
            torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True)
        )
        return Batch(
            frames.float() / 255, frames_now.float() / 255, classes.long(), apart == 0, moved.float() / FRACTIONS
        )

    def _drawn(self, scene: int) -> list[tuple[np.ndarray, ...]]:
        """All pairs of one scene."""
        seed, slot = self.first_seed + scene, LATEST // self.views
        rng, clip = np.random.default_rng([seed, 6]), ShapesClip(seed, self.level, self.size, LATEST)
        found: list[tuple[np.ndarray, ...]] = []
        for view in range(self.views):
            distance = int(rng.integers(self.max_interval))
            current = view * slot + int(rng.integers(distance, slot))
            flow = clip.flow(current, current - distance).numpy() * FRACTIONS
            found.append((
                clip.frames[current - distance].numpy(), clip.frames[current].numpy(),
                clip.mask(current).numpy().astype(np.uint8), np.rint(flow).clip(-32768, 32767).astype("<i2"),
                np.array([distance], np.uint8),
            ))  # fmt: skip
        return found

    def _kept(self, index: int) -> bytes | None:
        """The record of a pair, if the file holds it whole."""
        try:
            with open(self.path, "rb") as file:
                record = os.pread(file.fileno(), self.stride, index * self.stride)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise system_error(error, self.path, "the file of training pairs") from error
        whole = len(record) == self.stride and int.from_bytes(record[:CHECK], "little") == _check(record[CHECK:])
        return record[CHECK:] if whole else None

    def _keep(self, start: int, records: list[bytes]) -> None:
        """Write records, which other processes may write at the same time: they write the same."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o666), "wb") as file:
                made = b"".join(_check(record).to_bytes(CHECK, "little") + record for record in records)
                os.pwrite(file.fileno(), made, start * self.stride)
        except OSError as error:
            raise system_error(error, self.path, "the file of training pairs") from error


def _check(record: bytes) -> int:
    """Checksum of a record, never 0: of a file's holes, zeros are read."""
    return zlib.crc32(record) or 1


def _packed(pair: tuple[np.ndarray, ...]) -> bytes:
    return b"".join(part.tobytes() for part in pair)


def _turned(
    key: np.ndarray, current: np.ndarray, labels: np.ndarray, flow: np.ndarray, quarters: int, mirrored: bool
) -> tuple[np.ndarray, ...]:
    """A pair turned counter-clockwise by quarters of a circle, and then perhaps mirrored; its flow turns with it."""
    x, y = flow
    for _ in range(quarters):
        x, y = y, -x  # to the left becomes down, for y points down
    if mirrored:
        x = -x
    turned = [np.rot90(part, quarters, (-2, -1)) for part in (key, current, labels, np.stack((x, y)))]
    return tuple(part[..., ::-1].copy() if mirrored else part.copy() for part in turned)


@lru_cache(maxsize=None)
def _renderer() -> bytes:
    """The code that draws: pairs that another version drew are not taken for its own."""
    return b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))


def _digest(settings: str) -> str:
    return hashlib.sha256(_renderer() + settings.encode()).hexdigest()[:10]
