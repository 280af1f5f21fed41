"""What is in a data set: how often each class occurs, and how fast things move. For choosing data, and for honest captions."""

import time
from collections.abc import Callable, Iterable

import cv2
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from dfflib.data.clips import IGNORE, Clip, pair_frames
from dfflib.data.shapes import ShapesClip
from dfflib.data.shapes.scenes import UNITS
from dfflib.flow import DISFlow

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
    clips, rows = list(clips), []
    for offset in offsets:
        lengths = []
        for clip in clips:
            if len(clip) <= offset:
                continue
            for i in np.linspace(offset, len(clip) - 1, pairs).astype(int):
                flow = motion(clip, int(i), int(i) - offset)
                length = flow.norm(dim=0).flatten() * (UNITS / min(clip.size))
                lengths.append(length[:: max(1, len(length) // 4096)].numpy())
        if lengths:
            values = np.quantile(np.concatenate([np.resize(one, 4096) for one in lengths]), QUANTILES)
            rows += [{"offset": offset, "quantile": q, "value": v} for q, v in zip(QUANTILES, values, strict=True)]
    return pd.DataFrame(rows)


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
