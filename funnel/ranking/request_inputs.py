"""Rows of raw values as inputs of an exported ranker. jobs.export writes this file as `inputs.py` beside the graph: it
needs numpy and Python alone, nothing of this project, and no other file but serving.json.

    from inputs import Inputs
    scores = onnxruntime.InferenceSession("ranker.onnx").run(None, Inputs("serving.json").feed(rows))

A row is a mapping of column names to values as the log had them; a column that is left out, or None, is missing.
"""

import json
import math
import statistics
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

UTC = timezone.utc  # noqa: UP017 - the file is for older Pythons too
WORD, STEP = 2**64 - 1, 0x9E3779B97F4A7C15
MICROSECONDS = {"s": 1e6, "ms": 1e3, "us": 1, "ns": 1e-3}
Row = Mapping[str, Any]


class Inputs:
    """What serving.json says of a graph's inputs, applied to rows."""

    def __init__(self, path: str | Path) -> None:
        self.entries = {entry["name"]: entry for entry in json.loads(Path(path).read_text())["inputs"]}

    def feed(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        """The graph's inputs by name, a line for each row."""
        found: dict[str, np.ndarray] = {}
        for name, entry in self.entries.items():
            if name == "ids":
                found[name] = np.array([[number(c, taken(c, row)) for c in entry["columns"]] for row in rows], np.int64)
            elif name == "numeric":
                values = [[changed(c, taken(c, row)) for c in entry["columns"]] for row in rows]
                found[name] = np.array(values, entry["dtype"])
            elif name.endswith(".ids"):
                kept = entry.get("last_values_kept") or 0
                lists = [[number(entry, v) for v in (taken(entry, row) or [])[-kept:] if v is not None] for row in rows]
                found[name] = np.array([v for one in lists for v in one], np.int64)
                found[f"{entry['column']}.begins"] = np.cumsum([0, *map(len, lists)])[:-1].astype(np.int64)
            elif name == "value":
                found[name] = np.array([row.get(entry["column"]) or 0 for row in rows], entry["dtype"])
        return {name: found[name] for name in self.entries}


# ---- values that are made of others (a schema's `from` and `transform`)


def taken(column: Row, row: Row) -> Any:
    """A feature's value before its transform: the column's own, or the part of it that `from` names."""
    source = column.get("from", column)
    value, part = row.get(source["column"]), source.get("part")
    if part == "missing":
        return int(value is None)
    if part is None or value is None:
        return value
    if part == "bucket":
        return bisect_right(source["boundaries"], value)
    when = moment(value, source.get("unit"))
    if part.startswith("age"):
        at, size = row.get(source["at"]), timedelta(hours=1 if part == "age_hours" else 24)
        return None if at is None else (moment(at, source.get("at_unit")) - when) / size
    clock = when.astimezone(ZoneInfo(source.get("zone", "UTC")))
    return clock.weekday() if part == "weekday" else getattr(clock, part)


def moment(value: Any, unit: str | None) -> datetime:
    """A count of units since 1970, or ISO text, which is UTC if it names no zone."""
    if unit:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=value * MICROSECONDS[unit])
    when = datetime.fromisoformat(value)
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def changed(column: Row, x: float | None) -> float:
    """The number that the graph reads: x after the steps of `transform`, NaN where it is missing."""
    for step in column.get("transform", ()):
        if step["step"] == "fill":
            x = step["value"] if x is None else x
        elif x is None:
            continue
        elif step["step"] == "missing":
            x = None if x in step["values"] else x
        elif step["step"] == "log1p":
            x = math.log1p(x)
        elif step["step"] == "clip":
            low, high = step["low"], step["high"]
            x = x if low is None else max(x, low)
            x = x if high is None else min(x, high)
        else:
            knots, shares = np.array(step["knots"]), np.linspace(0, 1, len(step["knots"]))
            # between equal knots the middle of their shares, as from both sides
            x = float(np.interp(x, knots, shares) - np.interp(-x, -knots[::-1], -shares[::-1])) / 2
            if step["to"] == "normal":
                x = statistics.NormalDist().inv_cdf(min(max(x, 1e-7), 1 - 1e-7))
    return math.nan if x is None else x


# ---- ids


def number(column: Row, value: Any) -> int:
    """The table row of a categorical value."""
    offset, kind = int(column["offset"]), column["kind"]
    if value is None:
        return offset
    if kind == "hash":
        return offset + 1 + hashed(value) % int(column["size"])
    if kind == "vocabulary":
        return offset + (2 + column["vocabulary"].index(value) if value in column["vocabulary"] else 1)
    return offset + (2 + int(value) if 0 <= value < column["size"] else 1)


def hashed(value: int | str) -> int:
    """64 bits: splitmix64 of a whole number; of text, of its length plus the sum of (byte + 1) STEP^place."""
    if isinstance(value, int):
        return splitmix64(value & WORD)
    data, total, power = value.encode(), 0, 1
    for byte in data:
        power = power * STEP & WORD
        total += (byte + 1) * power
    return splitmix64((len(data) + total) & WORD)


def splitmix64(x: int) -> int:
    """The finaliser of Steele, Lea and Flood, OOPSLA 2014."""
    x = (x + STEP) & WORD
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ x >> shift) * factor & WORD
    return x ^ x >> 31
