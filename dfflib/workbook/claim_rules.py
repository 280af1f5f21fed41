"""Rules of the claims ledger: from tidy result rows to a verdict, and our numbers as text.

An order *holds beyond the spread* if the mean over seeds of the paired difference exceeds their standard deviation, and the
difference is above 0 in every seed; one seed has no spread, so it can agree in direction only. Which rows the rules read is
written in `dfflib.workbook.claims`.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

AGREES, DIRECTION, DISAGREES, NOT_RUN = VERDICTS = ("agrees", "agrees in direction", "disagrees", "not run")


# Comparing methods.


class MissingRows(LookupError):
    """The results lack what a rule needs; the ledger then says *not run*."""


class Paired(NamedTuple):
    """Difference of two methods over seeds: mean, standard deviation (NaN for one seed), and by seed."""

    mean: float
    std: float
    per_seed: pd.Series

    @property
    def holds(self) -> bool:
        """Beyond the spread: the mean exceeds the standard deviation, and every seed is above 0."""
        return len(self.per_seed) > 1 and self.mean > self.std and bool((self.per_seed > 0).all())

    def __str__(self) -> str:
        seeds = len(self.per_seed)
        return f"{self.mean:+.1f}" + (f" ± {self.std:.1f}" if seeds > 1 else "") + " points"


class Verdict(NamedTuple):
    """One of `VERDICTS`, and our numbers as text."""

    verdict: str
    ours: str


@dataclass(frozen=True)
class Rule:
    """A sentence for the reader, and the function that does as it says: tidy rows -> `Verdict`, or `MissingRows`."""

    sentence: str
    judge: Callable[[pd.DataFrame], Verdict]

    def __call__(self, ours: pd.DataFrame) -> Verdict:
        return self.judge(ours)


def by_seed(
    rows: pd.DataFrame, methods: Sequence[str], metric: str = "miou", offsets: Iterable[int] = range(5)
) -> pd.DataFrame:
    """Mean over offsets, for each seed (rows) and method (columns), all measured on the same frames.

    Raises:
        MissingRows: no seed has every method at every offset.
    """
    offsets, methods = list(offsets), list(methods)
    chosen = rows[rows["method"].isin(methods) & (rows["metric"] == metric) & rows["offset"].isin(offsets)]
    interval = chosen["interval"].fillna(max(offsets) + 1)
    chosen = chosen.assign(seed=chosen["seed"].fillna(0), interval=interval)[interval > max(offsets)]
    for method in methods:
        if set(chosen.loc[chosen["method"] == method, "offset"]) != set(offsets):
            raise MissingRows(f"no {metric} of {method} at offsets {offsets[0]} to {offsets[-1]}")
    wide = chosen.pivot_table(index=["interval", "seed"], columns=["method", "offset"], values="value")
    wide = wide.reindex(columns=pd.MultiIndex.from_product([methods, offsets])).dropna()
    if wide.empty:
        raise MissingRows(f"no seed with {metric} of {' and '.join(methods)} at offsets {offsets[0]} to {offsets[-1]}")
    wide = wide.loc[wide.index.get_level_values("interval").min()]
    return pd.DataFrame({method: wide[method].mean(axis=1) for method in methods})


def paired(rows: pd.DataFrame, a: str, b: str, metric: str = "miou", offsets: Iterable[int] = range(5)) -> Paired:
    """Method a minus method b, averaged over offsets, paired by seed.

    Raises:
        MissingRows: no seed has both.
    """
    table = by_seed(rows, (a, b), metric, offsets)
    return _paired(table[a] - table[b])


def _paired(difference: pd.Series) -> Paired:
    return Paired(float(difference.mean()), float(difference.std(ddof=1)), difference)


def _number(rows: pd.DataFrame, method: str, metric: str, interval: int | None = None) -> float:
    """Mean of a time or count over whatever repetitions there are."""
    chosen = rows[(rows["method"] == method) & (rows["metric"] == metric) & rows["value"].notna()]
    if interval is not None:
        chosen = chosen[chosen["interval"] == interval]
    if chosen.empty:
        raise MissingRows(f"no {metric} of {method}" + (f" at l = {interval}" if interval else ""))
    return float(chosen["value"].mean())


def _verdict(agrees: bool, direction: bool, ours: str) -> Verdict:
    return Verdict(AGREES if agrees else DIRECTION if direction else DISAGREES, ours)


# Rules.


def order(better: str, worse: str, interval: int) -> Rule:
    """One method is better than another on the average over offsets 0 .. interval-1."""

    def judge(rows: pd.DataFrame) -> Verdict:
        """What the sentence below says."""
        gap = paired(rows, better, worse, offsets=range(interval))
        return _verdict(gap.holds, gap.mean > 0, f"{better} minus {worse}: {gap}")

    return Rule(
        f"{better} minus {worse} at l = {interval} above 0 beyond the spread; in direction: mean above 0", judge
    )


def max_drop(reference: str, method: str, points: float, offsets: range, faster: bool = False) -> Rule:
    """A method is at most some points below the reference, and where asked its non-key frames take less time."""

    def judge(rows: pd.DataFrame) -> Verdict:
        """What the sentence below says."""
        drop = paired(rows, reference, method, offsets=offsets)
        ours, is_faster = f"{reference} minus {method}: {drop}", True
        if faster:
            before, after = (_number(rows, name, "non-key") for name in (reference, method))
            ours += f"; non-key frame {before:.1f} ms, {after:.1f} ms"
            is_faster = after < before
        return _verdict(is_faster and drop.mean <= points, is_faster and drop.mean <= 2 * points, ours)

    where = "at offset 0" if offsets == range(1) else f"at l = {len(offsets)}"
    also = ", and its non-key frames take less time" if faster else ""
    half = f"in direction: at most {2 * points:g}{also and ', and less time'}"
    return Rule(f"loses at most {points:g} to {reference} {where}{also}; {half}", judge)


def copy_drops_more(times: int, interval: int) -> Rule:
    """Reusing features unmoved is several times as far below Frame as moving them."""

    def judge(rows: pd.DataFrame) -> Verdict:
        """What the sentence below says."""
        mean = by_seed(rows, ("Frame", "copy", "DFF"), offsets=range(interval)).mean()
        gap = paired(rows, "DFF", "copy", offsets=range(interval))
        copy, dff = mean["Frame"] - mean["copy"], mean["Frame"] - mean["DFF"]
        agrees = gap.holds and copy >= times * max(dff, 0)
        return _verdict(agrees, gap.mean > 0, f"copy loses {copy:.1f}, DFF {dff:.1f} points")

    return Rule(
        f"at l = {interval} copy loses at least {times} times as much to Frame as DFF, and DFF minus copy is above 0 "
        f"beyond the spread; in direction: DFF above copy", judge
    )  # fmt: skip


def gradual_drop(method: str, longest: int) -> Rule:
    """The average falls with l, and at no l suddenly."""

    def judge(rows: pd.DataFrame) -> Verdict:
        """What the sentence below says."""
        curve = [by_seed(rows, [method], offsets=range(n))[method].mean() for n in range(1, longest + 1)]
        total, steps = curve[0] - curve[-1], [a - b for a, b in itertools.pairwise(curve)]
        agrees = total > 0 and min(steps) >= 0 and 3 * max(steps) <= total
        return _verdict(agrees, total > 0, f"{describe_drop(curve)} ({method})")

    return Rule(
        f"the average falls at every step from l = 1 to {longest}, and no step takes more than a third of the fall; in "
        f"direction: l = {longest} is below l = 1", judge
    )  # fmt: skip


def describe_drop(curve: Sequence[float]) -> str:
    """A curve of averages for l = 1 .. L in words."""
    largest = max(a - b for a, b in itertools.pairwise(curve))
    return f"{curve[0]:.1f} at l = 1, {curve[-1]:.1f} at l = {len(curve)}; largest step {largest:.1f}"


def average_above_last(method: str, interval: int) -> Rule:
    """The average over offsets is above the last offset."""

    def judge(rows: pd.DataFrame) -> Verdict:
        """What the sentence below says."""
        average = by_seed(rows, [method], offsets=range(interval))[method]
        last = by_seed(rows, [method], offsets=[interval - 1])[method]
        gap = _paired((average - last).dropna())
        ours = f"average {average.mean():.1f}, offset {interval - 1} {last.mean():.1f}: {gap}"
        return _verdict(gap.holds, gap.mean > 0, ours)

    return Rule(
        f"average of offsets 0 to {interval - 1} minus offset {interval - 1} above 0 beyond the spread; in direction: mean "
        f"above 0", judge
    )  # fmt: skip


def _normalised(method: str) -> str:
    """A name of networks, however it is written: case, spaces, - and _ do not matter."""
    return re.sub(r"[\s_-]", "", method).lower()


def flops_column(stated: dict[str, float]) -> Rule:
    """One column of Table 2: name of the networks -> published 1/r."""
    tight, wide = 3, 25  # percent

    def judge(rows: pd.DataFrame) -> Verdict:
        """What the sentence below says."""
        rows = rows.assign(method=rows["method"].map(_normalised, na_action="ignore"))
        values = [_number(rows, _normalised(name), "inverse_r") for name in stated]
        error = [100 * (a / b - 1) for a, b in zip(values, stated.values(), strict=True)]
        worst = max(abs(e) for e in error)
        ours = ", ".join(f"{v:.2f} ({e:+.1f}%)" for v, e in zip(values, error, strict=True))
        return _verdict(worst <= tight, worst <= wide, ours)

    return Rule(f"1/r of both key-frame networks within {tight}%; in direction: within {wide}%", judge)


def speedup_formula() -> Rule:
    """Equation 7 predicts measured speedups."""
    tight, wide = 10, 25  # percent

    def judge(rows: pd.DataFrame) -> Verdict:
        """What the sentence below says."""
        keys = ["method", "interval", "device"]
        measured, predicted = (
            rows[rows["metric"] == f"speedup_{kind}"].groupby(keys)["value"].mean()
            for kind in ("measured", "predicted")
        )
        error = (100 * (predicted / measured[measured > 0] - 1)).dropna()
        if error.empty:
            raise MissingRows("no pair of speedup_measured and speedup_predicted")
        worst = error.abs().max()
        ours = f"prediction off by {error.abs().mean():.0f}% on average, {worst:.0f}% at most, in {len(error)} cases"
        return _verdict(worst <= tight, worst <= wide, ours)

    return Rule(f"every prediction within {tight}% of the measurement; in direction: within {wide}%", judge)


def measured_speedup(method: str, interval: int, stated: float) -> Rule:
    """The whole pipeline is faster than the key-frame network on every frame, by about the stated factor."""

    def judge(rows: pd.DataFrame) -> Verdict:
        """What the sentence below says."""
        ours = _number(rows, method, "speedup_measured", interval)
        return _verdict(10 * ours >= 9 * stated, ours > 1, f"{ours:.1f}x ({method})")

    return Rule(f"at least nine tenths of {stated:g}x; in direction: above 1x", judge)


def _splits(rows: pd.DataFrame) -> list[str]:
    """Methods of 08_split, from many layers in N_task to few."""
    names = [str(name) for name in rows["method"].unique()]
    found = [match for name in names if (match := re.fullmatch(r"N_task of (\d{1,9}) layers?", name))]
    if len(found) < 2:
        raise MissingRows("fewer than two split points")
    return [match[0] for match in sorted(found, key=lambda match: -int(match[1]))]


def split_accuracy(points: float, interval: int) -> Rule:
    """The split point hardly changes the accuracy."""

    def judge(rows: pd.DataFrame) -> Verdict:
        """What the sentence below says."""
        mean = by_seed(rows, _splits(rows), offsets=range(interval)).mean()
        spread = mean.max() - mean.min()
        ours = f"{mean.min():.1f} to {mean.max():.1f} over {len(mean)} splits"
        return _verdict(spread <= points, spread <= 2 * points, ours)

    return Rule(
        f"mIoU of the best split minus the worst at most {points:g}; in direction: at most {2 * points:g}", judge
    )


def split_speed() -> Rule:
    """The fewer layers run on every frame, the faster."""

    def judge(rows: pd.DataFrame) -> Verdict:
        """What the sentence below says."""
        fps = [_number(rows, name, "fps") for name in _splits(rows)]
        rises = all(100 * b >= 95 * a for a, b in itertools.pairwise(fps))
        ours = ", ".join(f"{value:.1f}" for value in fps) + " fps, from many layers to few"
        return _verdict(rises and fps[-1] > fps[0], fps[-1] > fps[0], ours)

    sentence = "fps never falls by more than 5% to the next smaller N_task, and the smallest is faster than the largest"
    return Rule(f"{sentence}; in direction: the latter", judge)
