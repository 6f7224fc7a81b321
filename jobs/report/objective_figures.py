"""The figures of a run of jobs.evolve --objective NAME: return, sigma, size of the updates, time, what was lost."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from jobs.report.figures import BUCKETS, Panel, smooth, step_axis, thin
from jobs.report.fusion_figures import generation_panel
from jobs.report.runs import Run
from jobs.report.svg import MUTED, NORMAL, STYLE, colour, label_ends, panel, plain_ticks, to_svg
from jobs.report.words import compact, counted

WIDE_RANGE = 30.0  # largest over smallest value from which a curve is drawn on a logarithmic axis
LOSSES = (("lost_pairs", "lost", 1), ("reissued_pairs", "issued again", 0), ("failed_evaluations", "failed", 3))


def climb_panels(run: Run, name: str) -> list[Panel]:
    """The return per generation and, where anything went wrong, in which generations."""
    drawn = (generation_panel(run, f"{name}-climb", "return"), losses_panel(run, f"{name}-losses"))
    return [item for item in drawn if item]


def course_panels(run: Run, name: str) -> list[Panel]:
    """Small panels of what moved: sigma (if it did), relative size of the updates, milliseconds, idle workers."""
    drawn = (
        course(run, "sigma", "Sigma, mean over parameters", f"{name}-sigma"),
        course(run, "update_ratio", "Size of the update / size of theta", f"{name}-update"),
        course(run, "seconds", "Milliseconds a generation", f"{name}-time", scale=1e3),
        course(run, "idle_share", "Share of the workers' time without work", f"{name}-idle", linear=True),
    )
    return [item for item in drawn if item]


def course(run: Run, key: str, title: str, name: str, scale: float = 1.0, linear: bool = False) -> Panel | None:
    """One figure of metrics.jsonl over the generations; None where it is absent or never changes."""
    x, y = run.series("generation", "generation", key)
    if key == "update_ratio":  # 0 where theta was 0: no size to compare with
        x, y = [a for a, b in zip(x, y, strict=True) if b], [b for b in y if b]
    if len(set(y)) < 2:
        return None
    y = [scale * value for value in y]
    with mpl.rc_context(STYLE):
        figure, axes = panel(*NORMAL)
        if len(x) > BUCKETS // 4:
            axes.plot(*thin(x, y), color=colour(0), linewidth=0.6, alpha=0.3)
            x, y = smooth(x, y)
        axes.plot(x, y, color=colour(0), marker="o" if len(x) < 12 else None, markersize=3)
        logarithmic = not linear and min(y) > 0 and max(y) / min(y) > WIDE_RANGE
        value_axis(axes, logarithmic)
        if linear:
            axes.set_ylim(0, 1)
        axes.set_xlabel("generation")
        step_axis(axes)
        kind = "logarithmic axis" if logarithmic else "linear axis"
        alt = f"{title} over generations, {kind}: from {compact(y[0])} to {compact(y[-1])}, "
        return Panel(title, to_svg(figure, name, f"{alt}between {compact(min(y))} and {compact(max(y))}."))


def value_axis(axes: Axes, logarithmic: bool) -> None:
    if not logarithmic:
        plain_ticks(axes.yaxis)
        return
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if high / low < 1e3 else (1.0,), numticks=6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))


def losses_panel(run: Run, name: str) -> Panel | None:
    """Pairs lost with a worker or issued again, and evaluations that failed, at their generations; None if none."""
    found = [(label, tint, *_nonzero(run, key)) for key, label, tint in LOSSES]
    found = [line for line in found if line[2]]
    if not found:
        return None
    with mpl.rc_context(STYLE):
        figure, axes = panel(width=4.6, height=2.9)
        ends = []
        for label, tint, x, y in found:
            axes.vlines(x, 0, y, color=colour(tint), linewidth=1.2, alpha=0.6)
            axes.plot(x, y, "o", color=colour(tint), markersize=4)
            ends.append((label, y[-1], colour(tint)))
        last = max(run.series("generation", "generation", "generation")[0])
        axes.set(xlabel="generation", ylabel="pairs or evaluations", xlim=(-0.02 * last - 0.5, 1.02 * last + 0.5))
        axes.set_ylim(0, None)
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        step_axis(axes)
        label_ends(axes, ends)
        told = "; ".join(
            f"{label}: {compact(float(np.sum(y)))} in {counted(len(x), 'generation')}" for label, _, x, y in found
        )
        return Panel("Lost, issued again, failed", to_svg(figure, name, f"What went wrong by generation. {told}."))


def _nonzero(run: Run, key: str) -> tuple[Sequence[float], Sequence[float]]:
    x, y = run.series("generation", "generation", key)
    kept = [(a, b) for a, b in zip(x, y, strict=True) if b]
    return [a for a, _ in kept], [b for _, b in kept]
