"""What a notebook's first cell sets up: its run, which trains and loads models, and keeps what the notebook makes."""

from pathlib import Path

from lightning.fabric import seed_everything
from matplotlib.figure import Figure

from dfflib import viz
from dfflib.machine import describe_device, versions
from dfflib.models.dff import DeepFeatureFlow
from dfflib.paths import run_dir
from dfflib.run import Run
from dfflib.training import train
from dfflib.training.trainer import Trained


class NotebookRun(Run):
    """The run that a notebook is part of."""

    def train(self, stage: str, recipe: str = "threshold") -> Trained:
        """Train one stage as the profile says, or continue; see `dfflib.training.train.train_stage`."""
        return train.train_stage(self, stage, recipe)

    def checkpoint(self, stage: str, recipe: str = "threshold") -> Path:
        """Checkpoint of a stage, the shipped one or this run's; its training log lies beside it, as ``.csv``."""
        return train.ensure(self, stage, recipe)

    def model(self, *stages: str, recipe: str = "threshold") -> DeepFeatureFlow:
        """The model that a stage has trained; of several, each puts the parts that it has trained into the first's.

        Stages that the run has no checkpoint of are trained.
        """
        return train.load(self, stages, recipe)

    def save(self, fig: Figure, name: str) -> Path:
        """Write a figure to ``figures/<name>.png``."""
        return viz.save(fig, name, self.folder)


def begin(profile: str, seed: int = 0, out_dir: str = "") -> NotebookRun:
    """Set a notebook up: seed everything, choose the device, make the folder, and say so.

    Args:
        profile: one of ``PROFILES``.
        seed: for python, numpy and torch.
        out_dir: folder for figures, results and checkpoints; empty means ``runs/<profile>``.

    Raises:
        DffError: no such profile or seed, or a folder that cannot be written to.
    """
    run = NotebookRun.of(profile, seed, out_dir)
    run_dir(run.profile.name, run.folder)
    seed_everything(run.seed, verbose=False)
    viz.use_style()
    print(f"{versions()} on {describe_device()}\nprofile {run.profile.name}: {run.profile.about}")
    return run
