"""Published numbers are whole and agree; each rule on made-up results that fulfil it, half fulfil it, or do not."""

import re
from inspect import getsource

import numpy as np
import pandas as pd
import pytest

from dfflib.errors import DffError
from dfflib.paths import PUBLISHED
from dfflib.results import COLUMNS, in_markdown
from dfflib.workbook import claim_rules, claims, published
from dfflib.workbook.claim_rules import gap
from dfflib.workbook.claims import ledger, write_ledger
from dfflib.workbook.published import one, published_by_offset

PAPERS = sorted(path.stem for path in PUBLISHED.glob("*.csv") if path.stem != "rules")
BOTTOM, TOP = "Figure 3 (bottom)", "Figure 3 (top)"
R101 = dict(method="DFF", feature_net="ResNet-101", flow_net="FlowNet")
HEAVY = claims.HEAVY
ALL = {claim.id: claim for claim in claims.claims()}


# Published numbers.


@pytest.mark.parametrize("paper", PAPERS)
def test_published_files_are_whole(paper):
    rows = published.published(paper)
    assert tuple(rows.columns) == published.PUBLISHED_COLUMNS and len(rows)
    assert (rows["paper"] == paper).all() and np.isfinite(rows["value"]).all()
    assert not rows[["table", "row", "method", "metric", "unit", "source"]].isna().any().any()
    key = [name for name in rows if name not in ("value", "unit", "source")]
    assert not rows.duplicated(key).any(), "a number is typed twice"
    assert rows["interval"].dropna().between(1, 20).all()


@pytest.mark.parametrize(
    "dataset, table, metric, last", [("Cityscapes", BOTTOM, "miou", 10), ("ImageNet VID", TOP, "map", 20)]
)
def test_figure_3_has_every_curve(dataset, table, metric, last):
    curves = published.published(table=table, dataset=dataset, method="DFF")
    for _, curve in curves.groupby(["feature_net", "flow_net", "metric"]):
        assert curve["interval"].tolist() == list(range(1, last + 1))
    assert len(curves) == 6 * 2 * last and set(curves["metric"]) == {metric, "fps"}
    for (net, _), curve in curves[curves["metric"] == metric].groupby(["feature_net", "flow_net"]):
        assert (np.diff(curve["value"]) < 0).all(), f"{net}: accuracy falls with l"


@pytest.mark.parametrize(
    "dataset, table, metric, interval", [("Cityscapes", BOTTOM, "miou", 5), ("ImageNet VID", TOP, "map", 10)]
)
def test_figure_3_agrees_with_table_4(dataset, table, metric, interval):
    for name in (metric, "fps"):
        stated = one(table="Table 4", method="DFF", dataset=dataset, metric=name)
        assert one(table=table, interval=interval, metric=name, **R101) == pytest.approx(stated, abs=0.2)
    for net, frame in (("ResNet-101", "Table 4"), ("ResNet-50", table)):
        fps = one(table=frame, dataset=dataset, method="Frame", feature_net=net, metric="fps")
        at_1 = published.published(table=table, method="DFF", feature_net=net, interval=1, metric="fps")["value"]
        assert len(at_1) == 3 and (at_1 == fps).all()


def test_table_5_default_is_table_4():
    rows = dict(dataset="Cityscapes", metric="miou")
    assert one(table="Table 5", row="1 learnable layers in N_task", **rows) == one(
        table="Table 4", method="DFF", **rows
    )


def test_accuracy_by_offset_follows_from_the_curve():
    found = published_by_offset(table=BOTTOM, metric="miou", **R101)
    expected = [71.0, 70.8, 69.6, 68.4, 66.3, 64.5, 62.5, 60.7, 59.3]
    assert found.iloc[:9].tolist() == pytest.approx(expected, abs=0.4)
    assert found.mean() == pytest.approx(one(table=BOTTOM, metric="miou", interval=10, **R101))
    with pytest.raises(DffError, match="no published curve"):
        published_by_offset(table=BOTTOM, metric="miou")


def test_the_other_curve_of_dff():
    curve = dict(table="accuracy against interval, Cityscapes", method="DFF")
    assert one("accel", interval=5, **curve) == one("accel", row="DFF (DeepLab R-101)", metric="miou")
    assert len(published.published("accel", **curve)) == 10


def test_one_is_exactly_one():
    with pytest.raises(DffError, match="0 published numbers of deep_feature_flow match table='Table 9'"):
        one(table="Table 9")
    with pytest.raises(DffError, match="name exactly one"):
        one(table="Table 2")
    with pytest.raises(DffError, match="no column 'colour'"):
        one(colour="red")
    with pytest.raises(DffError, match="choose one of accel, deep_feature_flow"):
        published.published("a_paper")
    assert len(published.published(table="Table 2", dataset="")) == 6


def test_no_published_number_is_typed_in_code():
    typed = {number for m in (claims, claim_rules, published) for number in re.findall(r"\d+\.\d+", getsource(m))}
    text = "".join((PUBLISHED / f"{paper}.csv").read_text(encoding="utf-8") for paper in PAPERS)
    assert not typed & set(re.findall(r"\d+\.\d+", text))


# Results, made up.


def tidy(rows, unit="%", dataset="shapes/study/test"):
    table = pd.DataFrame(rows, columns=["method", "metric", "interval", "value"])
    return table.assign(unit=unit, dataset=dataset, experiment="made up", device="cpu").reindex(columns=COLUMNS)


def difference(method, other, interval, low, high, seeds=3):
    values = dict(difference=(low + high) / 2, low=low, high=high, seeds=seeds)
    return tidy([(f"{method} minus {other}", name, interval, value) for name, value in values.items()], "points")


def counts(values, metric, unit="ratio", interval=None):
    return tidy([(m, metric, interval, v) for m, v in values.items()], unit, "frames 1024x2048")


def speedups(measured, predicted, interval=5, method="FlowNet"):
    kinds = (("measured", measured), ("predicted", predicted))
    return {"10_bench": tidy([(method, f"speedup_{k}", interval, v) for k, v in kinds], "x", "random frames")}


def flops(net, factor):
    rows = published.published(table="Table 2", flow_net=net)
    names = rows["row"].str.lower().str.replace("-", "").str.replace("flownet ", "flownet_")
    return {"08_flops": counts(dict(zip(names, factor * rows["value"])), "inverse_r")}


def order(better, worse, interval, file="08_differences"):
    """An order: kept over seeds, kept with one seed, not told, turned round."""
    bounds = ((1, 3, 3), (1, 3, 1), (-1, 3, 3), (-3, -1, 3))
    return [{file: difference(better, worse, interval, *each)} for each in bounds]


def drop(reference, method, interval, bound, file="08_differences"):
    bounds = ((-1, bound, 2), (-1, bound, 1), (bound - 1, bound + 1, 2), (bound + 0.1, bound + 1, 2))
    return [{file: difference(reference, method, interval, *each)} for each in bounds]


def lighter(name, bound):
    """The last two lose too much, and take longer."""
    return [
        files | {"07_runtime": counts({HEAVY: 10, name: ms}, "non-key", "ms")}
        for files, ms in zip(drop(HEAVY, name, 5, bound, "07_differences"), (5, 5, 5, 5), strict=True)
    ]


def splits(*bounds):
    names = [f"N_task of {n} layers" for n in (1, 5, 9)]
    rows = [difference(names[0], other, 5, *each) for other, each in zip(names[1:], bounds, strict=True)]
    return {"08_choices": pd.concat(rows)}


def paces(*fps):
    return {
        "08_choices": counts(
            {f"N_task of {n} layers": v for n, v in zip((5, 1, 12), fps, strict=True)}, "fps", "fps", 5
        )
    }


def curve(fall, seeds=3):
    rows = [("DFF", "miou", n, 90 - by) for n, by in enumerate(fall, 1)]
    return {"08_methods": pd.concat([tidy(rows), tidy([("DFF", "seeds", len(fall), seeds)], "count")])}


STEPS = [0, 0.2, 1.4, 2.5, 4.6, 6.4, 8.5, 10, 11.6, 13.6]
SUDDEN = [0, *[12] * 9]
BOTH = {
    "flow-matters": ("DFF", "copy"), "sff": ("DFF", "SFF slow"), "sff-slow": ("SFF slow", "SFF fast"),
    "fix-n": ("DFF", "fix N"), "fix-f": ("DFF", "fix F"), "separate": ("DFF", "separate"), "flow-first": ("fix N", "fix F"),
    "pre-training": ("SFF slow", "separate"),
}  # fmt: skip
CASES = {  # claim: results that agree, agree in direction, leave it undecided (None: that cannot be), disagree
    "flops-flownet": [flops("FlowNet", 1.02), flops("FlowNet", 0.9), None, flops("FlowNet", 2)],
    "flops-half": [flops("FlowNet Half", 0.98), flops("FlowNet Half", 1.2), None, flops("FlowNet Half", 0.5)],
    "flops-inception": [flops("FlowNet Inception", 1), flops("FlowNet Inception", 0.8), None, flops("FlowNet Inception", 0.7)],
    "formula": [speedups(3, 2.85), speedups(3, 3.6), None, speedups(3, 4.5)],
    "speedup-l5": [speedups(3.7, 3), speedups(3.6, 3), None, speedups(0.9, 3)],
    "speedup-l10": [speedups(5, 3, 10), speedups(1.2, 3, 10), None, speedups(0.9, 3, 10)],
    "loss-l5": drop("Frame", "DFF", 5, 1.9),
    "loss-l10": drop("Frame", "DFF", 10, 6.1),
    "own-l5": drop("DFF's N", "DFF", 5, 1.8),
    "own-l10": drop("DFF's N", "DFF", 10, 5.9),
    **{f"{id}-l{n}": order(*pair, n) for id, pair in BOTH.items() for n in (5, 10)},
    "last-offset": order("DFF", "DFF at its last offset", 5),
    "pairs": drop("Frame", "DFF's N", 1, 0.1),
    "split": [splits((-0.3, 0.4, 2), (-0.1, 0.1, 2)), splits((0, 0.4, 1), (0, 0.1, 2)), splits((0, 0.5, 2), (0, 0.1, 2)),
              splits((0, 0.3, 2), (-2, -1, 2))],
    "split-speed": [paces(4, 6, 3), paces(2, 6, 3), None, paces(5, 2, 3)],
    "gradual": [curve(STEPS), curve(STEPS, 1), None, curve(SUDDEN)],
    "large-n": order(HEAVY, "small + correlation", 10, "07_differences"),
    "light-half": lighter(f"{HEAVY} half width", 1),
    "light-inception": lighter("large + flownet_inception", 1.3),
    "scale": drop("DFF", "without S", 5, 1),
    "half-size": drop("full size", "half size", 5, 1, "08_choices"),
}  # fmt: skip
VERDICT_CASES = [(name, n) for name, cases in CASES.items() for n, case in enumerate(cases) if case]


def save(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        rows.to_csv(folder / f"{name}.csv", index=False)
    return folder


def test_there_are_cases_for_every_claim():
    assert set(CASES) == set(ALL) and len(ALL) == len(claims.claims()) >= 30
    for claim in ALL.values():
        assert claim.statement.endswith(".") and claim.published and claim.rule.sentence


@pytest.mark.parametrize("name, expected", VERDICT_CASES)
def test_verdict(tmp_path, name, expected):
    row = claims._line(ALL[name], save(tmp_path, CASES[name][expected]), "shapes", "")
    assert row["verdict"] == claim_rules.VERDICTS[expected], row["ours"]
    assert re.search(r"\d", row["ours"]) and row["data"] and "cpu" in row["scale"]


@pytest.mark.parametrize("name", CASES)
def test_missing_rows_are_not_run(tmp_path, name):
    files = {file: rows.assign(method="another") for file, rows in CASES[name][0].items()}
    for folder in (
        save(tmp_path / "other", files),
        save(tmp_path / "head", {f: r[:0] for f, r in files.items()}),
        tmp_path,
    ):
        row = claims._line(ALL[name], folder, "shapes", "")
        if name == "formula" and folder.name == "other":  # it takes whatever was measured
            continue
        assert row["verdict"] == "not run" and row["ours"] and not row["data"]


def test_what_takes_longer_is_no_gain(tmp_path):
    files = CASES["light-half"][0] | {"07_runtime": counts({HEAVY: 10, f"{HEAVY} half width": 11}, "non-key", "ms")}
    assert claims._line(ALL["light-half"], save(tmp_path, files), "shapes", "")["verdict"] == "disagrees"


# The rules are fixed before their numbers are seen.


def test_rules_are_those_that_were_fixed():
    frozen = claims.frozen_rules()
    assert list(frozen.index) == list(ALL)
    for id, claim in ALL.items():
        assert frozen.loc[id, "rule"] == claim.rule.sentence, f"{id} was changed after {frozen.loc[id, 'fixed']}"
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", frozen.loc[id, "fixed"])


def test_a_rule_that_was_changed_says_so(tmp_path):
    claim = ALL["fix-f-l5"]
    kinder = claims.Claim(**{**vars(claim), "rule": claim_rules.order("DFF", "fix F", 4)})
    shown = claims._line(kinder, tmp_path, "shapes", "")["rule"]
    assert "CHANGED since" in shown and claim.rule.sentence in shown
    unknown = claims.Claim(**{**vars(claim), "id": "new"})
    assert "not fixed yet" in claims._line(unknown, tmp_path, "shapes", "")["rule"]


# Comparing.


def test_a_difference_is_read_in_either_order():
    rows = difference("a", "b", 5, 1, 2)
    assert gap(rows, "a", "b", 5) == (1.5, 1, 2, 3) and gap(rows, "b", "a", 5) == (-1.5, -2, -1, 3)
    assert str(gap(rows, "b", "a", 5)) == "-1.5 [-2.0, -1.0], 3 seeds"
    for method, interval in (("a", 10), ("c", 5)):
        with pytest.raises(claim_rules.MissingRows, match="no difference of"):
            gap(rows, method, "b", interval)


def test_one_data_set_is_judged(tmp_path):
    good, bad = (CASES["fix-f-l5"][n]["08_differences"] for n in (0, 3))
    save(
        tmp_path,
        {"08_differences": pd.concat([bad.assign(dataset="camvid/val"), good, bad.assign(dataset="shapes/hard")])},
    )
    rows = {d: ledger(tmp_path, dataset=d).set_index("id").loc["fix-f-l5"] for d in ("shapes", "camvid", "davis")}
    assert [row["verdict"] for row in rows.values()] == ["agrees", "disagrees", "not run"]
    assert rows["shapes"]["data"] == "shapes/study/test" and rows["camvid"]["data"] == "camvid/val"


def test_ledger_of_nothing_and_of_damaged_files(tmp_path):
    table = ledger(tmp_path / "absent")
    assert list(table["id"]) == list(ALL) and set(table["verdict"]) == {"not run"}
    for text in ("", "method,value\nDFF,1\n", ",".join(COLUMNS) + "\n" + "x," * (len(COLUMNS) - 1) + "x\n"):
        (tmp_path / "08_differences.csv").write_text(text, encoding="utf-8")
        with pytest.raises(DffError, match=r"08_differences.csv is no file of results"):
            ledger(tmp_path)


# The page.


def test_page_is_a_table_that_says_what_ours_means(tmp_path):
    folder = save(tmp_path / "laptop" / "results", CASES["fix-f-l5"][0] | CASES["flops-flownet"][1])
    page = write_ledger(folder, tmp_path / "claims.md").read_text(encoding="utf-8")
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(ALL)
    assert {len(re.split(r"(?<!\\)\|", line)) for line in table} == {10}
    (row,) = (line for line in table if "**fix-f-l5**" in line)
    stated = [one(table="Table 4", method=m, dataset="Cityscapes", metric="miou") for m in ("DFF", "fix F")]
    assert f"DFF {stated[0]}, fix F {stated[1]}" in row
    for part in (
        in_markdown("DFF minus fix F: +2.0 [+1.0, +3.0], 3 seeds"),
        "shapes/study/test",
        "laptop; cpu",
        "its whole interval (fixed 2",
        "**agrees**",
        "`08_paper_tables`",
    ):
        assert part in row
    assert "never on Cityscapes or ImageNet VID" in page.splitlines()[-1]
    assert page == write_ledger(folder, tmp_path / "again.md").read_text(encoding="utf-8") and page.endswith(".\n")
