"""The platform as a simulator of jobs.experiment: pairs of worlds, relative effects with paired 95% intervals.

A metric's relative effect is sum over pairs of the effect / sum over pairs of the value under control, and a pair's
part of its error is (effect_p - relative effect * control_p) / sum of control (funnel/figures/intervals.py). P pairs.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from scipy.stats import t as student

from data.errors import UserError
from data.nearest import correction
from funnel.figures.intervals import interval, ratio_parts
from funnel.panels import Curve, Interval, Intervals, Panel, Record, Sentence, Series, Table, finite
from funnel.platform.designs import DESIGNS, check_arms, run_pair, values
from funnel.platform.figures import DAILY, METRICS
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policies
from funnel.registry import POLICIES, STAGES
from funnel.simulator import Compared

PRIMARY = ("dwell", "duic_at_5", "discoverable_at_5_7d")
"""What a test is judged by: what users pay, how much is shown at all, what finds its way. All others are secondary."""
RERANKED = ("effective_views", "likes", "visit_length")
"""What a test is judged by whose policies differ in re-ranking alone: what a better list is for."""
LEVEL = 0.05
CURVES = (
    "dwell",
    "good_ctr",
    "duic_at_5",
    "duic_at_20",
    "discoverable_at_5_7d",
    "fresh.dwell",
    "small.dwell",
    "uploads",
)
SHOWN = "Effects"
WIDEST = 200.0
"""Percent: days whose interval is wider are left out of a plot."""
NORMAL = 1.96
"""Standard errors that the control's value must be above 0 for its ratios to have an interval."""
OF_ITEMS = ("fresh.", "small.", "duic_", "discoverable_", "uploads")


def is_of_items(metric: str) -> bool:
    """Whether a metric is of the corpus and its providers, not of users."""
    return metric.startswith(OF_ITEMS)


class PlatformSimulator:
    name: ClassVar[str] = "platform"
    settings_type: ClassVar[type] = PlatformSettings
    designs: ClassVar[tuple[str, ...]] = DESIGNS
    presets: ClassVar[Mapping[str, str]] = POLICIES

    def __init__(self, settings: PlatformSettings, compared: Compared) -> None:
        self.settings, self.compared = settings, compared

    @classmethod
    def open(cls, settings: PlatformSettings, compared: Compared) -> Self:
        if compared.design not in DESIGNS:
            raise UserError(f"no design {compared.design!r}; {correction(compared.design, DESIGNS, 'there are')}")
        if settings.users < 2:
            raise UserError(f"{settings.users} users cannot be split into 2 arms")
        if compared.design == "user_corpus" and settings.providers < 2:
            raise UserError("1 provider cannot be split into 2 arms: --design user_corpus needs at least 2")
        for name, tree in (
            (compared.control_name, compared.control),
            (compared.treatment_name, compared.treatment),
        ):
            Policies.of(tree, settings, 0, name)
        for pair in range(compared.pairs):
            check_arms(settings, compared, pair)
        return cls(settings, compared)

    def facts(self) -> dict[str, Any]:
        """The policies in full, as they run."""
        trees = {"control": self.compared.control, "treatment": self.compared.treatment}
        return {"policies": {name: Policies.of(tree, self.settings, 0).tree for name, tree in trees.items()}}

    def describe(self) -> str:
        compared, settings = self.compared, self.settings
        return (
            f"{compared.treatment_name} against {compared.control_name} on {settings.users:,} users, "
            f"{compared.days} days after {compared.warmup}, {compared.design.replace('_', '-')}-diverted"
        )

    def run(self, pair: int) -> dict[str, Any]:
        tables = run_pair(self.settings, self.compared, pair)
        return {"names": list(DAILY), **{name: table.tolist() for name, table in tables.items()}}

    def check(self, outcome: Mapping[str, Any]) -> None:
        names = ["control", "treatment"]
        if self.compared.design == "user":
            names += ["beside_control", "beside_treatment"]
        if outcome["names"] != list(DAILY) or set(outcome) != {"names", *names}:
            raise ValueError(f"names or tables are others than {', '.join(names)} of {len(DAILY)} figures")
        for name in names:
            table, shape = np.array(outcome[name], np.float64), (self.compared.days, len(DAILY))
            if table.shape != shape or not np.isfinite(table).all() or (table < 0).any():
                raise ValueError(f"{name} is no table of {shape[0]} days by {shape[1]} figures of at least 0")

    def summarise(self, outcomes: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
        tables = [{name: np.array(one[name]) for name in one if name != "names"} for one in outcomes]
        summary: dict[str, Any] = {"pairs": len(tables), "days": self.compared.days, "design": self.compared.design}
        summary |= {"control": self.compared.control_name, "treatment": self.compared.treatment_name}
        summary["changed"] = ", ".join(changed(self.compared))
        summary |= effects(tables, slice(None))
        course: dict[str, Any] = {}
        for day in range(self.compared.days):
            by_day = effects(tables, slice(day, day + 1))
            for metric in shown(summary):
                for end in ("", ".low", ".high"):
                    course.setdefault(metric + end, []).append(by_day.get(f"{metric}.effect{end}"))
        return summary | {"message": message(summary)}, course

    @classmethod
    def results(cls, summary: Mapping[str, Any]) -> Table:
        rows = []
        primary = primary_of(summary)
        for metric in ordered(summary):
            base, effect, low, high = figures_of(summary, metric)
            cells = ("no value", "") if effect is None else (f"{100 * effect:+.2f}%", span(low, high))
            rows.append((metric, base, *cells, "primary" if metric in primary else "secondary"))
        title = (
            f"{summary['treatment']} against {summary['control']}, {summary['pairs']} pairs of {summary['days']} days, "
        )
        title += f"{str(summary['design']).replace('_', '-')}-diverted"
        return Table(title, ("metric", "control, a pair", "effect", "95%", "kind"), tuple(rows))

    @classmethod
    def panels(cls, record: Record) -> list[Panel]:
        found: list[Panel] = [Sentence(str(record.summary.get("message", "")), headline=True)]
        # Counts of items vary far more than what users do: on one scale the latter could not be read.
        for title, of_items in (("On what users do", False), ("On items, providers and fresh content", True)):
            rows = []
            for metric in ordered(record.summary):
                _, effect, low, high = figures_of(record.summary, metric)
                if effect is not None and low is not None and high is not None and of_items == is_of_items(metric):
                    rows.append(Interval(metric, 100 * effect, 100 * low, 100 * high))
            found.append(Intervals(title, "%, with 95% interval over pairs", tuple(rows), 0.0, section=SHOWN))
        course = record.files.get("course") or {}
        for metric in shown(record.summary):
            lines = [[number(x) for x in course.get(metric + end) or []] for end in ("", ".low", ".high")]
            days = [day for day, points in enumerate(zip(*lines, strict=False)) if None not in points]
            # A day on which the control has next to nothing tells nothing and would flatten all others.
            days = [day for day in days if lines[2][day] - lines[1][day] <= WIDEST]  # type: ignore[operator]
            if not days:
                continue
            y, low_T, high_T = ([line[day] for day in days] for line in lines)
            line = Series(metric, [day + 1 for day in days], y, low_T, high_T)  # type: ignore[arg-type]
            found.append(
                Curve(f"{metric} by day", "day of the test", "effect, %", (line,), reference=0.0, section="By day")
            )
        table = cls.results(record.summary)
        return [*found, Table("Figures", table.columns, table.rows, section="Figures")]


def effects(tables: Sequence[Mapping[str, np.ndarray]], days: slice) -> dict[str, Any]:
    """{METRIC.control, METRIC.effect, .low, .high} over pairs; without an effect where the control's value is 0, and
    without an interval for a single pair or where the control's value is not told from 0."""
    found: dict[str, Any] = {}
    by_pair = [values(one, days) for one in tables]
    for metric in METRICS:
        base_P = np.array([one[metric][0] for one in by_pair])
        effect_P = np.array([one[metric][1] for one in by_pair])
        found[f"{metric}.control"] = float(base_P.mean())
        if base_P.sum() <= 0:
            continue
        found[f"{metric}.effect"] = float(effect_P.sum() / base_P.sum())
        if len(tables) > 1 and (ends := paired(effect_P, base_P)):
            found |= {f"{metric}.effect.low": ends[0], f"{metric}.effect.high": ends[1]}
            found[f"{metric}.effect.p"] = chance_of(effect_P)
    return found


def paired(effect_P: np.ndarray, base_P: np.ndarray) -> tuple[float, float] | None:
    """The 95% interval of sum effect / sum base over at least two pairs; None where the base itself is not told from 0.

    It is that of funnel/figures/intervals.py, which holds for skewed effects, or Student's where that reaches further:
    of two or three pairs the first alone would hold the truth in 84% and 92% of tests. And it holds 0 unless a paired t
    test tells the effects from 0: a ratio's error is linearised, and of small counts that may say 0 +- 0.
    """
    pairs = len(base_P)
    quantile = float(student.ppf(0.975, pairs - 1))

    def error(value_P: np.ndarray) -> float:
        return float(np.sqrt(pairs * value_P.var(ddof=1)))

    if base_P.sum() <= NORMAL * error(base_P):
        return None
    effect, part_P = ratio_parts(effect_P, base_P)
    low, high = interval(effect, part_P * np.sqrt(pairs / (pairs - 1)))
    half = quantile * error(part_P)
    low, high = min(low, effect - half), max(high, effect + half)
    if abs(effect_P.sum()) <= quantile * error(effect_P):
        low, high = min(low, 0.0), max(high, 0.0)
    return low, high


def changed(compared: Compared) -> list[str]:
    """The stages in which the two policies are told apart."""
    return [stage for stage in STAGES if compared.control.get(stage, {}) != compared.treatment.get(stage, {})]


def primary_of(summary: Mapping[str, Any]) -> tuple[str, ...]:
    return RERANKED if summary.get("changed") == "reranking" else PRIMARY


def ordered(summary: Mapping[str, Any]) -> list[str]:
    """All metrics, those first by which the test is judged."""
    return list(dict.fromkeys([*primary_of(summary), *METRICS]))


def shown(summary: Mapping[str, Any]) -> list[str]:
    """Metrics whose course by day is shown."""
    return list(dict.fromkeys([*primary_of(summary), *CURVES]))


def figures_of(summary: Mapping[str, Any], metric: str) -> tuple[float | None, ...]:
    keys = (f"{metric}.control", *(f"{metric}.effect{end}" for end in ("", ".low", ".high")))
    return tuple(finite(summary.get(key)) for key in keys)


def span(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{100 * low:+.2f} to {100 * high:+.2f}"


def number(value: Any) -> float | None:
    found = finite(value)
    return None if found is None else 100 * found


def chance_of(effect_P: np.ndarray) -> float:
    """Two-sided p of a paired t test of the effects against 0."""
    error = float(effect_P.std(ddof=1)) / np.sqrt(len(effect_P))
    if not error:
        return 0.0 if effect_P.any() else 1.0
    return float(2 * student.sf(abs(float(effect_P.mean())) / error, len(effect_P) - 1))


def holm(chances: Mapping[str, float]) -> dict[str, float]:
    """p by name, adjusted so that the chance to call any of them wrongly is at most the level [Holm 1979]."""
    adjusted, largest = {}, 0.0
    for place, name in enumerate(sorted(chances, key=chances.__getitem__)):
        largest = max(largest, min(1.0, (len(chances) - place) * chances[name]))
        adjusted[name] = largest
    return adjusted


def told(summary: Mapping[str, Any], metrics: Sequence[str]) -> list[str]:
    """Of these metrics the effects that are told from 0, all of them together at 95%: Holm's p and the interval."""
    chances = {metric: finite(summary.get(f"{metric}.effect.p")) for metric in metrics}
    adjusted = holm({metric: p for metric, p in chances.items() if p is not None})
    found = []
    for metric, p in adjusted.items():
        _, effect, low, high = figures_of(summary, metric)
        if effect is not None and low is not None and high is not None and p < LEVEL and not low <= 0 <= high:
            found.append(f"{metric} {100 * effect:+.1f}%")
    return found


def message(summary: Mapping[str, Any]) -> str:
    """What the pairs say, in two sentences: of the primary metrics, and of the others."""
    primary = primary_of(summary)
    what = told(summary, primary)
    rest = [metric for metric in primary if not any(one.startswith(f"{metric} ") for one in what)]
    first = ", ".join([*what, *([f"{', '.join(rest)} not told from 0"] if rest else [])])
    others = told(summary, [metric for metric in METRICS if metric not in primary])
    stages = str(summary.get("changed") or "")
    where = f", which differ in {stages}" if stages else ""
    head = f"{summary['treatment']} against {summary['control']}{where} ({summary['pairs']} pairs): {first}."
    return f"{head} Secondary: {', '.join(others) if others else 'nothing told from 0'} (95% for each group, Holm)."
