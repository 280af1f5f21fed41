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
``exact``      as DFF              the truth, hidden pixels left out    - (the upper bound)
``DIS + N``    on pairs, by DIS    DIS                                  - (ours: DIS costs next to nothing on a CPU)
=============  ==================  ===================================  =======================================================
"""

from collections.abc import Callable, Iterable

import pandas as pd
import torch
from torch import nn

from dfflib import checkpoints, train
from dfflib.data.shape_pairs import ShapesPairs, as_batch
from dfflib.data.shape_scenes import PARTS, SEEDS_PER_PART
from dfflib.data.shapes import ShapesClip
from dfflib.dff import DeepFeatureFlow
from dfflib.errors import DffError
from dfflib.evaluate import by_offset, tidy
from dfflib.flow import Ablated, DISFlow, ExactFlow, ZeroFlow, end_point_error
from dfflib.recipes import SHAPES_SIZE

Source = Callable[[DeepFeatureFlow], nn.Module]


def _own(model: DeepFeatureFlow) -> nn.Module:
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
"""Variant -> training stages whose checkpoints make the model, and its flow source."""


def test_clips(count: int, part: str = "test", frames: int = 30) -> list[ShapesClip]:
    """The first clips of a part of the Shapes world, at the medium level and the size that models are trained at."""
    if not 1 <= count <= SEEDS_PER_PART:
        raise DffError(f"{count} clips were asked for: choose 1 to {SEEDS_PER_PART}.")
    first = PARTS.index(part) * SEEDS_PER_PART
    return [ShapesClip(first + n, "medium", SHAPES_SIZE, frames) for n in range(count)]


def load(
    stages: Iterable[str], profile: str, seed: int = 0, out_dir: str = "", progress: bool = True
) -> DeepFeatureFlow:
    """A model put together from the checkpoints of some stages (trained first, where the profile has none)."""
    files = [train.ensure(stage, profile, seed, out_dir, progress, "shapes") for stage in stages]
    model = checkpoints.load_model(files[0])
    for file in files[1:]:
        checkpoints.load_into(model, file)
    return model.eval()


def compare(
    profile: str, seed: int = 0, out_dir: str = "", variants: Iterable[str] = tuple(VARIANTS), interval: int = 10,
    clips: int = 30, step: int = 7, progress: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """Accuracy of every variant at every offset, on the test part of the Shapes world.

    Args:
        profile, seed, out_dir: which checkpoints.
        variants: names out of `VARIANTS`.
        interval: offsets 0 .. interval - 1 are measured, all on the same current frames.
        clips, step: how many clips, and every how many of their frames one is measured.
        progress: show bars.

    Returns:
        Tidy rows (`dfflib.evaluate.COLUMNS`) of experiment ``08_methods``; ``Frame`` has a row at every offset.

    Raises:
        DffError: no such variant.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in variants:
        if name not in VARIANTS:
            raise DffError(f"there is no variant {name!r}: choose from {', '.join(VARIANTS)}.")
        groups.setdefault(VARIANTS[name][0], []).append(name)
    chosen, tables = test_clips(clips), []
    for stages, names in groups.items():
        model = load(stages, profile, seed, out_dir, progress)
        sources = {name: VARIANTS[name][1](model) for name in names if name != "Frame"}
        table = by_offset(model, chosen, interval, sources, step, progress)
        tables.append(table[table["method"].isin(names)])
    table = pd.concat(tables)
    return tidy(table, "08_methods", "shapes/medium/test", seed=seed, interval=interval)


@torch.inference_mode()
def flow_errors(
    profile: str, seed: int = 0, out_dir: str = "", offsets: Iterable[int] = (1, 5, 9), pairs: int = 64,
    stages: Iterable[str] = ("flow_pretrain", "flow_detached", "joint"), progress: bool = False,
) -> pd.DataFrame:  # fmt: skip
    """End-point error of the flow networks and of DIS on the same test pairs, in pixels of 128x128 frames.

    Args:
        profile, seed, out_dir: which checkpoints.
        offsets: distances from the key frame.
        pairs: so many at each.
        stages: flow networks, by the stage that trained them.
        progress: show bars of what has to be trained first.

    Returns:
        Tidy rows of experiment ``04_flow_errors``: metrics ``epe`` (all pixels) and ``epe_visible`` (not hidden in the key
        frame); methods are the stages, ``DIS fast`` and ``DIS medium``, and ``zero``.
    """
    networks = {}
    for stage in stages:
        start = () if stage == "joint" else ("keyframe",)
        networks[stage] = load((*start, stage), profile, seed, out_dir, progress).flow_source

    methods = {stage: source.image_flow for stage, source in networks.items()}
    for preset in ("fast", "medium"):
        methods[f"DIS {preset}"] = DISFlow(preset).image_flow
    methods["zero"] = ZeroFlow().image_flow
    rows = []
    for offset in offsets:
        data = ShapesPairs("test", "medium", SHAPES_SIZE, length=pairs, interval=offset)
        items = [torch.utils.data.default_collate([data[n]]) for n in range(pairs)]
        batches = [as_batch(item) for item in items]
        for name, estimate in methods.items():
            errors = [_errors(estimate(batch.current, batch.key), item) for batch, item in zip(batches, items)]
            for metric, value in zip(("epe", "epe_visible"), torch.tensor(errors).nanmean(0).tolist()):
                rows.append({"method": name, "offset": offset, "metric": metric, "value": value, "unit": "px"})
    return tidy(pd.DataFrame(rows), "04_flow_errors", "shapes/medium/test", seed=seed)


def _errors(flow: torch.Tensor, item: dict) -> tuple[float, float]:
    """Mean end-point error over all pixels, and over those that the key frame shows (NaN if there is none)."""
    seen = ~item["occluded"][:, None]
    visible = end_point_error(flow, item["flow"], seen).item() if seen.any() else float("nan")
    return end_point_error(flow, item["flow"]).item(), visible
