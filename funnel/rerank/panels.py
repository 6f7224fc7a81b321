"""What pages and the console show of a list scorer. Plain data (funnel/panels.py)."""

from collections.abc import Mapping
from typing import Any

from funnel.panels import Curve, Panel, Record, Series, Table
from funnel.rerank.counts import PLACE_NAMES, TITLES, WATCHED
from models.list_scorer import HEADS

FIGURES = ("log_loss", "auc", "pcoc")


def results(summary: Mapping[str, Any]) -> Table:
    """Log-loss, AUC and PCOC by head."""
    rows = []
    for head in HEADS:
        rows.append((TITLES[head], *(summary.get(f"{head}.{name}", "") for name in FIGURES)))
    return Table(f"{summary.get('part', 'test')} part", ("head", "log-loss", "AUC", "PCOC"), tuple(rows))


def by_place(summary: Mapping[str, Any]) -> Table:
    rows = []
    for name in PLACE_NAMES:
        rows.append((name, *(summary.get(f"{head}.{figure}.{name}", "") for head in HEADS for figure in FIGURES[:2])))
    header = ("place", *(f"{TITLES[head]}, {figure}" for head in HEADS for figure in ("log-loss", "AUC")))
    return Table("By place in the session", header, tuple(rows))


def panels(record: Record) -> list[Panel]:
    found: list[Panel] = [results(record.summary), by_place(record.summary)] if record.summary else []
    valid = [event for event in record.events if event.get("event") == "valid"]
    for key, name in WATCHED.items():
        known = [event for event in valid if key in event]
        line = Series(record.name, [event["epoch"] for event in known], [event[key] for event in known])
        found.append(Curve(f"{name} by epoch, validation part", "epoch", name, (line,)))
    return found
