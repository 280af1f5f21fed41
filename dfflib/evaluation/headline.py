"""The paper's sentence about one model, measured: how much faster, and at what loss, beside what one would run instead.

Accuracy comes from the study's counts (`dfflib.evaluation.variants`), speed from the same weights in the engine that users run:
a file is decoded, and every frame gets its labels, in batches. The network on every frame goes through in batches, too.
"""

import itertools
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from dfflib.data.video import read_stream
from dfflib.data.video.prefetch import prefetch
from dfflib.evaluation.bench import made_video
from dfflib.evaluation.scenes import Bootstrap, measured
from dfflib.evaluation.variants import VARIANTS
from dfflib.inference.engine import Engine
from dfflib.inference.preparation import prepare
from dfflib.inference.schedule import FixedInterval
from dfflib.inference.stream import AHEAD, predictions
from dfflib.run import Run
from dfflib.training import train
from dfflib.training.recipes import SHAPES_SIZE

INTERVALS = (1, 2, 3, 5, 7, 10, 15, 20)
METHODS = ("Frame", "DFF", "copy", "DIS + N", "exact", "Light", "Lighter")
EVERY_FRAME = tuple(name for name in METHODS if VARIANTS[name].source is None)


def speeds(
    run: Run, intervals: Sequence[int] = INTERVALS, frames: int = 200, rounds: int = 5, progress: bool = False
) -> pd.DataFrame:
    """Frames per second from file to labels, medians; all methods and intervals take turns, for machines change meanwhile.

    Args:
        run: which checkpoints; seed 0 of each.
        intervals: l; networks on every frame have none.
        frames: of the video, at the size that the models are trained at.
        rounds: turns; one before them does not count.
        progress: show a bar.

    Returns:
        Columns ``method, interval, value``; for networks on every frame interval 1. *exact* has no speed: nobody knows the true
        flow.
    """
    run, engines = run.with_seed(0), dict[str, Engine]()
    for name in METHODS:
        variant = VARIANTS[name]
        if name == "exact":
            continue
        model = prepare(train.load(run, variant.stages, variant.recipe), run.device)
        engines[name] = Engine(model if variant.source is None else model.with_flow(variant.source(model)))
    turns = [(name, n) for name in engines for n in ((1,) if name in EVERY_FRAME else intervals)]
    found: dict[tuple[str, int], list[float]] = {turn: [] for turn in turns}
    with tempfile.TemporaryDirectory() as folder:
        video = made_video(Path(folder) / "video.mp4", SHAPES_SIZE, frames)
        rounds_and_turns = list(itertools.product(range(rounds + 1), turns))
        for number, (name, n) in tqdm(rounds_and_turns, desc="speeds", disable=not progress, leave=False):
            fps = _labelled_per_second(engines[name], video, n)
            if number:
                found[name, n].append(fps)
    rows = [dict(method=name, interval=n, value=statistics.median(fps)) for (name, n), fps in found.items()]
    return pd.DataFrame(rows)


def _labelled_per_second(engine: Engine, video: Path, interval: int) -> float:
    began, count = time.perf_counter(), 0
    with read_stream(video) as stream:
        for _ in predictions(engine, prefetch(stream, AHEAD), FixedInterval(interval), mode="batched"):
            count += 1
    return count / (time.perf_counter() - began)


def headline(bootstrap: Bootstrap, fps: pd.DataFrame) -> pd.DataFrame:
    """Accuracy and speed of every method at every interval: metrics ``miou``, ``miou_low``, ``miou_high`` and ``fps``.

    The accuracies of one interval are of the same frames, those of networks on every frame too.

    Args:
        bootstrap: counts of the study.
        fps: from `speeds`.
    """
    intervals = sorted(fps["interval"].unique())
    every = fps["method"].isin(EVERY_FRAME)
    spread = pd.concat([fps[~every], *(fps[every].assign(interval=n) for n in intervals)], ignore_index=True)
    accuracy = measured(bootstrap, [name for name in METHODS if bootstrap.seeds(name)], intervals)
    return pd.concat([accuracy, spread.assign(metric="fps", unit="fps")], ignore_index=True)


def table(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One metric of `headline`: a row for each method, a column for each interval."""
    return rows[rows["metric"] == metric].pivot(index="method", columns="interval", values="value")


def values(rows: pd.DataFrame) -> dict[tuple[str, int, str], float]:
    """Numbers of result rows by method, interval and metric."""
    rows = rows[rows["interval"].notna()]
    keys = zip(rows["method"], rows["interval"], rows["metric"], strict=True)
    return {
        (str(method), int(n), str(metric)): float(v) for (method, n, metric), v in zip(keys, rows["value"], strict=True)
    }


def crossings(rows: pd.DataFrame, differences: pd.DataFrame, light: str) -> tuple[list[int], list[int]]:
    """Intervals at which DFF beats a light network on every frame at equal frames per second, and at which it loses.

    It beats it where it is as fast or faster, and better beyond the interval of the difference; it loses the other way round.
    Where each is ahead in one of the two, neither holds.

    Args:
        rows: from `headline`.
        differences: rows ``DFF minus <light>`` of `dfflib.evaluation.scenes.differences`.
        light: method.
    """
    fps, gaps, better, worse = values(rows), values(differences), [], []
    for n in sorted({n for method, n, _ in gaps if method == f"DFF minus {light}"}):
        faster = fps["DFF", n, "fps"] >= fps[light, n, "fps"]
        if faster and gaps[f"DFF minus {light}", n, "low"] > 0:
            better.append(n)
        if not faster and gaps[f"DFF minus {light}", n, "high"] < 0:
            worse.append(n)
    return better, worse


def sentences(rows: pd.DataFrame, differences: pd.DataFrame, paper: str) -> str:
    """The paper's sentence with our numbers, and where plain DFF stands against light networks; Markdown.

    Args:
        rows: from `headline`.
        differences: of the same counts.
        paper: what the paper says, in a few words.
    """
    fps, found, parts = values(rows), values(differences), []
    for n in (5, 10):
        loss, low, high = (-found["DFF minus Frame", n, name] for name in ("difference", "high", "low"))
        times = fps["DFF", n, "fps"] / fps["Frame", n, "fps"]
        parts.append(
            f"{times:.1f} times as fast at l = {n}, at a loss of {loss:.1f} points of mIoU [{low:.1f}, {high:.1f}]"
        )
    text = f"**DFF is {'; '.join(parts)}** (the paper: {paper})."
    for light in ("Light", "Lighter"):
        better, worse = crossings(rows, differences, light)
        if better:
            text += f" It is as fast as *{light}* on every frame or faster, and better, at l = {_listed(better)}."
        else:
            text += f" At no interval is it both as fast as *{light}* on every frame and better"
            text += f"; at l = {_listed(worse)} it is slower and worse." if worse else "."
    return text


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
