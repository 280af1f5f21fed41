"""What a run must show before `dfflib publish` believes it: each check passes, or refuses with one sentence.

A run speaks for itself: ``state/NN_x.json`` says with which profile and parameters a notebook was run, and what its figures
and results were when it ended; the header of a checkpoint says what it was trained as. What was changed since, stopped
half-way, made by another profile or by hand is not published.
"""

import re
import warnings
from pathlib import Path

import pandas as pd
from PIL import Image

from dfflib import profiles
from dfflib.errors import DffError
from dfflib.models import checkpoints
from dfflib.models.build import complete
from dfflib.results import LOG, read_results, read_table
from dfflib.run import Run
from dfflib.training import recipes, train
from dfflib.workbook.reproduce import digest_of, finished

KEYS = ["dataset", "method", "metric", "interval", "offset", "seed"]


def check_profile(profile: str, readme: str) -> profiles.Profile:
    """The profile, if it is the one that the README speaks of, and trains from nothing.

    Raises:
        DffError: there is none of this name, or its numbers are not those that the README claims to show.
    """
    chosen = profiles.get(profile)
    if chosen.shipped:
        raise DffError(
            f"profile {profile} cannot be published: it starts from the checkpoints that are published, and trains each stage "
            f"for a few steps only; run the profile that README.md names."
        )
    said = re.findall(r"dfflib publish --profile (\w+)", readme)
    if set(said) != {profile}:
        named = " and ".join(sorted(set(said))) or "none"
        raise DffError(
            f"profile {profile} cannot be published: README.md says that its numbers are of profile {named}; run that one, or "
            f"rewrite README.md first."
        )
    return chosen


def outputs_of_run(run: Path, profile: str) -> dict[str, list[Path]]:
    """What each finished notebook of a run wrote, by the notebook's name; every file is as the notebook left it.

    Raises:
        DffError: none has finished; one was run by another profile or with parameters of its own; a file was changed or is
            missing; or a result file or figure belongs to no finished notebook.
    """
    again = f"`dfflib reproduce --profile {profile} --out-dir {run}`"
    states, found = finished(run), {}
    for name, state in states.items():
        given = {key: value for key, value in state["parameters"].items() if key != "out_dir"}
        if given != {"profile": profile}:
            said = ", ".join(f"{key}={value}" for key, value in given.items()) or "nothing"
            raise DffError(f"{run / 'state' / name}.json says that its notebook was run with {said}, not with the parameters "
                           f"of profile {profile}: run {again}.")  # fmt: skip
        for output, digest in state["digests"].items():
            if not (run / output).is_file() or digest_of(run / output) != digest:
                raise DffError(
                    f"{run / output} is not what notebook {name} wrote: run {again} --only {name[:2]} --force."
                )
        found[name] = [run / output for output in state["digests"]]
    claimed = {path for paths in found.values() for path in paths}
    for path in sorted((run / "results").glob("[0-9][0-9]_*.csv")):
        if path not in claimed:
            read_results(path)  # garbage is called garbage
            raise DffError(f"{path} belongs to no notebook that has finished: run {again}, or delete it.")
    if not states:
        raise DffError(f"no notebook has finished in {run}, so there is nothing to publish: run {again} first.")
    return found


def check_results(path: Path, shown: Path, profile: profiles.Profile, spread: bool) -> None:
    """A result file that may take the place of another.

    Args:
        path: the new one.
        shown: the old one, which may be missing.
        profile: whose seeds must be there.
        spread: every method must have every seed, and every number once; else a method of seed 0 alone may stand beside.

    Raises:
        DffError: a row has no number, device, method or data set; seeds are missing; or rows that are shown now.
    """

    def refusal(why: str) -> DffError:
        """The sentence that refuses the file."""
        return DffError(f"{path} cannot be published ({why}): run the notebook that writes it again.")

    rows = read_results(path)
    empty = rows[["dataset", "method", "value", "device", "version"]].isna()
    if not len(rows):
        raise refusal("it has no rows")
    if empty.any(axis=None):
        row = empty.any(axis=1).to_numpy().argmax()
        lacking = ", ".join(str(name) for name in empty if empty[name].iloc[row])
        raise refusal(f"row {row + 2} lacks {lacking}")
    devices = sorted(rows["device"].unique())
    if len(devices) > 1 or not re.match(r"\w", devices[0]) or devices[0].lower().startswith("unknown"):
        raise refusal(f"measured on {' and '.join(map(repr, devices))}")
    for (data, method), group in rows.dropna(subset="seed").groupby(["dataset", "method"]):
        seeds = {int(seed) for seed in group["seed"]}
        if seeds != set(profile.seeds) and (spread or seeds != {0}):
            raise refusal(f"{method} on {data} has seeds {sorted(seeds)} of {list(profile.seeds)}")
    if spread and (twice := rows.duplicated(KEYS)).any():
        raise refusal(f"row {twice.to_numpy().argmax() + 2} repeats an earlier one")
    if shown.is_file():
        _check_nothing_is_lost(path, rows, shown)


def _check_nothing_is_lost(path: Path, rows: pd.DataFrame, shown: Path) -> None:
    """Rows that the repository shows must be in the new file too: data sets may be absent on this machine."""
    old = read_results(shown)
    lost = old[~pd.MultiIndex.from_frame(old[KEYS].fillna(-1)).isin(pd.MultiIndex.from_frame(rows[KEYS].fillna(-1)))]
    if len(lost):
        first = ", ".join(str(value) for value in lost[KEYS].iloc[0].dropna())
        raise DffError(f"{path} lacks {len(lost)} of the rows that {shown} has ({first}): run its notebook where all data is, "
                       f"or delete {shown} first if they are meant to go.")  # fmt: skip


def check_figure(path: Path) -> None:
    """A picture that can be drawn to its last frame.

    Raises:
        DffError: it cannot.
    """
    try:
        with warnings.catch_warnings(), Image.open(path) as picture:
            warnings.simplefilter("error")  # a picture too large for its file is none
            kind = (picture.format or "").lower()
            for n in range(getattr(picture, "n_frames", 1)):
                picture.seek(n)
                picture.load()
    except Exception as error:  # whatever a damaged file makes the decoder raise
        raise DffError(f"{path} is no readable picture ({type(error).__name__}): run its notebook again.") from None
    if kind != path.suffix[1:].lower():
        raise DffError(f"{path} is a {kind} file: run its notebook again.")


def check_checkpoint(path: Path, stage: str, seed: int, recipe: str, profile: profiles.Profile, run: Path) -> None:
    """A checkpoint that is what its name says, trained by this run with the settings of today, and its log.

    Raises:
        DffError: it is another stage's, seed's or model's, was trained for another number of steps, with other settings or from
            other checkpoints than lie beside it; or its log is not whole.
    """
    model, about = checkpoints.describe(path)
    settings = recipes.get(recipe)
    steps = settings.steps(stage, profile)
    command = f"dfflib train {stage} --profile {profile.name} --seed {seed} --recipe {recipe} --out-dir {run}"

    def refusal(why: str) -> DffError:
        """The sentence that refuses the file."""
        return DffError(f"{path} cannot be published: {why}; train it with `{command}`.")

    wanted = dict(
        stage=stage, seed=seed, steps=steps, batch=profile.batch, short_side=profile.short_side, data=settings.about
    )
    for key, value in wanted.items():
        if about.get(key) != value:
            raise refusal(f"its {key} is {about.get(key)!r}, of profile {profile.name} it is {value!r}")
    if model != complete(settings.model):
        raise refusal(f"it holds another model than recipe {recipe}")
    log = read_table(path.with_suffix(".csv"), LOG, "no training log", f"train it with `{command}`")
    if not len(log) or log["step"].iloc[-1] != steps or not log["step"].is_monotonic_increasing:
        raise DffError(f"{path.with_suffix('.csv')} is not the log of {steps} steps: train it with `{command}`.")
    if not train.is_trained(Run(profile, seed, run), stage, recipe):
        raise refusal("it was trained with other settings than today's, or from other checkpoints than those beside it")
    checkpoints.load_model(path)
