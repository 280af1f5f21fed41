"""Rules of the claims ledger: from tidy result rows to a verdict, and our numbers as text.

Differences come with the interval that another 500 test scenes would fall into (`dfflib.evaluation.scenes`), and with the
number of seeds that have *both* methods. A rule *agrees* where that whole interval obeys it and there are two seeds or more;
with one seed it agrees *in direction*; it *disagrees* where the whole interval breaks it; else it is *undecided*. Which rows
the rules read is written in `dfflib.workbook.claims`.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

AGREES, DIRECTION, UNDECIDED, DISAGREES, NOT_RUN = VERDICTS = (
    "agrees", "agrees in direction", "undecided", "disagrees", "not run"
)  # fmt: skip


# Numbers.


class MissingRows(LookupError):
    """The results lack what a rule needs; the ledger then says *not run*."""


class Gap(NamedTuple):
    """A difference in points, where another set of scenes would put it, and over how many seeds it is a mean."""

    value: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        return f"{self.value:+.1f} [{self.low:+.1f}, {self.high:+.1f}], {self.seeds} seed{'s' * (self.seeds != 1)}"

    def reversed(self) -> "Gap":
        """The other method minus the one."""
        return Gap(-self.value, -self.high, -self.low, self.seeds)


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


def gap(rows: pd.DataFrame, method: str, other: str, interval: int) -> Gap:
    """Method minus other at an interval, from rows of either order.

    Raises:
        MissingRows: there are none.
    """
    for name, turned in ((f"{method} minus {other}", False), (f"{other} minus {method}", True)):
        chosen = rows[(rows["method"] == name) & (rows["interval"] == interval)]
        values = chosen.drop_duplicates("metric").set_index("metric")["value"]
        if {"difference", "low", "high", "seeds"} <= set(values.dropna().index):
            found = Gap(values["difference"], values["low"], values["high"], int(values["seeds"]))
            return found.reversed() if turned else found
    raise MissingRows(f"no difference of {method} and {other} at l = {interval}")


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


def _judged(obeys: bool, breaks: bool, seeds: int, ours: str) -> Verdict:
    """Of an interval that obeys a rule as a whole, breaks it as a whole, or neither."""
    if obeys:
        return Verdict(AGREES if seeds > 1 else DIRECTION, ours)
    return Verdict(DISAGREES if breaks else UNDECIDED, ours)


# Rules.


def order(better: str, worse: str, interval: int) -> Rule:
    """One method is better than another on the average over offsets 0 .. interval-1."""

    def judge(rows: pd.DataFrame) -> Verdict:
        """What the sentence below says."""
        found = gap(rows, better, worse, interval)
        return _judged(found.low > 0, found.high < 0, found.seeds, f"{better} minus {worse}: {found}")

    return Rule(f"{better} minus {worse} at l = {interval} above 0, its whole interval", judge)


def max_drop(reference: str, method: str, points: float, interval: int, faster: bool = False) -> Rule:
    """A method is at most some points below the reference, and where asked its non-key frames take less time."""

    def judge(rows: pd.DataFrame) -> Verdict:
        """What the sentence below says."""
        drop = gap(rows, reference, method, interval)
        ours, is_faster = f"{reference} minus {method}: {drop}", True
        if faster:
            before, after = (_number(rows, name, "non-key") for name in (reference, method))
            ours += f"; non-key frame {before:.1f} ms, {after:.1f} ms"
            is_faster = after < before
        return _judged(is_faster and drop.high <= points, not is_faster or drop.low > points, drop.seeds, ours)

    also = ", and its non-key frames take less time" if faster else ""
    return Rule(f"{reference} minus {method} at l = {interval} at most {points:g}, its whole interval{also}", judge)


def gradual_drop(method: str, longest: int) -> Rule:
    """The average falls with l, and at no l suddenly."""

    def judge(rows: pd.DataFrame) -> Verdict:
        """What the sentence below says."""
        curve = [_number(rows, method, "miou", n) for n in range(1, longest + 1)]
        total, steps = curve[0] - curve[-1], [a - b for a, b in itertools.pairwise(curve)]
        seeds = int(_number(rows, method, "seeds", longest))
        obeys = total > 0 and min(steps) >= 0 and 3 * max(steps) <= total
        ours = f"{describe_drop(curve)} ({method}, {seeds} seed{'s' * (seeds != 1)})"
        return _judged(obeys, not obeys, seeds, ours)

    return Rule(
        f"the average falls at every step from l = 1 to {longest}, and no step takes more than a third of the fall",
        judge,
    )


def describe_drop(curve: Sequence[float]) -> str:
    """A curve of averages for l = 1 .. L in words."""
    largest = max(a - b for a, b in itertools.pairwise(curve))
    return f"{curve[0]:.1f} at l = 1, {curve[-1]:.1f} at l = {len(curve)}; largest step {largest:.1f}"


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
    """Equation 7 predicts measured speedups of whole pipelines."""
    tight, wide = 10, 25  # percent

    def judge(rows: pd.DataFrame) -> Verdict:
        """What the sentence below says."""
        keys = ["method", "interval", "device"]
        measured, predicted = (
            rows[(rows["metric"] == f"speedup_{kind}") & (rows["interval"] > 1)].groupby(keys)["value"].mean()
            for kind in ("measured", "predicted")
        )
        error = (100 * (predicted / measured[measured > 0] - 1)).dropna()
        if error.empty:
            raise MissingRows("no pair of speedup_measured and speedup_predicted")
        worst = error.abs().max()
        ours = f"prediction off by {error.abs().mean():.0f}% on average, {worst:.0f}% at most, in {len(error)} cases"
        return _verdict(worst <= tight, worst <= wide, ours)

    sentence = f"every prediction of a whole pipeline with l above 1 within {tight}% of the measurement"
    return Rule(f"{sentence}; in direction: within {wide}%", judge)


def measured_speedup(method: str, interval: int, stated: float) -> Rule:
    """The whole pipeline is faster than the key-frame network on every frame, by the stated factor."""

    def judge(rows: pd.DataFrame) -> Verdict:
        """What the sentence below says."""
        ours = _number(rows, method, "speedup_measured", interval)
        return _verdict(ours >= stated, ours > 1, f"{ours:.1f}x ({method})")

    return Rule(f"at least {stated:g}x, from file to file; in direction: above 1x", judge)


def same_accuracy(methods: Sequence[str], points: float, interval: int) -> Rule:
    """Whichever of some methods is taken, accuracy hardly changes."""

    def judge(rows: pd.DataFrame) -> Verdict:
        """What the sentence below says."""
        first, *others = methods
        found = [gap(rows, first, other, interval) for other in others]
        ours = "; ".join(f"{first} minus {other}: {one}" for other, one in zip(others, found, strict=True))
        obeys = all(-points <= one.low and one.high <= points for one in found)
        breaks = any(one.low > points or one.high < -points for one in found)
        return _judged(obeys, breaks, min(one.seeds for one in found), ours)

    return Rule(
        f"no other differs from {methods[0]} at l = {interval} by more than {points:g}, by its whole interval", judge
    )


def split_speed() -> Rule:
    """The fewer layers run on every frame, the faster."""

    def judge(rows: pd.DataFrame) -> Verdict:
        """What the sentence below says."""
        fps = [_number(rows, name, "fps") for name in _splits(rows)]
        rises = all(b > a for a, b in itertools.pairwise(fps))
        ours = ", ".join(f"{value:.1f}" for value in fps) + " fps, from many layers to few"
        return _verdict(rises, fps[-1] > fps[0], ours)

    return Rule("fps rises to every smaller N_task; in direction: the smallest is faster than the largest", judge)


def _splits(rows: pd.DataFrame) -> list[str]:
    """Methods of 08_choices, from many layers in N_task to few."""
    names = {str(name) for name in rows.loc[rows["metric"] == "fps", "method"]}
    found = [match for name in names if (match := re.fullmatch(r"N_task of (\d{1,9}) layers?", name))]
    if len(found) < 2:
        raise MissingRows("fewer than two split points")
    return [match[0] for match in sorted(found, key=lambda match: -int(match[1]))]
