"""Propagation of masks: the mask of a key frame, carried along a flow to the frames after it, against their own masks.

The simplest thing that Deep Feature Flow's idea can be tried on: no feature network, no training, only a flow and the warp. The
measure is that of DAVIS (Perazzi et al., CVPR 2016): J, the intersection over union of the object's region.
"""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from dfflib.data.clips import IGNORE, Clip, check_labels, pair_frames
from dfflib.errors import DffError
from dfflib.flow import FlowSource
from dfflib.metrics import region_similarity
from dfflib.warp import compose, warp


def carry(mask: Tensor, flow: Tensor) -> Tensor:
    """The key frame's mask ``(H, W)`` bool seen from the current frame, along ``flow`` ``(1, 2, H, W)`` from there to the key
    frame; what comes from outside the picture is no object."""
    return warp(mask[None, None].float(), flow)[0, 0] > 0.5


@torch.inference_mode()
def propagation(
    clips: Sequence[Clip],
    sources: dict[str, FlowSource],
    interval: int = 10,
    chained: Sequence[str] = (),
    keys: int = 6,
) -> pd.DataFrame:
    """J of propagated masks, by distance from the key frame.

    Every clip gives up to ``keys`` key frames, evenly spaced, each followed by ``interval - 1`` frames in the clip. Each
    frame's flow is estimated *directly*, between it and the key frame. Sources named in ``chained`` are measured a second
    time with flows from frame to frame, composed (as Accel chains them): better conditioned steps, but errors add up, and a
    point once lost stays lost.

    Args:
        clips: with masks of every frame; class 0 is background, all others are the object.
        sources: name -> flow source with ``image_flow``, or `ExactFlow` for clips with flow.
        interval: l; offsets 0 .. l-1.
        chained: names out of ``sources``.
        keys: key frames a clip.

    Returns:
        Columns ``clip, method, offset, metric (j), value (percent), unit, frames``.

    Raises:
        DffError: no clip is long enough, or has masks of all frames.
    """
    sums: dict[tuple, list[float]] = {}
    for clip in clips:
        if clip.masks is None or len(clip.labelled) != len(clip):
            raise DffError(
                f"{clip.name} lacks masks for some of its {len(clip)} frames: give clips with every frame labelled."
            )
        last = len(clip) - interval
        if last < 0:
            continue
        for key in sorted({round(n * last / max(keys - 1, 1)) for n in range(keys)}):
            for name, source in sources.items():
                _one_key(clip, key, interval, name, source, name in chained, sums)
    if not sums:
        raise DffError(f"no clip has {interval} frames: choose a shorter interval.")
    rows = [
        {"clip": clip, "method": method, "offset": offset, "metric": "j", "value": 100 * sum(values) / len(values),
         "unit": "%", "frames": len(values)}
        for (clip, method, offset), values in sums.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _one_key(clip: Clip, key: int, interval: int, name: str, source: FlowSource, chain: bool, sums: dict) -> None:
    """Add J of one key frame's mask in the frames after it."""
    start, chained = _object(clip, key)[0], None
    for offset in range(interval):
        ground_truth, valid = _object(clip, key + offset)
        methods = {name: start}
        if offset:
            methods[name] = carry(start, _flow(source, clip, key + offset, key))
        if chain and offset:
            step = _flow(source, clip, key + offset, key + offset - 1)
            chained = step if chained is None else compose(step, chained)
        if chain:
            methods[f"{name}, chained"] = start if chained is None else carry(start, chained)
        for method, mask in methods.items():
            score = region_similarity(mask & valid, ground_truth & valid)
            sums.setdefault((clip.name, method, offset), []).append(score)


def _object(clip: Clip, index: int) -> tuple[Tensor, Tensor]:
    """Where the object is in a frame, and which pixels count, both ``(H, W)`` bool."""
    mask = clip.mask(index)
    check_labels(mask, clip.num_classes or IGNORE, f"the mask of frame {index} of {clip.name}")
    valid = mask != IGNORE
    return (mask > 0) & valid, valid


def _flow(source: FlowSource, clip: Clip, i: int, k: int) -> Tensor:
    """Flow from frame i to frame k at image size, ``(1, 2, H, W)``."""
    key, current = pair_frames(clip, k, i)
    return source.at(clip, [i], [k]).image_flow(key, current)
