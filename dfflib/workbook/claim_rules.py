"""Rules of the claims ledger: from tidy result rows to a verdict, and our numbers as text.

An order *holds beyond the spread* if the mean over seeds of the paired difference exceeds their standard deviation, and the
difference is above 0 in every seed; one seed has no spread, so it can agree in direction only. Which rows the rules read is
written in `dfflib.workbook.claims`.
"""

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


def _graded(agrees: bool, direction: bool) -> str:
    return AGREES if agrees else DIRECTION if direction else DISAGREES


# Rules.


def order(better: str, worse: str, interval: int) -> Rule:
    """One method is better than another on the average over offsets 0 .. interval-1."""

    def judge(rows: pd.DataFrame) -> Verdict:
        """The verdict on these rows, and the numbers that it rests on."""
        gap = paired(rows, better, worse, offsets=range(interval))
        return Verdict(_graded(gap.holds, gap.mean > 0), f"{better} minus {worse}: {gap}")

    return Rule(
        f"{better} minus {worse} at l = {interval} above 0 beyond the spread; in direction: mean above 0", judge
    )


def loss(reference: str, method: str, bound: float, offsets: range, faster: bool = False) -> Rule:
    """A method loses at most ``bound`` points to the reference, and where asked its non-key frames take less time."""

    def judge(rows: pd.DataFrame) -> Verdict:
        """The verdict on these rows, and the numbers that it rests on."""
        lost = paired(rows, reference, method, offsets=offsets)
        verdict, text = _graded(lost.mean <= bound, lost.mean <= 2 * bound), f"{reference} minus {method}: {lost}"
        if faster:
            before, after = (_number(rows, name, "non-key") for name in (reference, method))
            verdict = verdict if after < before else DISAGREES
            text += f"; non-key frame {before:.1f} ms, {after:.1f} ms"
        return Verdict(verdict, text)

    where = "at offset 0" if offsets == range(1) else f"at l = {len(offsets)}"
    also = ", and its non-key frames take less time" if faster else ""
    half = f"in direction: at most {2 * bound:g}{also and ', and less time'}"
    return Rule(f"loses at most {bound:g} to {reference} {where}{also}; {half}", judge)


def copy_loses(times: int, interval: int) -> Rule:
    """Reusing features unmoved loses several times as much to Frame as moving them."""

    def judge(rows: pd.DataFrame) -> Verdict:
        """The verdict on these rows, and the numbers that it rests on."""
        mean = by_seed(rows, ("Frame", "copy", "DFF"), offsets=range(interval)).mean()
        gap = paired(rows, "DFF", "copy", offsets=range(interval))
        still, moved = mean["Frame"] - mean["copy"], mean["Frame"] - mean["DFF"]
        agrees = gap.holds and still >= times * max(moved, 0)
        return Verdict(_graded(agrees, gap.mean > 0), f"copy loses {still:.1f}, DFF {moved:.1f} points")

    return Rule(
        f"at l = {interval} copy loses at least {times} times as much to Frame as DFF, and DFF minus copy is above 0 "
        f"beyond the spread; in direction: DFF above copy", judge
    )  # fmt: skip


def gradual(method: str, longest: int) -> Rule:
    """The average falls with l, and at no l suddenly."""

    def judge(rows: pd.DataFrame) -> Verdict:
        """The verdict on these rows, and the numbers that it rests on."""
        curve = [by_seed(rows, [method], offsets=range(n))[method].mean() for n in range(1, longest + 1)]
        total, steps = curve[0] - curve[-1], [a - b for a, b in zip(curve, curve[1:])]
        agrees = total > 0 and min(steps) >= 0 and 3 * max(steps) <= total
        return Verdict(_graded(agrees, total > 0), f"{describe_fall(curve)} ({method})")

    return Rule(
        f"the average falls at every step from l = 1 to {longest}, and no step takes more than a third of the fall; in "
        f"direction: l = {longest} is below l = 1", judge
    )  # fmt: skip


def describe_fall(curve: Sequence[float]) -> str:
    """A curve of averages for l = 1 .. L in words."""
    largest = max(a - b for a, b in zip(curve, curve[1:]))
    return f"{curve[0]:.1f} at l = 1, {curve[-1]:.1f} at l = {len(curve)}; largest step {largest:.1f}"


def last_offset(method: str, interval: int) -> Rule:
    """The average over offsets is above the last offset."""

    def judge(rows: pd.DataFrame) -> Verdict:
        """The verdict on these rows, and the numbers that it rests on."""
        average = by_seed(rows, [method], offsets=range(interval))[method]
        last = by_seed(rows, [method], offsets=[interval - 1])[method]
        gap = _paired((average - last).dropna())
        text = f"average {average.mean():.1f}, offset {interval - 1} {last.mean():.1f}: {gap}"
        return Verdict(_graded(gap.holds, gap.mean > 0), text)

    return Rule(
        f"average of offsets 0 to {interval - 1} minus offset {interval - 1} above 0 beyond the spread; in direction: mean "
        f"above 0", judge
    )  # fmt: skip


def _plain(method: str) -> str:
    return re.sub(r"[\s_-]", "", method).lower()


def flops_column(stated: dict[str, float]) -> Rule:
    """One column of Table 2: name of the networks -> published 1/r."""
    tight, wide = 3, 25  # percent

    def judge(rows: pd.DataFrame) -> Verdict:
        """The verdict on these rows, and the numbers that it rests on."""
        rows = rows.assign(method=rows["method"].map(_plain, na_action="ignore"))
        values = [_number(rows, _plain(name), "inverse_r") for name in stated]
        error = [100 * (a / b - 1) for a, b in zip(values, stated.values())]
        worst = max(abs(e) for e in error)
        text = ", ".join(f"{v:.2f} ({e:+.1f}%)" for v, e in zip(values, error))
        return Verdict(_graded(worst <= tight, worst <= wide), text)

    return Rule(f"1/r of both key-frame networks within {tight}%; in direction: within {wide}%", judge)


def formula() -> Rule:
    """Equation 7 predicts measured speedups."""
    tight, wide = 10, 25  # percent

    def judge(rows: pd.DataFrame) -> Verdict:
        """The verdict on these rows, and the numbers that it rests on."""
        keys = ["method", "interval", "device"]
        measured, predicted = (
            rows[rows["metric"] == f"speedup_{kind}"].groupby(keys)["value"].mean()
            for kind in ("measured", "predicted")
        )
        error = (100 * (predicted / measured[measured > 0] - 1)).dropna()
        if error.empty:
            raise MissingRows("no pair of speedup_measured and speedup_predicted")
        worst = error.abs().max()
        text = f"prediction off by {error.abs().mean():.0f}% on average, {worst:.0f}% at most, in {len(error)} cases"
        return Verdict(_graded(worst <= tight, worst <= wide), text)

    return Rule(f"every prediction within {tight}% of the measurement; in direction: within {wide}%", judge)


def measured_speedup(method: str, interval: int, stated: float) -> Rule:
    """The whole pipeline is faster than the key-frame network on every frame, by about the stated factor."""

    def judge(rows: pd.DataFrame) -> Verdict:
        """The verdict on these rows, and the numbers that it rests on."""
        ours = _number(rows, method, "speedup_measured", interval)
        return Verdict(_graded(10 * ours >= 9 * stated, ours > 1), f"{ours:.1f}x ({method})")

    return Rule(f"at least nine tenths of {stated:g}x; in direction: above 1x", judge)


def _splits(rows: pd.DataFrame) -> list[str]:
    """Methods of 08_split, from many layers in N_task to few."""
    found = {m: re.fullmatch(r"N_task of (\d{1,9}) layers?", str(m)) for m in rows["method"].unique()}
    names = sorted((m for m, match in found.items() if match), key=lambda m: -int(found[m][1]))
    if len(names) < 2:
        raise MissingRows("fewer than two split points")
    return names


def split_accuracy(bound: float, interval: int) -> Rule:
    """The split point hardly changes the accuracy."""

    def judge(rows: pd.DataFrame) -> Verdict:
        """The verdict on these rows, and the numbers that it rests on."""
        mean = by_seed(rows, _splits(rows), offsets=range(interval)).mean()
        spread = mean.max() - mean.min()
        text = f"{mean.min():.1f} to {mean.max():.1f} over {len(mean)} splits"
        return Verdict(_graded(spread <= bound, spread <= 2 * bound), text)

    return Rule(f"mIoU of the best split minus the worst at most {bound:g}; in direction: at most {2 * bound:g}", judge)


def split_speed() -> Rule:
    """The fewer layers run on every frame, the faster."""

    def judge(rows: pd.DataFrame) -> Verdict:
        """The verdict on these rows, and the numbers that it rests on."""
        fps = [_number(rows, name, "fps") for name in _splits(rows)]
        rises = all(100 * b >= 95 * a for a, b in zip(fps, fps[1:]))
        text = ", ".join(f"{value:.1f}" for value in fps) + " fps, from many layers to few"
        return Verdict(_graded(rises and fps[-1] > fps[0], fps[-1] > fps[0]), text)

    sentence = "fps never falls by more than 5% to the next smaller N_task, and the smallest is faster than the largest"
    return Rule(f"{sentence}; in direction: the latter", judge)
