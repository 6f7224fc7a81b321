"""What the console and a page show of a tuned fresh slot: changes in worlds held out, and the evolution."""

from collections.abc import Mapping
from typing import Any

from funnel.panels import Glossary, Intervals, Panel, Record, Sentence, Table
from funnel.progress import WORDS, evolution, evolution_cost

SECTION = "Fresh content"
NAMES = {
    "return": "return",
    "discoverable_at_5_7d": "discoverable corpus@5, 7 days",
    "duic_at_5": "DUIC@5",
    "dwell": "dwell",
    "fresh.dwell": "dwell on fresh items",
    "fresh.positives": "positives on fresh items",
    "good_ctr.core": "core users' good CTR",
    "small.dwell": "dwell on small providers",
    "uploads": "uploads",
}
TERMS = (
    ("DUIC@K", "Daily unique impressed content: how many different items had K or more impressions in a day."),
    (
        "Discoverable corpus@X, Y days",
        "Items with X or more positive interactions in the last Y days, those in the fresh slot left out: the slot is "
        "what helps an item to start, the rest is what it then found by itself.",
    ),
    ("Positive interaction", "A good click: one that is followed by 10 seconds or more."),
    *WORDS,
)


def results(summary: Mapping[str, Any]) -> Table | None:
    """Changes in percent of the same worlds without a slot, with intervals over worlds."""
    if "fresh.worlds" not in summary:
        return None
    rows = []
    for key, name in NAMES.items():
        cells = []
        for side in ("start", "tuned", "gain"):
            value, low, high = (summary[f"fresh.{side}.{key}{end}"] for end in ("", ".low", ".high"))
            cells.append(f"{value:+.2f} ({low:+.2f} to {high:+.2f})")
        rows.append((name, *cells))
    title = f"{summary['fresh.worlds']} worlds held out, % of the same world without a slot (95% intervals)"
    return Table(title, ("figure", "start", "tuned", "tuned - start"), tuple(rows))


def panels(record: Record) -> list[Panel]:
    """Of a finished or running evolution."""
    shown: list[Panel] = []
    if message := record.summary.get("message"):
        shown.append(Sentence(str(message), headline=True))
    if table := results(record.summary):
        shown.append(table)
    gains = [record.interval(f"fresh.gain.{key}", name) for key, name in NAMES.items()]
    known = tuple(gain for gain in gains if gain)
    if known:
        note = "In worlds never tuned on, with 95% intervals over worlds. An open dot is no evidence of a difference."
        shown.append(Intervals("Tuned against the start", "percentage points", known, 0.0, note, SECTION))
    course = evolution(record, SECTION, "return in the worlds tuned on")
    return [*shown, *course, evolution_cost(record, record.setting("objective") or "policy"), Glossary(TERMS)]
