"""Three of the four kinds of panels as pictures; the fourth, tables, are jobs/report/tables.py's.

Each function returns an SVG element; `name` begins its ids.
"""

import math
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, ScalarFormatter

from funnel.numbers import compact, percent
from funnel.panels import Calibration, Curve, Interval, Intervals, Series
from jobs.report.bins import SMALL_RATE, merged_bins, smooth, thin
from jobs.report.svg import INK, MUTED, PAPER, STYLE, canvas, colour, shorten, to_svg

ROW_INCHES = 0.27
FEW = 30
"""Points up to which a noisy course is drawn as it is."""
MOST_NAMES = 8
"""Lines that a legend can tell apart."""


def curve(panel: Curve, name: str) -> str:
    """Lines with their bands, or bars."""
    wide = len(panel.series) > 1
    with mpl.rc_context(STYLE):
        figure, axes = canvas(*((4.6, 2.9) if wide else (3.5, 2.3)))
        if panel.reference is not None:
            axes.axhline(panel.reference, color=MUTED, linewidth=0.9, dashes=(4, 3))
        for index, series in enumerate(panel.series):
            (bars if panel.bars else line)(axes, series, index, panel)
        if panel.bound is not None:
            at, text = panel.bound
            axes.axvline(at, color=INK, linewidth=0.9, dashes=(4, 3))
            spot = axes.get_xaxis_transform()
            axes.text(at, 1.02, text, transform=spot, ha="right", va="bottom", color=MUTED)
        axes.set(xlabel=panel.x_label, ylabel=panel.y_label)
        x_axis(axes, panel)
        if panel.log_y:
            logarithmic(axes.yaxis, axes.set_yscale)
        else:
            plain_ticks(axes.yaxis)
        legend(figure, axes)
    ends = "; ".join(f"{each.name or 'it'} goes from {compact(each.y[0])} to {compact(each.y[-1])}"
                     for each in panel.series if each.look != "faint" and len(each.y))  # fmt: skip
    scale = "logarithmic" if panel.log_y else "linear"
    return to_svg(figure, name, f"{panel.title}, {scale} axis: {ends}.")


def line(axes: Axes, series: Series, index: int, panel: Curve) -> None:
    x, y = list(series.x), list(series.y)
    if series.look == "faint":
        axes.plot(x, y, color=MUTED, linewidth=0.7, alpha=0.45)
        return
    tint = MUTED if series.look == "grey" else colour(index if series.tint is None else series.tint)
    label = shorten(series.name, 34) if series.name else None
    if series.low is not None and series.high is not None:
        places = thin(len(x))
        low, high = np.asarray(series.low)[places], np.asarray(series.high)[places]
        axes.fill_between(np.asarray(x)[places], low, high, color=tint, alpha=0.18, linewidth=0)
    if panel.smooth and len(x) > FEW:
        places = thin(len(x))
        axes.plot(np.asarray(x)[places], np.asarray(y)[places], color=tint, linewidth=0.6, alpha=0.3)
        x, y = smooth(x, y)
    elif len(x) > FEW:
        places = thin(len(x))
        x, y = np.asarray(x)[places].tolist(), np.asarray(y)[places].tolist()
    marked = "o" if series.look == "points" or len(x) < 12 else None
    points = series.look == "points"
    style = "none" if points else "-"
    axes.plot(
        x,
        y,
        linestyle=style,
        color=tint,
        marker=marked,
        markersize=5 if points else 3,
        label=label,
        zorder=4 - index / 100,
    )  # the first lies on top
    if series.mark in x:
        spot = y[x.index(series.mark)]
        axes.plot([series.mark], [spot], "o", markersize=6.5, mfc=PAPER, mec=tint, mew=1.6)


def bars(axes: Axes, series: Series, index: int, panel: Curve) -> None:
    axes.stairs(list(series.y), list(series.x), fill=True, color=colour(index), alpha=0.75, linewidth=0)
    axes.grid(False, axis="x")
    axes.set_ylim(0, None)


def x_axis(axes: Axes, panel: Curve) -> None:
    if panel.names:
        names = list(panel.names)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(lambda x, _: names[int(x)] if 0 <= x < len(names) and x == int(x) else "")
    elif panel.log_x:
        logarithmic(axes.xaxis, axes.set_xscale)
    elif all(float(x).is_integer() for series in panel.series for x in series.x):
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:g}k" if x >= 10000 else f"{x:,.0f}"))
    else:
        plain_ticks(axes.xaxis)


def intervals(panel: Intervals, name: str) -> str:
    """A line a label, a dot and a bar a group; the dot is open where the bar holds the reference."""
    labels = list(dict.fromkeys(row.label for row in panel.rows))
    groups = list(dict.fromkeys(row.group for row in panel.rows))
    step = 0.5 / len(groups) if len(groups) > 1 else 0.0
    height = ROW_INCHES * max(len(labels), 2) * (1 + 0.3 * (len(groups) - 1))
    with mpl.rc_context(STYLE):
        figure, axes = canvas(2.6 if panel.small else 4.6, height + 0.7 + 0.3 * (len(groups) > 1))
        if panel.reference is not None:
            axes.axvline(panel.reference, color=MUTED, linewidth=0.9, dashes=(4, 3))
        for row in panel.rows:
            group = groups.index(row.group)
            interval(
                axes, row, labels.index(row.label) + (group - (len(groups) - 1) / 2) * step, group, panel.reference
            )
        if not panel.small:
            values_beside(axes, panel.rows, labels, panel.reference)
        axes.set_yticks(range(len(labels)), [shorten(label, 34) for label in labels])
        axes.set(ylim=(len(labels) - 0.4, -0.6), xlabel=panel.x_label)
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        plain_ticks(axes.xaxis, 3 if panel.small else 5)
        axes.margins(x=0.08)
        for group, text in enumerate(groups):
            if text:
                axes.plot([], [], "o", color=colour(group), markersize=5, label=shorten(text))
        legend(figure, axes)
    told = "; ".join(f"{row.label} {row.group} {compact(row.value)}".replace("  ", " ") + bounds(row)
                     for row in panel.rows)  # fmt: skip
    return to_svg(figure, name, f"{panel.title}: {told}.")


def bounds(row: Interval) -> str:
    return "" if row.low is None else f", 95% {compact(row.low)} to {compact(row.high)}"


def interval(axes: Axes, row: Interval, y: float, group: int, reference: float | None) -> None:
    tint, unsure = colour(group), False
    if row.low is not None and row.high is not None:
        unsure = reference is not None and row.low <= reference <= row.high
        axes.hlines(y, row.low, row.high, color=tint, linewidth=1.6, alpha=0.6)
    axes.plot([row.value], [y], "o", markersize=5, mfc=PAPER if unsure else tint, mec=tint, mew=1.4)


def values_beside(axes: Axes, rows: Sequence[Interval], labels: Sequence[str], reference: float | None) -> None:
    size = max((abs(end) for row in rows for end in (row.value, row.low, row.high) if end is not None), default=0.0)
    for y, label in enumerate(labels):
        values = [plus + compact(rounded(row.value, size)) for row in rows if row.label == label
                  for plus in [sign(row, reference)]]  # fmt: skip
        if len(values) <= 2:
            text = (" → " if rows[-1].group == "after" else " · ").join(values)
            axes.text(1.02, y, text, transform=axes.get_yaxis_transform(), va="center", color=MUTED)


def rounded(value: float, size: float) -> float:
    """To a ten-thousandth of the largest: what is smaller is 0 beside it."""
    if not size:
        return value
    return round(value, 4 - math.floor(math.log10(size))) or 0.0


def sign(row: Interval, reference: float | None) -> str:
    """Gains, which are compared with 0 and have an interval, show their sign."""
    return "+" if reference == 0 and row.low is not None and row.value > 0 else ""


def calibration(panel: Calibration, name: str) -> str:
    """Mean label over mean prediction in bins of equal count, on logarithmic axes where rates are small."""
    tables = {text: merged_bins(bins) for text, bins in panel.groups.items()}
    tables = {text: table for text, table in tables.items() if len(table)}
    if not tables:
        return ""
    values = np.concatenate([table[:, :2] for table in tables.values()])
    log = bool(np.median(values[:, 0]) < SMALL_RATE and (values > 0).any())
    low = values[values > 0].min() / 1.6 if log else 0.0
    high = min(1.0, values.max() * (1.5 if log else 1.08)) if values.max() > 0 else 1.0
    with mpl.rc_context(STYLE):
        figure, axes = canvas(4.6, 3.5) if len(tables) > 1 else canvas(2.6, 2.5)
        axes.plot([low, high], [low, high], color=MUTED, linewidth=0.9, dashes=(4, 3))
        for index, (text, table) in enumerate(tables.items()):
            tint = colour(index)
            prediction, label, below, above = table[:, 0], table[:, 1], table[:, 3], table[:, 4]
            prediction, shown = np.maximum(prediction, low), np.maximum(label, low)
            if len(tables) <= 2:  # more of them would hide the lines
                axes.vlines(prediction, np.maximum(below, low), above, color=tint, linewidth=1, alpha=0.45)
            axes.plot(prediction, shown, color=tint, linewidth=1.2, alpha=0.7, label=shorten(text) if text else None)
            for some, face in ((label > 0, tint), (label == 0, PAPER)):
                axes.plot(prediction[some], shown[some], "o", markersize=3.6, mfc=face, mec=tint)
        for axis, setter in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
            if log:
                logarithmic(axis, setter)
            else:
                axis.set_major_locator(MaxNLocator(4))
            axis.set_major_formatter(FuncFormatter(lambda value, _: plain_percent(value)))
        axes.set(xlim=(low, high), ylim=(low, high), xlabel="mean prediction", ylabel="mean label")
        axes.set_box_aspect(1 if len(tables) == 1 else None)
        legend(figure, axes)
    told = "; ".join(
        f"{text or 'the run'}: {len(table)} bins, predictions {percent(table[0, 0])} to {percent(table[-1, 0])}, "
        f"labels {percent(table[0, 1])} to {percent(table[-1, 1])}"
        for text, table in tables.items()
    )
    return to_svg(figure, name, f"Calibration of {panel.title}, {'logarithmic' if log else 'linear'} axes. {told}.")


def legend(figure: Figure, axes: Axes) -> None:
    """Names above the axes, where there are any."""
    handles, names = axes.get_legend_handles_labels()
    if 0 < len(names) <= MOST_NAMES:
        figure.legend(handles, names, loc="outside upper left", ncols=min(len(names), 3))


def logarithmic(axis: Axis, scale: object) -> None:
    """A logarithmic axis with a few plain numbers."""
    assert callable(scale)
    scale("log")
    low, high = axis.get_view_interval()
    ratio = high / low if low > 0 else math.inf
    steps = (1.0, 2.0, 5.0) if ratio < 30 else (1.0, 3.0) if ratio < 300 else (1.0,)
    axis.set_minor_locator(NullLocator())
    axis.set_major_locator(LogLocator(subs=steps, numticks=6) if ratio > 5 else MaxNLocator(4))
    axis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))


def plain_ticks(axis: Axis, most: int = 5) -> None:
    """Few ticks, written out in full with as many digits as tell them apart."""
    formatter = ScalarFormatter(useOffset=False)
    formatter.set_scientific(False)
    axis.set_major_locator(MaxNLocator(most, min_n_ticks=2))
    axis.set_major_formatter(formatter)


def plain_percent(value: float) -> str:
    return f"{100 * value:.4g}%"
