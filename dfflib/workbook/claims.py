"""What the Deep Feature Flow paper claims, its numbers and ours side by side, and a verdict by a rule stated beside it.

Published numbers stand in ``data/published/*.csv``, each once, and are read from there (`dfflib.workbook.published`); this
file holds none. Ours are read from a folder of tidy result files (`dfflib.results.COLUMNS`), which notebooks
07 and 08 write:

================== =====================================================================================================
file               rows that the rules read
================== =====================================================================================================
08_methods         metric ``miou`` for each offset; methods ``Frame`` (trained on single frames, the paper's Frame, a row at
                   every offset), ``copy``, ``DFF``, ``fix N``, ``fix F``, ``separate``, ``SFF fast``, ``SFF slow``; others
                   (``exact``, ``DIS + N``) may stand beside them
07_curves          ``miou`` for offsets 0 .. 19; method = key-frame network + flow network: ``large`` or ``small`` +
                   ``correlation``, ``correlation half size`` (of the frames that it sees) or ``flownet``
07_runtime         the same methods; metrics ``key`` and ``non-key`` (ms)
08_scale           ``miou`` for each offset; methods ``DFF`` and ``DFF, S = 1`` (trained without the scale field)
08_flow_input      ``miou`` for each offset; methods ``half size`` and ``full size`` of the frames that F sees
08_split           method ``N_task of 1 layers`` (any number): ``miou`` for each offset; ``fps`` at l = 5
08_flops           ``inverse_r``; method ``resnet50 + flownet`` or as in Table 2 (case, spaces, - and _ do not matter)
08_runtime         method ``ResNet-101 + FlowNet``; metrics ``N_feat``, ``F``, ``W``, ``N_task``, ``key``,
                   ``non-key`` (ms); for several ``interval``s ``speedup_measured`` (against the key-frame network on every
                   frame) and ``speedup_predicted`` (eq. 7, from key and non-key)
================== =====================================================================================================

*Offset* is filled in rows of one offset, and *interval* then says how many offsets were measured on the same frames. Rules
average over offsets themselves, as the paper does, from the smallest interval that covers them; rows without an offset (ready
averages) are not read for accuracy. Percentages (unit ``%``) are judged on one data set, the first in the file whose name
begins as asked (``shapes``); times and counts on whatever they were taken on (one device in a file). A file
or row that is missing means ``not run``.

The rules are in `dfflib.workbook.claim_rules`.
"""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dfflib import profiles
from dfflib.evaluation.timing import speedup
from dfflib.paths import write_atomically
from dfflib.results import in_markdown, read_results
from dfflib.workbook import claim_rules as rules
from dfflib.workbook.claim_rules import NOT_RUN, VERDICTS, MissingRows, Rule, Verdict
from dfflib.workbook.published import DFF, one, published, published_by_offset

TABLES, CURVES = "08_paper_tables", "07_key_interval"  # notebooks
HEAVY = "large + correlation"
PUBLISHED_PAIR = "ResNet-101 + FlowNet"  # at full size, whose time needs no training


# Claims.


@dataclass(frozen=True)
class Claim:
    """One claim of a paper, and how our results are asked about it.

    Attributes:
        id: short name, unique.
        paper: file of ``data/published``.
        where: table, figure or section.
        statement: what is claimed, one sentence.
        published: its numbers as text, made from ``data/published``.
        files: result files that the rule reads, without ``.csv``.
        methods: rows of them that it reads, for the reader.
        rule: sentence and function.
        notebook: which one writes the results and shows them.
    """

    id: str
    where: str
    statement: str
    published: str
    files: tuple[str, ...]
    methods: str
    rule: Rule
    notebook: str = TABLES
    paper: str = DFF


def claims() -> list[Claim]:
    """Every claim of the ledger, in the order of the paper's tables.

    Raises:
        DffError: a published number that a claim names is not there, exactly once.
    """
    return [*_table2(), *_speed(), *_accuracy(), *_training(), *_table5(), *_figure3(), *_choices()]


def _table4(method: str, dataset: str, metric: str = "") -> float:
    metric = metric or ("miou" if dataset == "Cityscapes" else "map")
    return one(table="Table 4", dataset=dataset, method=method, metric=metric)


def _both(*methods: str, datasets: Iterable[str] = ("Cityscapes", "ImageNet VID")) -> str:
    """Numbers of Table 4, such as ``DFF 1, fix N 2 (Cityscapes, mIoU, l = 5)``."""
    about = {"Cityscapes": "Cityscapes, mIoU, l = 5", "ImageNet VID": "ImageNet VID, mAP, l = 10"}
    return "; ".join(", ".join(f"{m} {_table4(m, d)}" for m in methods) + f" ({about[d]})" for d in datasets)


def _cityscapes(feature_net: str, flow_net: str, interval: int, metric: str = "miou") -> float:
    chosen = dict(table="Figure 3 (bottom)", method="DFF", feature_net=feature_net, flow_net=flow_net)
    return one(metric=metric, interval=interval, **chosen)


def _table2() -> list[Claim]:
    found = []
    for flow_net in ("FlowNet", "FlowNet Half", "FlowNet Inception"):
        stated = {
            f"{net} + {flow_net}": one(table="Table 2", feature_net=net, flow_net=flow_net)
            for net in ("ResNet-50", "ResNet-101")
        }
        claim = f"A key frame costs 1/r times as much as {flow_net} on a non-key frame, counted in FLOPs."
        numbers = "1/r: " + ", ".join(f"{value:.2f} ({name})" for name, value in stated.items())
        id, rule = f"flops-{flow_net.split()[-1].lower()}", rules.flops_column(stated)
        found.append(Claim(id, "Table 2", claim, numbers, ("08_flops",), ", ".join(stated), rule))
    return found


def _speed() -> list[Claim]:
    predicted = speedup(5, 1 / one(table="Table 2", feature_net="ResNet-101", flow_net="FlowNet"))
    ratio = _table4("DFF", "Cityscapes", "fps") / _table4("Frame", "Cityscapes", "fps")
    numbers = f"at l = 5 {predicted:.2f}x by FLOPs, {ratio:.2f}x by Table 4's frame rates (computed)"
    found = [Claim("formula", "eq. 7", "The speedup is l / (1 + (l - 1) r).", numbers, ("08_runtime",),
                   "speedup_measured, speedup_predicted", rules.speedup_formula())]  # fmt: skip
    for interval, dataset in ((5, "Cityscapes"), (10, "ImageNet VID")):
        stated = one(table="text", row="stated speedup of DFF", dataset=dataset)
        fps = [_table4(method, dataset, "fps") for method in ("Frame", "DFF")]
        claim = f"At l = {interval} DFF is several times as fast as Frame."
        numbers = f"{stated:.1f}x: {fps[0]:.2f} to {fps[1]:.2f} fps ({dataset}, K40)"
        rule = rules.measured_speedup(PUBLISHED_PAIR, interval, stated)
        found.append(Claim(f"speedup-l{interval}", "Table 4", claim, numbers, ("08_runtime",), PUBLISHED_PAIR, rule))
    return found


def _accuracy() -> list[Claim]:
    drop = _table4("Frame", "Cityscapes") - _table4("DFF", "Cityscapes")
    file = ("08_methods",)
    return [
        Claim("loss-l5", "Table 4", "At l = 5 DFF loses little accuracy to the network run on every frame.",
              _both("Frame", "DFF", datasets=["Cityscapes"]), file, "Frame, DFF",
              rules.max_drop("Frame", "DFF", math.ceil(drop), range(5))),
        Claim("flow-matters", "implied", "Features have to be moved along the flow: what is reused unmoved does not fit.",
              f"no number for copy; DFF loses {drop:.1f} (Cityscapes, mIoU, l = 5)", file, "Frame, copy, DFF",
              rules.copy_drops_more(3, 5)),
        Claim("sff-l5", "Table 4", "Flow learned for the task beats classical flow at l = 5.",
              _both("DFF", "SFF slow", datasets=["Cityscapes"]), file, "DFF, SFF slow", rules.order("DFF", "SFF slow", 5)),
        Claim("sff-l10", "Table 4", "Flow learned for the task beats classical flow at l = 10.",
              _both("DFF", "SFF slow", datasets=["ImageNet VID"]), file, "DFF, SFF slow", rules.order("DFF", "SFF slow", 10)),
        Claim("sff-slow", "Table 4", "Better classical flow gives better features.",
              _both("SFF slow", "SFF fast"), file, "SFF slow, SFF fast", rules.order("SFF slow", "SFF fast", 5)),
        Claim("last-offset", "Figure 3", "The average over offsets hides how low the last offset is.", _published_last(5),
              file, "DFF", rules.average_above_last("DFF", 5)),
    ]  # fmt: skip


def _published_last(interval: int) -> str:
    curve = dict(table="Figure 3 (bottom)", method="DFF", feature_net="ResNet-101", flow_net="FlowNet", metric="miou")
    average, last = one(interval=interval, **curve), published_by_offset(**curve)[interval - 1]
    about = f"Cityscapes, mIoU, l = {interval}; computed from the curve"
    return f"average {average:.1f}, offset {interval - 1} {last:.1f} ({about})"


def _training() -> list[Claim]:
    def order(id: str, statement: str, better: str, worse: str) -> Claim:
        """A claim that one way to train is better than another."""
        methods = f"{better}, {worse}"
        return Claim(
            id, "Table 4", statement, _both(better, worse), ("08_methods",), methods, rules.order(better, worse, 5)
        )

    start = [one(table=f"Figure 3 ({part})", method="DFF", feature_net="ResNet-101", flow_net="FlowNet", interval=1, metric=m)
             for part, m in (("bottom", "miou"), ("top", "map"))]  # fmt: skip
    frame = [_table4("Frame", dataset) for dataset in ("Cityscapes", "ImageNet VID")]
    return [
        order("fix-n", "Training both networks together beats training the flow for a fixed N.", "DFF", "fix N"),
        order("fix-f", "Training both networks together beats training N for a fixed flow.", "DFF", "fix F"),
        order("separate", "Training both networks together beats training them apart.", "DFF", "separate"),
        order("flow-first", "Training the flow network for the task matters more than training N for it.", "fix N", "fix F"),
        order("pre-training", "A flow network not trained jointly is no better than classical flow.", "SFF slow", "separate"),
        Claim("pairs", "Figure 3", "Training on pairs does not hurt the network on key frames (l = 1).",
              f"Frame {frame[0]}, DFF {start[0]:.1f} (Cityscapes, mIoU); "
              f"Frame {frame[1]}, DFF {start[1]:.1f} (ImageNet VID, mAP)",
              ("08_methods",), "Frame, DFF", rules.max_drop("Frame", "DFF", math.ceil(frame[0] - start[0]), range(1))),
    ]  # fmt: skip


def _table5() -> list[Claim]:
    values = published(table="Table 5", dataset="Cityscapes").pivot(index="row", columns="metric", values="value")
    low, high = values["miou"].min(), values["miou"].max()
    fps = sorted(values["fps"])
    return [
        Claim("split", "Table 5", "Where N is split into N_feat and N_task hardly changes the accuracy.",
              f"{low} to {high} over {len(values)} splits (Cityscapes, mIoU, l = 5)", ("08_split",), "N_task of n layers",
              rules.split_accuracy(math.ceil(high - low), 5)),
        Claim("split-speed", "Table 5", "The fewer layers run on every frame, the faster.",
              ", ".join(f"{value:.2f}" for value in fps) + " fps, from many layers to few (Cityscapes, K40)", ("08_split",),
              "N_task of n layers", rules.split_speed()),
    ]  # fmt: skip


def _figure3() -> list[Claim]:
    curve = [_cityscapes("ResNet-101", "FlowNet", n) for n in range(1, 11)]
    found = [
        Claim("gradual", "Figure 3", "Accuracy falls gradually with the key-frame interval.",
              rules.describe_drop(curve) + " (Cityscapes, mIoU, ResNet-101 + FlowNet)", ("07_curves",), HEAVY,
              rules.gradual_drop(HEAVY, 10), CURVES),
        Claim("large-n", "Figure 3", "The better key-frame network stays better at l = 10.",
              ", ".join(f"{net} {_cityscapes(net, 'FlowNet', 10):.1f}" for net in ("ResNet-101", "ResNet-50"))
              + " (Cityscapes, mIoU, FlowNet)",
              ("07_curves",), f"{HEAVY}, small + correlation", rules.order(HEAVY, "small + correlation", 10), CURVES),
    ]  # fmt: skip
    for flow_net, ours in (("FlowNet Half", f"{HEAVY} half size"), ("FlowNet Inception", "large + flownet_inception")):
        (a, b), (before, after) = (
            [_cityscapes("ResNet-101", net, 5, metric) for net in ("FlowNet", flow_net)] for metric in ("miou", "fps")
        )
        id, claim = f"light-{flow_net.split()[-1].lower()}", f"{flow_net} costs little accuracy and gains speed."
        numbers = f"{a:.1f} to {b:.1f} mIoU, {before:.2f} to {after:.2f} fps (Cityscapes, ResNet-101, l = 5)"
        files, rule = ("07_curves", "07_runtime"), rules.max_drop(HEAVY, ours, math.ceil(a - b), range(5), faster=True)
        found.append(Claim(id, "Figure 3", claim, numbers, files, f"{HEAVY}, {ours}", rule, CURVES))
    return found


def _choices() -> list[Claim]:
    points = one(table="text", row="without the scale field: loss below")
    return [
        Claim("scale", "text", "Leaving the scale field out costs less than a point.",
              f"below {points:g} point on both tasks", ("08_scale",), "DFF; DFF, S = 1",
              rules.max_drop("DFF", "DFF, S = 1", points, range(5))),
        Claim("half-size", "text", "Flow from frames of half size is enough.", "used throughout; no numbers",
              ("08_flow_input",), "full size, half size", rules.max_drop("full size", "half size", 1, range(5))),
    ]  # fmt: skip


# The ledger.


def _read_results(folder: Path, name: str) -> pd.DataFrame:
    path = folder / f"{name}.csv"
    if not path.is_file():
        raise MissingRows(f"no {name}.csv")
    return read_results(path)


def _experiment(folder: Path, claim: Claim, dataset: str) -> pd.DataFrame:
    """The rows that a claim is judged on: accuracies of one data set, and all times and counts."""
    rows = pd.concat([_read_results(folder, name) for name in claim.files], ignore_index=True)
    accuracy = rows["unit"] == "%"
    if not accuracy.any():
        return rows
    names = [name for name in rows.loc[accuracy, "dataset"].astype(str).unique() if name.lower().startswith(dataset)]
    if not names:
        raise MissingRows(f"no rows of {dataset or 'any data set'}")
    return rows[~accuracy | (rows["dataset"] == names[0])]


def _line(claim: Claim, folder: Path, dataset: str, profile: str) -> dict[str, str]:
    data = scale = ""
    try:
        rows = _experiment(folder, claim, dataset)
        verdict = claim.rule(rows)
        shown = rows[rows["unit"] == "%"] if (rows["unit"] == "%").any() else rows
        seeds = shown["seed"].dropna().nunique()
        data = ", ".join(sorted(shown["dataset"].dropna().astype(str).unique()))
        devices = sorted(rows["device"].dropna().astype(str).unique())
        scale = "; ".join(filter(None, [profile, *devices, f"{seeds} seed{'s' * (seeds != 1)}" if seeds else ""]))
    except MissingRows as error:
        verdict = Verdict(NOT_RUN, str(error))
    return dict(
        id=claim.id, paper=claim.paper, where=claim.where, claim=claim.statement, published=claim.published,
        ours=verdict.ours, data=data, scale=scale, rule=claim.rule.sentence, verdict=verdict.verdict,
        notebook=claim.notebook,
    )  # fmt: skip


def ledger(results_folder: str | os.PathLike, profile: str = "", dataset: str = "shapes") -> pd.DataFrame:
    """Every claim beside our results.

    Args:
        results_folder: of tidy CSVs, such as ``figures/results`` or ``runs/laptop/results``; missing files are no error.
        profile: that made them, for the *scale* column; empty takes the run folder's name where that is a profile.
        dataset: how the name of the judged data set begins, in small letters.

    Returns:
        One row per claim: ``id, paper, where, claim, published, ours, data, scale, rule, verdict, notebook``.

    Raises:
        DffError: a file in the folder is damaged.
    """
    folder = Path(results_folder)
    parent = folder.resolve().parent.name
    profile = profile or (parent if parent in profiles.PROFILES else "")
    return pd.DataFrame([_line(claim, folder, dataset, profile) for claim in claims()])


def ledger_page(table: pd.DataFrame) -> str:
    """A ledger as a Markdown page."""
    counts = [f"{(table['verdict'] == verdict).sum()} {verdict}" for verdict in VERDICTS]
    head = ["claim", "published", "ours", "data", "scale", "rule", "verdict", "notebook"]
    lines = [
        "# Claims of the paper, and what our runs say",
        "",
        f"Written by `dfflib.workbook.claims.write_ledger` from `data/published` and the result files. {len(table)} claims: "
        f"{', '.join(counts)}.",
        "",
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
    ]
    for row in table.to_dict("records"):
        row = {name: in_markdown(value) for name, value in row.items()}
        cells = [f"**{row['id']}** ({row['where']}): {row['claim']}", row["published"], row["ours"], row["data"] or "-",
                 row["scale"] or "-", row["rule"], f"**{row['verdict']}**", f"`{row['notebook']}`"]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "*Ours* are our own small networks on the data and at the scale named in the row, never on Cityscapes or ImageNet VID: "
        "a verdict says whether the claim's order or size shows there too, not that the published number was reached. Only "
        "the FLOPs of Table 2 are counted on the networks and frame size of the paper. Beyond the spread: the mean over seeds "
        "of the paired difference exceeds its standard deviation, and it is above 0 in every seed; ± is that deviation.",
    ]
    return "\n".join(lines) + "\n"


def write_ledger(
    results_folder: str | os.PathLike, path: str | os.PathLike, profile: str = "", dataset: str = "shapes"
) -> Path:
    """Write the ledger of a results folder as a Markdown page, such as ``figures/claims.md``; arguments as for `ledger`."""
    return write_atomically(path, ledger_page(ledger(results_folder, profile, dataset)))
