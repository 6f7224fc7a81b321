"""The figures of a search: every trial as a line over its settings, what mattered, the front, the learning curves."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import MaxNLocator

from jobs.report.figures import Panel
from jobs.report.svg import INK, MUTED, PAPER, RULE, STYLE, colour, label_ends, panel, plain_ticks, shorten, to_svg
from jobs.report.words import percent
from jobs.tune.aim import Aim, goodness
from jobs.tune.files import name_of
from jobs.tune.results import Row, best_of, front_of, short_names

TOP = 0.2  # of the trials, drawn strong
WIDE = 30.0  # largest over smallest value from which an axis is logarithmic
PAGE_INCHES = 9.6  # the page's width at the scale of the other figures


def parallel_panel(rows: Sequence[Row], metric: str, aim: Aim, name: str) -> Panel | None:
    """A line a trial over one axis a setting and, at the right, the figure (the better the higher)."""
    known = [row for row in rows if row.ended and metric in row.figures]
    if len(known) < 2:
        return None
    known.sort(key=lambda row: (row.feasible, goodness(metric, row.figures)))
    keys = list(known[0].settings)
    scales = [Scale([row.settings.get(key) for row in known]) for key in keys]
    values = [goodness(metric, row.figures) for row in known]
    scales.append(Scale(values, measured=True))
    top = max(1, round(TOP * len(known)))
    with mpl.rc_context(STYLE):
        figure, axes = panel(max(PAGE_INCHES, len(scales)), 3.0)
        axes.set_axis_off()
        for place, row in enumerate(known):
            strong = place >= len(known) - top and row.feasible
            cells = [*(row.settings.get(key) for key in keys), values[place]]
            heights = [scale.height(cell) for scale, cell in zip(scales, cells, strict=True)]
            tint = colour(1) if place == len(known) - 1 and row.feasible else colour(0) if strong else MUTED
            axes.plot(
                *bent(heights),
                color=tint,
                linewidth=1.8 if strong else 0.7,
                alpha=0.95 if strong else 0.4,
                linestyle="-" if row.feasible else (0, (2, 2)),
            )
        names = [*map(wrapped, short_names(keys).values()), metric]
        for x, (scale, label) in enumerate(zip(scales, names, strict=True)):
            axes.plot([x, x], [0, 1], color=INK if x == len(scales) - 1 else RULE, linewidth=1.0, zorder=0)
            axes.text(x, 1.09, label, ha="center", va="bottom", color=INK, fontsize=8, linespacing=1.05)
            for height, text in scale.ticks(metric if x == len(scales) - 1 else ""):
                ground = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
                look: dict[str, Any] = {"color": MUTED, "fontsize": 7.5, "bbox": ground, "zorder": 5}
                axes.text(x + 0.05, height, text, ha="left", va="center", **look)
        axes.set(xlim=(-0.1, len(scales) - 0.35), ylim=(-0.04, 1.16))
        best = known[-1]
        alt = f"{len(known)} trials over {len(keys)} settings; the best, {name_of(best.index)}, has "
        return Panel(
            f"Settings and {metric} of every trial", to_svg(figure, name, f"{alt}{metric} {best.figures[metric]:.5f}")
        )


class Scale:
    """One axis of the parallel coordinates: numbers (logarithmic where they spread wide) or words."""

    def __init__(self, values: Sequence[Any], measured: bool = False) -> None:
        distinct = sorted(set(values), key=lambda value: (isinstance(value, str), value))
        numbers = measured or (len(distinct) > 4 and all(isinstance(value, int | float) for value in distinct))
        self.words = [] if numbers else distinct
        if self.words:
            return
        low, high = float(distinct[0]), float(distinct[-1])
        self.logarithmic = low > 0 and high / low > WIDE / 3
        self.low, self.high = self.raw(low), self.raw(high)

    def raw(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else float(value)

    def height(self, value: Any) -> float:
        """Where on the axis, from 0 to 1."""
        if self.words:
            return (self.words.index(value) + 0.5) / len(self.words)
        return (self.raw(value) - self.low) / (self.high - self.low) if self.high > self.low else 0.5

    def ticks(self, metric: str) -> list[tuple[float, str]]:
        """(height, text) of the labels; a metric's goodness is written as its figure."""
        if self.words:
            return [(self.height(word), shorten(str(word), 11)) for word in self.words]
        places = (0.0, 0.5, 1.0) if self.high > self.low else (0.5,)
        inner = [self.low + place * (self.high - self.low) for place in places]
        values = [10**value if self.logarithmic else value for value in inner]
        if metric:
            return [(place, f"{figure_of(metric, value):.4f}") for place, value in zip(places, values, strict=True)]
        return [(place, f"{value:.3g}") for place, value in zip(places, values, strict=True)]


def figure_of(metric: str, value: float) -> float:
    if metric.endswith(".pcoc"):
        return math.exp(-value)
    return -value if metric.endswith("log_loss") else value


def bent(heights: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """A smooth line through the heights, level at every axis, so that lines can be followed where they cross."""
    t = np.linspace(0.0, 1.0, 16)
    ease = t * t * (3 - 2 * t)
    x = np.concatenate([place + t for place in range(len(heights) - 1)])
    y = np.concatenate([a + (b - a) * ease for a, b in itertools.pairwise(heights)])
    return x, y


def wrapped(label: str) -> str:
    """learning_rate -> two lines."""
    words, lines = label.replace("_", " ").split(), [""]
    for word in words:
        if len(lines[-1]) + len(word) > 11 and lines[-1]:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def importance_panel(shares: Mapping[str, float], metric: str, name: str) -> Panel | None:
    """A bar a setting: its share of the figure's variance over the space."""
    if not shares:
        return None
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    names = short_names(shares)
    with mpl.rc_context(STYLE):
        figure, axes = panel(4.6, 0.27 * len(ordered) + 0.75)
        axes.barh(range(len(ordered)), [share for _, share in ordered], color=colour(0), height=0.62)
        for y, (_, share) in enumerate(ordered):
            axes.text(share + 0.01, y, percent(share), va="center", color=MUTED, fontsize=8)
        axes.set_yticks(range(len(ordered)), [shorten(names[key].replace("_", " "), 28) for key, _ in ordered])
        axes.set(ylim=(len(ordered) - 0.4, -0.6), xlim=(0, 1.18 * ordered[0][1]))
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel("share of the variance")
        told = "; ".join(f"{names[key]} {percent(share)}" for key, share in ordered)
        return Panel(f"What mattered for {metric}", to_svg(figure, name, f"Importance of settings: {told}."))


def pareto_panel(rows: Sequence[Row], aim: Aim, name: str) -> Panel | None:
    """All trials by the two figures; those that none beats in both are joined and numbered."""
    one, two = aim.metrics
    known = [row for row in rows if row.ended and one in row.figures and two in row.figures]
    if not known:
        return None
    best = front_of(known, aim)
    indices = {row.index for row in best}
    with mpl.rc_context(STYLE):
        figure, axes = panel(4.6, 3.4)
        for row in known:
            if row.index not in indices:
                face = MUTED if row.feasible else PAPER
                axes.plot(row.figures[one], row.figures[two], "o", markersize=4.5, mfc=face, mec=MUTED, alpha=0.7)
        x, y = [row.figures[one] for row in best], [row.figures[two] for row in best]
        axes.plot(x, y, color=colour(0), linewidth=1.2, alpha=0.6)
        axes.plot(x, y, "o", color=colour(0), markersize=6)
        for row in best:
            place = (row.figures[one], row.figures[two])
            axes.annotate(name_of(row.index), place, (5, 5), textcoords="offset points", fontsize=7.5, color=MUTED)
        first = next((row for row in known if row.index == 0), None)
        if first is not None:
            axes.plot(first.figures[one], first.figures[two], "o", markersize=10, mfc="none", mec=colour(1), mew=1.4)
        axes.set(xlabel=one, ylabel=two)
        for axis in (axes.xaxis, axes.yaxis):
            plain_ticks(axis)
        axes.margins(0.12)
        told = "; ".join(f"{name_of(row.index)} {row.figures[one]:.4f} and {row.figures[two]:.4f}" for row in best)
        return Panel(f"{one} against {two}", to_svg(figure, name, f"Trials that none beats in both figures: {told}."))


def learning_panel(
    rows: Sequence[Row],
    aim: Aim,
    curves: Mapping[int, tuple[list[int], list[float]]],
    metric: str,
    unit: str,
    name: str,
) -> Panel | None:
    """The figure that each trial would have ended with, by epoch or generation; None where no trial reported twice. The
    best (of a front: all of it) and the default stand out."""
    drawn = {index: curve for index, curve in curves.items() if curve[0]}
    if not any(len(x) > 1 for x, _ in drawn.values()):
        return None
    chosen = {row.index for row in (front_of(rows, aim) if len(aim.metrics) > 1 else [best_of(rows)]) if row}
    with mpl.rc_context(STYLE):
        figure, axes = panel(4.6, 2.9)
        ends = []
        for row in rows:
            if row.index not in drawn:
                continue
            x, y = drawn[row.index]
            tint, width = MUTED, 0.8
            if row.index in chosen:
                tint, width = colour(1), 2.0
                ends.append(("best" if len(chosen) == 1 else name_of(row.index), y[-1], tint))
            elif row.index == 0:
                tint, width = colour(0), 1.6
                ends.append(("default", y[-1], tint))
            axes.plot(x, y, color=tint, linewidth=width, alpha=0.45 if tint == MUTED else 1.0, zorder=2 + width)
            mark = {"stopped": "x", "failed": "X"}.get(row.state, "o")
            axes.plot(x[-1:], y[-1:], mark, color=tint, markersize=3.5, alpha=0.8, zorder=2 + width)
        axes.set(xlabel=unit, ylabel=metric)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        plain_ticks(axes.yaxis)
        label_ends(axes, ends)
        told = "; ".join(f"{label} ends at {y:.5f}" for label, y, _ in ends)
        return Panel(f"{metric} of each trial by {unit}", to_svg(figure, name, f"Learning curves of trials. {told}."))
