"""What the console and a page show of an operation: value, cost and drift by day, the gate, what was alerted."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from funnel.panels import Curve, Panel, Record, Sentence, Series, Table

SECTION = "Day by day"


def known(days: Sequence[Mapping[str, Any]], name: str) -> tuple[list[float], list[float]]:
    """(day, figure) of the days that have it."""
    pairs = [(float(each["day"]), float(each[name])) for each in days if each.get(name) is not None]
    return [x for x, _ in pairs], [y for _, y in pairs]


def summarise(days: Sequence[Mapping[str, Any]], budget: float) -> dict[str, Any]:
    """Means over the days that were decided."""
    decided = [each for each in days if each.get("phase") == "decided"]
    found: dict[str, Any] = {"days": len(days), "days.decided": len(decided), "budget": budget}
    for name in ("users", "due", "cost", "value", "true.gain", "true.oracle", "retained", "minutes", "moved", "bill",
                 "effects.correlation"):  # fmt: skip
        _, values = known([{"day": 0, **each} for each in decided], name)
        if values:
            found[f"mean.{name}"] = float(np.mean(values))
    if "mean.true.oracle" in found:
        found["true.share"] = found["mean.true.gain"] / max(found["mean.true.oracle"], 1e-12)
    answers = [each.get("gate") for each in decided]
    found["gate.replaced"] = answers.count("replace") + sum(int(each.get("replaced") or 0) for each in decided)
    found["gate.dropped"] = answers.count("drop")
    found["alerts"] = sum(len(each.get("alerts") or ()) for each in decided)
    due, users = found.get("mean.due", 0.0), found.get("mean.users", 0.0)
    message = f"{len(decided)} days decided, {due:,.0f} of {users:,.0f} users a day"
    if "mean.cost" in found:
        message += f", at {found['mean.cost']:.3g} a user (budget {budget:g})"
    if "true.share" in found:
        message += f"; {found['true.share']:.1%} of what the true effects would have brought at that cost"
    moved = f"; {found['mean.moved']:.1%} changed strategy a day" if "mean.moved" in found else ""
    found["message"] = f"{message}{moved}; {found['alerts']} alerts."
    return found


def results(summary: Mapping[str, Any]) -> Table | None:
    names = {
        "mean.cost": "cost a user",
        "mean.value": "outcome a user",
        "true.share": "share of the oracle's gain",
        "mean.moved": "changed strategy, a day",
        "mean.effects.correlation": "correlation of refits",
        "gate.replaced": "candidates that replaced",
        "gate.dropped": "candidates dropped",
        "alerts": "alerts",
    }
    rows = tuple((name, float(summary[key])) for key, name in names.items() if key in summary)
    return Table(f"{summary.get('days.decided', 0)} days decided", ("figure", "value"),
                 tuple((name, f"{value:.4g}") for name, value in rows))  # fmt: skip


def panels(record: Record) -> list[Panel]:
    days = list(record.files.get("days") or [])
    shown: list[Panel] = []
    if message := record.summary.get("message"):
        shown.append(Sentence(str(message), headline=True))
    if record.summary and (table := results(record.summary)):
        shown.append(table)
    curves = (
        ("Gain a user", "gain", (("true.gain", "decided"), ("true.oracle", "with the true effects"))),
        ("Cost a user", "cost", (("cost", "cost"),)),
        ("Users with another strategy than the day before", "share", (("moved", "moved"),)),
        ("Mean bill of the strategies", "bill", (("bill", "today"), ("bill.before", "the day before"))),
        ("A refit's effects against those before", "correlation", (("effects.correlation", "correlation"),)),
        ("Trial less the others", "outcome", (("gate.difference", "difference"),)),
    )
    for title, label, lines in curves:
        series = tuple(Series(name, *known(days, key)) for key, name in lines if known(days, key)[0])
        if series:
            shown.append(Curve(title, "day", label, series, section=SECTION))
    told = [(f"day {each['day']}", text) for each in days for text in each.get("alerts") or ()]
    if told:
        shown.append(Table("Alerts", ("day", "what"), tuple(told), section=SECTION))
    return shown
