"""What a page shows of a pipeline: its stages, and its figures by day."""

from collections.abc import Mapping, Sequence
from typing import Any

from funnel.numbers import DASH, count, counted, duration, number
from funnel.panels import Cell, Curve, Panel, Record, Sentence, Series, Table, finite

SECTION = "The pipeline"
SHOWN_DAYS = 14
KINDS = {".auc": "AUC", ".log_loss": "log-loss", ".pcoc": "PCOC", ".tuned": "tuned", ".untuned": "untuned"}
SHORT = 5
"""Letters of an abbreviation, which is written in capitals."""
MOST = 8
"""Figures in the table of days."""
Day = Mapping[str, Any]


def panels(record: Record) -> list[Panel]:
    """Of a pipeline that has come through its stages, and through the days that were there."""
    days: Sequence[Day] = record.files.get("days") or []
    found: list[Panel] = [Sentence(headline(record, days), headline=True)]
    if days:
        found.append(day_table(days))
    return [*found, *curves(days), *stage_table(record, {str(day["day"]) for day in days})]


def headline(record: Record, days: Sequence[Day]) -> str:
    """How far it came, and the last day's figures."""
    if not days:
        return f"{record.name} went through all its stages."
    text = f"{record.name} has taken in {counted(len(days), 'day')}, the last {days[-1]['day']}."
    known = [day for day in days if figures(day, ".auc")]
    if known:
        last = known[-1]
        told = [f"{name(key)} {number(finite(last[key]), 4)}" for kind in (".auc", ".pcoc")
                for key in figures(last, kind)[:1]]  # fmt: skip
        text += f" The model of the days before had {' and '.join(told)} on {last['day']}, before learning from it."
    return text


def name(key: str) -> str:
    """ctr.auc -> CTR AUC, cvr.click.log_loss -> CVR click log-loss, value_at_10.tuned -> value@10 tuned"""
    *front, last = key.split(".")
    kinds = {"auc": "AUC", "pcoc": "PCOC", "log_loss": "log-loss", "ece": "ECE"}
    words = [part.replace("_at_", "@") for part in front]
    if words and words[0].isalpha() and len(words[0]) <= SHORT:
        words[0] = words[0].upper()
    return " ".join([*words, kinds.get(last, last)])


def figures(day: Day, kind: str) -> list[str]:
    """Keys of a day's figures of a kind."""
    return [key for key in day if key.endswith(kind) and finite(day[key]) is not None]


def said(key: str) -> str:
    """A fact of a stage: a figure by its name, best_step as best step."""
    return name(key) if "." in key else key.replace("_", " ")


def day_table(days: Sequence[Day]) -> Table:
    """The last two weeks, each judged by the model of the days before it."""
    names = {key: None for day in days for kind in KINDS for key in figures(day, kind)}
    wanted = [key for kind in (".auc", ".pcoc", ".tuned", ".untuned") for key in names if key.endswith(kind)][:MOST]
    rows = []
    for day in days[-SHOWN_DAYS:]:
        cells: list[Cell] = [number(finite(day.get(key)), 4) for key in wanted]
        note = f" (not learned from: {day['skipped']})" if day.get("skipped") else ""
        rows.append((f"{day['day']}{note}", count(finite(day.get("rows"))), *cells))
    note = "Progressive validation: a day's figures are those of the model and the policy of the days before it, taken "
    note += "before the day was learned from."
    return Table("Figures by day", ("Day", "Rows", *map(name, wanted)), tuple(rows), note, SECTION)


def curves(days: Sequence[Day]) -> list[Panel]:
    """Figures of a kind by day; a day that was not judged leaves a gap. Tuned and untuned stand in one."""
    names = [str(day["day"])[5:] for day in days]
    found: list[Panel] = []
    for title, kinds in (("AUC", (".auc",)), ("log-loss", (".log_loss",)), ("PCOC", (".pcoc",)),
                         ("Policy", (".tuned", ".untuned"))):  # fmt: skip
        keys = {key: None for day in days for kind in kinds for key in figures(day, kind)}
        lines = []
        for key in keys:
            known = [(place, finite(day.get(key))) for place, day in enumerate(days)]
            kept = [(x, y) for x, y in known if y is not None]
            if len(kept) > 1:
                lines.append(Series(name(key), [x for x, _ in kept], [y for _, y in kept]))
        if lines:
            line = 1.0 if title == "PCOC" else None
            note = "By day, before it was learned from."
            found.append(Curve(title, "day", "", tuple(lines), note, reference=line, names=names, section=SECTION))
    return found


def stage_table(record: Record, days: set[str]) -> list[Panel]:
    """A row a stage; those of days are summed up in their own table."""
    stages: Mapping[str, Any] = (record.files.get("pipeline") or {}).get("stages", {})
    rows = []
    for name, entry in stages.items():
        if name.split(" ")[0] in days:
            continue
        known = {key: value for key, value in entry["facts"].items() if isinstance(value, int | float | str) and value}
        told = ", ".join(
            f"{said(key)} {number(value) if isinstance(value, float) else value}" for key, value in known.items()
        )
        again = f", made {entry['made']} times" if entry["made"] > 1 else ""
        rows.append((name, duration(entry["seconds"]), (told or DASH) + again))
    return [Table("Stages", ("Stage", "Time", "What came of it"), tuple(rows), section=SECTION)] if rows else []
