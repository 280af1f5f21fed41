"""Training in stages: key frame, flow on exact motion, flow detached from the key-frame model, everything jointly.

What the stages learn, and from what, is in `dfflib.training.stages`; data and model in `dfflib.training.recipes`.

A run can be stopped at any time: it continues with the next step where it stopped, and ends with the same weights as a run that
was never stopped. What it wrote before is replaced only by a complete new file.
"""

import hashlib
from pathlib import Path

from dfflib import profiles
from dfflib.errors import DffError
from dfflib.paths import CHECKPOINTS, run_dir
from dfflib.training import recipes
from dfflib.training.recipes import checkpoint_name, seed_of
from dfflib.training.stages import STAGES
from dfflib.training.trainer import Settings, Trained, _Trainer


def ensure(
    stage: str, profile: str = "smoke", seed: int = 0, out_dir: str = "", progress: bool = True, recipe: str = "threshold"
) -> Path:  # fmt: skip
    """Checkpoint of a stage: this run's, trained if need be, or the shipped one.

    The shipped one serves where the profile starts from those; and for supplementary recipes, where this run has not trained
    one.
    """
    chosen, recipe = profiles.get(profile), recipes.get(recipe).owner(stage)
    shipped = CHECKPOINTS / checkpoint_name(stage, seed, recipe)
    if shipped.is_file():
        if chosen.shipped:
            return shipped
        if recipes.get(recipe).supplementary and not is_trained(stage, profile, seed, out_dir, recipe):
            return shipped
    return train_stage(stage, profile, seed, out_dir, progress=progress, recipe=recipe).checkpoint


def is_trained(stage: str, profile: str, seed: int = 0, out_dir: str = "", recipe: str = "threshold") -> bool:
    """Has this run trained a stage, and every stage that it starts from, with the settings of today?"""
    chosen, wanted, folder = profiles.get(profile), recipes.get(recipe), run_dir(profile, out_dir)
    start = []
    for name in wanted.starts(stage):
        owner = wanted.owner(name)
        shipped = chosen.shipped and (CHECKPOINTS / checkpoint_name(name, seed, owner)).is_file()
        if not shipped and not is_trained(name, profile, seed, out_dir, owner):
            return False
        start.append(ensure(name, profile, seed, out_dir, recipe=owner))
    return _trainer(
        stage, chosen, seed_of(stage, seed), folder, chosen.steps_of(recipe, stage), start, recipe
    ).is_finished()


def train_stage(
    stage: str, profile: str = "smoke", seed: int = 0, out_dir: str = "", steps: int | None = None,
    fresh: bool = False, progress: bool = True, recipe: str = "threshold",
) -> Trained:  # fmt: skip
    """Train one stage, after the stages that it starts from; continue where an interrupted run of the same settings stopped.

    Args:
        stage: one of ``STAGES``.
        profile: sizes and lengths, see ``dfflib.profiles``.
        seed: initialisation and batches.
        out_dir: run folder; empty means ``runs/<profile>``.
        steps: instead of the profile's.
        fresh: forget where an earlier run of the same settings stopped, and train again what is finished.
        progress: show a bar.
        recipe: data and model, see ``dfflib.training.recipes``.

    Returns:
        The checkpoint ``<run>/checkpoints/<stage>_s<seed>.safetensors`` and the log beside it (``.csv``). A result of an
        earlier run stands there until the new one is whole.

    Raises:
        DffError: unknown stage, profile or recipe, bad number of steps, the loss is no longer a number, another process is
            training this stage, or a longer run's result would be replaced without ``fresh``.
    """
    if stage not in STAGES:
        raise DffError(f"there is no training stage {stage!r}: choose one of {', '.join(STAGES)}.")
    chosen, starts = profiles.get(profile), recipes.get(recipe).starts(stage)
    folder = run_dir(profile, out_dir)
    steps = chosen.steps_of(recipe, stage) if steps is None else steps
    if steps < 1:
        raise DffError(f"{steps} training steps were asked for: choose 1 or more.")
    start = [ensure(name, profile, seed_of(stage, seed), out_dir, progress, recipe) for name in starts]
    return _trainer(stage, chosen, seed_of(stage, seed), folder, steps, start, recipe, fresh).run(progress)


def _trainer(
    stage: str, profile: profiles.Profile, seed: int, folder: Path, steps: int, start: list[Path], recipe: str,
    fresh: bool = False,
) -> "_Trainer":  # fmt: skip
    digests = tuple(hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in start)
    settings = Settings(
        stage, seed, steps, profile.batch, profile.crop, profile.short_side, profile.max_interval, digests, recipe
    )
    return _Trainer(settings, profile, folder, start, fresh)
