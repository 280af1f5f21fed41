"""Scales of one workbook: ``smoke`` (CI), ``laptop`` and ``shipped`` (the README's figures), ``gpu``, ``paper``.

A notebook names a profile; the numbers behind the name are here and nowhere else.
"""

import os
import platform
from dataclasses import dataclass, field, replace
from pathlib import Path

from dfflib.errors import DffError
from dfflib.limits import check
from dfflib.paths import run_dir


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
        """Training steps of a stage, in a recipe of `dfflib.recipes`.

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


@dataclass(frozen=True)
class Run:
    """What a notebook's set-up cell holds on to: profile, seed, device and the folder that results go to."""

    profile: Profile
    seed: int
    device: str
    folder: Path


def begin(profile: str, seed: int = 0, out_dir: str = "") -> Run:
    """Set a notebook up: check the profile, seed everything, choose the device, and say so.

    Args:
        profile: one of ``PROFILES``.
        seed: for python, numpy and torch.
        out_dir: folder for figures, results and checkpoints; empty means ``runs/<profile>``.

    Raises:
        DffError: no such profile or seed, or a folder that cannot be written to.
    """
    import torch
    from lightning.fabric import seed_everything

    from dfflib.viz import use_style

    chosen, seed = get(profile), check("seed", seed)
    folder = run_dir(chosen.name, out_dir)
    seed_everything(seed, verbose=False)
    use_style()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"{versions()} on {where}\nprofile {chosen.name}: {chosen.about}")
    return Run(chosen, seed, device, folder)


def versions() -> str:
    """Of this package, PyTorch and Python, for the reader of a result."""
    import torch

    from dfflib import __version__

    return f"dfflib {__version__}, torch {torch.__version__}, python {platform.python_version()}"


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_device() -> str:
    """Processor or GPU, and threads, in a few words: the ``device`` column of result files."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {torch.get_num_threads()} threads"
