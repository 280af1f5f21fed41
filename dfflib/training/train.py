"""Training in stages: key frame, flow on exact motion, flow detached from the key-frame model, everything jointly.

What the stages learn, and from what, is in `dfflib.training.stages`; data and model in `dfflib.training.recipes`.

A run can be stopped at any time: it continues with the next step where it stopped, and ends with the same weights as a run that
was never stopped. What it wrote before is replaced only by a complete new file.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from dfflib.errors import DffError
from dfflib.models import checkpoints
from dfflib.models.dff import DeepFeatureFlow
from dfflib.paths import CHECKPOINTS, run_dir
from dfflib.run import Run
from dfflib.training import recipes
from dfflib.training.recipes import checkpoint_name
from dfflib.training.stages import STAGES
from dfflib.training.trainer import Settings, Trained, _Trainer


def ensure(run: Run, stage: str, recipe: str = "threshold", progress: bool = True) -> Path:
    """Checkpoint of a stage: this run's, trained if need be, or the shipped one.

    The shipped one serves where the profile starts from those; and for supplementary stages
    (`dfflib.training.recipes.Recipe.is_supplementary`), where this run has not trained one.
    """
    recipe = recipes.get(recipe).owner(stage)
    if _takes_shipped(run, stage, recipe):
        return shipped_file(stage, run.seed, recipe)
    return train_stage(run, stage, recipe, progress=progress).checkpoint


def _takes_shipped(run: Run, stage: str, recipe: str) -> bool:
    """Does the shipped checkpoint serve a run?"""
    if not shipped_file(stage, run.seed, recipe).is_file():
        return False
    return run.profile.shipped or (
        recipes.get(recipe).is_supplementary(stage, run.seed) and not is_trained(run, stage, recipe)
    )


def shipped_file(stage: str, seed: int, recipe: str = "threshold") -> Path:
    """Where the shipped checkpoint of a stage lies, if there is one."""
    return CHECKPOINTS / checkpoint_name(stage, seed, recipes.get(recipe).owner(stage))


def load(run: Run, stages: Iterable[str], recipe: str = "threshold", progress: bool = True) -> DeepFeatureFlow:
    """A model put together from the checkpoints of some stages (`ensure`): the first whole, of the others their parts."""
    first, *others = (ensure(run, stage, recipe, progress) for stage in stages)
    model = checkpoints.load_model(first)
    for file in others:
        checkpoints.load_into(model, file)
    return model.eval()


def is_trained(run: Run, stage: str, recipe: str = "threshold") -> bool:
    """Has this run trained a stage with the settings of today, and every stage that it starts from and does not take?"""
    wanted, start = recipes.get(recipe), []
    for name in wanted.starts(stage):
        owner = wanted.owner(name)
        if not _takes_shipped(run, name, owner) and not is_trained(run, name, owner):
            return False
        start.append(ensure(run, name, owner))
    return _trainer(run, stage, recipe, wanted.steps(stage, run.profile), start).is_finished()


def train_stage(
    run: Run,
    stage: str,
    recipe: str = "threshold",
    steps: int | None = None,
    fresh: bool = False,
    progress: bool = True,
) -> Trained:
    """Train one stage, after the stages that it starts from; continue where an interrupted run of the same settings stopped.

    Args:
        run: its profile, the seed of initialisation and batches, and the folder for the result.
        stage: one of ``STAGES``.
        recipe: data and model, see ``dfflib.training.recipes``.
        steps: instead of the profile's.
        fresh: forget where an earlier run of the same settings stopped, and train again what is finished.
        progress: show a bar.

    Returns:
        The checkpoint ``<run>/checkpoints/<stage>_s<seed>.safetensors`` and the log beside it (``.csv``). A result of an
        earlier run stands there until the new one is whole.

    Raises:
        DffError: unknown stage or recipe, a folder that cannot be written to, bad number of steps, the loss is no longer a
            number, another process is training this stage, or a longer run's result would be replaced without ``fresh``.
    """
    if stage not in STAGES:
        raise DffError(f"there is no training stage {stage!r}: choose one of {', '.join(STAGES)}.")
    wanted = recipes.get(recipe)
    run_dir(run.profile.name, run.folder)
    steps = wanted.steps(stage, run.profile) if steps is None else steps
    if steps < 1:
        raise DffError(f"{steps} training steps were asked for: choose 1 or more.")
    same = run.with_seed(wanted.seed_of(stage, run.seed))
    start = [ensure(same, name, recipe, progress) for name in wanted.starts(stage)]
    return _trainer(run, stage, recipe, steps, start, fresh).run(progress)


def _trainer(run: Run, stage: str, recipe: str, steps: int, start: list[Path], fresh: bool = False) -> _Trainer:
    profile, seed = run.profile, recipes.get(recipe).seed_of(stage, run.seed)
    digests = tuple(hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in start)
    settings = Settings(
        stage, seed, steps, profile.batch, profile.crop, profile.short_side, profile.max_interval, digests, recipe
    )
    return _Trainer(settings, profile, run.folder, start, fresh)
