"""The figures of an evolve run: how the population climbed, what it changed, and what that was worth."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np

from jobs.report.figures import Panel, step_axis, thin
from jobs.report.runs import Run, finite
from jobs.report.svg import MUTED, PAPER, STYLE, colour, label_ends, panel, plain_ticks, shorten, to_svg
from jobs.report.words import compact, number

MOST_PARAMETERS = 24
RIVALS = (("untuned", "vs untuned"), ("best_single", "vs best single"))


def generation_panel(run: Run, name: str, measure: str = "return on the tuning users") -> Panel | None:
    """Return per generation: the centre of the population, its best member, its mean with one std."""
    curves = {part: run.series("generation", "generation", f"return.{part}") for part in ("centre", "best", "mean")}
    if not any(x for x, _ in curves.values()):
        return None
    looks = (("best", "best", colour(4), 1.0), ("mean", "mean ± std", MUTED, 1.0), ("centre", "centre", colour(0), 2.0))
    with mpl.rc_context(STYLE):
        figure, axes = panel(width=4.6, height=2.9)
        records = run.events.get("generation", [])
        band = [[finite(row.get(key)) for key in ("generation", "return.mean", "return.std")] for row in records]
        whole = np.array([row for row in band if None not in row], dtype=float).reshape(-1, 3)
        whole = whole[:: max(1, len(whole) // 400)]
        if len(whole):
            low, high = whole[:, 1] - whole[:, 2], whole[:, 1] + whole[:, 2]
            axes.fill_between(whole[:, 0], low, high, color=MUTED, alpha=0.15, linewidth=0)
        ends, told = [], []
        for part, label, tint, width in looks:
            x, y = curves[part]
            if x:
                axes.plot(*thin(x, y), color=tint, linewidth=width)
                ends.append((label, y[-1], tint))
                told.append(f"{part} from {compact(y[0])} to {compact(y[-1])}")
        axes.set(xlabel="generation", ylabel=measure)
        step_axis(axes)
        plain_ticks(axes.yaxis)
        label_ends(axes, ends)
        alt = f"Return over generations: {'; '.join(told)}."
        return Panel("Return per generation", to_svg(figure, name, alt))


def parameter_panel(run: Run, name: str) -> tuple[Panel | None, str]:
    """(panel, note): each fusion parameter before (ring) and after (dot); where there are many, the most changed."""
    names, before, after = (run.policy.get(key) or [] for key in ("names", "before", "after"))
    if not names or not len(names) == len(before) == len(after):
        return None, ""
    rows = [(str(label), float(a), float(b)) for label, a, b in zip(names, before, after, strict=True)]
    note = ""
    if len(rows) > MOST_PARAMETERS:
        note = f"The {MOST_PARAMETERS} parameters that changed most, of {len(rows)}."
        kept = sorted(range(len(rows)), key=lambda i: -abs(rows[i][2] - rows[i][1]))[:MOST_PARAMETERS]
        rows = [rows[i] for i in sorted(kept)]
    with mpl.rc_context(STYLE):
        figure, axes = panel(width=4.6, height=max(2.9, 0.27 * len(rows) + 0.7))
        for y, (_, a, b) in enumerate(rows):
            axes.plot([a, b], [y, y], color=colour(0), linewidth=1.2, alpha=0.5)
            axes.plot([a], [y], "o", mfc=PAPER, mec=MUTED, mew=1.4, markersize=6)
            axes.plot([b], [y], "o", color=colour(0), markersize=6)
            axes.annotate(
                f"{compact(a)} → {compact(b)}",
                (1.02, y),
                xycoords=("axes fraction", "data"),
                va="center",
                color=MUTED,
            )
        axes.set_yticks(range(len(rows)), [shorten(label, 26) for label, _, _ in rows])
        axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel="parameter value")
        plain_ticks(axes.xaxis)
        axes.margins(x=0.08)
        axes.grid(False, axis="y")
        alt = "Fusion parameters before and after: " + "; ".join(
            f"{label} from {compact(a)} to {compact(b)}" for label, a, b in rows
        )
        return Panel("Fusion parameters, before and after", to_svg(figure, name, alt + ".")), note


def gain_panel(runs: Sequence[Run], metric: str, title: str, name: str) -> Panel | None:
    """Gain of the tuned fusion over its two rivals, with interval and zero line; a row per run and rival."""
    rows = []
    for run in runs:
        for rival, label in RIVALS:
            key = f"fusion.{metric}.gain_over_{rival}"
            gain, low, high = (run.number(part) for part in (key, f"{key}.low", f"{key}.high"))
            if gain is not None:
                rows.append((f"{run.name}: {label}" if len(runs) > 1 else label, gain, low, high))
    if not rows:
        return None
    with mpl.rc_context(STYLE):
        figure, axes = panel(width=4.6, height=0.42 * len(rows) + 1.0)
        axes.axvline(0, color=MUTED, linewidth=1)
        told = []
        for y, (label, gain, low, high) in enumerate(rows):
            sure = low is not None and high is not None and (low > 0 or high < 0)
            tint = colour(0) if sure else MUTED
            if low is not None and high is not None:
                axes.plot([low, high], [y, y], color=tint, linewidth=2)
            axes.plot([gain], [y], "o", markersize=7, mfc=tint if sure else PAPER, mec=tint, mew=1.6)
            axes.annotate(
                number(gain, signed=True),
                (1.02, y),
                xycoords=("axes fraction", "data"),
                va="center",
                color=tint,
            )
            told.append(
                f"{label} {number(gain, signed=True)}, 95% {number(low, signed=True)} to {number(high, signed=True)}"
            )
        axes.set_yticks(range(len(rows)), [shorten(label, 34) for label, _, _, _ in rows])
        axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel=f"gain in {title}")
        plain_ticks(axes.xaxis)
        axes.margins(x=0.08)
        axes.grid(False, axis="y")
        return Panel(f"Gain in {title} on held-out users", to_svg(figure, name, f"Gain in {title}: {'; '.join(told)}."))
