"""What the console and a page show of an operation: value, cost and drift by day, strategies, the gate, alerts."""

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
    records = [one for each in decided for one in each.get("strategies") or ()]
    found["strategies.dropped"] = sum(bool(one.get("dropped")) for one in records)
    found["strategies.new"] = sum("new" in one for one in records)
    found["alerts"] = sum(len(each.get("alerts") or ()) for each in days)
    due, users = found.get("mean.due", 0.0), found.get("mean.users", 0.0)
    message = f"{len(decided)} days decided, {due:,.0f} of {users:,.0f} users a day"
    if "mean.cost" in found:
        message += f", at {found['mean.cost']:.3g} a user (budget {budget:g})"
    if "true.share" in found:
        message += f"; {found['true.share']:.1%} of what the true effects would have brought at that cost"
    moved = f"; {found['mean.moved']:.1%} changed strategy a day" if "mean.moved" in found else ""
    replaced = f"; {found['strategies.dropped']} weak strategies dropped, {found['strategies.new']} new ones"
    found["message"] = f"{message}{moved}{replaced if records_replaced(found) else ''}; {found['alerts']} alerts."
    return found


def records_replaced(summary: Mapping[str, Any]) -> bool:
    return bool(summary["strategies.dropped"] or summary["strategies.new"])


def results(summary: Mapping[str, Any]) -> Table | None:
    names = {
        "mean.cost": "cost a user",
        "mean.value": "outcome a user",
        "true.share": "share of the oracle's gain",
        "mean.moved": "changed strategy, a day",
        "mean.effects.correlation": "correlation of refits",
        "gate.replaced": "candidates that replaced",
        "gate.dropped": "candidates dropped",
        "strategies.dropped": "weak strategies dropped",
        "strategies.new": "new strategies",
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
        ("Trial less the others: outcome less the price of its cost", "outcome", (("gate.difference", "net"),)),
        ("Trial less the others: outcome and cost", "a user", (("gate.outcome", "outcome"), ("gate.cost", "cost"))),
    )
    for title, label, lines in curves:
        series = tuple(Series(name, *known(days, key)) for key, name in lines if known(days, key)[0])
        if series:
            shown.append(Curve(title, "day", label, series, section=SECTION))
    if strategies := stood(days):
        shown.append(strategies)
    told = [(f"day {each['day']}", text) for each in days for text in each.get("alerts") or ()]
    if told:
        shown.append(Table("Alerts", ("day", "what"), tuple(told), section=SECTION))
    return shown


def stood(days: Sequence[Mapping[str, Any]]) -> Table | None:
    """Which strategies stood when, what the random traffic said of each at its last review, what took its place."""
    last: dict[int, dict[str, Any]] = {}
    born, dropped, heir, weak = (dict[int, int]() for _ in range(4))
    for each in days:
        for one in each.get("strategies") or ():
            number, day = int(one["strategy"]), int(each["day"])
            last[number] = {**last.get(number, {}), **one}
            if "new" in one:
                born[number] = day
                if one["follows"] >= 0:
                    heir[int(one["follows"])] = number
            if one.get("dropped"):
                dropped[number] = day
            if one["weak"]:
                weak.setdefault(number, day)
    if not last:
        return None
    rows = []
    for number, one in sorted(last.items()):
        numbers = [f"{one[name]:.3g}" if name in one else "" for name in ("amount", "interval", "number")]
        gain = f"{one['gain']:.4f} ({one['low']:.4f} to {one['high']:.4f})" if "gain" in one else "not yet"
        end = f"to day {dropped[number]}" if number in dropped else "on"
        if number in heir:
            then = f"replaced by {heir[number]}"
        elif number in dropped:
            then = "dropped"
        else:
            then = f"weak since day {weak[number]}" if number in weak and one["weak"] else ""
        rows.append((str(number), *numbers, f"from day {born.get(number, 0)} {end}", gain, f"{one['rows']:,}", then))
    columns = ("strategy", "amount", "interval", "number", "stood", "gain over the cheapest (interval)",
               "random rows", "then")  # fmt: skip
    note = "As of each strategy's last review. Weak: beaten by one that costs no more, intervals apart."
    return Table("Strategies", columns, tuple(rows), note, SECTION)
