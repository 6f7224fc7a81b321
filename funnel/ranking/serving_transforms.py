"""What serving.json says of features that are made of other columns or transformed, with vectors to test a port by."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from data.derive import with_derived
from data.errors import UserError
from data.schema import Schema
from data.sources import AGES, BUCKET, CLOCK, UNITS, Source
from data.transforms import Step, apply

RULES = {
    "order": "first 'from' gives the value, then the steps of 'transform' change it, one after the other; a missing "
    "value stays missing, but for missing (the part) and fill",
    "hour, weekday, day, month": "of the moment in the time zone 'zone'; Monday is weekday 0, days and months begin "
    "with 1. A moment is ISO text (UTC if it names no offset), or a number of 'unit' since 1970",
    "age_hours, age_days": "from the moment in 'column' to that in 'at', with a fraction, and negative if it is later",
    "missing": "the part: 1 where the value is missing, else 0. The step: missing if it is one of 'values'",
    "bucket": "how many of 'boundaries' are less than or equal to the value",
    "fill": "'value' where it is missing",
    "clip": "min(max(x, low), high); null: no end",
    "log1p": "log(1 + x)",
    "quantile": "share = (interpolate(x, knots, shares) - interpolate(-x, -knots reversed, -shares reversed)) / 2 with "
    "shares = k / (number of knots - 1), k = 0, 1, ..., constant beyond the ends; at equal knots the first takes the "
    "last one's share, the second the first one's. to normal: the normal deviate of the share cut to [1e-7, 1 - 1e-7]",
}
TOLERANCE = 1e-6
"""Between a test vector and what a port makes of it."""
MOMENTS = ("1999-12-31T23:59:59", "2026-01-04T00:00:00", "2026-03-29T01:30:00", "2026-07-15T18:45:10.250000", None)


def about(schema: Schema, name: str) -> dict[str, Any]:
    """{"from": ., "transform": [.], "test_vectors": [.]} of a feature; {} of a column as it is."""
    source, found = schema.sources.get(name), dict[str, Any]()
    if source is not None:
        found["from"] = origin(source, schema.boundaries.get(name, ()))
        if source.part:
            found["from_test_vectors"] = part_vectors(source, schema.boundaries.get(name, ()))
    chain, statistics = schema.steps(name)
    if chain:
        found["transform"] = [step_in_words(step, known) for step, known in zip(chain, statistics, strict=True)]
        found["test_vectors"] = step_vectors(schema, name)
    return found


def origin(source: Source, measured: tuple[float, ...]) -> dict[str, Any]:
    whole = source.to_dict()
    given = {"column": whole} if isinstance(whole, str) else whole
    return {**given, "boundaries": list(source.boundaries or measured)} if source.part == BUCKET else given


def step_in_words(step: Step, known: tuple[float, ...]) -> dict[str, Any]:
    """One step with its numbers, whether they were given or measured."""
    if step.name in ("clip", "clip_quantiles"):
        low, high = known or step.values
        return {"step": "clip", "low": low, "high": high}
    if step.name == "quantile":
        return {"step": step.name, "to": step.values[0], "knots": list(known)}
    if step.name == "fill":
        return {"step": step.name, "value": known[0] if known else step.values[0]}
    return {"step": step.name, **({"values": list(step.values)} if step.name == "missing" else {})}


def step_vectors(schema: Schema, name: str) -> list[dict[str, Any]]:
    """Values and what the model reads in their place; those that log1p refuses are left out."""
    chain, statistics = schema.steps(name)
    numbers = [0.0, 0.5, 1.0, 100.0, -3.0]
    for step, known in zip(chain, statistics, strict=True):
        own = [float(value) for value in (*known, *step.values) if isinstance(value, int | float)]
        numbers += [own[0], own[len(own) // 2], own[-1], (own[0] + own[-1]) / 2] if own else []
    found = []
    for value in [None, *dict.fromkeys(numbers)]:
        try:
            read_R = apply(chain, statistics, np.array([np.nan if value is None else value]))
        except UserError:
            continue
        found.append({"value": value, "read": None if np.isnan(read_R[0]) else float(read_R[0])})
    return found


def part_vectors(source: Source, measured: tuple[float, ...]) -> list[dict[str, Any]]:
    """Values by column and what the part is of them."""
    values: Mapping[str, list[Any]] = {
        source.column: [*map(float, source.boundaries or measured), -1.0, 0.5, 7.0, None]
    }
    if source.part in CLOCK or source.part in AGES:
        values = {source.column: in_unit(source.unit)}
        if source.at:
            values = {**values, source.at: [in_unit(source.at_unit)[2]] * len(MOMENTS)}
    table = pa.table(values)
    part = with_derived(table, ["part"], {"part": source}, {"part": measured}, "serving.json").column("part")
    given = table.to_pylist()
    return [{"values": one, "is": value} for one, value in zip(given, part.to_pylist(), strict=True)]


def in_unit(unit: str | None) -> list[Any]:
    """The moments as text, or as whole numbers of this unit since 1970."""
    if unit is None:
        return list(MOMENTS)
    micro = [None if one is None else int(np.datetime64(one, "us").astype(int)) for one in MOMENTS]
    return [one if one is None else one * 1000 if unit == "ns" else one // UNITS[unit] for one in micro]
