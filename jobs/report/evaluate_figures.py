"""Dot plots with intervals: slices of a part, and the IEB and PIP experiments."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from jobs.report.figures import Panel, plain_percent
from jobs.report.runs import finite
from jobs.report.svg import INK, MUTED, PAPER, STYLE, colour, panel, shorten, to_svg
from jobs.report.words import compact, number

ROW_INCHES = 0.24


@dataclass(frozen=True)
class Dot:
    """A figure and its interval (None where it has none); `open` draws a ring."""

    value: float
    low: float | None
    high: float | None
    series: int = 0
    open: bool = False


def dot_of(figures: dict[str, object], key: str, series: int = 0, hollow: bool = False) -> Dot | None:
    value, low, high = (finite(figures.get(name)) for name in (key, f"{key}.low", f"{key}.high"))
    return None if value is None else Dot(value, low, high, series, hollow)


def dot_panel(
    title: str,
    rows: Sequence[tuple[str, Sequence[Dot | None]]],
    name: str,
    reference: float | None = None,
    one: bool = False,
    percent: bool = False,
    width: float = 2.6,
) -> Panel | None:
    """A line for each (label, dots), the first on top; `reference` is a dashed line, `one` a thin line at 1."""
    known = [dot for _, dots in rows for dot in dots if dot]
    if not known:
        return None
    with mpl.rc_context(STYLE):
        figure, axes = panel(width, 0.62 + ROW_INCHES * max(len(rows), 2) * (1 + 0.25 * (most(rows) - 1)))
        if one:
            axes.axvline(1, color=INK, linewidth=0.8)
        if reference is not None:
            axes.axvline(reference, color=MUTED, linewidth=0.9, dashes=(4, 3))
        told = []
        for place, (label, dots) in enumerate(rows):
            for index, dot in enumerate(dots):
                if dot is None:
                    continue
                y = place + (index - (len(dots) - 1) / 2) * 0.26
                tint = colour(dot.series)
                if dot.low is not None and dot.high is not None:
                    axes.hlines(y, dot.low, dot.high, color=tint, linewidth=1.4, alpha=0.6)
                axes.plot([dot.value], [y], "o", markersize=4.6, mfc=PAPER if dot.open else tint, mec=tint, mew=1.3)
                told.append(f"{label} {compact(dot.value)}")
        axes.set_yticks(range(len(rows)), [shorten(label, 24) for label, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(3, min_n_ticks=2))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: plain_percent(x) if percent else tick(x)))
        values = [v for dot in known for v in (dot.value, dot.low, dot.high) if v is not None]
        values += [v for v in (reference, 1.0 if one else None) if v is not None]
        space = max(np.ptp(values) * 0.06, 1e-9)
        axes.set_xlim(min(values) - space, max(values) + space)
        return Panel(title, to_svg(figure, name, f"{title}: {'; '.join(told)}."))


def most(rows: Sequence[tuple[str, Sequence[Dot | None]]]) -> int:
    return max(len(dots) for _, dots in rows)


def tick(value: float) -> str:
    return number(value, 3).rstrip("0").rstrip(".") if value else "0"
