"""Accuracy with an error: what each test scene adds to mIoU, kept scene by scene, and intervals that cover other scenes.

mIoU is no mean over frames, so its error is found by drawing scenes again (bootstrap): every method and every seed on the same
scenes, for they are compared on the same ones. An interval says where **another set of scenes** would put a number in 95 of 100
cases. That is wider than a confidence interval of the mean, since the other set errs, too.
"""

import io
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from dfflib.errors import DffError
from dfflib.metrics import count_pairs
from dfflib.paths import write_atomically

OTHERS = 500  # scenes of the other set
DRAWS = 2000
INSIDE = (2.5, 97.5)  # percent


@dataclass
class SceneCounts:
    """Pixels by class, scene by scene, of methods that were measured on the same frames.

    Attributes:
        methods: M names.
        hit: pixels that are of a class and were given it, ``(M, L, S, C)``, for L offsets and S scenes.
        given: pixels that were given the class, likewise; nothing where a method was not measured so far from the key frame.
        true: pixels that are of the class, ``(L, S, C)``.
        source: what they come from, in words of the one who counted.
    """

    methods: tuple[str, ...]
    hit: np.ndarray
    given: np.ndarray
    true: np.ndarray
    source: str = ""

    @classmethod
    def empty(cls, methods: Sequence[str], offsets: int, scenes: int, classes: int, source: str = "") -> "SceneCounts":
        """Nothing counted yet."""
        shape = (len(methods), offsets, scenes, classes)
        hit, given = (np.zeros(shape, np.int32) for _ in range(2))
        return cls(tuple(methods), hit, given, np.zeros(shape[1:], np.int32), source)

    def count(self, scene: int, method: str, results: Tensor, truths: Tensor) -> None:
        """Count the label maps of one method for one scene, both ``(L, H, W)``, from offset 0 on."""
        m, classes = self.methods.index(method), self.true.shape[-1]
        pairs = count_pairs(results, truths, classes).numpy()  # of each offset; rows: ground truth
        place = slice(len(pairs))
        self.hit[m, place, scene], self.given[m, place, scene] = pairs.diagonal(0, 1, 2), pairs.sum(1)
        self.true[place, scene] = pairs.sum(2)

    def offsets(self, method: str) -> int:
        """How many offsets a method was measured at."""
        return int(self.given[self.methods.index(method)].any(axis=(1, 2)).sum())

    def iou(self, method: str, weights: np.ndarray) -> np.ndarray:
        """Mean IoU in percent over scenes that count so often, ``(draws, scenes)`` -> ``(draws, offsets)``."""
        m, place = self.methods.index(method), slice(self.offsets(method))
        hit, given, true = (
            np.einsum("bs,lsc->blc", weights, part[place], optimize=True)
            for part in (self.hit[m], self.given[m], self.true)
        )
        union = given + true - hit
        return 100 * np.nanmean(np.where(union > 0, hit / np.maximum(union, 1), np.nan), axis=2)

    def put(self, first: int, part: "SceneCounts") -> None:
        """Take the scenes of a part that was counted elsewhere, from a number on."""
        place = slice(first, first + part.scenes)
        self.hit[:, :, place], self.given[:, :, place], self.true[:, place] = part.hit, part.given, part.true

    @property
    def scenes(self) -> int:
        """S."""
        return self.true.shape[1]

    def first(self, count: int, skipped: int = 0) -> "SceneCounts":
        """The first so many scenes alone, or so many after some that are skipped."""
        place = slice(skipped, skipped + count)
        hit, given, true = self.hit[:, :, place], self.given[:, :, place], self.true[:, place]
        return SceneCounts(self.methods, hit, given, true, self.source)

    def save(self, path: str | os.PathLike) -> Path:
        """Write them, compressed."""
        file = io.BytesIO()
        arrays = {
            name: np.minimum(getattr(self, name), 2**16 - 1).astype(np.uint16) for name in ("hit", "given", "true")
        }
        np.savez_compressed(
            file, allow_pickle=False, methods=np.array(self.methods), source=np.array(self.source), **arrays
        )
        return write_atomically(path, file.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike) -> "SceneCounts":
        """Read what `save` wrote.

        Raises:
            DffError: no such file, or none of these.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                hit, given, true = (file[name].astype(np.int32) for name in ("hit", "given", "true"))
                found = cls(tuple(map(str, file["methods"])), hit, given, true, str(file["source"]))
        except Exception as error:  # whatever a damaged file makes numpy raise
            raise DffError(f"{path} holds no counts ({type(error).__name__}): delete it, and measure again.") from None
        shape = (len(found.methods), *hit.shape[1:])
        if hit.ndim != 4 or hit.shape != shape or given.shape != shape or true.shape != shape[1:]:
            raise DffError(f"{path} holds counts that do not fit together: delete it, and measure again.")
        return found


class Interval(NamedTuple):
    """A number, and where another set of scenes would put it."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Would another set of scenes give it the same sign?"""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.value:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


class Bootstrap:
    """Scenes drawn again, for all that is asked of the counts of some seeds.

    Args:
        counts: seed -> counts on the same scenes.
        others: scenes of the set that an interval covers.

    Raises:
        DffError: no counts, or on different scenes.
    """

    def __init__(self, counts: Mapping[int, SceneCounts], others: int = OTHERS):
        truths = [one.true for one in counts.values()]
        if not truths or any(not np.array_equal(true, truths[0]) for true in truths):
            raise DffError("these counts are of different scenes: measure all seeds on the same.")
        self.counts, scenes = counts, truths[0].shape[1]
        rng = np.random.default_rng(7)
        even = np.full(scenes, 1 / scenes)
        sizes = (scenes, others)
        drawn = [rng.multinomial(size, even, DRAWS) * (scenes / size) for size in sizes]  # this set, and another
        self.weights = np.concatenate((np.ones((1, scenes)), *drawn)).astype(np.float32)
        self._kept: dict[tuple[int, str], np.ndarray] = {}

    def seeds(self, *methods: str) -> list[int]:
        """Seeds that have all of these methods."""
        return [seed for seed, one in self.counts.items() if set(methods) <= set(one.methods)]

    def miou(self, method: str, interval: int, last: bool = False) -> Interval:
        """Mean IoU averaged over offsets 0 .. interval - 1 and over seeds, or at the last of them alone.

        Raises:
            DffError: no seed has the method, or it was not measured so far from the key frame.
        """
        if not (seeds := self.seeds(method)):
            raise DffError(f"no seed has {method}.")
        return self._summary(np.mean([self._drawn(s, method, interval, last) for s in seeds], axis=0))

    def difference(self, method: str, other: str, interval: int, last: bool = False) -> Interval:
        """How far one method is above another, on the same scenes, averaged over the seeds that have both.

        Raises:
            DffError: no seed has both, or one was not measured so far from the key frame.
        """
        if not (seeds := self.seeds(method, other)):
            raise DffError(f"no seed has both {method} and {other}.")
        found = [self._drawn(s, method, interval, last) - self._drawn(s, other, interval, last) for s in seeds]
        return self._summary(np.mean(found, axis=0))

    def average_above_last(self, method: str, interval: int) -> Interval:
        """How far a method's average over offsets 0 .. interval - 1 is above the last of them."""
        seeds = self.seeds(method)
        average, last = (
            np.mean([self._drawn(s, method, interval, end) for s in seeds], axis=0) for end in (False, True)
        )
        return self._summary(average - last)

    def _drawn(self, seed: int, method: str, interval: int, last: bool) -> np.ndarray:
        if (seed, method) not in self._kept:
            self._kept[seed, method] = self.counts[seed].iou(method, self.weights)
        by_offset = self._kept[seed, method][:, :interval]
        if by_offset.shape[1] < interval:
            raise DffError(f"{method} was measured at {by_offset.shape[1]} offsets only, not at {interval}.")
        return by_offset[:, -1] if last else by_offset.mean(1)

    def _summary(self, found: np.ndarray) -> Interval:
        value, own, other = found[0], found[1 : DRAWS + 1], found[DRAWS + 1 :]
        low, high = np.percentile(other - own, INSIDE)  # by how much two sets of scenes differ
        return Interval(float(value), float(value + low), float(value + high))


def by_offset(counts: SceneCounts) -> pd.DataFrame:
    """Accuracy of each method at each offset alone, over all scenes: columns ``method, offset, metric, value, unit``."""
    every = np.ones((1, counts.scenes), np.float32)
    return pd.DataFrame([
        dict(method=method, offset=offset, metric="miou", value=float(value), unit="%")
        for method in counts.methods for offset, value in enumerate(counts.iou(method, every)[0])
    ])  # fmt: skip


def measured(bootstrap: Bootstrap, methods: Sequence[str], intervals: Sequence[int]) -> pd.DataFrame:
    """Accuracies as result rows: ``miou``, ``miou_low``, ``miou_high`` (percent), means over offsets 0 .. l - 1, and ``seeds``.

    Intervals that a method was not measured at are left out.
    """
    rows: list[dict] = []
    for method, n in itertools.product(methods, intervals):
        seeds = bootstrap.seeds(method)
        if n > min(bootstrap.counts[seed].offsets(method) for seed in seeds):
            continue
        found = bootstrap.miou(method, n)
        rows.append(dict(method=method, interval=n, metric="seeds", value=len(seeds), unit="count"))
        about = dict(method=method, interval=n, unit="%")
        rows += [
            dict(about, metric=metric, value=min(max(value, 0.0), 100.0))
            for metric, value in zip(("miou", "miou_low", "miou_high"), found, strict=True)
        ]
    return pd.DataFrame(rows)


def differences(bootstrap: Bootstrap, pairs: Sequence[tuple[str, str]], intervals: Sequence[int]) -> pd.DataFrame:
    """Differences of methods as result rows: ``difference``, ``low``, ``high`` (points), ``seeds`` and ``scenes`` (counts)."""
    rows, scenes = [], bootstrap.weights.shape[1]
    for (method, other), n in itertools.product(pairs, intervals):
        found, seeds = bootstrap.difference(method, other, n), len(bootstrap.seeds(method, other))
        values = dict(difference=found.value, low=found.low, high=found.high, seeds=seeds, scenes=scenes)
        for metric, value in values.items():
            unit = "count" if metric in ("seeds", "scenes") else "points"
            rows.append(dict(method=f"{method} minus {other}", interval=n, metric=metric, value=value, unit=unit))
    return pd.DataFrame(rows)
