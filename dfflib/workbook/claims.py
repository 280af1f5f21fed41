"""What the Deep Feature Flow paper claims, its numbers and ours side by side, and a verdict by a rule stated beside it.

Published numbers stand in ``data/published/*.csv``, each once, and are read from there (`dfflib.workbook.published`); this
file holds none. Ours are read from a folder of tidy result files (`dfflib.results.COLUMNS`), which notebooks
07 and 08 write:

================== =====================================================================================================
file               rows that the rules read
================== =====================================================================================================
08_differences     method ``A minus B`` of the study's variants (`dfflib.evaluation.variants`), for several ``interval``s;
                   metrics ``difference``, ``low``, ``high`` (points), ``seeds``
08_methods         ``miou`` of ``DFF`` for ``interval``s 1 to 10
07_differences     as 08_differences, of key-frame network + flow network: ``large`` or ``small`` + ``correlation``,
                   ``correlation half width`` or ``flownet``
07_runtime         the same networks; metrics ``key`` and ``non-key`` (ms)
08_choices         as 08_differences, of ``full size`` and ``half size`` of the frames that F sees, and of ``N_task of 1
                   layers`` (any number), whose ``fps`` at l = 5 stand beside
08_flops           ``inverse_r``; method ``resnet50 + flownet`` or as in Table 2 (case, spaces, - and _ do not matter)
10_bench           method ``FlowNet`` (with ResNet-101); for several ``interval``s ``speedup_measured`` (from file to file,
                   against the key-frame network on every frame, both in batches) and ``speedup_predicted`` (eq. 7)
================== =====================================================================================================

Accuracies and differences (units ``%`` and ``points``) are judged on one data set, the first in the file whose name begins as
asked (``shapes``); times and counts on whatever they were taken on (one device in a file). A file or row that is missing means
``not run``.

A rule is fixed before its number is seen: ``data/published/rules.csv`` says since when, and a rule that was changed since says
so in the ledger.

The rules are in `dfflib.workbook.claim_rules`.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

from dfflib import profiles
from dfflib.evaluation import variants
from dfflib.evaluation.timing import speedup
from dfflib.paths import PUBLISHED, write_atomically
from dfflib.results import in_markdown, read_results, read_table, required_text
from dfflib.workbook import claim_rules as rules
from dfflib.workbook.claim_rules import NOT_RUN, VERDICTS, MissingRows, Rule, Verdict
from dfflib.workbook.published import DFF, one, published, published_by_offset

TABLES, CURVES = "08_paper_tables", "07_key_interval"  # notebooks
SPEED = "10_speed_on_your_machine"
HEAVY = "large + correlation"
PUBLISHED_PAIR = "ResNet-101 + FlowNet"  # at full size, whose time needs no training
RULES = PUBLISHED / "rules.csv"


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
    found = [Claim("formula", "eq. 7", "The speedup is l / (1 + (l - 1) r).", numbers, ("10_bench",),
                   "speedup_measured, speedup_predicted", rules.speedup_formula(), SPEED)]  # fmt: skip
    for interval, dataset in ((5, "Cityscapes"), (10, "ImageNet VID")):
        stated = one(table="text", row="stated speedup of DFF", dataset=dataset)
        fps = [_table4(method, dataset, "fps") for method in ("Frame", "DFF")]
        claim = f"At l = {interval} DFF is several times as fast as Frame."
        numbers = f"{stated:.1f}x: {fps[0]:.2f} to {fps[1]:.2f} fps ({dataset}, K40)"
        rule = rules.measured_speedup("FlowNet", interval, stated)
        found.append(
            Claim(f"speedup-l{interval}", "Table 4", claim, numbers, ("10_bench",), PUBLISHED_PAIR, rule, SPEED)
        )
    return found


DIFFERENCES = ("08_differences",)


def _order(id: str, statement: str, better: str, worse: str, published: dict[int, str]) -> list[Claim]:
    """A claim that one method is better than another, once for each l: with the numbers published for it."""
    return [
        Claim(f"{id}-l{n}", "Table 4", statement, numbers, DIFFERENCES, f"{better}, {worse}", rules.order(better, worse, n))
        for n, numbers in published.items()
    ]  # fmt: skip


def _quoted(*methods: str) -> dict[int, str]:
    """What Table 4 says of methods, by the l of its two data sets."""
    return {5: _both(*methods, datasets=["Cityscapes"]), 10: _both(*methods, datasets=["ImageNet VID"])}


def _accuracy() -> list[Claim]:
    frame, start = _table4("Frame", "Cityscapes"), _cityscapes("ResNet-101", "FlowNet", 1)
    found = []
    for n in (5, 10):
        ours = _cityscapes("ResNet-101", "FlowNet", n)
        networks = (
            ("loss", "Frame", frame, "the network run on every frame"),
            ("own", "DFF's N", start, "its own network on every frame"),
        )
        for id, reference, at_one, about in networks:
            claim = f"At l = {n} DFF loses little accuracy to {about}."
            numbers = f"{at_one:.1f}, {ours:.1f} (Cityscapes, mIoU, l = {n})"
            rule = rules.max_drop(reference, "DFF", round(at_one - ours, 1), n)
            found.append(Claim(f"{id}-l{n}", "Figure 3", claim, numbers, DIFFERENCES, f"{reference}, DFF", rule))
    drop = (
        f"no number for copy; DFF loses {frame - _cityscapes('ResNet-101', 'FlowNet', 5):.1f} (Cityscapes, mIoU, l = 5)"
    )
    return [
        *found,
        *_order("flow-matters", "Features have to be moved along the flow: what is reused unmoved does not fit.", "DFF", "copy",
                {5: drop, 10: "no number for copy"}),
        *_order("sff", "Flow learned for the task beats classical flow.", "DFF", "SFF slow", _quoted("DFF", "SFF slow")),
        *_order("sff-slow", "Better classical flow gives better features.", "SFF slow", "SFF fast",
                _quoted("SFF slow", "SFF fast")),
        Claim("last-offset", "Figure 3", "The average over offsets hides how low the last offset is.", _published_last(5),
              DIFFERENCES, "DFF", rules.order("DFF", variants.LAST, 5)),
    ]  # fmt: skip


def _published_last(interval: int) -> str:
    curve = dict(table="Figure 3 (bottom)", method="DFF", feature_net="ResNet-101", flow_net="FlowNet", metric="miou")
    average, last = one(interval=interval, **curve), published_by_offset(**curve)[interval - 1]
    about = f"Cityscapes, mIoU, l = {interval}; computed from the curve"
    return f"average {average:.1f}, offset {interval - 1} {last:.1f} ({about})"


def _training() -> list[Claim]:
    start = [one(table=f"Figure 3 ({part})", method="DFF", feature_net="ResNet-101", flow_net="FlowNet", interval=1, metric=m)
             for part, m in (("bottom", "miou"), ("top", "map"))]  # fmt: skip
    frame = [_table4("Frame", dataset) for dataset in ("Cityscapes", "ImageNet VID")]
    orders = {
        "fix-n": ("Training both networks together beats training the flow for a fixed N.", "DFF", "fix N"),
        "fix-f": ("Training both networks together beats training N for a fixed flow.", "DFF", "fix F"),
        "separate": ("Training both networks together beats training them apart.", "DFF", "separate"),
        "flow-first": ("Training the flow network for the task matters more than training N for it.", "fix N", "fix F"),
        "pre-training": (
            "Classical flow beats a flow network that is not trained for the task.",
            "SFF slow",
            "separate",
        ),
    }
    return [
        *(claim for id, (text, a, b) in orders.items() for claim in _order(id, text, a, b, _quoted(a, b))),
        Claim("pairs", "Figure 3", "Training on pairs does not hurt the network on key frames (l = 1).",
              f"Frame {frame[0]}, DFF {start[0]:.1f} (Cityscapes, mIoU); "
              f"Frame {frame[1]}, DFF {start[1]:.1f} (ImageNet VID, mAP)",
              DIFFERENCES, "Frame, DFF's N", rules.max_drop("Frame", "DFF's N", round(frame[0] - start[0], 1), 1)),
    ]  # fmt: skip


def _table5() -> list[Claim]:
    values = published(table="Table 5", dataset="Cityscapes").pivot(index="row", columns="metric", values="value")
    low, high = values["miou"].min(), values["miou"].max()
    fps = sorted(values["fps"])
    return [
        Claim("split", "Table 5", "Where N is split into N_feat and N_task hardly changes the accuracy.",
              f"{low} to {high} over {len(values)} splits (Cityscapes, mIoU, l = 5)", ("08_choices",), "N_task of n layers",
              rules.same_accuracy([f"N_task of {n} layers" for n in (1, 5, 9)], round(high - low, 1), 5)),
        Claim("split-speed", "Table 5", "The fewer layers run on every frame, the faster.",
              ", ".join(f"{value:.2f}" for value in fps) + " fps, from many layers to few (Cityscapes, K40)", ("08_choices",),
              "N_task of n layers", rules.split_speed()),
    ]  # fmt: skip


def _figure3() -> list[Claim]:
    curve = [_cityscapes("ResNet-101", "FlowNet", n) for n in range(1, 11)]
    found = [
        Claim("gradual", "Figure 3", "Accuracy falls gradually with the key-frame interval.",
              rules.describe_drop(curve) + " (Cityscapes, mIoU, ResNet-101 + FlowNet)", ("08_methods",), "DFF",
              rules.gradual_drop("DFF", 10)),
        Claim("large-n", "Figure 3", "The better key-frame network stays better at l = 10.",
              ", ".join(f"{net} {_cityscapes(net, 'FlowNet', 10):.1f}" for net in ("ResNet-101", "ResNet-50"))
              + " (Cityscapes, mIoU, FlowNet)",
              ("07_differences",), f"{HEAVY}, small + correlation", rules.order(HEAVY, "small + correlation", 10), CURVES),
    ]  # fmt: skip
    for flow_net, ours in (("FlowNet Half", f"{HEAVY} half width"), ("FlowNet Inception", "large + flownet_inception")):
        (a, b), (before, after) = (
            [_cityscapes("ResNet-101", net, 5, metric) for net in ("FlowNet", flow_net)] for metric in ("miou", "fps")
        )
        id, claim = f"light-{flow_net.split()[-1].lower()}", f"{flow_net} costs little accuracy and gains speed."
        numbers = f"{a:.1f} to {b:.1f} mIoU, {before:.2f} to {after:.2f} fps (Cityscapes, ResNet-101, l = 5)"
        files, rule = ("07_differences", "07_runtime"), rules.max_drop(HEAVY, ours, round(a - b, 1), 5, faster=True)
        found.append(Claim(id, "Figure 3", claim, numbers, files, f"{HEAVY}, {ours}", rule, CURVES))
    return found


def _choices() -> list[Claim]:
    points = one(table="text", row="without the scale field: loss below")
    return [
        Claim("scale", "text", "Leaving the scale field out costs less than a point.",
              f"below {points:g} point on both tasks", DIFFERENCES, "DFF, without S",
              rules.max_drop("DFF", "without S", points, 5)),
        Claim("half-size", "text", "Flow from frames of half size is enough.", "used throughout; no numbers",
              ("08_choices",), "full size, half size", rules.max_drop("full size", "half size", 1, 5)),
    ]  # fmt: skip


# The ledger.

ACCURACIES = ("%", "points")  # units


@cache
def frozen_rules() -> pd.DataFrame:
    """The rules as they were fixed: ``rule``, and ``fixed`` (date) and ``commit``, by claim.

    Raises:
        DffError: the file is damaged.
    """
    columns = dict.fromkeys(("id", "rule", "fixed", "commit"), required_text)
    rows = read_table(RULES, columns, "no file of rules", "restore it with `git checkout data/published`")
    return rows.set_index("id")


def _dated(claim: Claim) -> str:
    """A rule, and since when it stands."""
    frozen = frozen_rules()
    if claim.id not in frozen.index:
        return f"{claim.rule.sentence} (not fixed yet)"
    rule, fixed, commit = frozen.loc[claim.id, ["rule", "fixed", "commit"]]
    since = f"fixed {fixed}, {commit}" if rule == claim.rule.sentence else f"CHANGED since {fixed}, when it was: {rule}"
    return f"{claim.rule.sentence} ({since})"


def _read_results(folder: Path, name: str) -> pd.DataFrame:
    path = folder / f"{name}.csv"
    if not path.is_file():
        raise MissingRows(f"no {name}.csv")
    return read_results(path)


def _experiment(folder: Path, claim: Claim, dataset: str) -> pd.DataFrame:
    """The rows that a claim is judged on: accuracies of one data set, and all times and counts."""
    rows = pd.concat([_read_results(folder, name) for name in claim.files], ignore_index=True)
    accuracy = rows["unit"].isin(ACCURACIES)
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
        shown = rows[rows["unit"].isin(ACCURACIES)] if rows["unit"].isin(ACCURACIES).any() else rows
        data = ", ".join(sorted(shown["dataset"].dropna().astype(str).unique()))
        devices = sorted(rows["device"].dropna().astype(str).unique())
        scale = "; ".join(filter(None, [profile, *devices]))
    except MissingRows as error:
        verdict = Verdict(NOT_RUN, str(error))
    return dict(
        id=claim.id, paper=claim.paper, where=claim.where, claim=claim.statement, published=claim.published,
        ours=verdict.ours, data=data, scale=scale, rule=_dated(claim), verdict=verdict.verdict,
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
        "the FLOPs of Table 2 are counted on the networks and frame size of the paper. In brackets: where another 500 test "
        "scenes would put the number in 95 of 100 cases. A rule agrees where that whole interval obeys it, over two seeds or "
        "more; with one seed it agrees in direction; it disagrees where the whole interval breaks it; else it is undecided.",
    ]
    return "\n".join(lines) + "\n"


def write_ledger(
    results_folder: str | os.PathLike, path: str | os.PathLike, profile: str = "", dataset: str = "shapes"
) -> Path:
    """Write the ledger of a results folder as a Markdown page, such as ``figures/claims.md``; arguments as for `ledger`."""
    return write_atomically(path, ledger_page(ledger(results_folder, profile, dataset)))
