"""The study: every variant of the paper's Tables 3 and 4, and what one would run instead, counted scene by scene.

================  ==================  ===================================  =====================================================
variant           N trained           flow                                 in the paper
================  ==================  ===================================  =====================================================
``Frame``         on single frames    none: N runs on every frame          Frame
``SFF fast``      on single frames    DIS, its fastest preset              SFF-fast, with SIFT-Flow
``SFF slow``      on single frames    DIS, its slowest preset              SFF-slow, with SIFT-Flow
``separate``      on single frames    pre-trained on exact flow            DFF separate
``fix N``         on single frames    pre-trained, then trained through N  DFF fix N
``fix F``         on pairs            pre-trained, then frozen             DFF fix F
``DFF``           on pairs            both trained together                DFF
``DFF, S = 1``    as DFF              as DFF, its scale field left out     -
``without S``     on pairs            trained together without S           the text: without S
``DFF's N``       as DFF              none: N runs on every frame          - (Figure 3 at l = 1)
``copy``          as DFF              none: features stay where they are   -
``exact``         as DFF              the truth, hidden pixels left out    -
``DIS + N``       on pairs, by DIS    DIS                                  - (ours: DIS costs next to nothing on a CPU)
``Light``         on single frames    none: a network of a fifth of N's    - (ours: what an engineer would do instead)
                                      operations runs on every frame
``Lighter``       on single frames    the same, of a seventeenth           -
================  ==================  ===================================  =====================================================

N has as many steps in every row but the last two (`dfflib.profiles`), on the same frames; all stages after the first two learn
at one rate.

A scene is one interval as it would run: its first frame is the key frame, and every frame after it is labelled from there, so
the offset of a frame is its number. That differs from the paper's protocol, where one labelled frame is reached from every key
frame before it, because only one in thirty is labelled; here all are, and N runs once where it would run twenty times.
"""

import hashlib
import itertools
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from dfflib import machine
from dfflib.data import shapes
from dfflib.data.shapes import ShapesClip
from dfflib.data.shapes.outlines import CLASS_NAMES
from dfflib.data.shapes.scenes import SEEDS_PER_SPLIT, first_seed, get_level
from dfflib.errors import DffError
from dfflib.evaluation.scenes import Bootstrap, SceneCounts, differences
from dfflib.flow import Ablated, DISFlow, ExactFlow, FlowSource, ZeroFlow
from dfflib.inference.preparation import prepare
from dfflib.models import checkpoints
from dfflib.models.dff import DeepFeatureFlow, image_size
from dfflib.paths import CHECKPOINTS
from dfflib.run import Run
from dfflib.training import recipes, train
from dfflib.training.recipes import SHAPES_SIZE

Source = Callable[[DeepFeatureFlow], FlowSource]
NEAR, FAR = 10, 20  # offsets of the tables, and of the curves
PART = 25  # scenes that are kept together


def own(model: DeepFeatureFlow) -> FlowSource:
    """The model's own flow."""
    return model.flow_source


class Variant(NamedTuple):
    """A way to label the frames of an interval.

    Attributes:
        stages: whose checkpoints make the model; the first of them trained N.
        source: of its flow; None runs N on every frame.
        recipe: of the stages.
        offsets: how far from the key frame it is measured.
    """

    stages: tuple[str, ...]
    source: Source | None = own
    recipe: str = "study"
    offsets: int = NEAR

    @property
    def network(self) -> tuple[str, str]:
        """Which N it has: what has the same has the same features."""
        return self.recipe, self.stages[0]


VARIANTS = {
    "Frame": Variant(("frame",), None, offsets=FAR),
    "SFF fast": Variant(("frame",), lambda model: DISFlow("ultrafast")),
    "SFF slow": Variant(("frame",), lambda model: DISFlow("medium")),
    "separate": Variant(("frame", "flow_pretrain")),
    "fix N": Variant(("frame", "flow_detached")),
    "fix F": Variant(("fix_flow", "flow_pretrain")),
    "DFF": Variant(("joint",), offsets=FAR),
    "DFF, S = 1": Variant(("joint",), lambda model: Ablated(model.flow_source, scale=False)),
    "without S": Variant(("joint",), recipe="study_no_scale"),
    "DFF's N": Variant(("joint",), None, offsets=FAR),
    "copy": Variant(("joint",), lambda model: ZeroFlow(), offsets=FAR),
    "exact": Variant(("joint",), lambda model: ExactFlow(occlusion=True), offsets=FAR),
    "DIS + N": Variant(("dis",), lambda model: DISFlow(*recipes.get("study").rival), offsets=FAR),
    "Light": Variant(("keyframe",), None, "study_light", FAR),
    "Lighter": Variant(("keyframe",), None, "study_lighter", FAR),
}


PAIRS = (
    ("DFF", "Frame"), ("DFF's N", "Frame"), ("DFF", "DFF's N"), ("copy", "DFF's N"), ("exact", "DFF's N"), ("DFF", "exact"),
    ("DFF", "copy"), ("DFF", "separate"), ("DFF", "fix N"), ("DFF", "fix F"), ("fix N", "fix F"), ("DFF", "SFF slow"),
    ("SFF slow", "SFF fast"), ("SFF slow", "separate"), ("DFF", "DIS + N"), ("DFF", "DFF, S = 1"), ("DFF", "without S"),
    ("Frame", "Light"), ("Frame", "Lighter"),
)  # fmt: skip
"""Whose differences are printed, at l = 5 and 10."""
RIVALS = ("Light", "Lighter")  # whose distance from DFF is asked at every interval of the headline
LAST = "DFF at its last offset"


def variants_of(seed: int) -> dict[str, Variant]:
    """The variants that are trained from a seed: some are of one seed alone."""

    def is_of(variant: Variant) -> bool:
        """Is its recipe trained from this seed?"""
        recipe = recipes.get(variant.recipe)
        return seed in recipe.seeds[variant.stages[0]] or recipe.seed_of(variant.stages[0], seed) != seed

    return {name: variant for name, variant in VARIANTS.items() if is_of(variant)}


def with_weights(run: Run) -> dict[str, Variant]:
    """The variants of a run's seed that can be run: all, but where a profile starts from what ships, those whose weights do."""
    found = variants_of(run.seed)
    if not run.profile.shipped:
        return found
    files = _shipped_files(run, found)
    return {name: variant for name, variant in found.items() if all(path.is_file() for path in files[name])}


def bootstrap(run: Run, progress: bool = False) -> Bootstrap:
    """Every variant, from all seeds of the study, on the same test scenes: as many as all of them were counted on."""
    found = {seed: counts(run.with_seed(seed), progress) for seed in recipes.get("study").seeds["joint"]}
    scenes = min(one.scenes for one in found.values())
    return Bootstrap({seed: one.first(scenes) for seed, one in found.items()})


def study_differences(found: Bootstrap, intervals: Sequence[int]) -> pd.DataFrame:
    """Everything that the study says of two variants, as `dfflib.evaluation.scenes.differences` has it.

    Args:
        found: from `bootstrap`.
        intervals: of the headline, at which DFF is compared with what runs on every frame.
    """
    pairs = [pair for pair in PAIRS if found.seeds(*pair)]
    rivals = [("DFF", rival) for rival in RIVALS if found.seeds(rival)]
    last = found.average_above_last("DFF", 5)
    seeds = dict(metric="seeds", value=len(found.seeds("DFF")), unit="count")
    rows = [
        dict(metric=name, value=value, unit="points")
        for name, value in zip(("difference", "low", "high"), last, strict=True)
    ]
    return pd.concat([
        differences(found, pairs, (5, 10)),
        differences(found, [("DFF's N", "Frame")], (1,)),
        differences(found, rivals, intervals),
        pd.DataFrame([*rows, seeds]).assign(method=f"DFF minus {LAST}", interval=5),
    ], ignore_index=True)  # fmt: skip


def counts(run: Run, progress: bool = False) -> SceneCounts:
    """The study's counts for one seed: those that ship, if they are of the very checkpoints that the run has, or new ones.

    Not all weights that were counted ship. Where a profile starts from what ships, the counts have to agree with that.

    Args:
        run: which checkpoints, and on how many test scenes (`dfflib.profiles.Profile.scenes_tested`).
        progress: show a bar.
    """
    variants, kept = variants_of(run.seed), kept_file(run.seed)
    if kept.is_file():
        shipped = SceneCounts.load(kept)
        files = _shipped_files(run, variants) if run.profile.shipped else _files(run, variants)
        if _agree(shipped.source, _source(files, variants, "study", "test")):
            return shipped
    found = count(run, variants, run.profile.scenes_tested, progress=progress)
    found.save(run.folder / "counts" / kept.name)  # to be published
    return found


def kept_file(seed: int) -> Path:
    """The counts that ship."""
    return CHECKPOINTS / f"study_counts_s{seed}.npz"


def count(
    run: Run, variants: Mapping[str, Variant], scenes: int, level: str = "study", split: str = "test", first: int = 0,
    progress: bool = False,
) -> SceneCounts:  # fmt: skip
    """Count what variants get right, scene by scene, on as many cores as there are.

    Every so many scenes are kept in the run's folder, so what is stopped continues there.

    Args:
        run: which checkpoints.
        variants: by name.
        scenes: so many of the split, from number ``first`` on, which is a multiple of `PART`.
        level: of the scenes.
        split: ``"test"``, or ``"val"`` to choose anything by.
        first: number of the first scene.
        progress: show a bar.

    Raises:
        DffError: no variants, or scenes that there are not.
    """
    if not variants or first % PART or not 1 <= scenes <= SEEDS_PER_SPLIT - first:
        raise DffError(
            f"{len(variants)} variants cannot be counted on {scenes} scenes from number {first} on: name some variants, and "
            f"scenes within a split of {SEEDS_PER_SPLIT}, from a multiple of {PART} on."
        )
    files = _files(run, variants)
    source = _source(files, variants, level, split)
    total = _nothing(variants, scenes, source)
    begins, here = range(first, first + scenes, PART), threading.local()
    digest = hashlib.sha256(source.encode()).hexdigest()[:10]
    names = [run.folder / "counts" / f"{split}_{digest}_{start}.npz" for start in begins]

    def part(start: int, kept: Path) -> SceneCounts:
        """The scenes of one part, in a thread of its own."""
        size = min(PART, first + scenes - start)
        if kept.is_file() and (found := SceneCounts.load(kept)).source == source and found.scenes >= size:
            return found.first(size)
        if not hasattr(here, "judge"):
            here.judge = _Judge(run, variants)
        found = _nothing(variants, size, source)
        for n in range(size):
            here.judge.count(ShapesClip(first_seed(split) + start + n, level, SHAPES_SIZE, FAR), n, found)
            bar.update()
        found.save(kept)
        return found

    cores = min(machine.cores(), len(begins))
    with tqdm(desc="scenes", total=scenes, disable=not progress, leave=False) as bar, machine.one_thread_each():
        pool = ThreadPoolExecutor(cores)
        try:
            for start, done in zip(begins, pool.map(part, begins, names), strict=True):
                total.put(start - first, done)
        finally:
            pool.shutdown(cancel_futures=True)
    return total


def _nothing(variants: Mapping[str, Variant], scenes: int, source: str) -> SceneCounts:
    offsets = max(variant.offsets for variant in variants.values())
    return SceneCounts.empty(list(variants), offsets, scenes, len(CLASS_NAMES), source)


def _files(run: Run, variants: Mapping[str, Variant]) -> dict[str, list[Path]]:
    """The checkpoints of each variant; what is not trained yet is trained."""
    return {
        name: [train.ensure(run, stage, variant.recipe) for stage in variant.stages]
        for name, variant in variants.items()
    }


def _shipped_files(run: Run, variants: Mapping[str, Variant]) -> dict[str, list[Path]]:
    """Where the checkpoints of each variant lie if they ship."""
    return {
        name: [train.shipped_file(stage, run.seed, variant.recipe) for stage in variant.stages]
        for name, variant in variants.items()
    }


def _source(files: Mapping[str, list[Path]], variants: Mapping[str, Variant], level: str, split: str) -> str:
    """All that counts come from, as JSON: a digest of the scenes, the code that draws them and the names of the weights; and
    digests of these weights as they ship, of those that there are."""
    code = b"".join(path.read_bytes() for path in sorted(Path(shapes.__file__).parent.glob("*.py")))
    facts: list[Any] = [hashlib.sha256(code).hexdigest(), repr(get_level(level)), split, SHAPES_SIZE]
    facts += [[name, variants[name].offsets, *(path.name for path in paths)] for name, paths in files.items()]
    weights = {path.name: _weights(path) for path in itertools.chain(*files.values()) if path.is_file()}
    scenes = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return json.dumps(dict(scenes=scenes, weights=weights), sort_keys=True)


def _agree(counted: str, present: str) -> bool:
    """Are counts of the scenes and the weights that there are?"""
    was, now = json.loads(counted), json.loads(present)
    return was["scenes"] == now["scenes"] and now["weights"].items() <= was["weights"].items()


def weights_of(counted: SceneCounts) -> dict[str, str]:
    """File name -> digest of all weights that were counted."""
    return json.loads(counted.source)["weights"]


def _weights(path: Path) -> str:
    return _digest(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _digest(path: Path, changed: int) -> str:
    return checkpoints.as_shipped(path)[0]


class _Judge:
    """Variants, ready to run, in groups of one N."""

    def __init__(self, run: Run, variants: Mapping[str, Variant]):
        self.groups: list[tuple[DeepFeatureFlow, dict[str, tuple[FlowSource | None, int]]]] = []
        for network in dict.fromkeys(variant.network for variant in variants.values()):
            group = {name: variant for name, variant in variants.items() if variant.network == network}
            models = {
                variant.stages: prepare(train.load(run, variant.stages, variant.recipe, progress=False), "cpu")
                for variant in group.values()
            }
            sources = {
                name: (variant.source(models[variant.stages]) if variant.source else None, variant.offsets)
                for name, variant in sorted(group.items(), key=lambda item: -item[1].offsets)
            }
            self.groups.append((next(iter(models.values())), sources))

    @torch.inference_mode()
    def count(self, clip: ShapesClip, scene: int, found: SceneCounts) -> None:
        """Count every variant's labels for the frames of a clip."""
        truths = torch.stack([clip.mask(n) for n in range(found.true.shape[0])])
        frames = (clip.frames[: len(truths)] / 255).contiguous(memory_format=torch.channels_last)
        for model, sources in self.groups:
            for name, labels in _labels(model, sources, clip, frames):
                found.count(scene, name, labels, truths[: len(labels)])


def _labels(
    model: DeepFeatureFlow, sources: dict[str, tuple[FlowSource | None, int]], clip: ShapesClip, frames: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """Label maps ``(offsets, H, W)`` of each variant; those that are measured farthest come first."""

    def labels(carried: Tensor) -> Tensor:
        """Of what N_task makes of what was carried."""
        return model.task.fast_results(model.n_task(carried), clip.size)

    key = model.extract(frames[:1])
    first, estimates = labels(key), dict[FlowSource, tuple[Tensor, Tensor | None]]()
    for name, (source, offsets) in sources.items():
        if source is None:
            yield name, labels(model.extract(frames[:offsets]))
            continue
        source = source.at(clip, range(1, offsets), [0] * (offsets - 1))
        if source.root not in estimates:
            encoded = source.root.encode_key(frames[:1])
            estimates[source.root] = source.root.estimate(encoded, frames[1:offsets], image_size(key))
        flow, scale = source.kept(*estimates[source.root])
        moved = model.move(key, flow[: offsets - 1], None if scale is None else scale[: offsets - 1])
        yield name, torch.cat((first, labels(moved)))
