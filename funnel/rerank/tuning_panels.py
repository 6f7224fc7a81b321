"""What the console and a page show of a tuned search: changes in worlds held out, and the evolution."""

from collections.abc import Mapping
from typing import Any

from funnel.panels import Glossary, Intervals, Panel, Record, Sentence, Table
from funnel.progress import WORDS, evolution, evolution_cost

SECTION = "Re-ranking"
NAMES = {
    "return": "return",
    "effective_views": "effective views",
    "likes": "likes",
    "visit_length": "items seen in a visit",
    "dwell": "dwell",
    "positives": "good clicks",
    "requests": "requests",
    "evaluations": "evaluations a decision (no percent)",
}
TERMS = (
    ("Effective view", "An item that was watched for 30% of its length or more."),
    ("Evaluation", "One candidate that the scorer predicts behind one list; latency on a device grows with them."),
    *WORDS,
)


def results(summary: Mapping[str, Any]) -> Table | None:
    """Changes in percent of the same worlds under the point-wise order, with intervals over worlds."""
    if "rerank.worlds" not in summary:
        return None
    rows = []
    for key, name in NAMES.items():
        cells = []
        for side in ("start", "tuned", "gain"):
            value, low, high = (summary[f"rerank.{side}.{key}{end}"] for end in ("", ".low", ".high"))
            cells.append(f"{value:+.2f} ({low:+.2f} to {high:+.2f})")
        rows.append((name, *cells))
    title = f"{summary['rerank.worlds']} worlds held out, % of the same world in point-wise order (95% intervals)"
    return Table(title, ("figure", "start", "tuned", "tuned - start"), tuple(rows))


def panels(record: Record) -> list[Panel]:
    """Of a finished or running evolution."""
    shown: list[Panel] = []
    if message := record.summary.get("message"):
        shown.append(Sentence(str(message), headline=True))
    if table := results(record.summary):
        shown.append(table)
    gains = [record.interval(f"rerank.gain.{key}", name) for key, name in NAMES.items() if key != "evaluations"]
    known = tuple(gain for gain in gains if gain)
    if known:
        note = "In worlds never tuned on, with 95% intervals over worlds. An open dot is no evidence of a difference."
        shown.append(Intervals("Tuned against the start", "percentage points", known, 0.0, note, SECTION))
    course = evolution(record, SECTION, "return in the worlds tuned on")
    return [*shown, *course, evolution_cost(record, record.setting("objective") or "policy"), Glossary(TERMS)]
