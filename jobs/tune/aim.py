"""What a search is after: one figure of the validation part, or two at once, perhaps subject to limits on others.

Limits follow Deb's rule (2000): a trial that keeps them beats every trial that does not, and of two that do not the one
that misses them by less wins. Optuna's samplers, ASHA and population-based training only compare, so that one number
with this order serves them all.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.command.presets import What

TRAIN_METRICS = tuple(
    f"{space}.{figure}" for space in ("ctr", "cvr.click", "ctcvr") for figure in ("auc", "log_loss", "pcoc")
)
EVOLVE_METRICS = ("value", "ndcg", "click", "conversion")
METRICS: Mapping[What, tuple[str, ...]] = {"train": TRAIN_METRICS, "evolve": EVOLVE_METRICS}
DEFAULT_METRIC: Mapping[What, str] = {"train": "ctcvr.log_loss", "evolve": "value"}

INFEASIBLE = -1e6
"""Where the scores of trials that miss a limit begin; figures are far above it."""
FAILED = -1e12
"""The score of a trial that diverged or lacks a figure: below all others."""


@dataclass(frozen=True)
class Limit:
    """`metric` must be at least (">=") or at most ("<=") the bound."""

    metric: str
    sense: str
    bound: float

    def missed_by(self, figures: Mapping[str, Any]) -> float:
        """0 where it is kept, else the distance; infinite where the figure is absent."""
        value = figures.get(self.metric)
        if value is None or not math.isfinite(value):
            return math.inf
        return max(0.0, self.bound - value if self.sense == ">=" else value - self.bound)

    def __str__(self) -> str:
        return f"{self.metric} {self.sense} {self.bound:g}"


@dataclass(frozen=True)
class Aim:
    metrics: tuple[str, ...]
    """One, or two for a Pareto front."""
    limits: tuple[Limit, ...] = ()

    @property
    def keys(self) -> list[str]:
        """Names of the scores that Tune is told, higher is better."""
        return ["score"] if len(self.metrics) == 1 else ["score_1", "score_2"]

    @property
    def shown(self) -> list[str]:
        """The figures that tables show: those aimed at and those limited."""
        return list(dict.fromkeys([*self.metrics, *(limit.metric for limit in self.limits)]))

    def scores(self, figures: Mapping[str, Any] | None) -> dict[str, float]:
        """The figures as scores; None stands for a trial that failed."""
        if figures is None:
            return dict.fromkeys(self.keys, FAILED)
        missed = self.missed_by(figures)
        if missed:
            return dict.fromkeys(self.keys, max(INFEASIBLE - missed, FAILED))
        return {key: goodness(metric, figures) for key, metric in zip(self.keys, self.metrics, strict=True)}

    def missed_by(self, figures: Mapping[str, Any]) -> float:
        return sum(limit.missed_by(figures) for limit in self.limits)

    def __str__(self) -> str:
        goals = [f"{direction(metric)} {metric}" for metric in self.metrics]
        limits = [str(limit) for limit in self.limits]
        return " and ".join(goals) + (f" subject to {', '.join(limits)}" if limits else "")


def goodness(metric: str, figures: Mapping[str, Any]) -> float:
    """The figure with its sign turned so that higher is better; a PCOC by its distance from 1 (of the logarithms)."""
    value = figures.get(metric)
    if value is None or not math.isfinite(value):
        return FAILED
    if metric.endswith(".pcoc"):
        return -abs(math.log(value)) if value > 0 else FAILED
    turned = -float(value) if metric.endswith("log_loss") else float(value)
    return turned if turned > INFEASIBLE else FAILED


def direction(metric: str) -> str:
    if metric.endswith(".pcoc"):
        return "bring to 1:"
    return "minimise" if metric.endswith("log_loss") else "maximise"


def read_aim(what: What, metric: str, subject_to: Sequence[str], pareto: Sequence[str]) -> Aim:
    """The command line's --metric, --subject-to, --pareto. ValueError, one line, for what is none."""
    if metric and pareto:
        raise ValueError("--metric and --pareto: give one of the two")
    if pareto and (len(pareto) != 2 or pareto[0] == pareto[1]):
        raise ValueError(f"--pareto {' '.join(pareto)}: want two different figures, such as ctr.auc cvr.click.auc")
    metrics = tuple(pareto) or (metric or DEFAULT_METRIC[what],)
    for name in metrics:
        check_metric(what, name, "--pareto" if pareto else "--metric")
    return Aim(metrics, tuple(read_limit(what, text) for text in subject_to))


def read_limit(what: What, text: str) -> Limit:
    found = re.fullmatch(r"\s*([\w.]+)\s*(>=|<=)\s*(\S+)\s*", text)
    try:
        if found is None:
            raise ValueError
        limit = Limit(found[1], found[2], float(found[3]))
        if not math.isfinite(limit.bound):
            raise ValueError
    except ValueError:
        raise ValueError(f"--subject-to {text}: want FIGURE>=NUMBER or FIGURE<=NUMBER, ctr.auc>=0.6 say") from None
    check_metric(what, limit.metric, "--subject-to")
    return limit


def check_metric(what: What, name: str, option: str) -> None:
    if name not in METRICS[what]:
        raise ValueError(
            f"{option} {name}: no such validation figure of jobs.{what}; there are {', '.join(METRICS[what])}"
        )


def front(points: Sequence[tuple[float, ...]]) -> list[int]:
    """Indices of the points that no other dominates (higher is better in each place), in the order given."""
    return [
        index
        for index, point in enumerate(points)
        if not any(all(a >= b for a, b in zip(other, point, strict=True)) and other != point for other in points)
    ]
