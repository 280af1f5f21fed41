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
        seeds: seeds that tables are averaged over.
        max_interval: l of the training pairs; also the longest interval evaluated.
        eval_step: every how many test frames one is evaluated.
        clips: of the test part of the Shapes world, for tables; one frame of each is evaluated.
    """

    name: str
    about: str
    shipped: bool = False
    short_side: int = 144
    crop: tuple[int, int] = (128, 160)
    batch: int = 8
    steps: dict = field(default_factory=dict)
    shapes_steps: dict = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    max_interval: int = 10
    eval_step: int = 1
    clips: int = 100

    def steps_of(self, recipe: str, stage: str) -> int:
        """Training steps of a stage, in a recipe of `dfflib.training.recipes`.

        Raises:
            DffError: the profile does not train it.
        """
        steps = self.steps if recipe == "threshold" else self.shapes_steps
        if stage not in steps:
            raise DffError(
                f"profile {self.name} does not train stage {stage!r} of recipe {recipe!r}: choose one of {', '.join(steps)}, "
                f"or give the number of steps."
            )
        return steps[stage]


PROFILES = {
    "smoke": Profile(
        "smoke", "every notebook in under two minutes on two CPU cores; starts from the shipped checkpoints",
        shipped=True, crop=(96, 128), batch=4, eval_step=3, clips=6,
        steps={"keyframe": 120, "flow_pretrain": 60, "flow_detached": 60, "joint": 60},
        shapes_steps={"keyframe": 60, "flow_pretrain": 60, "flow_detached": 30, "joint": 30, "fix_flow": 30, "dis": 30},
    ),
    "laptop": Profile(
        "laptop", "all that the README shows, trained from nothing on a CPU in under two hours",
        steps={"keyframe": 400, "flow_pretrain": 4000, "flow_detached": 300, "joint": 500},
        shapes_steps={
            "keyframe": 2000, "flow_pretrain": 6000, "flow_detached": 500, "joint": 500, "fix_flow": 500, "dis": 500,
        },
    ),
    "gpu": Profile(
        "gpu", "longer training on larger frames, for one GPU",
        short_side=240, crop=(224, 320), batch=16,
        steps={"keyframe": 4000, "flow_pretrain": 40000, "flow_detached": 5000, "joint": 10000},
        shapes_steps={
            "keyframe": 20000, "flow_pretrain": 40000, "flow_detached": 8000, "joint": 8000, "fix_flow": 8000, "dis": 8000,
        },
    ),
    "paper": Profile(
        "paper", "the published lengths (20 000 joint steps); the sample clips at their own height",
        short_side=272, crop=(256, 384), batch=8,
        steps={"keyframe": 20000, "flow_pretrain": 100000, "flow_detached": 10000, "joint": 20000},
        shapes_steps={
            "keyframe": 20000, "flow_pretrain": 100000, "flow_detached": 20000, "joint": 20000, "fix_flow": 20000,
            "dis": 20000,
        },
    ),
}  # fmt: skip
PROFILES["shipped"] = replace(
    PROFILES["laptop"], name="shipped", shipped=True,
    steps=PROFILES["smoke"].steps, shapes_steps=PROFILES["smoke"].shapes_steps,
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
