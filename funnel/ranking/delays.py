"""What was known of conversions at a moment: a training `as_of` then sees no conversion that came later.

The schema's `time` is the moment of the exposure, `conversion_time` that of its conversion (missing where there is
none). Rows of later moments, such as those of valid and test days, keep their final labels: figures are of what came of
them. Shapes: R rows.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from data.encode import Rows, one_chunk
from data.errors import UserError
from data.log import Log, Part
from data.schema import Schema
from data.times import DAY_US, guessed_moments, moments
from funnel.ranking.elapsed import known_share, share_at

ELAPSED, DELAY, KNOWN = "elapsed", "delay", "known_share"
"""Beside a row's labels: days from the exposure to `as_of`, and to its conversion; the share of conversions that are
known after so many days (also among the facts, as a curve: elapsed.py)."""
LAST = "train"
"""As `as_of`: the last moment of the training part."""


def moment_of(as_of: str, log: Log, train: Part) -> dict[str, Any]:
    """Facts {"as_of": microseconds since 1970, "conversion_rate": of the clicks, by then, KNOWN: the curve}.

    Raises UserError: a schema without `time` or `conversion_time`, a text that is no moment or one before the training
    part's last, no click that had converted.
    """
    schema = log.schema
    for key in ("time", "conversion_time"):
        if getattr(schema, key) is None:
            raise UserError(f"as_of {as_of}: the schema names no {key!r}")
    assert schema.time is not None
    last = max(int(times(table, schema.time)[0].max()) for table in log.read(train, [schema.time]))
    moment = last if as_of == LAST else int(moments(pa.array([as_of]), None, "as_of")[0][0])
    if moment < last:
        raise UserError(f"as_of {as_of}: before the last exposure of the training part, which nobody knew of by then")
    clicks = known = 0
    delays, ages = list[np.ndarray](), list[np.ndarray]()
    columns = [schema.labels["click"], schema.labels["conversion"], *time_columns(schema)]
    for table in log.read(train, columns):
        click_R, conversion_R = (table.column(schema.labels[name]).to_numpy() > 0 for name in ("click", "conversion"))
        found_R, elapsed_R, delay_R = cut(conversion_R.astype(np.float32), table, schema, moment)
        clicks, known = clicks + int(click_R.sum()), known + int((found_R > 0).sum())
        delays.append(delay_R[found_R > 0])
        ages.append(elapsed_R[found_R > 0])
    if not known:
        raise UserError(
            f"as_of {as_of}: none of the {clicks:,} clicks had converted by then; there is nothing to learn"
        )
    curve = known_share(np.concatenate(delays), np.concatenate(ages))
    return {"as_of": moment, "conversion_rate": known / max(clicks, 1), KNOWN: curve}


def time_columns(schema: Schema) -> list[str]:
    return [name for name in (schema.time, schema.conversion_time) if name]


def times(table: pa.Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(int64_R microseconds since 1970, bool_R where one is missing); numbers are in the unit of their size."""
    return guessed_moments(one_chunk(table, name), name)


def cut(
    conversion_R: np.ndarray, table: pa.Table, schema: Schema, as_of: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(conversions that were known at `as_of`, days elapsed until then, days until the conversion, 0 where none).

    Raises UserError for an exposure without a time, or a conversion without one or before its exposure.
    """
    assert schema.time is not None
    assert schema.conversion_time is not None
    time_R, missing_R = times(table, schema.time)
    if missing_R.any():
        raise UserError(f"column {schema.time!r}, the 'time', is missing in {int(missing_R.sum()):,} rows")
    converted_R, never_R = times(table, schema.conversion_time)
    happened_R = conversion_R > 0.5
    wrong_R = happened_R & (never_R | (converted_R < time_R))
    if wrong_R.any():
        raise UserError(
            f"column {schema.conversion_time!r}, the 'conversion_time', is missing or before the exposure in "
            f"{int(wrong_R.sum()):,} rows with a conversion"
        )
    delay_R = np.where(happened_R, (converted_R - time_R) / DAY_US, 0.0)
    later_R = time_R > as_of  # what came of them is known: they are judged, not learnt from
    known_R = happened_R & ((converted_R <= as_of) | later_R)
    elapsed_R = np.where(later_R, 1e6, (as_of - time_R) / DAY_US)
    return known_R.astype(np.float32), elapsed_R.astype(np.float32), np.where(known_R, delay_R, 0.0).astype(np.float32)


def known_by(
    rows: Rows, table: pa.Table, schema: Schema, as_of: int | None, curve: Mapping[str, list[float]] | None = None
) -> Rows:
    """The rows as they were known at that moment; as they are for None. `curve`: of known_share."""
    if as_of is None:
        return rows
    found = cut(rows.labels["conversion"], table, schema, as_of)
    labels = dict(zip(("conversion", ELAPSED, DELAY), found, strict=True))
    labels[KNOWN] = share_at(curve, found[1]) if curve else np.ones(len(rows), np.float32)
    return dataclasses.replace(rows, labels={**rows.labels, **labels})


def none_known(rows: Rows, as_of: int | None) -> Rows:
    """The same of no rows."""
    none = np.empty(0, np.float32)
    return (
        rows
        if as_of is None
        else dataclasses.replace(rows, labels={**rows.labels, ELAPSED: none, DELAY: none, KNOWN: none})
    )
