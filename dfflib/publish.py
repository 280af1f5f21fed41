"""From a finished run to what the repository shows: checkpoints, result files, figures, and the tables of the README.

No number in the README is typed: between two markers stands what `TABLES` makes of ``figures/results/*.csv``, and a test
compares the two.
"""

import hashlib
import os
import re
import shutil
from pathlib import Path

import pandas as pd

from dfflib import checkpoints, claims
from dfflib.bench import summary
from dfflib.errors import DffError
from dfflib.paths import CHECKPOINTS, FIGURES, ROOT, need_checkout, run_dir, write_atomically
from dfflib.recipes import RECIPES
from dfflib.study import VARIANTS
from dfflib.train import checkpoint_name

SHIPPED = tuple(
    Path(checkpoint_name(stage, seed, recipe.name)).stem
    for recipe in RECIPES.values() for stage, seeds in recipe.seeds.items() for seed in seeds
)  # fmt: skip
README = ROOT / "README.md"
END = "<!-- end of results -->"
INTERVAL = 5  # of the README's table


def publish(profile: str = "laptop", out_dir: str | os.PathLike = "") -> list[Path]:
    """Copy a run's checkpoints, results and README figures into the repository, and renew the README's table.

    What the run folder does not hold is left as it is.

    Returns:
        The files written.
    """
    need_checkout("publish")
    run, written = run_dir(profile, out_dir), []
    for name in SHIPPED:
        trained = run / "checkpoints" / f"{name}.safetensors"
        if trained.is_file():
            written.append(checkpoints.store_half(trained, CHECKPOINTS / trained.name))
        written += _copy(trained.with_suffix(".csv"), CHECKPOINTS)
    if any(CHECKPOINTS.glob("*.safetensors")):
        written.append(write_atomically(CHECKPOINTS / "README.md", checkpoint_table()))
    for path in sorted((run / "results").glob("*.csv")):
        written += _copy(path, FIGURES / "results")
    written.append(claims.write_ledger(FIGURES / "results", FIGURES / "claims.md", profile))
    for name in re.findall(r"figures/([\w.-]+\.(?:png|gif))", README.read_text(encoding="utf-8")):
        written += _copy(run / "figures" / name, FIGURES)
    before = README.read_text(encoding="utf-8")
    if (renewed := with_results(before)) != before:
        written.append(write_atomically(README, renewed))
    return written


def _copy(source: Path, folder: Path) -> list[Path]:
    if not source.is_file():
        return []
    folder.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copyfile(source, folder / source.name))]


def checkpoint_table() -> str:
    """What is in ``data/checkpoints``, as a page: stage, seed, steps, device, time, validation, size and SHA-256."""
    lines = [
        "# Shipped checkpoints",
        "",
        "Written by `dfflib publish` from the files' own headers. Files named `shapes_` were trained on the Shapes world",
        "(medium level, 128x128, seeds of the train part), the others on the train parts of the three sample clips with",
        "intensity-threshold labels (their `flow_pretrain`: on frames moved by a known flow), `camvid_` on nine tenths of",
        "CamVid's training split. `flow_pretrain` is shared by all seeds. The metric is mIoU on the validation part, for",
        "`flow_pretrain` the end-point error in pixels. A file holds the parts that its stage trains, in half precision.",
        "Each is made again, on a CPU, by `dfflib train STAGE --profile laptop --seed SEED --recipe RECIPE`, where the name is",
        "`RECIPE_STAGE_sSEED`; without a recipe in its name it is `threshold`, the default; all of them are made by",
        "`dfflib train-all --profile laptop`. Beside each lies its log.",
        "",
        "| file | steps | metric | seconds | device | MB | SHA-256 |",
        "|---|---|---|---|---|---|---|",
    ]
    for path in sorted(CHECKPOINTS.glob("*.safetensors")):
        about = checkpoints.describe(path)[1]
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        lines.append(
            f"| `{path.name}` | {about['steps']} | {about['metric']:.3f} | {about['seconds']:.0f} | {about['device']} | "
            f"{path.stat().st_size / 1e6:.1f} | `{digest}` |"
        )
    return "\n".join(lines) + "\n"


def results_table(rows: pd.DataFrame, interval: int = INTERVAL) -> str:
    """The README's table: copy and DFF by distance from the key frame, mean and standard deviation over seeds.

    Args:
        rows: tidy rows of ``07_by_offset.csv``.
        interval: offsets 0 .. interval-1 are shown, and their average as the paper takes it.
    """
    rows = rows[rows["offset"] < interval]
    seeds, devices = sorted(rows["seed"].unique()), ", ".join(sorted(rows["device"].unique()))

    def cell(metric: str, method: str, offset: int | None, minus: str = "") -> str:
        """One cell of the table: mean and standard deviation over seeds."""
        chosen = rows[rows["metric"] == metric]
        wide = chosen.pivot_table(index=["seed", "offset"], columns="method", values="value")
        values = wide[method] - wide[minus] if minus else wide[method]
        values = values.unstack("offset")
        values = values.mean(axis=1) if offset is None else values[offset]
        return f"{values.mean():{'+' if minus else ''}.1f} ± {values.std(ddof=1):.1f}"

    shown = ["copy", "DFF, S = 1", "DFF"]
    head = [
        "offset",
        *(f"{name}: mIoU" for name in ("Frame", *shown)),
        *(f"{name}: agreement" for name in shown),
        "gap",
    ]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for offset in (*range(interval), None):
        name = "average" if offset is None else str(offset)
        cells = [cell("miou", method, offset) for method in ("Frame", *shown)]
        cells += [cell("agreement", method, offset) for method in shown]
        lines.append(f"| {name} | {' | '.join(cells)} | {cell('agreement', 'DFF', offset, minus='copy')} |")
    lines += [
        "",
        f"Percent, mean ± standard deviation over {len(seeds)} seeds, on the held-out last quarter of the three sample clips "
        f"(intensity-threshold labels, l = {interval}; {devices}). *Frame* runs the heavy network on every frame; *copy* "
        f"reuses the key frame's features unmoved; *DFF* moves them along the flow and multiplies by the scale field S; "
        f"*S = 1* leaves the scale field out, in the same model. *Offset* counts frames from the key frame, *agreement* is "
        f"the share of pixels labelled as by *Frame*, *gap* is the agreement of DFF minus that of copy. All offsets are "
        f"measured on the same frames, those of notebook 07. The last row averages the offsets, as the paper does.",
    ]
    return "\n".join(lines)


def methods_table(rows: pd.DataFrame, intervals: tuple[int, ...] = (5, 10)) -> str:
    """The README's Table 4: every variant on the Shapes world, mean and standard deviation over seeds.

    Args:
        rows: tidy rows of ``08_methods.csv``.
        intervals: l; offsets 0 .. l - 1 are averaged.
    """
    seeds, devices = sorted(rows["seed"].unique()), ", ".join(sorted(rows["device"].unique()))
    wide = rows[rows["metric"] == "miou"].pivot_table(index=["method", "seed"], columns="offset", values="value")
    lines = [f"| variant | {' | '.join(f'l = {n}' for n in intervals)} | offset {wide.columns.max()} alone |"]
    lines.append("|---" * (len(intervals) + 2) + "|")
    for method in (name for name in VARIANTS if name in wide.index):
        found = [wide.loc[method, list(range(n))].mean(axis=1) for n in intervals] + [
            wide.loc[method][wide.columns.max()]
        ]
        lines.append(f"| {method} | " + " | ".join(f"{v.mean():.1f} ± {v.std(ddof=1):.1f}" for v in found) + " |")
    lines += [
        "",
        f"mIoU in percent, mean ± standard deviation over {len(seeds)} seeds, Shapes world, medium level, 128x128, test scenes "
        f"({devices}). *Frame* runs N on every frame; *SFF* is classical flow (DIS, fastest and slowest preset); *separate*, "
        f"*fix N*, *fix F* and *DFF* are the paper's ways to train; *copy* and *exact* (the true flow, hidden pixels left "
        f"out) use the network of *DFF*; *DIS + N* is ours. *l* averages the offsets 0 to l - 1, as the paper does.",
    ]
    return "\n".join(lines)


def speed_table(rows: pd.DataFrame, interval: int = 10) -> str:
    """The README's table of speed: whole pipelines of the published key-frame network, by source of flow.

    Args:
        rows: tidy rows of ``10_bench.csv``.
        interval: l.
    """
    found, (data, device) = summary(rows), rows[["dataset", "device"]].iloc[0]
    whole = found["pipelines"]
    every = whole.xs(1, level="interval")["fps"].median()
    lines = ["| | non-key frame, networks (ms) | r | fps | speedup | eq. 7 says |", "|---|---|---|---|---|---|"]
    lines.append(f"| ResNet-101 on every frame | - | - | {every:.1f} | 1.0 | - |")
    for name, parts in found["parts"].iterrows():
        fps, ratio, predicted = whole.loc[(name, interval), ["fps", "speedup_measured", "speedup_predicted"]]
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


TABLES = {"results": ("07_by_offset.csv", results_table), "methods": ("08_methods.csv", methods_table),
          "speed": ("10_bench.csv", speed_table)}  # fmt: skip
"""Name of a block of the README -> the result file and the function that make it."""


def begin_of(name: str) -> str:
    """The line before a generated block of the README."""
    return f"<!-- {name}: written by `dfflib publish`, do not edit -->"


def with_results(readme: str) -> str:
    """A README's text with its tables renewed from ``figures/results``.

    Raises:
        DffError: the README lacks the two markers of a table.
    """
    for name, (file, table) in TABLES.items():
        path, begin = FIGURES / "results" / file, begin_of(name)
        if not path.is_file():
            continue
        if begin not in readme or END not in readme.split(begin, 1)[1]:
            raise DffError(f"{README} lacks the lines {begin!r} and {END!r}: put them where the table belongs.")
        before, rest = readme.split(begin, 1)
        readme = f"{before}{begin}\n{table(pd.read_csv(path))}\n{END}{rest.split(END, 1)[1]}"
    return readme
