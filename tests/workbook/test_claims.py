"""Published numbers are whole and agree; each rule on made-up results that fulfil it, half fulfil it, or do not."""

import re
from inspect import getsource

import numpy as np
import pandas as pd
import pytest

from dfflib.errors import DffError
from dfflib.paths import PUBLISHED
from dfflib.results import COLUMNS
from dfflib.workbook import claim_rules, claims, published
from dfflib.workbook.claim_rules import paired
from dfflib.workbook.claims import ledger, write_ledger
from dfflib.workbook.published import one, published_by_offset

PAPERS = sorted(path.stem for path in PUBLISHED.glob("*.csv"))
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


def tidy(rows, unit="%", dataset="shapes/medium/test"):
    table = pd.DataFrame(rows, columns=["method", "metric", "interval", "offset", "seed", "value"])
    return table.assign(unit=unit, dataset=dataset, experiment="made up", device="cpu").reindex(columns=COLUMNS)


def accuracy(fall, seeds=3, noise=0.1, offsets=20):
    """90 minus ``fall[method]`` points, which is one number for all offsets, or one for each (the last one goes on)."""
    rows = []
    for method, by in fall.items():
        by = [by] if np.isscalar(by) else by
        for seed in range(seeds):
            wobble = noise * (seed - 1) * (1 if method == next(iter(fall)) else -1)
            rows += [(method, "miou", offsets, d, seed, 90 - by[min(d, len(by) - 1)] + wobble) for d in range(offsets)]
    return tidy(rows)


def counts(values, metric, unit="ratio", interval=None):
    return tidy([(m, metric, interval, None, None, v) for m, v in values.items()], unit, "frames 1024x2048")


def speedups(measured, predicted, interval=5, method=claims.PUBLISHED_PAIR):
    kinds = (("measured", measured), ("predicted", predicted))
    return tidy([(method, f"speedup_{k}", interval, None, None, v) for k, v in kinds], "x", "random frames")


def flops(net, factor):
    rows = published.published(table="Table 2", flow_net=net)
    names = rows["row"].str.lower().str.replace("-", "").str.replace("flownet ", "flownet_")
    return {"08_flops": counts(dict(zip(names, factor * rows["value"])), "inverse_r")}


def methods(**fall):
    return {"08_methods": accuracy({name.replace("_", " "): value for name, value in fall.items()})}


def pair(better, worse, file="08_methods"):
    """An order: kept by every seed, on the mean alone, turned round."""
    good = {file: accuracy({better: 1, worse: 3})}
    return good, {file: accuracy({better: 1, worse: 1.1}, noise=2)}, {file: accuracy({better: 3, worse: 1})}


def lighter(name):
    def files(loss, ms):
        return {
            "07_curves": accuracy({HEAVY: 0, name: loss}),
            "07_runtime": counts({HEAVY: 10, name: ms}, "non-key", "ms"),
        }

    return files(1, 5), files(3.5, 5), files(1, 11)


def splits(accuracies, fps):
    names = [f"N_task of {n} layers" for n in (5, 1, 12)]
    fps = counts(dict(zip(names, fps)), "fps", "fps", 5)
    return {"08_split": pd.concat([accuracy(dict(zip(names, accuracies))), fps])}


STEPS = [0, 0.2, 1.4, 2.5, 4.6, 6.4, 8.5, 10, 11.6, 13.6]
SUDDEN = [0, 12, 12, 12, 12]
CASES = {  # claim: results that agree, agree in direction, disagree
    "flops-flownet": [flops("FlowNet", f) for f in (1.02, 0.9, 2)],
    "flops-half": [flops("FlowNet Half", f) for f in (0.98, 1.2, 0.5)],
    "flops-inception": [flops("FlowNet Inception", f) for f in (1, 0.8, 0.7)],
    "formula": [{"08_runtime": speedups(3, 3 * f)} for f in (0.95, 1.2, 1.5)],
    "speedup-l5": [{"08_runtime": speedups(s, 3)} for s in (3.6, 1.2, 0.9)],
    "speedup-l10": [{"08_runtime": speedups(s, 3, 10)} for s in (4.6, 1.2, 0.9)],
    "loss-l5": [methods(Frame=0, DFF=f) for f in (1.5, 3, 5)],
    "flow-matters": [methods(Frame=0, DFF=1, copy=f) for f in (5, 2, 0.5)],
    "sff-l5": pair("DFF", "SFF slow"),
    "sff-l10": pair("DFF", "SFF slow"),
    "sff-slow": pair("SFF slow", "SFF fast"),
    "last-offset": [methods(DFF=STEPS), {"08_methods": accuracy({"DFF": STEPS}, seeds=1)}, methods(DFF=STEPS[::-1])],
    "fix-n": pair("DFF", "fix N"),
    "fix-f": pair("DFF", "fix F"),
    "separate": pair("DFF", "separate"),
    "flow-first": pair("fix N", "fix F"),
    "pre-training": pair("SFF slow", "separate"),
    "pairs": [methods(Frame=0, DFF=[f, 20]) for f in (-1, 1.5, 3)],
    "split": [splits(a, (1, 2, 3)) for a in ((0, 0.5, 0.2), (0, 1.5, 0), (0, 0, 3))],
    "split-speed": [splits((0, 0, 0), f) for f in ((4, 6, 3), (2, 6, 3), (5, 2, 3))],
    "gradual": [{"07_curves": accuracy({HEAVY: f})} for f in (STEPS, SUDDEN, SUDDEN[::-1])],
    "large-n": pair(HEAVY, "small + correlation", "07_curves"),
    "light-half": lighter(f"{HEAVY} half size"),
    "light-inception": lighter("large + flownet_inception"),
    "scale": [{"08_scale": accuracy({"DFF": 0, "DFF, S = 1": f})} for f in (0.5, 1.5, 2.5)],
    "half-size": [{"08_flow_input": accuracy({"full size": 0, "half size": f})} for f in (0.5, 1.5, 2.5)],
}


def save(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        rows.to_csv(folder / f"{name}.csv", index=False)
    return folder


def test_there_are_cases_for_every_claim():
    assert list(CASES) == list(ALL) and len(ALL) >= 14
    for claim in ALL.values():
        assert claim.statement.endswith(".") and claim.published and claim.rule.sentence


@pytest.mark.parametrize("expected", range(3))
@pytest.mark.parametrize("name", CASES)
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


# Comparing.


def test_paired_takes_differences_by_seed():
    rows = accuracy({"a": [0, 2, 4], "b": 3}, noise=1)
    gap = paired(rows, "a", "b", offsets=range(3))
    assert gap.per_seed.tolist() == pytest.approx([-1, 1, 3])
    assert (gap.mean, gap.std) == pytest.approx((1, 2)) and not gap.holds
    single = paired(rows[rows["seed"] == 0], "b", "a", offsets=range(3))
    assert single.mean == pytest.approx(1) and np.isnan(single.std) and not single.holds
    with pytest.raises(claim_rules.MissingRows, match="no miou of c at offsets 0 to 4"):
        paired(rows, "a", "c")


def test_only_what_was_measured_on_the_same_frames_is_compared():
    rows = pd.concat([accuracy({"a": 1, "b": 2}, offsets=5), accuracy({"a": 50}, offsets=10)])
    assert paired(rows, "a", "b").mean == pytest.approx(1)
    other = rows[(rows["method"] == "a") | (rows["seed"] > 0)]
    assert list(paired(other, "a", "b").per_seed.index) == [1, 2]
    averages = rows.assign(offset=np.nan)
    with pytest.raises(claim_rules.MissingRows):
        paired(averages, "a", "b")


def test_one_data_set_is_judged(tmp_path):
    good, bad = (CASES["fix-f"][n]["08_methods"] for n in (0, 2))
    save(
        tmp_path, {"08_methods": pd.concat([bad.assign(dataset="camvid/val"), good, bad.assign(dataset="shapes/hard")])}
    )
    rows = {d: ledger(tmp_path, dataset=d).set_index("id").loc["fix-f"] for d in ("shapes", "camvid", "davis")}
    assert [row["verdict"] for row in rows.values()] == ["agrees", "disagrees", "not run"]
    assert rows["shapes"]["data"] == "shapes/medium/test" and rows["camvid"]["data"] == "camvid/val"


def test_ledger_of_nothing_and_of_damaged_files(tmp_path):
    table = ledger(tmp_path / "absent")
    assert list(table["id"]) == list(ALL) and set(table["verdict"]) == {"not run"}
    for text in ("", "method,value\nDFF,1\n", ",".join(COLUMNS) + "\n" + "x," * (len(COLUMNS) - 1) + "x\n"):
        (tmp_path / "08_methods.csv").write_text(text, encoding="utf-8")
        with pytest.raises(DffError, match=r"08_methods.csv is no file of results"):
            ledger(tmp_path)


# The page.


def test_page_is_a_table_that_says_what_ours_means(tmp_path):
    folder = save(tmp_path / "laptop" / "results", CASES["fix-f"][0] | CASES["flops-flownet"][1])
    page = write_ledger(folder, tmp_path / "claims.md").read_text(encoding="utf-8")
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(ALL)
    assert {len(re.split(r"(?<!\\)\|", line)) for line in table} == {10}
    (row,) = (line for line in table if "**fix-f**" in line)
    stated = [one(table="Table 4", method=m, dataset="Cityscapes", metric="miou") for m in ("DFF", "fix F")]
    assert f"DFF {stated[0]}, fix F {stated[1]}" in row
    for part in (
        "DFF minus fix F: +2.0 ± 0.2 points",
        "shapes/medium/test",
        "laptop; cpu; 3 seeds",
        "**agrees**",
        "`08_paper_tables`",
    ):
        assert part in row
    assert "never on Cityscapes or ImageNet VID" in page.splitlines()[-1]
    assert page == write_ledger(folder, tmp_path / "again.md").read_text(encoding="utf-8") and page.endswith(".\n")
