"""Cross-fitting: rows of the users of one fold, weighed by models that were trained without them.

A click model that has seen a row is too sure of it: where the row was clicked q is too high, and 1/q too low. So users
are dealt into K folds, model k is trained without fold k, and its rows are weighed by it [sample splitting as in
Chernozhukov et al., Double machine learning, Econometrics Journal 2018]. A user's fold follows from the id alone.
Shapes: R rows.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from data.encode import Rows
from data.errors import UserError
from data.schema import Schema
from funnel.trained_log import user_keys

FOLD = "fold"
"""Under this name, beside a row's labels, the number of its user's fold, from 0."""
MOST = 50


@dataclass(frozen=True)
class LeftOut:
    """Fold `fold` (from 1) of `folds`, which a training is to leave out."""

    fold: int = 0
    folds: int = 0

    @classmethod
    def of(cls, text: str) -> "LeftOut":
        """ "2/5"; "" leaves out none. Raises UserError for anything else."""
        if not text:
            return cls()
        first, slash, last = text.partition("/")
        if slash and first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last) and 2 <= int(last) <= MOST:
            return cls(int(first), int(last))
        raise UserError(f"leave_out must be FOLD/FOLDS, such as 1/3 (2 to {MOST} folds), got {text!r}")


def fold_columns(schema: Schema, folds: int) -> list[str]:
    """Columns of the log that the rows' folds are read from."""
    return [schema.user] if folds and schema.user and schema.user not in schema.columns else []


def with_folds(rows: Rows, table: pa.Table, schema: Schema, folds: int) -> Rows:
    """The rows, each with the number of its user's fold; as they are where there are no folds."""
    if not folds:
        return rows
    assert schema.user is not None
    # High bits of a product: what fold a user is in says nothing of its hash modulo anything else.
    mixed_R = user_keys(table, schema.user) * np.uint64(0x9E3779B97F4A7C15)
    fold_R = ((mixed_R >> np.uint64(33)) % np.uint64(folds)).astype(np.float32)
    return dataclasses.replace(rows, labels={**rows.labels, FOLD: fold_R})


def no_folds(rows: Rows, folds: int) -> Rows:
    """The same of no rows."""
    return dataclasses.replace(rows, labels={**rows.labels, FOLD: np.empty(0, np.float32)}) if folds else rows
