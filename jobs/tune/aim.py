"""What a search is after: one figure of the validation part, or two at once, perhaps subject to limits on others.

Limits follow Deb's rule (2000): a trial that keeps them beats every trial that does not, and of two that do not the one
that misses them by less wins. Optuna's samplers, ASHA and population-based training only compare, so that one number
with this order serves them all.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.errors import UserError
from jobs.tune.subject import Subject

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
    smaller: frozenset[str] = frozenset()
    """The figures of which smaller is better."""

    @property
    def keys(self) -> list[str]:
        """Names of the scores that Tune gets, higher is better."""
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
        return {key: self.goodness(metric, figures) for key, metric in zip(self.keys, self.metrics, strict=True)}

    def goodness(self, metric: str, figures: Mapping[str, Any]) -> float:
        """The figure with its sign turned so that higher is better."""
        value = figures.get(metric)
        if value is None or not math.isfinite(value):
            return FAILED
        turned = -float(value) if metric in self.smaller else float(value)
        return turned if turned > INFEASIBLE else FAILED

    def missed_by(self, figures: Mapping[str, Any]) -> float:
        return sum(limit.missed_by(figures) for limit in self.limits)

    def __str__(self) -> str:
        goals = [f"{'minimise' if metric in self.smaller else 'maximise'} {metric}" for metric in self.metrics]
        limits = [str(limit) for limit in self.limits]
        return " and ".join(goals) + (f" subject to {', '.join(limits)}" if limits else "")


def read_aim(subject: Subject, metric: str, subject_to: Sequence[str], pareto: Sequence[str]) -> Aim:
    """The command line's --metric, --subject-to, --pareto. UserError, one line, for what is none."""
    if metric and pareto:
        raise UserError("--metric and --pareto: give one of the two")
    if pareto and (len(pareto) != 2 or pareto[0] == pareto[1]):
        raise UserError(f"--pareto {' '.join(pareto)}: want two different figures")
    option, metrics = "--pareto" if pareto else "--metric", tuple(pareto) or (metric or subject.goal,)
    smaller = set()
    for name in metrics:
        try:
            smaller |= {name} if subject.smaller_is_better(name) else set()
        except UserError as error:
            raise UserError(f"{option} {name}: {error}") from None
    reported = subject.reported() if subject_to else ()
    return Aim(metrics, tuple(read_limit(text, reported) for text in subject_to), frozenset(smaller))


def read_limit(text: str, reported: Collection[str]) -> Limit:
    found = re.fullmatch(r"\s*([\w.]+)\s*(>=|<=)\s*(\S+)\s*", text)
    try:
        if found is None:
            raise ValueError
        limit = Limit(found[1], found[2], float(found[3]))
        if not math.isfinite(limit.bound):
            raise ValueError
    except ValueError:
        raise UserError(f"--subject-to {text}: want FIGURE>=NUMBER or FIGURE<=NUMBER") from None
    if limit.metric not in reported:
        raise UserError(f"--subject-to {limit.metric}: no such validation figure; there are {', '.join(reported)}")
    return limit


def front(points: Sequence[tuple[float, ...]]) -> list[int]:
    """Indices of the points that no other dominates (higher is better in each place), in the order given."""
    return [
        index
        for index, point in enumerate(points)
        if not any(all(a >= b for a, b in zip(other, point, strict=True)) and other != point for other in points)
    ]
