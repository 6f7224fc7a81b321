"""Moments of a column as microseconds since 1970 (UTC), however a table writes them.

A timestamp without a time zone, a date and a text without an offset are taken as UTC. Shapes: R rows.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.errors import UserError
from data.kinds import is_text, one_chunk
from data.sources import UNITS

DAY_US = 86_400_000_000
SIZES = ((1e17, "ns"), (1e14, "us"), (1e11, "ms"), (1e8, "s"))
"""Numbers of at least the first are moments in the second."""
FORMATS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y/%m/%d %H:%M:%S", "%Y-%m-%d", "%Y%m%d", "%Y/%m/%d")


TIMELY = r"^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)?)?$"
MOST_SHOWN = 40
"""Characters of a text that is no time."""


def microseconds(table: pa.Table, name: str, path: str) -> np.ndarray:
    """int64_R of a column of moments in any form. Raises UserError naming file, column and value: a missing time, a
    text or number that is none."""
    column = one_chunk(table, name)
    if column.null_count:
        raise UserError(
            f"{path}: column {name!r} is missing in {column.null_count:,} of {len(column):,} rows: a split by "
            "time needs it in all"
        )
    column = plain(column)
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        values_R = column.to_numpy()
        if are_days(values_R):
            column = pa.array(values_R.astype(np.int64)).cast(pa.string())
        elif len(values_R) and unit_of(values_R) is None:
            raise UserError(
                f"{path}: column {name!r} holds {values_R[0]}, which is no time: want seconds (or milliseconds) since "
                "1970, or days as 20260131"
            )
        else:
            return moments(column, unit_of(values_R) or "s", name, path)[0]
    return moments(column, None, name, path)[0]


def moments(column: pa.Array, unit: str | None, name: str, path: str = "") -> tuple[np.ndarray, np.ndarray]:
    """(int64_R microseconds, bool_R where one is missing) of timestamps, dates, text, or numbers of this unit.

    Raises UserError naming column and value of a text that is no moment, of numbers without a unit, of another type.
    """
    column, where = plain(column), f"{path}: " if path else ""
    kind = column.type
    if pa.types.is_null(kind) or column.null_count == len(column):
        return np.zeros(len(column), np.int64), np.ones(len(column), bool)
    missing_R = column.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        found = column.cast(pa.timestamp("us", getattr(kind, "tz", None)), safe=False).cast(pa.int64())
        return found.fill_null(0).to_numpy(), missing_R
    if is_text(kind):
        found = from_text(column, name, where).cast(pa.int64())
        return found.fill_null(0).to_numpy(), missing_R
    check_moments(kind, unit, name, where)
    values_R = column.fill_null(0).to_numpy()
    missing_R = missing_R | ~np.isfinite(values_R)
    values_R = np.where(missing_R, 0, values_R)
    if unit == "ns":
        return (values_R // 1000).astype(np.int64), missing_R
    return (values_R * UNITS[unit or "us"]).astype(np.int64), missing_R


def guessed_moments(column: pa.Array, name: str, path: str = "") -> tuple[np.ndarray, np.ndarray]:
    """As `moments`, for columns whose unit nobody has told: numbers are days as 20260131, else moments in the unit that
    their size speaks for."""
    column = plain(column)
    unit: str | None = None
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        values_R = column.drop_null().to_numpy()
        values_R = values_R[np.isfinite(values_R)]
        if are_days(values_R):
            missing = pa.array(np.isnan(column.cast(pa.float64()).fill_null(np.nan).to_numpy()))
            days = column.cast(pa.float64()).fill_null(19000101).cast(pa.int64(), safe=False).cast(pa.string())
            column = pc.if_else(missing, pa.scalar(None, pa.string()), days)
        else:
            unit = unit_of(values_R)
            if len(values_R) and unit is None:
                raise UserError(
                    f"{path}{': ' if path else ''}column {name!r} holds {values_R[0]}, which is no time: want seconds "
                    "(or milliseconds) since 1970, or days as 20260131"
                )
            unit = unit or "s"
    return moments(column, unit, name, path)


def check_moments(kind: pa.DataType, unit: str | None, name: str, where: str) -> None:
    """Raise UserError, opening with `where`, for a type that is none of moments, or of numbers without a unit."""
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_integer(value) or pa.types.is_floating(value):
        if unit is None:
            raise UserError(
                f"{where}column {name!r} is of type {kind}: say in 'from' in which \"unit\" it counts from 1970 (s, "
                "ms, us or ns)"
            )
        return
    moments = pa.types.is_timestamp(value) or pa.types.is_date(value) or is_text(value) or pa.types.is_null(value)
    if not moments:
        raise UserError(
            f"{where}column {name!r} is of type {kind}; a time is a timestamp, a date, text or seconds since 1970"
        )


def plain(column: pa.Array) -> pa.Array:
    """Without a dictionary."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def day(number: int) -> str:
    """2026-01-31 of days since 1970."""
    return str(np.datetime64(number, "D"))


def are_days(values_R: np.ndarray) -> bool:
    """Whether numbers are all of the form 20260131."""
    return bool(len(values_R)) and bool(((values_R >= 19000101) & (values_R <= 21001231)).all())


def unit_of(values_R: np.ndarray) -> str | None:
    """The unit that numbers would be moments in, by their size; None: in none."""
    size = np.abs(values_R).max() if len(values_R) else 0
    return next((unit for least, unit in SIZES if size >= least), None)


def from_text(column: pa.Array, name: str, where: str) -> pa.Array:
    """Timestamps of texts in one of a few forms; missing ones stay missing."""
    for zone in (None, "UTC"):
        try:
            return column.cast(pa.timestamp("us", zone))
        except pa.ArrowException:
            continue
    text = column.cast(pa.large_string())
    best = column
    for form in FORMATS:
        found = pc.strptime(text, format=form, unit="us", error_is_null=True)
        if found.null_count == column.null_count:
            return found
        best = found if found.null_count < best.null_count or best is column else best
    known = text.filter(pc.and_(text.is_valid(), best.is_null()))
    # Fractions and offsets are read above and not by these forms: the culprit is the one that has neither.
    plainly = known.filter(pc.invert(pc.match_substring_regex(known, TIMELY)))
    wrong = (plainly if len(plainly) else known)[0].as_py()
    wrong = wrong if len(wrong) <= MOST_SHOWN else wrong[:MOST_SHOWN] + "..."
    raise UserError(f"{where}column {name!r} holds {wrong!r}, which is no time: want 2026-01-31 12:00:00, "
                    "2026-01-31 or 20260131")  # fmt: skip
