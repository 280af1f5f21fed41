"""The paper's comparison of variants (Tables 3 and 4), on the Shapes world: every variant, by distance from the key frame.

=============  ==================  ===================================  =======================================================
variant        N trained           flow                                 in the paper
=============  ==================  ===================================  =======================================================
``Frame``      on single frames    none: N runs on every frame          Frame
``SFF fast``   on single frames    DIS, its fastest preset              SFF-fast, with SIFT-Flow
``SFF slow``   on single frames    DIS, its slowest preset              SFF-slow, with SIFT-Flow
``separate``   on single frames    pre-trained on exact flow            DFF separate
``fix N``      on single frames    pre-trained, then trained through N  DFF fix N
``fix F``      on pairs            pre-trained, then frozen             DFF fix F
``DFF``        on pairs            both trained together                DFF
``DFF, S = 1`` as DFF              as DFF, its scale field left out     (the text: without S)
``copy``       as DFF              none: features stay where they are   -
``exact``      as DFF              the truth, hidden pixels left out    -
``DIS + N``    on pairs, by DIS    DIS                                  - (ours: DIS costs next to nothing on a CPU)
=============  ==================  ===================================  =======================================================
"""

from collections.abc import Callable, Iterable
from functools import lru_cache

import pandas as pd
import torch
from tqdm.auto import tqdm

from dfflib.data.shapes import ShapesClip
from dfflib.data.shapes.pairs import ShapesPairs, as_batch
from dfflib.data.shapes.scenes import SEEDS_PER_SPLIT, first_seed
from dfflib.errors import DffError
from dfflib.evaluation.offsets import by_offset
from dfflib.flow import Ablated, DISFlow, ExactFlow, FlowSource, ZeroFlow, end_point_error
from dfflib.metrics import ConfusionMatrix, count_pairs
from dfflib.models.dff import DeepFeatureFlow
from dfflib.results import tidy
from dfflib.run import Run
from dfflib.training import train
from dfflib.training.recipes import SHAPES_SIZE
from dfflib.warp import compose, warp

Source = Callable[[DeepFeatureFlow], FlowSource]


def _own(model: DeepFeatureFlow) -> FlowSource:
    return model.flow_source


VARIANTS: dict[str, tuple[tuple[str, ...], Source]] = {
    "Frame": (("keyframe",), _own),
    "SFF fast": (("keyframe",), lambda model: DISFlow("ultrafast")),
    "SFF slow": (("keyframe",), lambda model: DISFlow("medium")),
    "separate": (("keyframe", "flow_pretrain"), _own),
    "fix N": (("keyframe", "flow_detached"), _own),
    "fix F": (("fix_flow", "flow_pretrain"), _own),
    "DFF": (("joint",), _own),
    "DFF, S = 1": (("joint",), lambda model: Ablated(model.flow_source, scale=False)),
    "copy": (("joint",), lambda model: ZeroFlow()),
    "exact": (("joint",), lambda model: ExactFlow(occlusion=True)),
    "DIS + N": (("dis",), lambda model: DISFlow("fast")),
}
"""Variant -> training stages whose checkpoints make the model, the first of which trained N; and its flow source."""

WAYS = ("direct", "flow chained", "features chained")  # of features, to a frame that is far from the key frame


def test_clips(count: int, frames: int, split: str = "test") -> list[ShapesClip]:
    """The first clips of a split of the Shapes world, at the medium level and the size that models are trained at.

    With as many frames as the interval, one frame of each is evaluated: the last, from every key frame before it. Many
    scenes and one frame of each say more than many frames of few scenes.
    """
    if not 1 <= count <= SEEDS_PER_SPLIT:
        raise DffError(f"{count} clips were asked for: choose 1 to {SEEDS_PER_SPLIT}.")
    return list(_rendered(first_seed(split), count, frames, SHAPES_SIZE))


@lru_cache(maxsize=2)
def _rendered(first: int, count: int, frames: int, size: tuple[int, int]) -> tuple[ShapesClip, ...]:
    """Clips whose frames are drawn once: every variant and every seed looks at the same ones."""
    clips = tuple(ShapesClip(first + n, "medium", size, frames) for n in range(count))
    for clip in clips:
        clip.frames = clip.frames[:]
    return clips


def compare(
    run: Run, variants: Iterable[str] = tuple(VARIANTS), interval: int = 10, progress: bool = False
) -> pd.DataFrame:
    """Accuracy of every variant at every offset, on the test split of the Shapes world.

    Args:
        run: which checkpoints.
        variants: names out of `VARIANTS`.
        interval: offsets 0 .. interval - 1 are measured, all on the same current frames, one of each of the profile's clips.
        progress: show bars.

    Returns:
        Tidy rows (`dfflib.results.COLUMNS`) of experiment ``08_methods``; ``Frame`` has a row at every offset.

    Raises:
        DffError: no such variant.
    """
    groups: dict[str, list[str]] = {}  # by the stage that trained N: its features are extracted once
    for name in variants:
        if name not in VARIANTS:
            raise DffError(f"there is no variant {name!r}: choose from {', '.join(VARIANTS)}.")
        groups.setdefault(VARIANTS[name][0][0], []).append(name)
    chosen, tables = test_clips(run.profile.clips, interval), []
    for names in groups.values():
        wanted = dict.fromkeys(VARIANTS[name][0] for name in names)
        models = {stages: train.load(run, stages, "shapes", progress) for stages in wanted}
        sources = {name: VARIANTS[name][1](models[VARIANTS[name][0]]) for name in names if name != "Frame"}
        model = models[VARIANTS[names[0]][0]]  # any of them: they share N
        table = by_offset(model, chosen, interval, sources, progress=progress)
        tables.append(table[table["method"].isin(names)])
    table = pd.concat(tables)
    return tidy(table, "08_methods", "shapes/medium/test", seed=run.seed, interval=interval)


def variations(run: Run, names: dict[str, str], interval: int = 5, progress: bool = False) -> pd.DataFrame:
    """Accuracy of jointly trained models that differ in one thing, at every offset, on the same test scenes.

    Args:
        run: which checkpoints.
        names: method -> recipe (`dfflib.training.recipes`); the models are those of its ``joint`` stage.
        interval: offsets 0 .. interval - 1 are measured.
        progress: show bars.

    Returns:
        Columns of `dfflib.evaluation.offsets.by_offset`, and ``seed``: DFF of each model, under the name given.
    """
    clips, tables = test_clips(run.profile.clips, interval), []
    for method, recipe in names.items():
        model = train.load(run, ["joint"], recipe, progress)
        table = by_offset(model, clips, interval, {method: model.flow_source}, progress=progress)
        tables.append(table[table["method"] == method])
    return pd.concat(tables, ignore_index=True).assign(seed=run.seed)


@torch.inference_mode()
def flow_errors(
    run: Run, offsets: Iterable[int] = (1, 5, 9),
    stages: Iterable[str] = ("flow_pretrain", "flow_detached", "joint"), progress: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """End-point error of the flow networks and of DIS on the same test pairs, in pixels of 128x128 frames.

    Args:
        run: which checkpoints.
        offsets: distances from the key frame; at each as many pairs as the profile has clips.
        stages: flow networks, by the stage that trained them.
        progress: show bars of what has to be trained first.

    Returns:
        Tidy rows of experiment ``04_flow_errors``: metrics ``epe`` (all pixels) and ``epe_visible`` (not hidden in the key
        frame); methods are the stages, ``DIS fast`` and ``DIS medium``, and ``zero``.
    """
    networks, pairs = {}, run.profile.clips
    for stage in stages:
        start = () if stage == "joint" else ("keyframe",)
        networks[stage] = train.load(run, (*start, stage), "shapes", progress).flow_source

    sources: dict[str, FlowSource] = {**networks, "DIS fast": DISFlow("fast"), "DIS medium": DISFlow("medium")}
    sources["zero"] = ZeroFlow()
    rows = []
    for offset in offsets:
        data = ShapesPairs("test", "medium", SHAPES_SIZE, length=pairs, interval=offset)
        items = [torch.utils.data.default_collate([data[n]]) for n in range(pairs)]
        batches = [as_batch(item) for item in items]
        for name, source in sources.items():
            flows = [source.image_flow(batch.key, batch.current) for batch in batches]
            errors = [_errors(flow, item) for flow, item in zip(flows, items, strict=True)]
            for metric, value in zip(("epe", "epe_visible"), torch.tensor(errors).nanmean(0).tolist(), strict=True):
                rows.append({"method": name, "offset": offset, "metric": metric, "value": value, "unit": "px"})
    return tidy(pd.DataFrame(rows), "04_flow_errors", "shapes/medium/test", seed=run.seed)


@torch.inference_mode()
def ways_to_warp(run: Run, interval: int = 10, progress: bool = False) -> pd.DataFrame:
    """One long way, or many short ones? The same features moved in three ways (Accel, Jain et al. 2019, chains).

    ``direct``: one flow from the current frame to the key frame, one warp. ``flow chained``: the flows between neighbouring
    frames are composed, then one warp. ``features chained``: the features are warped from frame to frame, so that they are
    interpolated at every step. The networks are those of *separate*: pre-trained flow, no scale field.

    Returns:
        Tidy rows of experiment ``08_ways``, metric ``miou`` at each offset.
    """
    model = train.load(run, ("keyframe", "flow_pretrain"), "shapes", progress)
    clips = test_clips(run.profile.clips, interval)
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
    return tidy(pd.DataFrame(rows), "08_ways", "shapes/medium/test", seed=run.seed, interval=interval)


def _errors(flow: torch.Tensor, item: dict) -> tuple[float, float]:
    """Mean end-point error over all pixels, and over those that the key frame shows (NaN if there is none)."""
    seen = ~item["occluded"][:, None]
    visible = end_point_error(flow, item["flow"], seen).item() if seen.any() else float("nan")
    return end_point_error(flow, item["flow"]).item(), visible
