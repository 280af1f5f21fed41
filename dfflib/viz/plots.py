"""Plots of results, a function for each kind; colours and lines of methods are in `dfflib.viz.colours`."""

from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dfflib.viz.colours import COLOURS, look

METRICS = {"miou": "mIoU (%)", "agreement": "agreement with Frame (%)", "j": "J (%)"}


def _panels(
    tables: pd.DataFrame | Mapping[str, pd.DataFrame], size: tuple[float, float], sharey: bool = False
) -> tuple[Figure, list[tuple[Axes, str, pd.DataFrame]]]:
    """A figure with a panel for each table, of so many inches; axis, title and table of each."""
    named = {"": tables} if isinstance(tables, pd.DataFrame) else tables
    fig, axes = plt.subplots(1, len(named), figsize=(size[0] * len(named), size[1]), squeeze=False, sharey=sharey)
    return fig, [(axis, title, table) for axis, (title, table) in zip(axes.flat, named.items(), strict=True)]


def curves(
    tables: pd.DataFrame | Mapping[str, pd.DataFrame], xlabel: str = "", ylabel: str = "",
    spreads: Mapping[str, pd.DataFrame] | None = None, level: tuple[str, float] | None = None, marks: Iterable[float] = (),
    size: tuple[float, float] = (6.0, 3.5),
) -> Figure:  # fmt: skip
    """Curves in one panel, or in several side by side.

    Args:
        tables: a row for each curve, a column for each place on the x axis; or title -> such a table, one for each panel.
        xlabel: of every panel.
        ylabel: of every panel, which then share their scale; by default each has its title there.
        spreads: title -> table of half the width of a band around each curve.
        level: name and height of a horizontal line.
        marks: places of vertical lines.
        size: of a panel, in inches.
    """
    fig, panels = _panels(tables, size, sharey=bool(ylabel))
    for axis, title, table in panels:
        for n, (name, values) in enumerate(table.T.items()):
            colour, line = look(str(name), n)
            places, there = values.index.to_numpy(float), values.notna().to_numpy()
            axis.plot(places[there], values[there], line, color=colour, label=str(name), markersize=3.5)
            spread = spreads[title].T[name].reindex(values.index) if spreads else None
            if spread is not None and spread.notna().any():
                axis.fill_between(places, values - spread, values + spread, color=colour, alpha=0.12, linewidth=0)
        for mark in marks:
            axis.axvline(mark, color="lightgrey", linewidth=0.8, zorder=0)
        if level:
            axis.axhline(level[1], color=COLOURS["grey"], linestyle="--", linewidth=1, label=level[0])
        axis.set(xlabel=xlabel, ylabel=ylabel or title, title=title if ylabel else "")
        axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 2.5, 5, 10]))
    panels[0][0].legend(fontsize=8)
    return fig


def by_offset(rows: pd.DataFrame, metrics: Sequence[str] = ("miou",), methods: Iterable[str] = ()) -> Figure:
    """Accuracy by distance from the key frame, a panel for each metric; with several seeds a band of one standard deviation.

    Args:
        rows: tidy, or of `dfflib.evaluation.by_offset`; over all but method, offset and seed they are averaged.
        metrics: out of ``rows``.
        methods: those to draw, in this order; all by default.
    """
    means, spreads = {}, {}
    for metric in metrics:
        chosen = rows[rows["metric"] == metric]
        chosen = chosen if "seed" in chosen else chosen.assign(seed=0)
        by_seed = chosen.groupby(["method", "seed", "offset"], sort=False)["value"].mean().unstack("offset")
        groups, title = by_seed.groupby("method", sort=False), METRICS.get(metric, metric)
        names = list(methods) or chosen["method"].unique()
        means[title], spreads[title] = groups.mean().loc[names].sort_index(axis=1), groups.std().loc[names]
    return curves(means, "frames from the key frame", "", spreads, size=(8.0, 3.8) if len(means) == 1 else (5.7, 4.0))


def accuracy_against_speed(tables: pd.DataFrame | Mapping[str, pd.DataFrame], label: Iterable[int] = ()) -> Figure:
    """Accuracy against frames per second, a dot for each interval, as in Figure 3 of the paper.

    Args:
        tables: columns ``method, interval, fps, value``; or title -> such a table, one for each panel. A method with a single
            row, which runs on every frame, is a diamond with a line across.
        label: intervals to name along the first curve.
    """
    fig, panels = _panels(tables, (7.5, 4.2) if isinstance(tables, pd.DataFrame) else (6.0, 4.2))
    for axis, title, table in panels:
        named = False
        for n, (name, rows) in enumerate(table.groupby("method", sort=False)):
            colour, line = look(str(name), n)
            rows = rows.set_index("interval").sort_index()
            if len(rows) == 1:  # it runs on every frame
                axis.axhline(rows["value"].iloc[0], color=colour, linewidth=0.8, linestyle=":")
                axis.plot(rows["fps"], rows["value"], "D", color=colour, markersize=6, label=name)
                continue
            axis.plot(rows["fps"], rows["value"], line, color=colour, markersize=3, linewidth=1.2, label=name)
            for interval in [n for n in label if n in rows.index] if not named else ():
                place = rows.loc[interval, "fps"], rows.loc[interval, "value"]
                axis.annotate(f"l = {interval}", place, xytext=(2, 5), textcoords="offset points", fontsize=7)
            named = True
        axis.set(xlabel="frames per second", ylabel="mIoU, average over offsets (%)", title=title)
        plain_log_scale(axis, "x")
        axis.legend(fontsize=7)
    return fig


def plain_log_scale(axis: Axes, which: str) -> None:
    """Make the ``"x"`` or ``"y"`` axis logarithmic, with 1, 2, 5, 10 and so on written out."""
    axis.set(**{f"{which}scale": "log"})
    ticks = getattr(axis, f"{which}axis")
    ticks.set_major_locator(plt.LogLocator(subs=(1, 2, 5)))
    ticks.set_major_formatter(plt.ScalarFormatter())
    ticks.set_minor_formatter(plt.NullFormatter())


def learning_curves(logs: Mapping[str, pd.DataFrame], loss: str, metric: str) -> Figure:
    """Left the training loss (mean of five logged values), right what was measured on the validation part.

    Args:
        logs: name -> log of a training, see `dfflib.training.trainer.Trained`.
        loss, metric: what they are, with unit; a metric in ``%`` is logged as a share.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3))
    for n, (name, log) in enumerate(logs.items()):
        colour, valid = look(name, n)[0], log.dropna(subset="metric")
        left.plot(log["step"], log["loss"].rolling(5, min_periods=1).mean(), color=colour, label=name)
        measured = valid["metric"] * (100 if "%" in metric else 1)
        right.plot(valid["step"], measured, "o-", color=colour, label=name, markersize=3.5)
    left.set(xlabel="step", ylabel=loss, title="training loss")
    plain_log_scale(left, "y")
    right.set(xlabel="step", ylabel=metric, title="validation part", ylim=(0, 100 if "%" in metric else None))
    right.legend(fontsize=8)
    return fig


def bars(table: pd.DataFrame | pd.Series, xlabel: str, log: bool = False, text: str = "") -> Figure:
    """Bars in groups, the first on top.

    Args:
        table: a group for each row, a bar for each column (`METHODS`) in which the row has a value; or a bar for each row.
        xlabel: what is measured, with unit.
        log: logarithmic.
        text: such as ``"%.1f ms"``, written at each bar.
    """
    table = table.to_frame() if isinstance(table, pd.Series) else table
    count = table.notna().sum(axis=1)
    fig, axis = plt.subplots(figsize=(8, 0.8 + 0.13 * len(table) + 0.15 * count.sum()))
    place = table.notna().cumsum(axis=1)
    for n, name in enumerate(table):
        there = table[name].notna().to_numpy().nonzero()[0]
        height = 0.8 / count.iloc[there]
        middle = there - 0.4 + (place[name].iloc[there] - 0.5) * height
        colour, line = look(str(name), n)
        alpha = 0.5 if "--" in line else 1.0  # what is dashed as a curve is pale as a bar
        drawn = axis.barh(middle, table[name].iloc[there], height, color=colour, alpha=alpha, label=name)
        if text:
            axis.bar_label(drawn, fmt=text, padding=4)
    axis.set_yticks(range(len(table)), [str(name) for name in table.index])
    axis.set(xlabel=xlabel, xscale="log" if log else "linear")
    if not log:
        axis.axvline(0, color=COLOURS["grey"], linewidth=0.8)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    if len(table.columns) > 1:
        axis.legend(fontsize=8)
    return fig


def quantiles(tables: Mapping[str, pd.DataFrame], xlabel: str) -> Figure:
    """How values spread, a panel for each offset: dot the median, bar the middle half, line up to the fastest tenth.

    Args:
        tables: name -> columns ``offset, quantile, value`` (`dfflib.evaluation.dataset_statistics.motion_quantiles`); what
            was estimated by DIS is orange, what is exact blue.
        xlabel: what is measured, with unit.
    """
    offsets = next(iter(tables.values()))["offset"].unique()
    fig, axes = plt.subplots(1, len(offsets), figsize=(3 * len(offsets), 3.2), sharey=True, squeeze=False)
    for row, (name, table) in enumerate(tables.items()):
        for axis, offset in zip(axes.flat, offsets, strict=True):
            at = table[table["offset"] == offset].set_index("quantile")["value"]
            colour = COLOURS["orange" if "DIS" in name else "blue"]
            axis.plot((at[0.25], at[0.75]), (row, row), color=colour, linewidth=6, alpha=0.5)
            axis.plot((at[0.75], at[0.9]), (row, row), color=colour, linewidth=1.5)
            axis.plot(at[0.5], row, "o", color=colour, markersize=5)
            axis.set(title=f"{offset:g} frame{'s' if offset > 1 else ''} back", xlabel=xlabel)
    axes[0, 0].set_yticks(range(len(tables)), list(tables))
    axes[0, 0].invert_yaxis()
    return fig
