"""From a finished run to what the repository shows: checkpoints, result files, figures, and the tables of the README.

No number in the README is typed: between two markers stands what `TABLES` makes of ``figures/results/*.csv``, and a test
compares the two. Everything is checked first (`dfflib.workbook.evidence`) and made beside; then all of it takes its place,
or nothing.
"""

import filecmp
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from dfflib import profiles
from dfflib.errors import DffError
from dfflib.evaluation import headline
from dfflib.evaluation.bench import summary
from dfflib.evaluation.scenes import Interval
from dfflib.evaluation.variants import VARIANTS
from dfflib.locks import lock_run
from dfflib.models import checkpoints
from dfflib.paths import CHECKPOINTS, FIGURES, NOTEBOOKS, ROOT, RUNS, need_checkout
from dfflib.results import in_markdown, read_results
from dfflib.training.recipes import RECIPES, checkpoint_name
from dfflib.workbook import claims, evidence, published
from dfflib.workbook.checkpoint_page import checkpoint_page
from dfflib.workbook.claim_rules import MissingRows, gap

_TRAINED = {
    Path(checkpoint_name(stage, seed, recipe.name)).stem: (stage, seed, recipe.name)
    for recipe in RECIPES.values() for stage, seeds in recipe.seeds.items() for seed in seeds if recipe.ships(stage, seed)
}  # fmt: skip
SHIPPED = tuple(_TRAINED)
README = ROOT / "README.md"
END = "<!-- end of results -->"
INTERVAL = 5  # of the README's table


def publish(profile: str, out_dir: str | os.PathLike = "") -> list[Path]:
    """Renew checkpoints, results, README figures and README tables of the repository from a run, or change nothing.

    What the run has not made stays as it is; but new checkpoints are published only with the results of every notebook, for
    those here would no longer be theirs.

    Args:
        profile: that made the run; the one that the README speaks of.
        out_dir: run folder; empty means ``runs/<profile>``.

    Returns:
        The files that are new or have changed.

    Raises:
        DffError: something in the run does not prove what it would be published as (`dfflib.workbook.evidence`), or a file
        cannot be
            written. The repository is as it was.
    """
    need_checkout("publish")
    readme = README.read_text(encoding="utf-8")
    chosen, folder = evidence.check_profile(profile, readme), Path(out_dir) if str(out_dir) else RUNS / profile
    if not folder.is_dir():
        raise DffError(f"there is no run {folder}: make one with `dfflib reproduce --profile {profile}`.")
    try:
        with lock_run(profile, out_dir, "dfflib publish") as run, tempfile.TemporaryDirectory() as name:
            return _replace_all(_renewed(run, chosen, readme, Path(name)))
    except OSError as error:
        raise DffError(f"{error.filename} ({error.strerror}): nothing was published.") from error


def _renewed(run: Path, profile: profiles.Profile, readme: str, stage: Path) -> dict[Path, bytes]:
    """What would change in the repository: target -> content. Made on a copy of what is shown, in ``stage``."""
    outputs = evidence.outputs_of_run(run, profile.name)
    for shown in (CHECKPOINTS, FIGURES):
        shutil.copytree(shown, stage / shown.name) if shown.is_dir() else (stage / shown.name).mkdir()
    weights, figures = stage / CHECKPOINTS.name, stage / FIGURES.name
    (figures / "results").mkdir(exist_ok=True)
    missing = [path.stem for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")) if path.stem not in outputs]
    if (new := _take_checkpoints(run, profile, weights)) and missing:
        raise DffError(f"{run} has trained {new[0]} anew, but its notebooks {', '.join(missing)} have not finished, so numbers "
                       f"here would not be of these checkpoints: run `dfflib reproduce --profile {profile.name}`.")  # fmt: skip
    proven = all((run / "checkpoints" / f"{name}.safetensors").is_file()
                 for name, (stage, seed, recipe) in _TRAINED.items()
                 if not RECIPES[recipe].is_supplementary(stage, seed))  # fmt: skip
    for counts in sorted((run / "counts").glob("study_counts_s*.npz")):
        shutil.copyfile(counts, weights / counts.name)
    drawn = set(re.findall(r"figures/([\w.-]+\.(?:png|gif))", readme))
    for path in (path for paths in outputs.values() for path in paths):
        if path.suffix == ".csv":
            target, spread = figures / "results" / path.name, path.name in TABLES["results"][0]
            evidence.check_results(path, target, profile, spread)
            if spread and not proven and not (target.is_file() and filecmp.cmp(path, target, shallow=False)):
                raise DffError(f"{path} cannot be published: the checkpoints that it was measured with are not in {run}; run "
                               f"`dfflib reproduce --profile {profile.name}`.")  # fmt: skip
            shutil.copyfile(path, target)
        elif path.name in drawn:
            evidence.check_figure(path)
            shutil.copyfile(path, figures / path.name)
    if any(weights.glob("*.safetensors")):
        (weights / "README.md").write_text(checkpoint_page(weights, profile.name), encoding="utf-8", newline="\n")
    claims.write_ledger(figures / "results", figures / "claims.md", profile.name)
    made = {target / path.relative_to(copy): path.read_bytes()
            for copy, target in ((weights, CHECKPOINTS), (figures, FIGURES))
            for path in sorted(copy.rglob("*")) if path.is_file()}  # fmt: skip
    if (renewed := with_results(readme, figures / "results")) != readme:
        made[README] = renewed.encode()
    return {path: data for path, data in made.items() if not path.is_file() or path.read_bytes() != data}


def _take_checkpoints(run: Path, profile: profiles.Profile, folder: Path) -> list[str]:
    """Put a run's checkpoints and their logs into a copy of those that ship; names of those that are not the same."""
    here = {name: run / "checkpoints" / f"{name}.safetensors" for name in _TRAINED}
    here, new = {name: path for name, path in here.items() if path.is_file()}, []
    for name, path in here.items():
        shipped = folder / path.name
        if not shipped.is_file() or checkpoints.as_shipped(path) != checkpoints.as_shipped(shipped):
            checkpoints.store_half(path, shipped)
            new.append(name)
    for name, path in here.items():  # what is as before may not start from what is new
        stage, seed, recipe = _TRAINED[name]
        if name in new or (new and not RECIPES[recipe].is_supplementary(stage, seed)):
            evidence.check_checkpoint(path, stage, seed, recipe, profile, run)
            shutil.copyfile(path.with_suffix(".csv"), folder / f"{name}.csv")
    return new


def _replace_all(files: dict[Path, bytes]) -> list[Path]:
    """Write several files, all or none: each is written beside its place first, and what was there is kept until the last."""
    mark, done = secrets.token_hex(4), []
    places = {path: path.with_name(f".{mark}-{n}") for n, path in enumerate(files)}
    try:
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            places[path].with_suffix(".new").write_bytes(data)
        for path in files:
            if path.exists():
                shutil.copy2(path, places[path].with_suffix(".old"))
        for path in files:
            done.append(path)
            os.replace(places[path].with_suffix(".new"), path)
    except BaseException:
        for path in done:
            old = places[path].with_suffix(".old")
            os.replace(old, path) if old.exists() else path.unlink(missing_ok=True)
        raise
    finally:
        for place in places.values():
            for kind in (".new", ".old"):
                place.with_suffix(kind).unlink(missing_ok=True)
    return list(files)


def _seeds_and_devices(rows: pd.DataFrame) -> tuple[list, str]:
    """Seeds and devices of result rows.

    Raises:
        DffError: there is one seed only, which has no spread.
    """
    seeds = sorted(rows["seed"].dropna().unique())
    if len(seeds) < 2:
        raise DffError(f"results of {len(seeds)} seed have no spread: run the notebook with all seeds of its profile.")
    return seeds, ", ".join(in_markdown(device) for device in sorted(rows["device"].unique()))


def _by_seed(rows: pd.DataFrame, method: str, metric: str = "miou") -> pd.DataFrame:
    """Values of one method: a row per seed, a column per offset."""
    chosen = rows[(rows["method"] == method) & (rows["metric"] == metric)]
    return chosen.pivot_table(index="seed", columns="offset", values="value")


def _mean_and_spread(values: pd.Series, signed: bool = False) -> str:
    return f"{values.mean():{'+' if signed else ''}.1f} ± {values.std(ddof=1):.1f}"


def results_table(rows: pd.DataFrame, interval: int = INTERVAL) -> str:
    """The README's table: copy and DFF by distance from the key frame, mean and standard deviation over seeds.

    Args:
        rows: tidy rows of ``07_by_offset.csv``.
        interval: offsets 0 .. interval-1 are shown, and their average as the paper takes it.
    """
    rows = rows[rows["offset"] < interval]
    seeds, devices = _seeds_and_devices(rows)

    def cell(metric: str, method: str, offset: int | None, minus: str = "") -> str:
        """One cell of the table: mean and standard deviation over seeds."""
        values = _by_seed(rows, method, metric)
        if minus:
            values = values - _by_seed(rows, minus, metric)
        return _mean_and_spread(values.mean(axis="columns") if offset is None else values[offset], signed=bool(minus))

    by_labels, by_frame = ("Frame", "copy", "DIS", "DFF"), ("copy", "DIS", "S alone", "DFF, S = 1", "DFF")
    head = [
        "offset",
        *(f"{name}: mIoU" for name in by_labels),
        *(f"{name}: agreement" for name in by_frame),
        "gap",
    ]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for offset in (*range(interval), None):
        name = "average" if offset is None else str(offset)
        cells = [cell("miou", method, offset) for method in by_labels]
        cells += [cell("agreement", method, offset) for method in by_frame]
        lines.append(f"| {name} | {' | '.join(cells)} | {cell('agreement', 'DFF', offset, minus='copy')} |")
    lines += [
        "",
        f"Percent, mean ± standard deviation over {len(seeds)} seeds, on the held-out last quarter of the three sample clips "
        f"(intensity-threshold labels, l = {interval}; {devices}). *Frame* runs the heavy network on every frame; *copy* "
        f"reuses the key frame's features unmoved; *DIS* moves them along classical flow; *DFF* moves them along its own and "
        f"multiplies by the scale field S; *S = 1* leaves the scale field out, in the same model, and *S alone* the flow. "
        f"*Offset* counts frames from the key frame, *agreement* is the share of pixels labelled as by *Frame*, *gap* is the "
        f"agreement of DFF minus that of copy. All offsets are measured on the same frames, those of notebook 07. The last "
        f"row averages the offsets, as the paper does.",
    ]
    return "\n".join(lines)


def headline_table(rows: pd.DataFrame, differences: pd.DataFrame, intervals: tuple[int, ...] = (5, 10, 20)) -> str:
    """The README's first table: accuracy and speed of one model, beside what one would run instead, and the sentence of it.

    Args:
        rows: tidy rows of ``08_headline.csv``.
        differences: of ``08_differences.csv``.
        intervals: l.
    """
    found = headline.values(rows)
    lines = ["| | " + " | ".join(f"mIoU, l = {n} | fps, l = {n}" for n in intervals) + " |"]
    lines.append("|---" * (1 + 2 * len(intervals)) + "|")
    for method in headline.METHODS:
        paces = [f"{found[key]:.0f}" if (key := (method, n, "fps")) in found else "-" for n in intervals]
        cells = [f"{found[method, n, 'miou']:.1f} | {pace}" for n, pace in zip(intervals, paces, strict=True)]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    data, device = (in_markdown(rows[name].iloc[0]) for name in ("dataset", "device"))
    scenes = differences.loc[differences["metric"] == "scenes", "value"].max()
    lines += [
        "",
        headline.sentences(rows, differences, published.headline()),
        "",
        f"mIoU in percent over {scenes:.0f} test scenes (`{data}`, 128x128), averaged over the offsets 0 to l - 1; frames per "
        f"second from a video file to labels, in batches, one run ({device}). *Frame* runs the network on every frame, *DFF* "
        f"carries its scores along its flow, *copy* leaves them where they are, *exact* carries them along the true flow, "
        f"which nobody knows; *DIS + N* was trained with classical flow; *Light* and *Lighter* are networks of a fifth and a "
        f"seventeenth of the operations, on every frame. In brackets: where another 500 scenes would put the number.",
    ]
    return "\n".join(lines)


def methods_table(rows: pd.DataFrame, differences: pd.DataFrame, intervals: tuple[int, ...] = (5, 10)) -> str:
    """The README's Table 4: every variant of the study, and how far DFF is above it.

    Args:
        rows: tidy rows of ``08_methods.csv``.
        differences: of ``08_differences.csv``.
        intervals: l; offsets 0 .. l - 1 are averaged.
    """
    miou = headline.values(rows)

    def above(method: str, n: int) -> str:
        """DFF minus a method, if it was asked for."""
        try:
            return str(Interval(*gap(differences, "DFF", method, n)[:3]))
        except MissingRows:
            return "-"

    head = [*(f"l = {n}" for n in intervals), *(f"DFF minus it, l = {n}" for n in intervals)]
    lines = [f"| variant | {' | '.join(head)} |"]
    lines.append("|---" * (2 * len(intervals) + 1) + "|")
    for method in (name for name in VARIANTS if (name, intervals[0], "miou") in miou):
        cells = [f"{miou[method, n, 'miou']:.1f}" for n in intervals] + [above(method, n) for n in intervals]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    seeds = sorted({int(value) for value in rows.loc[rows["metric"] == "seeds", "value"]})
    counted = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"{seeds[0]} seed{'s' * (seeds[0] != 1)}"
    scenes = differences.loc[differences["metric"] == "scenes", "value"].max()
    data, device = (in_markdown(rows[name].iloc[0]) for name in ("dataset", "device"))
    lines += [
        "",
        f"mIoU in percent, averaged over the offsets 0 to l - 1; {counted}, {scenes:.0f} test scenes (`{data}`, 128x128; "
        f"{device}). In brackets: where another 500 scenes would put a difference in 95 of 100 cases. *Frame* runs N on every "
        f"frame; *SFF* is classical flow (DIS, fastest and slowest preset); *separate*, *fix N*, *fix F* and *DFF* are the "
        f"paper's ways to train; *without S* is trained without the scale field, *DFF, S = 1* leaves it out afterwards; *DFF's "
        f"N*, *copy* and *exact* (the true flow, hidden pixels left out) use the network of *DFF*; *DIS + N*, *Light* and "
        f"*Lighter* are ours.",
    ]
    return "\n".join(lines)


def speed_table(rows: pd.DataFrame, interval: int = 10) -> str:
    """The README's table of speed: whole pipelines of the published key-frame network, by source of flow.

    Args:
        rows: tidy rows of ``10_bench.csv``.
        interval: l.
    """
    found, (data, device) = summary(rows), rows[["dataset", "device"]].iloc[0].map(in_markdown)
    whole = found["pipelines"]
    every = whole.xs(1, level="interval")["fps"].median()
    lines = ["| | non-key frame, networks (ms) | r | fps | speedup | eq. 7 says |", "|---|---|---|---|---|---|"]
    lines.append(f"| ResNet-101 on every frame | - | - | {every:.1f} | 1.0 | - |")
    for name, parts in found["parts"].iterrows():
        row = whole.xs(interval, level="interval").loc[str(name)]
        fps, ratio, predicted = row["fps"], row["speedup_measured"], row["speedup_predicted"]
        cells = f"{parts['non-key']:.1f} | {parts['r']:.3f} | {fps:.1f} | {ratio:.1f} | {predicted:.1f}"
        lines.append(f"| ResNet-101 + {name} | {cells} |")
    for name, row in found["every frame"].iterrows():
        lines.append(f"| `{name}` on every frame, network only | {row['ms']:.1f} | - | {row['fps']:.1f} | - | - |")
    lines += [
        "",
        f"Whole pipelines, decoding, painting and writing included, at l = {interval} in batched mode; untrained weights, "
        f"{data} ({device}). *r* is the time of a non-key frame over that of a key frame, eq. 7 the speedup for this r. "
        f"The torchvision networks are timed without decoding and writing.",
    ]
    return "\n".join(lines)


TABLES: dict[str, tuple[tuple[str, ...], Callable[..., str]]] = {
    "headline": (("08_headline.csv", "08_differences.csv"), headline_table),
    "results": (("07_by_offset.csv",), results_table),
    "methods": (("08_methods.csv", "08_differences.csv"), methods_table),
    "speed": (("10_bench.csv",), speed_table),
}
"""Name of a block of the README -> the result files and the function that make it."""


def begin_of(name: str) -> str:
    """The line before a generated block of the README."""
    return f"<!-- {name}: written by `dfflib publish`, do not edit -->"


def with_results(readme: str, folder: Path | None = None) -> str:
    """A README's text with its tables renewed from result files.

    Args:
        readme: its text.
        folder: of the result files; None takes ``figures/results``.

    Raises:
        DffError: the README lacks the two markers of a table, or a result file lacks rows that its table needs.
    """
    for name, (files, table) in TABLES.items():
        paths, begin = [(folder or FIGURES / "results") / file for file in files], begin_of(name)
        path = paths[0]
        if not all(file.is_file() for file in paths):
            continue
        if begin not in readme or END not in readme.split(begin, 1)[1]:
            raise DffError(f"{README} lacks the lines {begin!r} and {END!r}: put them where the table belongs.")
        before, rest = readme.split(begin, 1)
        try:
            shown = table(*map(read_results, paths))
        except (LookupError, ValueError, TypeError, ArithmeticError) as error:
            raise DffError(f"{path} lacks rows of the README's table ({str(error).splitlines()[0]}): run its notebook again."
                           ) from error  # fmt: skip
        if re.search(r"\b(nan|inf)\b", shown):
            raise DffError(
                f"{path} lacks rows of the README's table (a mean or spread is no number): run its notebook again."
            )
        readme = f"{before}{begin}\n{shown}\n{END}{rest.split(END, 1)[1]}"
    return readme
