"""Scales of one workbook: ``smoke`` (CI), ``laptop`` and ``shipped`` (the README's figures), ``gpu``, ``paper``.

A notebook names a profile; the numbers behind the name are here and nowhere else.
"""

from dataclasses import dataclass, field, replace

from dfflib.errors import DffError


@dataclass(frozen=True)
class Profile:
    """Sizes and lengths of one scale.

    Attributes:
        name: as given on the command line.
        about: one line for the reader.
        shipped: start each training stage from the shipped checkpoint of the stage before; otherwise train that one first.
        short_side: frames are resized so that the shorter side has this many pixels.
        crop: training crop (height, width).
        batch: pairs per step.
        steps: training steps per stage.
        shapes_steps: the same for the Shapes world, and for CamVid.
        study_steps: the same for the study, whose stages after the first two have equal steps; ``light`` is the only stage of
            the light networks that N is compared with.
        scenes: that the study trains on, drawn once.
        seeds: seeds that tables are averaged over.
        max_interval: l of the training pairs; also the longest interval evaluated.
        eval_step: every how many test frames one is evaluated.
        clips: of the test part of the Shapes world, for pictures and small tables.
        scenes_tested: of the test part of the Shapes world, for the study.
    """

    name: str
    about: str
    shipped: bool = False
    short_side: int = 144
    crop: tuple[int, int] = (128, 160)
    batch: int = 8
    steps: dict = field(default_factory=dict)
    shapes_steps: dict = field(default_factory=dict)
    study_steps: dict = field(default_factory=dict)
    scenes: int = 3000
    seeds: tuple[int, ...] = (0, 1, 2)
    max_interval: int = 10
    eval_step: int = 1
    clips: int = 100
    scenes_tested: int = 1000

    def steps_of(self, schedule: str, stage: str) -> int:
        """Training steps of a stage, of the schedule that a recipe follows (`dfflib.training.recipes.Recipe.schedule`).

        Raises:
            DffError: the profile does not train it.
        """
        steps = {"threshold": self.steps, "shapes": self.shapes_steps}.get(schedule, self.study_steps)
        name = "light" if schedule == "light" and stage == "keyframe" else stage
        if name not in steps:
            raise DffError(
                f"profile {self.name} does not train stage {stage!r} of the {schedule} schedule: choose one of "
                f"{', '.join(steps)}, or give the number of steps."
            )
        return steps[name]


def _study(keyframe: int, flow: int, light: int, later: int) -> dict[str, int]:
    """Steps of the study: equal ones for all that comes after the key-frame network and the pre-trained flow."""
    first = dict(keyframe=keyframe, flow_pretrain=flow, light=light)
    return first | dict.fromkeys(("frame", "flow_detached", "joint", "fix_flow", "dis"), later)


PROFILES = {
    "smoke": Profile(
        "smoke", "every notebook in under two minutes on two CPU cores; starts from the shipped checkpoints",
        shipped=True, crop=(96, 128), batch=4, eval_step=3, clips=6, scenes_tested=12,
        steps={"keyframe": 120, "flow_pretrain": 60, "flow_detached": 60, "joint": 60},
        shapes_steps={"keyframe": 60, "flow_pretrain": 60, "flow_detached": 30, "joint": 30, "fix_flow": 30, "dis": 30},
        study_steps=_study(60, 60, 60, 30), scenes=24,
    ),
    "laptop": Profile(
        "laptop", "all that the README shows, nearly all of it trained from nothing, on a CPU in two hours and a quarter",
        steps={"keyframe": 400, "flow_pretrain": 4000, "flow_detached": 300, "joint": 500},
        shapes_steps={
            "keyframe": 2000, "flow_pretrain": 6000, "flow_detached": 500, "joint": 500, "fix_flow": 500, "dis": 500,
        },
        study_steps=_study(4800, 8000, 6400, 1000),
    ),
    "gpu": Profile(
        "gpu", "longer training on larger frames, for one GPU",
        short_side=240, crop=(224, 320), batch=16,
        steps={"keyframe": 4000, "flow_pretrain": 40000, "flow_detached": 5000, "joint": 10000},
        shapes_steps={
            "keyframe": 20000, "flow_pretrain": 40000, "flow_detached": 8000, "joint": 8000, "fix_flow": 8000, "dis": 8000,
        },
        study_steps=_study(20000, 40000, 30000, 8000), scenes=20000,
    ),
    "paper": Profile(
        "paper", "the published lengths (20 000 joint steps); the sample clips at their own height",
        short_side=272, crop=(256, 384), batch=8,
        steps={"keyframe": 20000, "flow_pretrain": 100000, "flow_detached": 10000, "joint": 20000},
        shapes_steps={
            "keyframe": 20000, "flow_pretrain": 100000, "flow_detached": 20000, "joint": 20000, "fix_flow": 20000,
            "dis": 20000,
        },
        study_steps=_study(20000, 100000, 30000, 20000), scenes=20000,
    ),
}  # fmt: skip
PROFILES["shipped"] = replace(
    PROFILES["laptop"], name="shipped", shipped=True,
    steps=PROFILES["smoke"].steps, shapes_steps=PROFILES["smoke"].shapes_steps,
    study_steps=PROFILES["smoke"].study_steps, scenes=PROFILES["smoke"].scenes,
    about="laptop's tables and figures from the shipped checkpoints, in twenty minutes",
)  # fmt: skip


def get(name: str) -> Profile:
    """The profile of that name.

    Raises:
        DffError: there is none.
    """
    if name not in PROFILES:
        raise DffError(f"there is no profile {name!r}: choose one of {', '.join(PROFILES)}.")
    return PROFILES[name]
