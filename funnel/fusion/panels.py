"""What a page shows of a tuned score fusion: gain on held-out users, evolution, weights before and after."""

import re
from collections.abc import Mapping
from typing import Any

from funnel.numbers import MINUS, compact, counted, percent
from funnel.panels import Cell, Glossary, Interval, Intervals, Panel, Record, Sentence, Table, told
from funnel.progress import WORDS, climb, evolution, evolution_cost

SECTION = "Score fusion"
MOST_PARAMETERS = 24
RIVALS = {"untuned": "untuned", "best_single": "best single", "grid": "best of a grid"}
TERMS = (
    ("value@k, NDCG@k", "Reward of the k first candidates of a request, plain and discounted by rank and normalised."),
    (
        "Fusion",
        "The formula that makes one ranking score of the model's scores; its parameters are what evolution tunes.",
    ),
    (
        "Best of a grid",
        "The same fusion with weights from equal steps, whichever is best on the tuning users: what needs no search.",
    ),
    *WORDS,
)


def panels(record: Record) -> list[Panel]:
    """Of a finished evolution of fusion weights."""
    k = cutoff(record)
    measured = {f"fusion.value_at_{k}": f"value@{k}", f"fusion.ndcg_at_{k}": f"NDCG@{k}"}
    users = record.number("fusion.test_users")
    where = f" on {counted(users, 'held-out user')}" if users is not None else " on held-out users"
    gains = [gain for key, name in measured.items() if (gain := gained(record, key, name, where))]
    course = evolution(record, SECTION)
    better = climb(record, SECTION, "return on the tuning users")
    return [
        Sentence(headline(record, k), headline=True),
        figures(record, measured, k),
        *gains,
        *parameters(record),
        *([better, *course[1:]] if better else course),
        evolution_cost(record, record.setting("fusion") or "fusion"),
        Glossary(TERMS),
    ]


def cutoff(record: Record) -> int:
    """The k of value@k: from policy.json, else from the keys of the summary."""
    k = (record.files.get("policy") or {}).get("k")
    if isinstance(k, int):
        return k
    found = (re.match(r"fusion\.value_at_(\d+)\.", key) for key in record.summary)
    return next((int(match.group(1)) for match in found if match), 10)


def headline(record: Record, k: int) -> str:
    """What the comparison on held-out users says."""
    if message := record.summary.get("message") or record.summary.get("fusion.message"):  # of earlier versions
        return str(message).rstrip(".") + "."
    key = f"fusion.value_at_{k}.gain_over_untuned"
    return f"Fusion was tuned; its gain in value@{k} is absent ({record.reason(key)})."


def figures(record: Record, measured: Mapping[str, str], k: int) -> Table:
    """Tuned, untuned, best single score and best of a grid, and the gains over them, each with its 95% interval."""
    single = record.summary.get("fusion.best_single_name") or "?"
    names = {"tuned": "tuned fusion", "untuned": "untuned fusion", "best_single": f"best single score: {single}"}
    rivals = dict(RIVALS)
    if any(f"{key}.grid" in record.summary for key in measured):
        names["grid"] = RIVALS["grid"]
    else:  # a run of an earlier version
        del rivals["grid"]
    rows: list[tuple[Cell, ...]] = [
        (name, *(record.cell(f"{key}.{who}") for key in measured)) for who, name in names.items()
    ]
    for rival, name in rivals.items():
        cells: list[Cell] = [f"tuned {MINUS} {name}"]
        for key in measured:
            gain, base = record.number(f"{key}.gain_over_{rival}"), record.number(f"{key}.{rival}")
            share = f"{'+' if gain >= 0 else MINUS}{percent(abs(gain / base))}" if base and gain is not None else ""
            known = record.number(f"{key}.gain_over_{rival}.low") is not None
            aside = f"{share}," if share and known else share
            cells.append(told(record.cell(f"{key}.gain_over_{rival}", signed=True, aside=aside)))
        rows.append(tuple(cells))
    note = f"value@{k} is the mean reward of a request's first {k} candidates, NDCG@{k} the same discounted by rank; "
    note += "both on users the tuning never saw. "
    reasons = [without_interval(record, key) for key in measured]
    if not all(reasons):
        note += "Small: 95% intervals over users, those of differences user by user; "
    note += f"{'P' if all(reasons) else 'p'}ercentages are relative to the rival."
    note += "".join(f" No interval of {name}: {why}." for name, why in zip(measured.values(), reasons, strict=True)
                    if why)  # fmt: skip
    if weights := record.summary.get("fusion.grid_weights"):
        note += f" The grid's best: {', '.join(f'{name} {compact(value)}' for name, value in weights.items())}."
    return Table("", ("Scoring", *measured.values()), tuple(rows), note, SECTION)


def without_interval(record: Record, key: str) -> str:
    """Why the figures under the key have no intervals; empty: they have."""
    if record.number(f"{key}.tuned") is None or record.number(f"{key}.tuned.low") is not None:
        return ""
    return record.reason(f"{key}.tuned")


def gained(record: Record, key: str, name: str, where: str) -> Intervals | None:
    """The gains with their intervals: a dot alone would look like a gain that is sure."""
    rows = (record.interval(f"{key}.gain_over_{rival}", f"over {label}") for rival, label in RIVALS.items())
    found = tuple(row for row in rows if row and row.low is not None)
    note = "A dot is the gain, a bar its 95% interval over users; a bar that crosses the zero line (open dot) "
    note += "is no evidence of a gain."
    return Intervals(f"Gain in {name}{where}", f"gain in {name}", found, 0.0, note, SECTION) if found else None


def parameters(record: Record) -> list[Panel]:
    """Each parameter before and after; where there are many, those that changed most."""
    policy: Mapping[str, Any] = record.files.get("policy") or {}
    names, before, after = (policy.get(key) or [] for key in ("names", "before", "after"))
    if not names or not len(names) == len(before) == len(after):
        return []
    order = sorted(range(len(names)), key=lambda i: -abs(float(after[i]) - float(before[i])))
    kept = sorted(order[:MOST_PARAMETERS])
    rows = [
        Interval(str(names[i]), float(value[i]), group=group)
        for i in kept
        for group, value in (("before", before), ("after", after))
    ]
    note = f"The {MOST_PARAMETERS} parameters that changed most, of {len(names)}." if len(kept) < len(names) else ""
    formula = f"Fusion: {policy['formula']}. " if policy.get("formula") else ""
    title = "Fusion parameters, before and after"
    return [Intervals(title, "parameter value", tuple(rows), None, formula + note, SECTION)]
