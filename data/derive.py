"""Columns that a schema derives from others: hours, weekdays, ages, buckets (data/sources.py says which).

They are columns of the log like those of its files: whoever reads it asks for them by name (data/log.py). Shapes: R
rows.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

from data.errors import UserError
from data.kinds import is_number, number, one_chunk
from data.sources import AGES, BUCKET, CLOCK, MISSING, UTC, Source
from data.times import DAY_US, check_moments, moments

HOUR_US = 3_600_000_000


def with_derived(
    table: pa.Table, names: Sequence[str], sources: Mapping[str, Source], boundaries: Mapping[str, Sequence[float]],
    where: str,
) -> pa.Table:  # fmt: skip
    """The table with these columns, in this order. `boundaries`: those of buckets that were measured, by feature.

    Raises UserError naming file and column where a value is not what its part is taken of.
    """
    columns = [
        derived(table, name, sources[name], boundaries.get(name, ()), where) if name in sources else table.column(name)
        for name in names
    ]
    return pa.table(columns, names=list(names))


def derived(
    table: pa.Table, name: str, source: Source, measured: Sequence[float], where: str
) -> pa.ChunkedArray | pa.Array:
    column = table.column(source.column)
    if source.part is None:
        return column
    if source.part == MISSING:
        missing_R = pc.is_null(column, nan_is_null=pat.is_floating(column.type))
        return missing_R.cast(pa.int8())
    if source.part == BUCKET:
        values_R = number(table, source.column, wide=True)
        edges = np.array(source.boundaries or measured)
        assert len(edges), f"the boundaries of {name!r} are not measured"
        bucket_R = np.searchsorted(edges, values_R, side="right")  # of as many as it reaches, as numpy.digitize
        return pa.array(bucket_R.astype(np.int64), mask=np.isnan(values_R))
    moment_R, missing_R = moments(one_chunk(table, source.column), source.unit, source.column, where)
    if source.part in AGES:
        assert source.at is not None
        at_R, absent_R = moments(one_chunk(table, source.at), source.at_unit, source.at, where)
        age_R = (at_R - moment_R) / AGES[source.part]
        return pa.array(age_R, mask=missing_R | absent_R)
    return pa.array(clock(moment_R, source.part, source.zone, where), mask=missing_R)


def clock(moment_R: np.ndarray, part: str, zone: str, where: str = "") -> np.ndarray:
    """int64_R: the hour, weekday, day or month of moments in microseconds since 1970, as clocks of the zone show it."""
    if zone != UTC:
        try:
            there = pa.array(moment_R).cast(pa.timestamp("us")).cast(pa.timestamp("us", zone))
            moment_R = pc.local_timestamp(there).cast(pa.int64()).to_numpy()
        except pa.ArrowException as error:
            raise UserError(f"{where}: time zone {zone}: {str(error).splitlines()[0]}") from None
    if part == "hour":
        return moment_R // HOUR_US % 24
    if part == "weekday":
        return (moment_R // DAY_US + 3) % 7  # the first day of 1970 was a Thursday
    months_R = moment_R.astype("datetime64[us]").astype("datetime64[M]")
    if part == "month":
        return months_R.astype(np.int64) % 12 + 1
    return (moment_R.astype("datetime64[us]").astype("datetime64[D]") - months_R).astype(np.int64) + 1


def derived_type(source: Source, types: Mapping[str, pa.DataType], path: str) -> pa.DataType:
    """Type of the derived column, of those of the columns it is taken of.

    Raises UserError naming file and column of one that has not what the part is taken of.
    """
    kind = types[source.column]
    if source.part is None:
        return kind
    if source.part == BUCKET and not is_number(kind):
        raise UserError(f"{path}: column {source.column!r} is of type {kind}; buckets are of numbers")
    if source.part in CLOCK or source.part in AGES:
        for name, unit in zip(source.columns, (source.unit, source.at_unit), strict=False):
            check_moments(types[name], unit, name, f"{path}: ")
    return pa.float64() if source.part in AGES else pa.int8() if source.part == MISSING else pa.int64()
