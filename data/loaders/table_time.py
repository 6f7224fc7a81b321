"""Moments of a column as microseconds since 1970 (UTC), however a table writes them."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.encode import one_chunk
from data.errors import UserError
from data.kinds import is_text

DAY_US = 86_400_000_000
UNITS = ((1e17, 1e-3), (1e14, 1.0), (1e11, 1e3), (1e8, 1e6))
"""Whole numbers of at least the first are nano-, micro-, milliseconds or seconds: microseconds each."""
FORMATS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y/%m/%d %H:%M:%S", "%Y-%m-%d", "%Y%m%d", "%Y/%m/%d")


def microseconds(table: pa.Table, name: str, path: str) -> np.ndarray:
    """int64_R. Raises UserError naming file, column and value: a missing time, a text or number that is none."""
    column = one_chunk(table, name)
    if column.null_count:
        raise UserError(
            f"{path}: column {name!r} is missing in {column.null_count:,} of {len(column):,} rows: a split by "
            "time needs it in all"
        )
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        zone = getattr(kind, "tz", None)
        column = column.cast(pa.timestamp("us", zone), safe=False)
        return column.cast(pa.int64()).to_numpy()
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return from_numbers(
            column.cast(pa.float64() if pa.types.is_floating(kind) else pa.int64()).to_numpy(), name, path
        )
    if is_text(kind):
        return from_text(column, name, path)
    raise UserError(
        f"{path}: column {name!r} is of type {kind}; a time is a timestamp, a date, text or seconds since 1970"
    )


def day(number: int) -> str:
    """2026-01-31 of days since 1970."""
    return str(np.datetime64(number, "D"))


def from_numbers(values_R: np.ndarray, name: str, path: str) -> np.ndarray:
    if not len(values_R):
        return values_R.astype(np.int64)
    if ((values_R >= 19000101) & (values_R <= 21001231)).all():  # 20260131
        return from_text(pa.array(values_R.astype(np.int64)).cast(pa.string()), name, path)
    size = np.abs(values_R).max()
    for least, factor in UNITS:
        if size >= least:
            return (values_R * factor).astype(np.int64) if factor != 1.0 else values_R.astype(np.int64)
    raise UserError(
        f"{path}: column {name!r} holds {values_R[0]}, which is no time: want seconds (or milliseconds) since 1970, or "
        "days as 20260131"
    )


def from_text(column: pa.Array, name: str, path: str) -> np.ndarray:
    try:
        return column.cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
    except pa.ArrowException:
        pass
    try:
        return column.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
    except pa.ArrowException:
        pass
    for form in FORMATS:
        found = pc.strptime(column, format=form, unit="us", error_is_null=True)
        if not found.null_count:
            return found.cast(pa.int64()).to_numpy()
    raise UserError(f"{path}: column {name!r} holds {column[0].as_py()!r}, which is no time: want 2026-01-31 12:00:00, "
                    "2026-01-31 or 20260131")  # fmt: skip
