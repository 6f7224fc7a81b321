"""What a page shows of an evolved menu or decision."""

from funnel.incentives.strategies import HOURS, DayCurve
from funnel.panels import Curve, Panel, Record, Sentence, Series, Table
from funnel.progress import evolution, evolution_cost

SECTION = "Incentives"


def panels(record: Record) -> list[Panel]:
    """The verdict, the menu and its curves over the day, the evolution."""
    import numpy as np

    from funnel.incentives.tuning import IncentiveTuning

    shown: list[Panel] = []
    if message := record.summary.get("message"):
        shown.append(Sentence(str(message), headline=True))
    if record.summary and (table := IncentiveTuning.results(record.summary)):
        shown.append(table)
    policy = record.files.get("policy") or {}
    if menu := policy.get("strategies"):
        rows = tuple((f"strategy {a}", *(f"{one[name]:.3g}" for name in ("amount", "interval", "number")),
                      f"{one['amount'] * one['number']:.3g}") for a, one in enumerate(menu))  # fmt: skip
        shown.append(Table("The menu", ("", "amount", "interval", "number", "bill"), rows, section=SECTION))
    hours_H = np.arange(HOURS) + 0.5
    for name in ("amount", "number"):
        lines = tuple(
            Series(f"strategy {a}", hours_H.tolist(), DayCurve(**one[name]).at(hours_H).tolist())
            for a, one in enumerate(policy.get("curves") or (), start=1)
        )
        if lines:
            shown.append(Curve(f"{name} over the day", "hour", name, lines, section=SECTION))
    course = evolution(record, SECTION, "return on what is tuned on")
    return [*shown, *course, evolution_cost(record, record.setting("objective") or "policy")]
