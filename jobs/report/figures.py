"""The figures of train runs. Each function returns the panels it could draw, one per task, space or loss term; a figure
with several runs has a line per run, in the run's colour and named at its end."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from jobs.report.intervals import wilson
from jobs.report.runs import Run, finite
from jobs.report.svg import (
    INK,
    MUTED,
    NORMAL,
    PAPER,
    SMALL,
    STYLE,
    colour,
    label_ends,
    panel,
    plain_ticks,
    shorten,
    to_svg,
)
from jobs.report.words import compact, count, percent

SPACES = (
    ("ctr", "CTR", "all exposures"),
    ("cvr.click", "CVR", "click space"),
    ("cvr.entire", "CVR", "entire space"),
    ("ctcvr", "CTCVR", "all exposures"),
)
LOSSES = (
    ("loss", "Total loss"),
    ("loss.ctr", "CTR term"),
    ("loss.cvr", "CVR term"),
    ("loss.ctcvr", "CTCVR term"),
    ("loss.imputation", "Imputation term"),
)
SMALL_RATE = 0.15  # calibration of rates below this is drawn on logarithmic axes
BUCKETS = 120
FEWEST = 10  # positives in a calibration bin


@dataclass(frozen=True)
class Panel:
    title: str
    svg: str


def loss_panels(runs: Sequence[Run]) -> list[Panel]:
    """A panel per loss term: the logged values faint, their running mean strong."""
    logged = [(key, title) for key, title in LOSSES if any(run.series("step", "step", key)[0] for run in runs)]
    size = SMALL if len(logged) == 4 and len(runs) == 1 else NORMAL
    drawn = (curve(runs, "step", key, title, key.replace(".", "-"), size) for key, title in logged)
    return [item for item in drawn if item]


def validation_panels(runs: Sequence[Run]) -> list[Panel]:
    """A panel per task, space and metric; a ring marks the step whose weights were kept."""
    drawn = (
        curve(runs, "valid", f"{key}.{metric}", f"{task}, {space}: {title}", f"valid-{key.replace('.', '-')}-{metric}")
        for metric, title in (("auc", "AUC"), ("log_loss", "log-loss"))
        for key, task, space in SPACES
    )
    return [item for item in drawn if item]


def curve(
    runs: Sequence[Run], event: str, key: str, title: str, name: str, size: tuple[float, float] = NORMAL
) -> Panel | None:
    title = title.replace(", all exposures", "")
    lines = [(index, run, *run.series(event, "step", key)) for index, run in enumerate(runs)]
    lines = [line for line in lines if line[2]]
    if not lines:
        return None
    with mpl.rc_context(STYLE):
        figure, axes = panel(*size)
        ends = []
        for index, run, x, y in lines:
            if len(x) > BUCKETS // 4 and event == "step":
                axes.plot(*thin(x, y), color=colour(index), linewidth=0.6, alpha=0.3)
                x, y = smooth(x, y)
            axes.plot(x, y, color=colour(index), marker="o" if len(x) < 12 else None, markersize=3)
            best = run.number("train.best_step")
            if event == "valid" and best in x:
                axes.plot([best], [y[x.index(best)]], "o", markersize=6.5, mfc=PAPER, mec=colour(index), mew=1.6)
            ends.append((run.name, y[-1], colour(index)))
        axes.set_xlabel("step")
        step_axis(axes)
        plain_ticks(axes.yaxis)
        if len(lines) > 1:
            label_ends(axes, ends)
        last = "; ".join(f"{run.name} ends at {compact(y[-1])}" for _, run, _, y in lines)
        return Panel(title, to_svg(figure, name, f"{title} over training steps: {last}."))


def calibration_panels(runs: Sequence[Run], name: str = "calibration") -> list[Panel]:
    """A panel per task and space: mean label over mean prediction in bins of equal count. `name` begins their ids."""
    panels = []
    for key, task, space in SPACES:
        lines = [(index, run, bins(run, key)) for index, run in enumerate(runs)]
        lines = [line for line in lines if len(line[2])]
        if lines:
            panels.append(calibration_panel(lines, f"{task}, {space}", f"{name}-{key.replace('.', '-')}"))
    return panels


def bins(run: Run, key: str) -> np.ndarray:
    """(prediction, label, count) of each bin as an array [n, 3]; empty if the run has none.

    Neighbours are merged until each bin holds FEWEST positives: emptier ones would show chance, not calibration.
    """
    rows = (run.evaluation.get("calibration") or {}).get(key) or []
    found = [[finite(row.get(part)) for part in ("mean_prediction", "mean_label", "count")] for row in rows]
    table = np.array([row for row in found if None not in row and row[2]], dtype=float).reshape(-1, 3)
    merged: list[np.ndarray] = []
    for row in table:
        if merged and merged[-1][1] * merged[-1][2] < FEWEST - 0.5:
            row = merge(merged.pop(), row)
        merged.append(row)
    if len(merged) > 1 and merged[-1][1] * merged[-1][2] < FEWEST - 0.5:
        last = merged.pop()
        merged.append(merge(merged.pop(), last))
    return np.array(merged).reshape(-1, 3)


def merge(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The bin that holds the rows of both: means weighted by count."""
    total = one[2] + other[2]
    return np.append((one[:2] * one[2] + other[:2] * other[2]) / total, total)


def calibration_panel(lines: Sequence[tuple[int, Run, np.ndarray]], title: str, name: str) -> Panel:
    values = np.concatenate([table[:, :2] for _, _, table in lines])
    logarithmic = bool(np.median(values[:, 0]) < SMALL_RATE and (values > 0).any())
    positive = values[values > 0]
    low = positive.min() / 1.6 if logarithmic else 0.0
    high = min(1.0, values.max() * (1.5 if logarithmic else 1.08)) if values.max() > 0 else 1.0
    with mpl.rc_context(STYLE):
        figure, axes = panel(4.6, 3.3) if len(lines) > 1 else panel(2.6, 2.5)
        axes.plot([low, high], [low, high], color=MUTED, linewidth=0.9, dashes=(4, 3))
        ends = []
        for index, run, table in lines:
            prediction, label = np.maximum(table[:, 0], low), table[:, 1]
            shown = np.maximum(label, low)
            if len(lines) <= 2:
                below, above = wilson(label, table[:, 2])
                axes.vlines(prediction, np.maximum(below, low), above, color=colour(index), linewidth=1, alpha=0.45)
            axes.plot(prediction, shown, color=colour(index), linewidth=1.2, alpha=0.7)
            for positives, face in ((label > 0, colour(index)), (label == 0, PAPER)):
                axes.plot(prediction[positives], shown[positives], "o", markersize=3.6, mfc=face, mec=colour(index))
            ends.append((run.name, shown[-1], colour(index)))
        for axis, setter in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
            if logarithmic:
                setter("log")
                axis.set_minor_locator(NullLocator())
                axis.set_major_locator(LogLocator(subs=(1.0, 3.0) if high / low < 100 else (1.0,)))
            else:
                axis.set_major_locator(MaxNLocator(4))
            axis.set_major_formatter(FuncFormatter(lambda value, _: plain_percent(value)))
        axes.set(xlim=(low, high), ylim=(low, high), xlabel="mean prediction", ylabel="mean label")
        axes.set_box_aspect(1 if len(lines) == 1 else None)
        if len(lines) > 1:
            label_ends(axes, ends)
        told = "; ".join(
            f"{run.name}: {len(table)} bins, predictions {percent(table[0, 0])} to {percent(table[-1, 0])}, "
            f"labels {percent(table[0, 1])} to {percent(table[-1, 1])}"
            for _, run, table in lines
        )
        scale = "logarithmic axes" if logarithmic else "linear axes"
        return Panel(title, to_svg(figure, name, f"Calibration of {title}, {scale}. {told}."))


def weight_panels(runs: Sequence[Run]) -> list[Panel]:
    """A panel per run: how many clicks have an inverse-propensity weight in each interval."""
    panels = []
    for index, run in enumerate(runs):
        histogram = (run.evaluation.get("propensity") or {}).get("weight_histogram") or {}
        edges, counts = histogram.get("edges") or [], histogram.get("counts") or []
        if len(edges) != len(counts) + 1 or not counts:
            continue
        with mpl.rc_context(STYLE):
            figure, axes = panel(*(SMALL if len(runs) > 1 else NORMAL))
            axes.stairs(counts, edges, fill=True, color=colour(index), alpha=0.75, linewidth=0)
            if edges[0] > 0 and edges[-1] / edges[0] > 20:
                axes.set_xscale("log")
                axes.xaxis.set_minor_locator(NullLocator())
                axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
            axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
            axes.grid(False, axis="x")
            axes.set(xlabel="weight 1 / propensity", ylabel="clicks", ylim=(0, None))
            clip = run.number("propensity.clip")
            if clip and edges[0] <= 1 / clip <= edges[-1] * 1.05:
                axes.axvline(1 / clip, color=INK, linewidth=0.9, dashes=(4, 3))
                axes.annotate(
                    f"clip {compact(clip)}",
                    (1 / clip, 1.02),
                    xycoords=("data", "axes fraction"),
                    ha="right",
                    va="bottom",
                    color=MUTED,
                )
            mode = int(np.argmax(counts))
            alt = (
                f"Histogram of the weights of {count(sum(counts))} clicks from {compact(edges[0])} to "
                f"{compact(edges[-1])}; most lie between {compact(edges[mode])} and {compact(edges[mode + 1])}."
            )
            title = shorten(run.name, 40) if len(runs) > 1 else "Weights of clicked exposures"
            panels.append(Panel(title, to_svg(figure, f"weights-{index}", alt)))
    return panels


def smooth(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    """Centred running mean over a twentieth of the curve, at no more than BUCKETS places."""
    reach = max(1, len(y) // 40)
    total = np.concatenate([[0.0], np.cumsum(y)])
    at = np.unique(np.linspace(0, len(y) - 1, min(len(y), BUCKETS)).round().astype(int))
    first, last = np.maximum(at - reach, 0), np.minimum(at + reach + 1, len(y))
    return np.asarray(x)[at].tolist(), ((total[last] - total[first]) / (last - first)).tolist()


def thin(x: Sequence[float], y: Sequence[float], most: int = 400) -> tuple[Sequence[float], Sequence[float]]:
    stride = -(-len(x) // most)
    return x[::stride], y[::stride]


def step_axis(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value / 1000:g}k" if value >= 10000 else count(value))
    )


def plain_percent(value: float) -> str:
    return f"{100 * value:.4g}%"
