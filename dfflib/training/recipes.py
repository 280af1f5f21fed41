"""What a model is made of, and which data it learns from: one recipe for each world of data.

=============  ===========================================  ==============================================================
recipe         labels                                       flow pre-training
=============  ===========================================  ==============================================================
``threshold``  intensity threshold on the sample clips      real frames moved by a known flow
``shapes``     seven classes of shapes, medium level        exact flow of the same world
``study``      the same classes, told by outline alone      exact flow of the same world
``camvid``     eleven classes of street scenes, by hand     - (key frames alone: its training frames are a second apart)
``chairs``     -                                            FlyingChairs, as the paper's (flow pre-training alone)
``sintel``     -                                            MPI Sintel (flow pre-training alone)
=============  ===========================================  ==============================================================
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from dfflib.data import camvid, catalogue
from dfflib.data.optical_flow import FlowPairs
from dfflib.data.pairs import Batch, FramePairs, MovedFrames
from dfflib.data.shapes.outlines import CLASS_NAMES
from dfflib.data.shapes.pairs import ShapesPairs
from dfflib.data.shapes.rendered import RenderedPairs
from dfflib.data.threshold import threshold_set
from dfflib.errors import DffError
from dfflib.models.build import Config
from dfflib.profiles import Profile
from dfflib.training.stages import PEAK_LR

SHAPES_SIZE = (128, 128)
STUDY_CROP = (96, 96)  # of the pictures that N learns from; flow learns from whole ones
SEEDS = (0, 1, 2)  # that the table of the dummy task is averaged over
STUDY_SEEDS = (0,)  # so far
FROM_NOTHING = ("threshold", "study")  # recipes that profiles train themselves


class Batches(Protocol):
    """What training reads from."""

    def batch(self, size: int, seed: int, step: int) -> Batch:
        """One batch, a pure function of its arguments."""


@dataclass(frozen=True)
class Recipe:
    """How one world of data is learnt.

    Attributes:
        name: of the recipe.
        about: the data, in a few words, for the header of checkpoints.
        model: arguments of `dfflib.models.build.build`.
        starts_from: stage -> stages whose checkpoints it starts from, where these are others than usual (`starts`).
        batches: ``batches(stage, split, profile, folder)`` gives the batches of a split, ``"train"`` or ``"val"``; what has to
            be drawn first is kept in the run's folder.
        workers: rendering is slow enough to be worth processes of its own.
        seeds: stage -> seeds of the checkpoints that the workbook's tables and figures are made from.
        unshipped: stage -> those of its seeds whose weights are too many to ship; what they got right ships
            (`dfflib.evaluation.variants.counts`).
        supplementary: of one seed, for a figure or a table of its own: profiles that train from nothing take the shipped
            checkpoints of such a recipe, unless it has been trained in the run (`dfflib.training.jobs`).
        long: stages whose shipped checkpoints such profiles take too, for they would take an hour or more.
        peak_lr: of stages whose learning rate is another than `dfflib.training.stages.PEAK_LR`.
        shared: stage -> recipe whose checkpoint of that stage serves here too.
        schedule: which of a profile's steps (`dfflib.profiles.Profile.steps_of`).
        common_start: the first stages are of seed 0 for every seed; seeds then differ in what comes after.
        rival: preset and input stride of DIS in stage ``dis``.
        needs: a data set of `dfflib.data.catalogue` that users have to get; empty where the data comes with the workbook.
    """

    name: str
    about: str
    model: Config
    starts_from: dict[str, tuple[str, ...]]
    batches: Callable[[str, str, Profile, Path], Batches]
    workers: bool = False
    seeds: dict[str, tuple[int, ...]] = field(default_factory=dict)
    unshipped: dict[str, tuple[int, ...]] = field(default_factory=dict)
    supplementary: bool = False
    long: tuple[str, ...] = ()
    peak_lr: dict[str, float] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)
    schedule: str = "shapes"
    common_start: bool = False
    rival: tuple[str, int] = ("fast", 1)
    needs: str = ""

    @property
    def prefix(self) -> str:
        """Of checkpoint names: none for the first recipe."""
        return "" if self.name == "threshold" else f"{self.name}_"

    def peak(self, stage: str) -> float:
        """Peak learning rate of a stage."""
        return self.peak_lr.get(stage, PEAK_LR[stage])

    def is_supplementary(self, stage: str, seed: int) -> bool:
        """Do profiles that train from nothing take the shipped checkpoint of a stage and seed?"""
        return self.supplementary or stage in self.long or (self.common_start and seed > 0)

    def ships(self, stage: str, seed: int) -> bool:
        """Are the weights of a stage part of the workbook?"""
        return seed in self.seeds.get(stage, ()) and seed not in self.unshipped.get(stage, ())

    def steps(self, stage: str, profile: Profile) -> int:
        """Training steps of a stage.

        Raises:
            DffError: the profile does not train it.
        """
        return profile.steps_of(self.schedule, stage)

    def seed_of(self, stage: str, seed: int) -> int:
        """Flow pre-training is shared by all seeds, as the paper's Flying Chairs weights are; other stages have their own."""
        return 0 if stage == "flow_pretrain" or (self.common_start and stage == "keyframe") else seed

    def owner(self, stage: str) -> str:
        """Name of the recipe that trains a stage for this one: its own, unless it is shared."""
        return self.shared.get(stage, self.name)

    def starts(self, stage: str) -> tuple[str, ...]:
        """Stages whose checkpoints a stage starts from."""
        usual: dict[str, tuple[str, ...]] = {
            "keyframe": (),
            "flow_pretrain": (),
            "frame": ("keyframe",),
            "dis": ("keyframe",),
        }
        return (usual | self.starts_from).get(stage, ("keyframe", "flow_pretrain"))


def _threshold_batches(stage: str, split: str, profile: Profile, folder: Path) -> Batches:
    clips = list(threshold_set(split, profile.short_side))
    rows, columns = (min(profile.crop[axis], *(clip.size[axis] for clip in clips)) for axis in (0, 1))
    if stage == "flow_pretrain":
        return MovedFrames(clips, (rows, columns))
    return FramePairs(clips, (rows, columns), profile.max_interval, flip=split == "train")


def _shapes_batches(stage: str, split: str, profile: Profile, folder: Path) -> Batches:
    interval = 0 if stage in ("keyframe", "frame") else None  # the key-frame stage looks at the current frame only
    return ShapesPairs(split, "medium", SHAPES_SIZE, profile.max_interval, interval=interval)


def _study_batches(stage: str, split: str, profile: Profile, folder: Path) -> Batches:
    crop = None if stage == "flow_pretrain" else STUDY_CROP
    shown = dict(scenes=profile.scenes, crop=crop) if split == "train" else dict(scenes=200, views=1, augment=False)
    return RenderedPairs(folder / "rendered", split, "study", SHAPES_SIZE, profile.max_interval, **shown)


def _camvid_batches(stage: str, split: str, profile: Profile, folder: Path) -> Batches:
    if stage != "keyframe":
        raise DffError(
            f"CamVid cannot train stage {stage!r}: its training frames lie a second apart, so take keyframe."
        )
    root = catalogue.copy_of("camvid")
    pairs = FramePairs(
        camvid.clips(root, "train", profile.short_side), profile.crop, max_interval=1, flip=split == "train"
    )
    held_out = pairs.frames[::10]  # of the training split: the val split is for testing propagation
    pairs.frames = held_out if split == "val" else [frame for frame in pairs.frames if frame not in held_out]
    return pairs


def _published_flow(name: str) -> Callable[[str, str, Profile, Path], Batches]:
    """The batches of a set of published flow, which has no labels."""

    def batches(stage: str, split: str, profile: Profile, folder: Path) -> Batches:
        """Pairs for flow pre-training."""
        if stage != "flow_pretrain":
            raise DffError(f"{name} cannot train stage {stage!r}: it has flow but no labels, so take flow_pretrain.")
        return FlowPairs(name, catalogue.copy_of(name), split, profile.crop, flip=split == "train")

    return batches


_LATER = ("frame", "flow_detached", "joint", "fix_flow", "dis")  # stages that compare ways to train
_CORRELATION = dict(name="correlation", width=0.75)
RECIPES = {
    "threshold": Recipe(
        "threshold", "intensity threshold on the train parts of carphone, bikes and bigbuckbunny",
        dict(task=dict(num_classes=2)), dict(joint=("keyframe", "flow_detached")), _threshold_batches, schedule="threshold",
        seeds=dict(keyframe=(0,), flow_pretrain=(0,), flow_detached=(0,), joint=SEEDS),
    ),
    "shapes": Recipe(
        "shapes", "Shapes world, medium level, 128x128, seeds of the train part",
        dict(task=dict(num_classes=len(CLASS_NAMES)), flow=_CORRELATION), {}, _shapes_batches, workers=True,
        seeds=dict(flow_pretrain=(0,), keyframe=(0,), joint=(0,)), supplementary=True,
        peak_lr=dict(joint=1e-3, fix_flow=1e-3, dis=1e-3),  # N is far from finished when its key-frame stage ends
    ),
    "study": Recipe(
        "study", "Shapes world, study level, 128x128, 3000 scenes of the train part",
        dict(
            task=dict(num_classes=len(CLASS_NAMES), scores_travel=True), features=dict(name="large_pyramid", channels=64),
            flow=dict(name="refined", width=1.0, input_stride=2),
        ),
        # what does not train N further takes the N that was trained on single frames for as long as all others
        dict(flow_detached=("frame", "flow_pretrain")), _study_batches, workers=True, schedule="study",
        common_start=True, rival=("dense", 2), long=("keyframe",),
        seeds=dict(keyframe=(0,), flow_pretrain=(0,), **dict.fromkeys(_LATER, STUDY_SEEDS)),
        unshipped=dict.fromkeys(_LATER, STUDY_SEEDS[1:]) | dict(fix_flow=STUDY_SEEDS),
        peak_lr=dict(flow_pretrain=2e-3, **dict.fromkeys(_LATER, 1e-3)),
    ),
    "camvid": Recipe(
        "camvid", "nine tenths of CamVid's training split, frames of 192x144, from scratch",
        dict(task=dict(num_classes=len(camvid.CLASS_NAMES)), flow=_CORRELATION), {}, _camvid_batches, workers=True,
        seeds=dict(keyframe=(0,)), supplementary=True, needs="camvid",
    ),
    **{
        name: Recipe(
            name, f"published optical flow of {folder}", dict(flow=_CORRELATION), {},
            _published_flow(folder.lower()), workers=True, supplementary=True, needs=folder.lower(),
        )
        for name, folder in (("chairs", "FlyingChairs"), ("sintel", "Sintel"))
    },
}  # fmt: skip


def _of_shapes(name: str, shared: dict[str, str], **model: dict) -> Recipe:
    """A recipe like ``shapes`` with another network somewhere, and the stages that it need not train again."""
    shapes = RECIPES["shapes"]
    return replace(
        shapes, name=name, model={**shapes.model, **model}, seeds=dict(joint=(0,)), supplementary=True, shared=shared,
    )  # fmt: skip


_KEY, _FLOW = {"keyframe": "shapes"}, {"flow_pretrain": "shapes"}
_COMPACT = dict(name="flownet_sr", width=0.25)  # FlowNetS as the Julia prototype reduced it, and narrow
_HALF = _CORRELATION | dict(input_stride=2)  # the same weights, trained at full size: convolutions do not mind
_SMALL = dict(channels=32)
for _recipe in (
    _of_shapes("shapes_split_2", _KEY | _FLOW, features=dict(task_blocks=2)),
    _of_shapes("shapes_split_4", _KEY | _FLOW, features=dict(task_blocks=4)),
    _of_shapes("shapes_half_input", _KEY | _FLOW, flow=_HALF),
    _of_shapes("shapes_flownet", _KEY, flow=_COMPACT),
    _of_shapes("shapes_small", _FLOW, features=_SMALL),
    _of_shapes("shapes_small_half_input", {"keyframe": "shapes_small"} | _FLOW, features=_SMALL, flow=_HALF),
    _of_shapes("shapes_small_flownet", {"keyframe": "shapes_small", "flow_pretrain": "shapes_flownet"},
               features=_SMALL, flow=_COMPACT),
):  # fmt: skip
    RECIPES[_recipe.name] = _recipe
"""Variations on ``shapes``, for one figure or table each: two and four blocks of N after the warp; flow from
frames of half size; a compact FlowNetS; a key-frame network of half the channels, with each of the three flow networks."""


def _of_study(name: str, shared: dict[str, str], seeds: dict[str, tuple[int, ...]], **changes: Any) -> Recipe:
    """A recipe like ``study`` but for some changes; ``model`` has the networks that are others."""
    study = RECIPES["study"]
    model = {**study.model, **changes.pop("model", {})}
    return replace(
        study, name=name, model=model, seeds=seeds, unshipped=changes.pop("unshipped", {}), supplementary=True, shared=shared,
        **changes,
    )  # fmt: skip


def _features(channels: int) -> dict[str, dict]:
    return dict(features=dict(name="pyramid", channels=channels))


for _recipe in (
    _of_study("study_no_scale", dict(keyframe="study", flow_pretrain="study"), dict(joint=(0,)),
              model=dict(flow=RECIPES["study"].model["flow"] | dict(scale=False)), unshipped=dict(joint=(0,))),
    _of_study("study_light", {}, dict(keyframe=(0,)), model=_features(26), schedule="light"),
    _of_study("study_lighter", {}, dict(keyframe=(0,)), model=_features(14), schedule="light"),
):  # fmt: skip
    RECIPES[_recipe.name] = _recipe
"""Variations on ``study``: no scale field; networks of a fifth and a seventeenth of N's operations, to run on every frame."""


def get(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        DffError: there is none.
    """
    if name not in RECIPES:
        raise DffError(f"there is no recipe {name!r}: choose one of {', '.join(RECIPES)}.")
    return RECIPES[name]


def checkpoint_name(stage: str, seed: int, recipe: str = "threshold") -> str:
    """File name of a stage's result."""
    return f"{get(recipe).prefix}{stage}_s{get(recipe).seed_of(stage, seed)}.safetensors"
