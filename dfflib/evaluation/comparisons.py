"""What else the study asks of its networks: how wrong their flow is, and which way features should take."""

from collections.abc import Iterable
from functools import lru_cache

import pandas as pd
import torch
from tqdm.auto import tqdm

from dfflib.data.shapes import ShapesClip
from dfflib.data.shapes.pairs import ShapesPairs, as_batch
from dfflib.data.shapes.scenes import SEEDS_PER_SPLIT, first_seed
from dfflib.errors import DffError
from dfflib.flow import DISFlow, FlowSource, ZeroFlow, end_point_error
from dfflib.metrics import ConfusionMatrix, count_pairs
from dfflib.results import tidy
from dfflib.run import Run
from dfflib.training import train
from dfflib.training.recipes import SHAPES_SIZE
from dfflib.warp import compose, warp

LEVEL = "study"
WAYS = ("direct", "flow chained", "features chained")  # of features, to a frame that is far from the key frame


def study_clips(count: int, frames: int, split: str = "test") -> list[ShapesClip]:
    """The first clips of a split of the Shapes world, at the study's level and the size that models are trained at."""
    if not 1 <= count <= SEEDS_PER_SPLIT:
        raise DffError(f"{count} clips were asked for: choose 1 to {SEEDS_PER_SPLIT}.")
    return list(_rendered(first_seed(split), count, frames, SHAPES_SIZE))


@lru_cache(maxsize=2)
def _rendered(first: int, count: int, frames: int, size: tuple[int, int]) -> tuple[ShapesClip, ...]:
    """Clips whose frames are drawn once: every method and every seed looks at the same ones."""
    clips = tuple(ShapesClip(first + n, LEVEL, size, frames) for n in range(count))
    for clip in clips:
        clip.frames = clip.frames[:]
    return clips


@torch.inference_mode()
def flow_errors(
    run: Run, offsets: Iterable[int] = (1, 5, 9),
    stages: Iterable[str] = ("flow_pretrain", "flow_detached", "joint"), split: str = "test", progress: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """End-point error of the flow networks and of DIS on the same pairs, in pixels of 128x128 frames.

    Args:
        run: which checkpoints.
        offsets: distances from the key frame; at each as many pairs as the profile has clips.
        stages: flow networks, by the stage that trained them.
        split: of the pairs.
        progress: show bars of what has to be trained first.

    Returns:
        Tidy rows of experiment ``05_flow_errors``: metrics ``epe`` (all pixels) and ``epe_visible`` (not hidden in the key
        frame); methods are the stages, ``DIS medium``, ``DIS dense, half size`` (the rival), ``DIS quick, half size`` (the
        guess that the networks start from), and ``zero``.
    """
    networks, pairs = {}, run.profile.clips
    for stage in stages:
        start = () if stage == "joint" else ("frame",)
        networks[stage] = train.load(run, (*start, stage), "study", progress).flow_source

    sources: dict[str, FlowSource] = {**networks, "DIS medium": DISFlow("medium"), "zero": ZeroFlow()}
    for preset in ("dense", "quick"):
        sources[f"DIS {preset}, half size"] = DISFlow(preset, input_stride=2)
    rows = []
    for offset in offsets:
        data = ShapesPairs(split, LEVEL, SHAPES_SIZE, length=pairs, interval=offset)
        items = [torch.utils.data.default_collate([data[n]]) for n in range(pairs)]
        batches = [as_batch(item) for item in items]
        for name, source in sources.items():
            flows = [source.image_flow(batch.key, batch.current) for batch in batches]
            errors = [_errors(flow, item) for flow, item in zip(flows, items, strict=True)]
            for metric, value in zip(("epe", "epe_visible"), torch.tensor(errors).nanmean(0).tolist(), strict=True):
                rows.append({"method": name, "offset": offset, "metric": metric, "value": value, "unit": "px"})
    return tidy(pd.DataFrame(rows), "05_flow_errors", f"shapes/{LEVEL}/{split}", seed=run.seed)


@torch.inference_mode()
def ways_to_warp(run: Run, interval: int = 10, progress: bool = False) -> pd.DataFrame:
    """One long way, or many short ones? The same features moved in three ways (Accel, Jain et al. 2019, chains).

    ``direct``: one flow from the current frame to the key frame, one warp. ``flow chained``: the flows between neighbouring
    frames are composed, then one warp. ``features chained``: the features are warped from frame to frame, so that they are
    interpolated at every step. The networks are those of *separate*: pre-trained flow, no scale field.

    Returns:
        Tidy rows of experiment ``08_ways``, metric ``miou`` at each offset.
    """
    model = train.load(run, ("frame", "flow_pretrain"), "study", progress)
    clips = study_clips(run.profile.clips, interval)
    classes = clips[0].num_classes
    counts = {way: torch.zeros(interval, classes, classes, dtype=torch.int64) for way in WAYS}
    for clip in tqdm(clips, desc="ways to warp", disable=not progress, leave=False):
        frames = clip.frames[:interval].flip(0) / 255  # frame d lies d frames before the last
        features = model.extract(frames.contiguous(memory_format=torch.channels_last))
        size, last = tuple(features.shape[-2:]), frames[:1].expand(interval - 1, -1, -1, -1)
        direct = torch.cat((torch.zeros(1, 2, *size), model.flow_source(frames[1:], last, size)[0]))
        steps = model.flow_source(frames[1:], frames[:-1], size)[0]  # step d: from frame d to frame d + 1
        chain, stepped = direct[:1], features[interval - 1 :]
        for d in range(1, interval):
            chain = torch.cat((chain, compose(chain[-1:], steps[d - 1 : d])))
        for d in reversed(range(interval - 1)):  # all that came from beyond frame d makes the step to it together
            stepped = torch.cat((features[d : d + 1], warp(stepped, steps[d : d + 1])))
        for way, carried in zip(WAYS, (warp(features, direct), warp(features, chain), stepped), strict=True):
            labels = model.predict(carried, clip.size).argmax(1)
            counts[way] += count_pairs(labels, clip.mask(interval - 1)[None], classes)
    rows = []
    for way, matrices in counts.items():
        for d, matrix in enumerate(matrices):
            miou = ConfusionMatrix(classes, matrix).miou()
            rows.append(dict(method=way, offset=d, metric="miou", value=100 * miou, unit="%"))
    return tidy(pd.DataFrame(rows), "08_ways", f"shapes/{LEVEL}/test", seed=run.seed, interval=interval)


def _errors(flow: torch.Tensor, item: dict) -> tuple[float, float]:
    """Mean end-point error over all pixels, and over those that the key frame shows (NaN if there is none)."""
    seen = ~item["occluded"][:, None]
    visible = end_point_error(flow, item["flow"], seen).item() if seen.any() else float("nan")
    return end_point_error(flow, item["flow"]).item(), visible
