"""Pairs of frames from the Shapes world, for training and testing: key frame, current frame, and the ground truth."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from dfflib.data.pairs import Batch
from dfflib.data.shapes.clip import ShapesClip
from dfflib.data.shapes.scenes import SEEDS_PER_SPLIT, Level, first_seed, get_level
from dfflib.errors import DffError

LATEST = 200  # frames; pairs are taken from the first so many of a clip


class ShapesPairs(Dataset):
    """A map-style data set: item n is drawn from the n-th seed of a split, the same whoever asks and in whatever order.

    An item is a dict of tensors:
        ``key``, ``current``: ``(3, H, W)`` uint8 frames;
        ``labels``: of the current frame, ``(H, W)`` int64;
        ``interval``: frames from key to current, int64, uniform in 0 .. max_interval - 1 (paper, section 4);
        ``flow``: exact, from current to key, ``(2, H, W)`` float32 in pixels;
        ``occluded``: pixels of the current frame that the key frame does not show, ``(H, W)`` bool.

    Args:
        split: ``"train"``, ``"val"`` or ``"test"``.
        level: of difficulty, by name or a `Level`.
        size: ``(height, width)``.
        max_interval: l. One number serves all intervals, as the paper's models do.
        length: number of items; at most a million, one for each seed of the split.
        interval: give it to fix the distance of every pair instead (0 .. max_interval - 1 is then not drawn from).
    """

    def __init__(
        self,
        split: str = "train",
        level: str | Level = "medium",
        size: tuple[int, int] = (128, 128),
        max_interval: int = 10,
        length: int = SEEDS_PER_SPLIT,
        interval: int | None = None,
    ):
        self.first_seed = first_seed(split)
        if not 1 <= length <= SEEDS_PER_SPLIT:
            raise DffError(f"a split of the Shapes world cannot have {length} pairs: choose 1 to {SEEDS_PER_SPLIT}.")
        if not 1 <= max_interval <= LATEST or not 0 <= (interval or 0) < LATEST:
            raise DffError(
                f"pairs {interval if interval is not None else max_interval} frames apart cannot be drawn: choose a "
                f"max_interval from 1 to {LATEST}, or an interval from 0 to {LATEST - 1}."
            )
        self.level, self.size = get_level(level), (int(size[0]), int(size[1]))
        self.max_interval, self.interval, self.length = max_interval, interval, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        seed = self.first_seed + int(index) % len(self)
        rng = np.random.default_rng([seed, 3])
        interval = int(rng.integers(self.max_interval)) if self.interval is None else self.interval
        current = int(rng.integers(interval, LATEST))
        clip = ShapesClip(seed, self.level, self.size, LATEST)
        return {
            "key": clip.frames[current - interval],
            "current": clip.frames[current],
            "labels": clip.mask(current),
            "interval": torch.tensor(interval),
            "flow": clip.flow(current, current - interval),
            "occluded": clip.occlusion(current, current - interval),
        }

    def batch(self, size: int, seed: int, step: int) -> Batch:
        """The batch of a training step, a pure function of the three arguments (see `dfflib.data.pairs`)."""
        order = np.random.default_rng([seed, step, 4])
        return as_batch(default_collate([self[int(n)] for n in order.integers(len(self), size=size)]))


def as_batch(items: dict[str, Tensor]) -> Batch:
    """Collated items as what a training step takes: images in [0, 1]."""
    return Batch(
        items["key"].float() / 255,
        items["current"].float() / 255,
        items["labels"],
        items["interval"] == 0,
        items["flow"],
    )
