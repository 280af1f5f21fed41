"""What is in a data set: how often each class occurs, how fast things move, and what a single pixel gives away. For choosing
data, and for honest captions."""

import time
from collections.abc import Callable, Iterable, Iterator

import cv2
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from dfflib.data.clips import IGNORE, Clip, pair_frames
from dfflib.data.shapes import ShapesClip
from dfflib.data.shapes.scenes import UNITS
from dfflib.data.shots import Shots
from dfflib.errors import DffError
from dfflib.flow import DISFlow
from dfflib.metrics import ConfusionMatrix

QUANTILES = (0.25, 0.5, 0.75, 0.9, 0.95)


def class_frequencies(clips: Iterable[Clip], step: int = 1) -> pd.DataFrame:
    """Share of the labelled pixels that each class takes.

    Args:
        clips: labelled clips with the same classes.
        step: every how many labelled frames one is counted.

    Returns:
        Columns ``class``, ``pixels``, ``share`` and ``frames`` (share of the counted frames that show the class).
    """
    clips = list(clips)
    names = clips[0].class_names
    masks = (clip.mask(index) for clip in clips for index in clip.labelled[::step])
    counts = torch.stack([torch.bincount(mask[mask != IGNORE], minlength=len(names)) for mask in masks]).numpy()
    pixels, frames = counts.sum(0), (counts > 0).mean(0)
    return pd.DataFrame({"class": names, "pixels": pixels, "share": pixels / pixels.sum(), "frames": frames})


def dis_motion(clip: Clip, i: int, k: int) -> Tensor:
    """DIS flow from frame i to frame k at full size, ``(2, H, W)`` in pixels."""
    key, current = pair_frames(clip, k, i)
    return DISFlow("medium")(key, current, clip.size)[0][0]


def exact_motion(clip: Clip, i: int, k: int) -> Tensor:
    """Exact flow of a clip that has it, ``(2, H, W)`` in pixels."""
    return clip.flow(i, k)


def motion_quantiles(
    clips: Iterable[Clip], offsets: Iterable[int], motion: Callable = dis_motion, pairs: int = 4
) -> pd.DataFrame:
    """Quantiles of the length of the flow from a frame to the one ``offset`` before it, over all pixels of all pairs.

    Args:
        clips: any clips, of any size; each counts alike.
        offsets: distances between the two frames.
        motion: ``motion(clip, i, k) -> flow``, `dis_motion` or `exact_motion`.
        pairs: pairs per clip and offset, evenly spaced in time.

    Returns:
        Columns ``offset``, ``quantile``, ``value`` (in units: the shorter side of the picture is 128 long).
    """
    known, rows = [(clip, Shots(clip)) for clip in clips], []
    for offset in offsets:
        lengths = []
        for clip, shots in known:
            for i, k in _pairs(shots, len(clip), offset, pairs):
                length = motion(clip, i, k).norm(dim=0).flatten() * (UNITS / min(clip.size))
                lengths.append(length[:: max(1, len(length) // 4096)].numpy())
        if lengths:
            values = np.quantile(np.concatenate([np.resize(one, 4096) for one in lengths]), QUANTILES)
            rows += [{"offset": offset, "quantile": q, "value": v} for q, v in zip(QUANTILES, values, strict=True)]
    return pd.DataFrame(rows)


def motion_by_offset(clips: Iterable[Clip], offsets: Iterable[int], pairs: int = 4) -> pd.DataFrame:
    """How far a world moves from a key frame to the frame ``offset`` after it, and how much of the picture is new.

    The flow is exact where the clip has it, and otherwise estimated by DIS.

    Args:
        clips: any clips, of any size; each pair counts alike.
        offsets: distances between the two frames.
        pairs: pairs per clip and offset, evenly spaced in time; those with a cut between the two are left out.

    Returns:
        Columns ``offset``, ``metric``, ``value``, ``unit``: for each offset ``displacement``, the mean length of the flow over
        the whole offset, in % of the picture's width, and ``unseen``, the share of pixels that the key frame does not show,
        because they are occluded there or out of view; NaN where a clip does not know. No rows for an offset without pairs.
    """
    known, rows = [(clip, Shots(clip)) for clip in clips], []
    for offset in offsets:
        displacement, unseen = [], []
        for clip, shots in known:
            motion = exact_motion if clip.has_flow else dis_motion
            for i, k in _pairs(shots, len(clip), offset, pairs):
                displacement.append(100 * motion(clip, i, k).norm(dim=0).mean().item() / clip.size[1])
                unseen.append(100 * clip.occlusion(i, k).float().mean().item() if clip.has_flow else np.nan)
        if displacement:
            rows.append(
                {"offset": offset, "metric": "displacement", "value": np.mean(displacement), "unit": "% of width"}
            )
            rows.append({"offset": offset, "metric": "unseen", "value": np.mean(unseen), "unit": "%"})
    return pd.DataFrame(rows)


def _pairs(shots: Shots, length: int, offset: int, count: int) -> Iterator[tuple[int, int]]:
    """Current and key frame of pairs in a clip of that length, evenly spaced in time, both in one shot."""
    if length > offset:
        for i in np.linspace(offset, length - 1, count).astype(int):
            if shots.start_of(int(i)) <= i - offset:
                yield int(i), int(i) - offset


def render_rate(level: str, size: tuple[int, int], clips: int = 6, frames: int = 15, offset: int = 5) -> float:
    """Fully labelled frames of the Shapes world a second, on one core: the median over clips.

    A frame counts with everything known about it: picture, classes, objects, boxes, and flow and occlusion to the frame
    ``offset`` before it. Drawing the scene (once a clip) counts too.
    """
    threads, rates = cv2.getNumThreads(), []
    cv2.setNumThreads(1)
    try:
        for seed in range(clips):
            began = time.perf_counter()
            clip = ShapesClip(seed, level, size, frames + offset)
            for i in range(offset, frames + offset):
                clip.frames[i], clip.mask(i), clip.instance_mask(i), clip.boxes(i)
                clip.flow(i, i - offset), clip.occlusion(i, i - offset)
            rates.append(frames / (time.perf_counter() - began))
    finally:
        cv2.setNumThreads(threads)
    return sorted(rates)[len(rates) // 2]


def kinds_of_pixel(clip: Clip, i: int, k: int, reach: int = 3) -> dict[str, Tensor]:
    """Why a label of frame i may not be had from frame k: four disjoint masks that cover the frame.

    Args:
        clip: one with flow, where the reasons are known.
        i, k: current and key frame.
        reach: pixels to both sides of an outline that count as near it.

    Returns:
        Kind -> ``(H, W)`` bool: covered in the key frame (by something in front), outside the key frame, near an outline of
        frame i, elsewhere; each without those before it, but that a place outside counts as outside.
    """
    labels = clip.mask(i)[None, None].float()
    largest, smallest = (sign * F.max_pool2d(sign * labels, 2 * reach + 1, 1, reach)[0, 0] for sign in (1, -1))
    outside = clip.out_of_view(i, k)
    covered = clip.occluded(i, k) & ~outside
    outline = (largest != smallest) & ~outside & ~covered
    return {
        "covered in the key frame": covered,
        "outside the key frame": outside,
        "near an outline": outline,
        "elsewhere": ~(covered | outside | outline),
    }


def one_pixel_miou(train: Iterable[Clip], val: Iterable[Clip], frame: int = 0, bins: int = 24) -> dict[str, float]:
    """What the colour of a single pixel gives away of its label: mIoU of the best classifier that sees nothing else.

    The classifier is a table with a class for each cell of the RGB cube, from counts of the training pixels. Counts are
    smoothed or not, and classes weighted as often as they occur, all alike, or between; what does best on ``val`` is what
    counts, so that the result errs in the classifier's favour.

    A table can do better than "background" everywhere in two ways: by telling objects from the background, and by telling the
    classes of objects apart. A control separates them: the same classifier, trained and tested on the same pixels after every
    object has been dealt another class at random. It can still tell objects from the background, but classes say nothing.

    Args:
        train, val: clips of one size with masks, instances, and the same classes, the first of which is the background.
        frame: the frame of each that is used.
        bins: of each colour channel.

    Returns:
        mIoU in percent: ``"background"`` (predicted everywhere), ``"one pixel"``, and ``"one pixel, classes dealt"``, the
        control.

    Raises:
        DffError: no clips.
    """
    train, val = list(train), list(val)
    if not train or not val:
        raise DffError(
            f"there are {len(train)} clips to train on and {len(val)} to validate: give one or more of each."
        )
    classes, found = train[0].num_classes, {}
    seen, unseen = _cells(train, frame, bins), _cells(val, frame, bins)
    for name, dealt in (("one pixel", False), ("one pixel, classes dealt", True)):
        counts, truth = (
            _counts(cell, _labels(clips, frame, dealt), bins**3, classes)
            for cell, clips in ((seen, train), (unseen, val))
        )
        found[name] = max(_miou(table, truth) for table in _tables(counts, bins))
        found.setdefault("background", _miou(torch.zeros(bins**3, dtype=torch.int64), truth))
    return {name: found[name] for name in ("background", "one pixel", "one pixel, classes dealt")}


def _cells(clips: list[Clip], frame: int, bins: int) -> Tensor:
    """Cell of the RGB cube that each pixel falls into."""
    red, green, blue = (torch.stack([c.frames[frame] for c in clips]).long() * bins // 256).unbind(1)
    return ((red * bins + green) * bins + blue).flatten()


def _labels(clips: list[Clip], frame: int, dealt: bool) -> Tensor:
    """Label of each pixel; if dealt, every object has a class drawn at random."""
    if not dealt:
        return torch.stack([clip.mask(frame) for clip in clips]).flatten()
    rng, found = np.random.default_rng(0), []
    for clip in clips:
        drawn = torch.from_numpy(rng.integers(1, clip.num_classes, IGNORE + 1))
        drawn[0], drawn[IGNORE] = 0, IGNORE
        found.append(drawn[clip.instance_mask(frame).long()])
    return torch.stack(found).flatten()


def _counts(cell: Tensor, label: Tensor, cells: int, classes: int) -> Tensor:
    """How often each class occurs in each cell, ``(cells, classes)``."""
    joint = (cell * classes + label)[label != IGNORE]
    return torch.bincount(joint, minlength=cells * classes).view(cells, classes)


def _tables(counts: Tensor, bins: int) -> Iterator[Tensor]:
    """A class for each cell, in several ways, from counts ``(cells, classes)``."""
    frequency = counts.sum(0).clamp(min=1)
    cube = counts.T.reshape(-1, 1, bins, bins, bins).double()
    for _ in range(3):
        for balance in (0, 0.25, 0.5, 0.75, 1):
            yield (cube.flatten(1).T / frequency**balance).argmax(1)
        cube = F.avg_pool3d(cube, 3, 1, 1)


def _miou(table: Tensor, truth: Tensor) -> float:
    """Of a class for each cell, from the true counts ``(cells, classes)``; percent."""
    counts = torch.zeros(truth.shape[1], truth.shape[1], dtype=torch.int64).index_add_(0, table, truth)
    return 100 * ConfusionMatrix(truth.shape[1], counts.T).miou()
