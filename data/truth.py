"""What a log cannot show: the conversion of every exposure if it were clicked, and the probabilities behind it.

Shapes: R rows of a part.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from data.errors import UserError
from data.kinds import as_read, cast_table, common_type, is_number, number
from data.schema import TruthColumns


@dataclass(frozen=True)
class Truth:
    """The truth of one part, sorted by key.

    key_R          int64, strictly increasing: the exposure ids
    potential_R    int8, 0 or 1: the conversion if the exposure is clicked
    propensity_R   float32 or None: P(click | everything, seen or not)
    probability_R  float32 or None: P(potential conversion | everything, seen or not)
    """

    key_R: np.ndarray
    potential_R: np.ndarray
    propensity_R: np.ndarray | None
    probability_R: np.ndarray | None

    def lookup(self, exposure_ids: np.ndarray) -> np.ndarray:
        """Row of every given exposure id. Raises UserError if one is absent."""
        if exposure_ids.dtype == np.uint64:  # beside int64 numpy would compare both as floats
            exposure_ids = exposure_ids.astype(np.int64)
        rows = np.searchsorted(self.key_R, exposure_ids)
        found = self.key_R[np.minimum(rows, len(self.key_R) - 1)] == exposure_ids
        if not found.all():
            absent = np.asarray(exposure_ids)[~found]
            raise UserError(f"the truth has no row for exposure {absent[0]} (and {len(absent) - 1} more)")
        return rows


def truth_from_tables(tables: list[pa.Table], columns: TruthColumns, where: str) -> Truth:
    """Join tables of truth rows, sort them by key and check them; `where` opens the message of a UserError."""
    try:
        names = tables[0].column_names
        types = {name: common_type([table.schema.field(name).type for table in tables]) for name in names}
    except TypeError as error:
        raise UserError(f"{where}: a column is of types that do not go together ({error})") from None
    table = pa.concat_tables([cast_table(as_read(table), types, where) for table in tables])
    for name in table.column_names:
        if table.column(name).null_count:
            raise UserError(f"{where}: column {name!r} has missing values")
    if not pa.types.is_integer(table.column(columns.key).type):
        raise UserError(f"{where}: column {columns.key!r} is of type {table.column(columns.key).type}, not integer")
    key_R = table.column(columns.key).to_numpy().astype(np.int64, copy=False)
    order_R = np.argsort(key_R, kind="stable")
    key_R = key_R[order_R]
    repeated = key_R[1:][key_R[1:] == key_R[:-1]]
    if len(repeated):
        raise UserError(f"{where}: key {repeated[0]} in column {columns.key!r} stands there twice")
    for name in (columns.potential_conversion, columns.propensity, columns.conversion_probability):
        if name and not is_number(table.column(name).type):
            raise UserError(f"{where}: column {name!r} is of type {table.column(name).type}, not a number")
    potential_R = number(table, columns.potential_conversion)[order_R]
    if not np.isin(potential_R, (0, 1)).all():
        raise UserError(f"{where}: column {columns.potential_conversion!r} has values other than 0 and 1")

    def probabilities(name: str | None) -> np.ndarray | None:
        if name is None:
            return None
        values_R = number(table, name)[order_R]
        if not ((values_R >= 0) & (values_R <= 1)).all():
            raise UserError(f"{where}: column {name!r} has values outside 0..1")
        return values_R

    return Truth(
        key_R,
        potential_R.astype(np.int8, copy=False),
        probabilities(columns.propensity),
        probabilities(columns.conversion_probability),
    )
