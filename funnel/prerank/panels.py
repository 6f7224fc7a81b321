"""What a page shows of a pre-ranker's training."""

from collections.abc import Mapping
from typing import Any

from funnel.panels import Curve, Glossary, Panel, Record, Series, Table

WATCHED = {"asph": "ASPH@k", "isph": "ISPH@k", "pauc": "PAUC"}
NAMES = {
    "asph": "ASPH@k: bought elsewhere, among the first k",
    "isph": "ISPH@k: bought here, among the first k",
    "recall": "end-to-end recall@k: and then on the page",
    "pauc": "PAUC: order of what was shown",
    "pauc.true": "PAUC by true chances",
}
CURVES = {"asph": "ASPH", "isph": "ISPH", "recall": "end-to-end recall"}
TERMS = (
    ("ASPH@k", "all-scenario purchase hit rate: the share of what a user bought elsewhere that is among the first k"),
    ("ISPH@k", "in-scenario purchase hit rate: the same of what was bought here; 1 for the online pre-ranker at its k"),
    ("PAUC", "AUC of purchases within what was shown: the order of the best, not the set"),
    ("end-to-end recall", "share of purchases elsewhere that would be handed on and then be put on the page"),
)


def results(summary: Mapping[str, Any]) -> Table:
    rows = tuple((name, summary[key]) for key, name in NAMES.items() if key in summary)
    return Table(f"{summary.get('part', 'test')} part", ("figure", "value"), rows)


def panels(record: Record) -> list[Panel]:
    found: list[Panel] = [results(record.summary)] if record.summary else []
    rates = (record.files.get("evaluation") or {}).get("hit_rates") or {}
    for key, name in CURVES.items():
        if key in rates:
            line = Series(record.name, rates["k"], rates[key])
            found.append(Curve(f"{name} by k", "k", name, (line,), log_x=True, bound=(rates["own"], "handed on")))
    valid = [event for event in record.events if event.get("event") == "valid"]
    for key, name in WATCHED.items():
        known = [event for event in valid if key in event]
        if known:
            line = Series(record.name, [event["epoch"] for event in known], [event[key] for event in known])
            found.append(Curve(f"{name} by epoch, validation part", "epoch", name, (line,)))
    return [*found, Glossary(TERMS)]
