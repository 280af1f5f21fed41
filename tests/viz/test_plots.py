"""Plots: what each of them draws, read from its artists."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.colors import same_color, to_rgba

from dfflib import viz
from dfflib.viz.colours import COLOURS, METHODS, look


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    yield
    plt.close("all")


def legend(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


def test_every_method_has_a_colour_of_the_palette_and_others_take_turns():
    assert all(colour in COLOURS for colour, _ in METHODS.values())
    assert len({look(name) for name in ("Frame", "copy", "DFF", "DFF, S = 1", "DIS", "exact")}) == 6
    assert len({look("some network", n) for n in range(9)}) == 9


def test_curves_have_a_panel_for_each_table_and_leave_out_what_is_missing():
    table = pd.DataFrame({0: [1.0, 2.0], 1: [3.0, None], 2: [5.0, 4.0]}, index=["copy", "mine"])
    fig = viz.curves({"a": table, "b": table + 1}, "x", "y", level=("cut", 2.5), marks=[1])
    assert [axis.get_title() for axis in fig.axes] == ["a", "b"] and fig.axes[1].get_ylabel() == "y"
    copy, mine = fig.axes[0].lines[:2]
    assert copy.get_ydata().tolist() == [1, 3, 5] and same_color(copy.get_color(), COLOURS["orange"])
    assert mine.get_xdata().tolist() == [0, 2] and mine.get_ydata().tolist() == [2, 4]
    assert legend(fig.axes[0]) == ["copy", "mine", "cut"]
    alone = viz.curves({"title": table}).axes[0]
    assert alone.get_ylabel() == "title" and not alone.get_title()


def rows(seeds=(0, 1)):
    return pd.DataFrame([
        dict(method=method, offset=d, metric=metric, seed=seed, value=10 * d + seed * (method == "copy"))
        for method in ("DFF", "copy") for d in (0, 1, 2) for metric in ("miou", "agreement") for seed in seeds
    ])  # fmt: skip


def test_by_offset_draws_means_over_seeds_and_their_spread():
    fig = viz.by_offset(rows(), ("miou", "agreement"), methods=("copy", "DFF"))
    left, right = fig.axes
    assert left.get_ylabel() == "mIoU (%)" and right.get_ylabel() == "agreement with Frame (%)"
    assert legend(left) == ["copy", "DFF"] and left.lines[0].get_ydata().tolist() == [0.5, 10.5, 20.5]
    band = left.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(20.5 + 0.5**0.5) and band.min() == pytest.approx(0.5 - 0.5**0.5)


def test_by_offset_of_one_seed_has_no_bands_and_all_methods():
    axis = viz.by_offset(rows([0]).drop(columns="seed")).axes[0]
    assert legend(axis) == ["DFF", "copy"] and not axis.collections


def test_accuracy_against_speed_has_a_line_across_for_a_single_row_and_names_intervals():
    table = pd.DataFrame(
        dict(method=["DFF", "DFF", "Frame"], interval=[2, 1, 1], fps=[20.0, 10.0, 10.0], value=[60.0, 70.0, 71.0])
    )
    axis = viz.accuracy_against_speed({"ours": table}, label=[2]).axes[0]
    curve, across, point = axis.lines
    assert (point.get_xdata(), point.get_ydata()) == ([10], [71])
    assert curve.get_xdata().tolist() == [10, 20] and curve.get_ydata().tolist() == [70, 60]
    assert list(across.get_ydata()) == [71, 71] and axis.get_xscale() == "log" and axis.get_title() == "ours"
    assert [(text.get_text(), text.xy) for text in axis.texts] == [("l = 2", (20, 60))]


def test_learning_curves_show_shares_in_percent_and_smooth_the_loss():
    log = pd.DataFrame(dict(step=[10, 20, 30], loss=[4.0, 2.0, 3.0], metric=[None, 0.5, 0.75]))
    left, right = viz.learning_curves({"full run": log, "this run": log}, "nats", "mIoU (%)").axes
    assert left.lines[0].get_ydata().tolist() == [4, 3, 3] and left.get_yscale() == "log"
    assert right.lines[1].get_xdata().tolist() == [20, 30] and right.lines[1].get_ydata().tolist() == [50, 75]
    pixels = viz.learning_curves({"full run": log}, "px", "end-point error (px)").axes[1]
    assert pixels.lines[0].get_ydata().tolist() == [0.5, 0.75]


def test_bars_stand_in_groups_without_gaps_for_what_is_missing():
    table = pd.DataFrame({"DFF": [1.0, None], "DFF, S = 1": [2.0, 3.0]}, index=["a", "b"])
    axis = viz.bars(table, "x", text="%.0f").axes[0]
    found = [(bar.get_y(), bar.get_height(), bar.get_width()) for bar in axis.patches]
    expected = [(-0.4, 0.4, 1), (0.0, 0.4, 2), (0.6, 0.8, 3)]
    assert all(one == pytest.approx(other) for one, other in zip(found, expected, strict=True))
    assert [text.get_text() for text in axis.texts] == ["1", "2", "3"] and axis.yaxis_inverted()
    assert axis.patches[1].get_facecolor() == to_rgba(COLOURS["blue"], 0.5), "pale where a curve is dashed"
    assert len(viz.bars(pd.Series({"a": 1.0, "b": 2.0}), "x", log=True).axes[0].patches) == 2


def test_quantiles_are_drawn_where_they_are():
    table = pd.DataFrame(dict(offset=[1] * 4, quantile=[0.25, 0.5, 0.75, 0.9], value=[1.0, 2.0, 3.0, 5.0]))
    axis = viz.quantiles({"exact": table, "clips, DIS": table * [1, 1, 2]}, "units").axes[0]
    assert axis.get_title() == "1 frame back" and [t.get_text() for t in axis.get_yticklabels()] == [
        "exact",
        "clips, DIS",
    ]
    assert [list(line.get_xdata()) for line in axis.lines[:3]] == [[1, 3], [3, 5], [2]]
    assert list(axis.lines[5].get_xdata()) == [4] and same_color(axis.lines[5].get_color(), COLOURS["orange"])


def test_the_system_has_a_box_for_each_step():
    names = [text.get_text() for text in viz.system().axes[0].texts if text.get_text()]
    assert names[0] == "key frame" and names[5:8] == ["current frame", "F  (light)", "warp W"] and len(names) == 10
