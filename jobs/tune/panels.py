"""What a page shows of a search: the best trials, how it went, the front of two figures, which settings mattered.

Trials are read from trials.csv, so that a page needs no knowledge of what was searched for.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from funnel.figures.sampling_error import half_width
from funnel.numbers import counted, duration
from funnel.panels import Cell, Curve, Figure, Interval, Intervals, Panel, Record, Sentence, Series, Table, finite

SECTION = "Searching settings"
SHOWN = 20
"""Trials in the table."""
ENDED = ("finished", "stopped")
TESTED = (".auc", ".log_loss", ".pcoc", ".tuned")
"""Figures of the test part that a page has room for."""


@dataclass(frozen=True)
class Trial:
    """One line of trials.csv; numbers as numbers, the rest as text."""

    name: str
    state: str
    feasible: bool
    facts: Mapping[str, Any]

    def figure(self, metric: str) -> float | None:
        value = self.facts.get(metric)
        return value if isinstance(value, float) else None


def panels(record: Record) -> list[Panel]:
    """Of a finished search."""
    trials = [trial(row) for row in record.files.get("trials") or []]
    metrics = [str(name) for name in record.summary.get("tune.metrics") or []]
    found: list[Panel] = [Sentence(headline(record, metrics), headline=True), message(record)]
    found.append(table(record, trials, metrics))
    found += tested(record)
    if len(metrics) == 2:
        found += front(record, trials, metrics)
    for metric in metrics:
        found += [*history(record, trials, metric), *learning(record, trials, metric), *importance(record, metric)]
    return found


def trial(row: Mapping[str, str]) -> Trial:
    facts: dict[str, Any] = {}
    for key, text in row.items():
        try:
            facts[key] = float(text)
        except ValueError:
            facts[key] = text
    return Trial(row["trial"], row["state"], row["feasible"] == "1", facts)


def headline(record: Record, metrics: Sequence[str]) -> str:
    """How many trials, what for, and what came of it."""
    trials = counted(record.number("tune.trials") or 0, "trial")
    took, what = duration(record.number("tune.seconds")), record.summary.get("tune.what") or "train"
    text = f"{trials} of jobs.{what} in {took} to {record.summary.get('tune.aim')}: "
    if "tune.front" in record.summary:
        front = len(record.summary["tune.front"])
        return text + f"{counted(front, 'trial')} {'is' if front == 1 else 'are'} beaten by none in both."
    if "best.trial" not in record.summary or not metrics:
        return text + "none is feasible."
    best, default = (valid(record, who, metrics[0]) for who in ("best", "default"))
    positives = record.number(f"best.valid.{metrics[0].rpartition('.')[0]}.positives")
    rests = f", {counted(positives, 'positive')}" if positives is not None else ""
    same = "; the intervals leave no difference to tell" if overlap(best, default) else ""
    return f"{text}the best has {told(best)}, the default configuration {told(default)} (validation part{rests}){same}."


def valid(record: Record, who: str, metric: str) -> Figure:
    return judged({key: record.number(key) for key in record.summary}, metric, f"{who}.valid.")


def judged(facts: Mapping[str, Any], metric: str, front: str = "") -> Figure:
    """A figure of a trial with half the interval that the finite sample alone allows, where the rows are known."""
    space, _, kind = metric.rpartition(".")
    value, rows, positives = (
        finite(facts.get(f"{front}{key}")) for key in (metric, f"{space}.count", f"{space}.positives")
    )
    return Figure(value, 5, half=None if value is None else half_width(kind, value, rows, positives))


def told(figure: Figure) -> str:
    return f"{figure.text} {figure.small}".rstrip().replace(" ", "\u00a0")


def overlap(one: Figure, other: Figure) -> bool:
    """Whether the intervals of two figures leave no difference to tell."""
    if one.value is None or other.value is None or one.half is None or other.half is None:
        return False
    return abs(one.value - other.value) <= math.hypot(one.half, other.half)


def message(record: Record) -> Sentence:
    return Sentence(str(record.summary.get("tune.message") or "").rstrip(".") + ".", SECTION)


def smaller(record: Record, metric: str) -> bool:
    return f"minimise {metric}" in str(record.summary.get("tune.aim"))


def goodness(record: Record, metric: str, value: float) -> float:
    """Higher is better."""
    if f"bring to 1: {metric}" in str(record.summary.get("tune.aim")):
        return -max(value, 1 / value) if value > 0 else -float("inf")
    return -value if smaller(record, metric) else value


def chosen(record: Record) -> set[str]:
    """Names of the best trial, or of those on the front."""
    front = record.summary.get("tune.front") or [record.summary.get("best.trial")]
    return {f"{index:04d}" for index in front if isinstance(index, int)}


def table(record: Record, trials: Sequence[Trial], metrics: Sequence[str]) -> Table:
    """The best trials, and the default configuration wherever it stands."""
    best = chosen(record)

    def order(one: Trial) -> tuple[Any, ...]:
        value = one.figure(metrics[0])
        reached = goodness(record, metrics[0], value) if value is not None else -float("inf")
        return one.name not in best, not one.feasible, -reached

    ranked = sorted((one for one in trials if one.state in ENDED), key=order)
    shown = ranked[: max(SHOWN, len(best))]
    shown += [one for one in ranked if int(one.name) == 0 and one not in shown]
    settings = short_names((record.files.get("ledger") or [{}])[0])
    rows: list[tuple[Cell, ...]] = []
    for one in shown:
        state = one.state if one.state != "finished" else ""
        state += " infeasible" if not one.feasible else ""
        default = " (default)" if int(one.name) == 0 else ""
        figures = [judged(one.facts, metric) for metric in metrics]
        values = [setting(one.facts.get(key)) for key in settings]
        rows.append((f"{one.name}{default} {state}".rstrip(), setting(one.facts.get("at")), *figures, *values))
    failed = [one for one in trials if one.state == "failed"]
    note = "Validation figures of the epoch or generation that each trial would keep. The best of many trials looks "
    note += "better on the part it was chosen on than it is. ± is half the 95% interval that the finite sample allows."
    note += "".join(f" Trial {one.name} failed: {one.facts.get('error')}." for one in failed[:3])
    which = "every trial" if len(rows) == len(trials) else f"the best of {len(trials)} trials"
    columns = ("Trial", "at", *metrics, *(name.replace("_", " ") for name in settings.values()))
    return Table(f"Settings and {', '.join(metrics)} of {which}", columns, tuple(rows), note, SECTION)


def short_names(keys: Mapping[str, Any]) -> dict[str, str]:
    """optimizer.learning_rate -> learning_rate, where no other key ends so; objective.name -> objective."""
    tails = {key: key.removesuffix(".name").rsplit(".", 1)[-1] for key in keys}
    return {key: tail if list(tails.values()).count(tail) == 1 else key for key, tail in tails.items()}


def setting(value: Any) -> str | None:
    return f"{value:.3g}" if isinstance(value, float) else value


def tested(record: Record) -> list[Panel]:
    """Figures of the best trial and of the default on the part that the search never saw."""
    keys = [key.removeprefix("best.test.") for key in record.summary if key.startswith("best.test.")]
    known = {key: record.number(key) for key in record.summary}
    rows: list[tuple[Cell, ...]] = [
        (key, *(judged(known, key, f"{who}.test.") for who in ("default", "best")))
        for key in keys
        if key.endswith(TESTED)
    ]
    note = "The test part was looked at once, after the search: nothing was chosen by it. ± as above."
    return [Table("Test part", ("Figure", "default", "best"), tuple(rows), note, SECTION)] if rows else []


def history(record: Record, trials: Sequence[Trial], metric: str) -> list[Panel]:
    """The figure of each trial, and the best so far."""
    known = [(int(one.name), value) for one in trials
             if one.state in ENDED and one.feasible and (value := one.figure(metric)) is not None]  # fmt: skip
    if len(known) < 2:
        return []
    so_far = [known[0][1]]
    for _, value in known[1:]:
        so_far.append(max(so_far[-1], value, key=lambda one: goodness(record, metric, one)))
    x = [at for at, _ in known]
    lines = (Series("best so far", x, so_far), Series("a trial", x, [value for _, value in known], look="points"))
    return [Curve(f"{metric} of each trial and the best so far", "trial", metric, lines, section=SECTION)]


def learning(record: Record, trials: Sequence[Trial], metric: str) -> list[Panel]:
    """What each trial would have ended with, by epoch or generation; the best and the default stand out."""
    best = chosen(record)
    faint: list[Series] = []
    strong: list[Series] = []
    for one in trials:
        x, y = course(record, one, metric)
        if one.name in best and x:
            strong.insert(0, Series("best" if len(best) == 1 else one.name, x, y))
        elif int(one.name) == 0 and x:
            strong.append(Series("default", x, y))
        elif x:
            faint.append(Series("", x, y, look="faint"))
    if not any(len(series.x) > 1 for series in (*faint, *strong)):
        return []
    unit = "generation" if record.summary.get("tune.what") == "evolve" else "epoch"
    return [Curve(f"{metric} of each trial by {unit}", unit, metric, (*strong, *faint), section=SECTION)]


def course(record: Record, one: Trial, metric: str) -> tuple[list[float], list[float]]:
    """What a trial reported; of an epoch that was run twice, the later."""
    path = record.directory / "trials" / one.name / "reports.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    reports = [json.loads(line) for line in lines if line.endswith("\n")]
    known = {report["at"]: report["figures"].get(metric) for report in reports}
    kept = [(at, known[at]) for at in sorted(known) if known[at] is not None]
    return [at for at, _ in kept], [value for _, value in kept]


def front(record: Record, trials: Sequence[Trial], metrics: Sequence[str]) -> list[Panel]:
    """Trials by both figures; those that none beats in both are joined."""
    best = chosen(record)
    known = [(one.name, one.figure(metrics[0]), one.figure(metrics[1])) for one in trials if one.state in ENDED]
    points = [(name, a, b) for name, a, b in known if a is not None and b is not None]
    lines = []
    for title, some in (
        ("beaten by none", sorted(point[1:] for point in points if point[0] in best)),
        ("beaten", [point[1:] for point in points if point[0] not in best]),
    ):
        look = "line" if title == "beaten by none" else "points"
        if some:
            lines.append(Series(title, [a for a, _ in some], [b for _, b in some], look=look))
    title = f"{metrics[0]} against {metrics[1]}"
    return [Curve(title, metrics[0], metrics[1], tuple(lines), section=SECTION)] if lines else []


def importance(record: Record, metric: str) -> list[Panel]:
    """Each setting's share of the figure's variance over the space."""
    shares: Mapping[str, float] = record.summary.get(f"importance.{metric}") or {}
    names = short_names(shares)
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    rows = tuple(Interval(names[key].replace("_", " "), share) for key, share in ordered)
    note = "Importance: fANOVA over the trials, a rough guide where they are few."
    title = f"What mattered for {metric}"
    return [Intervals(title, "share of the variance", rows, 0.0, note, SECTION)] if rows else []
