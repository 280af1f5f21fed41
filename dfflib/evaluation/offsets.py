"""Accuracy by distance from the key frame, averaged as the paper averages.

The paper's protocol (section 5.1 and the authors' clarification): for every labelled frame i and every offset d = 0 .. l-1,
evaluate the pair (k = i - d, i); one mIoU per offset; then average the mIoUs. Offset 0, the plain per-frame result, is part
of the average, and so the average hides how bad the last offset is: report both.
"""

import itertools
import os
import time
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from dfflib.data.clips import Clip
from dfflib.data.shots import Shots
from dfflib.errors import DffError
from dfflib.flow import FlowSource, ZeroFlow
from dfflib.inference.schedule import FixedInterval
from dfflib.models.dff import DeepFeatureFlow, image_size
from dfflib.paths import output_file, write_atomically
from dfflib.results import tidy
from dfflib.run import Run

Estimates = dict[FlowSource, tuple[Tensor, Tensor | None]]
"""Flow and scale field of each flow source."""


def default_methods(model: DeepFeatureFlow) -> dict[str, FlowSource]:
    """The two ways to reuse a key frame that every table compares: *copy* its features, or move them (DFF)."""
    return {"copy": ZeroFlow(), "DFF": model.flow_source}


@torch.inference_mode()
def by_offset(
    model: DeepFeatureFlow, clips: Sequence[Clip], interval: int, methods: dict[str, FlowSource] | None = None,
    step: int = 1, progress: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """Accuracy of each method at each offset from the key frame, on the labelled frames of some clips.

    Every offset is measured on the same current frames: those with ``interval - 1`` earlier frames in their own shot. What is
    counted, and the metrics, are those of the model's task.

    Args:
        model: the per-frame network is ``model.per_frame``; propagation reuses its features.
        clips: labelled clips.
        interval: l; offsets 0 .. l-1 are measured.
        methods: name -> flow source; None means ``default_methods``. *Frame* is always measured.
        step: use every ``step``-th labelled frame.
        progress: show a bar.

    Returns:
        Columns ``method, offset, metric, value, unit, frames``. Metrics of segmentation, all in percent: ``miou`` and
        ``pixel_accuracy`` against the labels; ``agreement_miou`` and ``agreement`` (pixels) against the per-frame network's
        own labels.

    Raises:
        DffError: no interval, no clip that is long enough, or clips that are labelled for something else.
    """
    FixedInterval(interval)  # refuses what is no interval
    methods = default_methods(model) if methods is None else methods
    model, task = model.eval(), model.task
    offsets, names = range(interval), ["Frame", *methods]
    counts = {key: task.counts(clips) for key in itertools.product(names, offsets, ("truth", "frame"))}
    jobs = [(clip, i) for clip in clips for i in evaluated_frames(clip, interval, step)]
    if not jobs:
        raise DffError(
            f"no labelled frame has {interval - 1} earlier frames in its shot: choose an interval shorter than the clip."
        )
    recent = _RecentFrames(model)
    for clip, i in tqdm(jobs, desc=f"offsets 0 to {interval - 1}", disable=not progress, leave=False, mininterval=1.0):
        ground_truth, keys = task.ground_truth(clip, i), [i - d for d in range(1, interval)]
        window, features = recent.window(clip, i, interval)  # offset d is row d
        alone = task.results(model.predict(features[:1], clip.size))
        estimates: Estimates = {}
        for name in names:
            if name != "Frame" and interval > 1:
                source = methods[name].at(clip, [i] * len(keys), keys)
                results = task.results(_moved_scores(model, source, features, window, clip.size, estimates))
            for d in offsets:  # at offset 0 the current frame is the key frame
                found = alone if name == "Frame" or d == 0 else results[d - 1 : d]
                counts[name, d, "truth"].update(found, ground_truth)
                counts[name, d, "frame"].update(found, alone)
    rows = []
    for name, d in itertools.product(names, offsets):
        agreement = counts[name, d, "frame"].values()
        values = counts[name, d, "truth"].values() | {other: agreement[own] for own, other in task.agreement.items()}
        for metric, (value, unit) in values.items():
            rows.append(dict(method=name, offset=d, metric=metric, value=value, unit=unit, frames=len(jobs)))
    return pd.DataFrame(rows)


def evaluated_frames(clip: Clip, interval: int, step: int = 1) -> list[int]:
    """Labelled frames whose ``interval - 1`` predecessors lie in the same shot, every ``step``-th of them."""
    shots = Shots(clip)
    return [i for i in clip.labelled if i - (interval - 1) >= shots.start_of(i)][::step]


class _RecentFrames:
    """Frames and features of the clip at hand: the window before a frame shares all but one with that before its neighbour."""

    def __init__(self, model: DeepFeatureFlow):
        self.model, self.device = model, next(model.parameters()).device
        self.clip: Clip | None = None
        self.frames: dict[int, tuple[Tensor, Tensor]] = {}

    def window(self, clip: Clip, i: int, interval: int) -> tuple[Tensor, Tensor]:
        """Frames ``i, i - 1, ..`` in [0, 1], and their features, ``interval`` rows each."""
        wanted = [i - d for d in range(interval)]
        if clip is not self.clip:
            self.clip, self.frames = clip, {}
        self.frames = {n: pair for n, pair in self.frames.items() if n in wanted}
        if new := [n for n in wanted if n not in self.frames]:
            images = (clip.frames[new].to(self.device) / 255).contiguous(memory_format=torch.channels_last)
            pairs = zip(images.split(1), self.model.extract(images).split(1), strict=True)
            self.frames |= dict(zip(new, pairs, strict=True))
        rows = [self.frames[n] for n in wanted]
        return torch.cat([image for image, _ in rows]), torch.cat([features for _, features in rows])


def _moved_scores(
    model: DeepFeatureFlow,
    source: FlowSource,
    features: Tensor,
    window: Tensor,
    size: tuple[int, int],
    estimates: Estimates,
) -> Any:
    """The task's scores for the current frame (row 0 of ``window``) by way of each later row as its key frame.

    Flow and scale field of a source are kept in ``estimates``, for others that take something out of the same.
    """
    root = source.root
    if root not in estimates:
        current = window[:1].expand(len(window) - 1, -1, -1, -1)
        estimates[root] = root(window[1:], current, image_size(features))
    flow, scale = source.kept(*estimates[root])
    return model.predict(model.move(features[1:], flow, scale), size)


def average_over_offsets(table: pd.DataFrame, metric: str = "miou") -> pd.DataFrame:
    """The paper's average for every interval: mean of the per-offset values of offsets 0 .. l-1.

    Args:
        table: from ``by_offset`` (more columns, such as seed, are kept apart).
        metric: which metric.

    Returns:
        Columns ``method, [seed,] interval, value``.
    """
    keys = [name for name in ("method", "seed") if name in table.columns]
    chosen = table[table["metric"] == metric].sort_values("offset")
    parts = []
    for values, group in chosen.groupby(keys, sort=False):
        mean = group["value"].expanding().mean()
        parts.append(
            pd.DataFrame({**dict(zip(keys, values, strict=True)), "interval": group["offset"] + 1, "value": mean})
        )
    return pd.concat(parts, ignore_index=True)


def evaluate_checkpoint(
    run: Run, checkpoint: str | os.PathLike = "", interval: int = 5, out: str | os.PathLike = "", progress: bool = True,
    force: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """Measure a checkpoint on the test part of the intensity-threshold set, by offset.

    Args:
        run: frame size and how many frames; and which model, without a checkpoint.
        checkpoint: file; empty takes the run's jointly trained model.
        interval: l.
        out: where to write the tidy CSV; empty means ``results/evaluate.csv`` in the run's folder, which is renewed.
        progress: show a bar.
        force: whether a file at ``out`` may be replaced.

    Raises:
        DffError: no such checkpoint, an interval that no clip is long enough for, or ``out`` is not to be
            written: all of it before the work.
    """
    from dfflib.data.threshold import threshold_set
    from dfflib.locks import lock_run
    from dfflib.models.checkpoints import load_segmenter
    from dfflib.training.train import ensure

    FixedInterval(interval)
    target = output_file(
        out or run.folder / "results" / "evaluate.csv",
        [checkpoint] if checkpoint else [],
        [".csv"],
        force or not out,
    )
    if not checkpoint:
        with lock_run(run.profile.name, run.folder, "dfflib evaluate", shared=True):
            checkpoint = ensure(run, "joint")
    model = load_segmenter(checkpoint)
    clips = threshold_set("test", run.profile.short_side)
    began = time.perf_counter()
    table = by_offset(model, clips, interval, step=run.profile.eval_step, progress=progress)
    rows = tidy(
        table,
        "evaluate",
        "threshold/test",
        interval=interval,
        seed=run.seed,
        seconds=round(time.perf_counter() - began, 1),
    )
    write_atomically(target, rows.to_csv(index=False, float_format="%.6g"))
    return rows
