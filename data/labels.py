"""Checks the labels of a whole part before a run starts: a bad row found after an hour is an hour lost."""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.types as pat

from data.errors import UserError
from data.kinds import number
from data.log import Log, Part, PartFile
from data.repeats import Keys, key_hashes, share_of
from data.schema import WITHIN, Schema

THREADS = min(16, 2 * (os.cpu_count() or 1))


@dataclass(frozen=True)
class LabelFacts:
    rows: int
    positives: dict[str, int]
    """Rows where a label is 1, by label."""
    weight: float
    """What all rows weigh: their number, if the schema names no weight."""
    weights: dict[str, float]
    """What the rows weigh where a label is 1, by label."""
    keys: Keys | None = field(default=None, compare=False)
    """Of the exposures, where the schema names them."""


def check_labels(log: Log, part: Part) -> LabelFacts:
    """Stream the label and weight columns of every file and count.

    Raises UserError naming file, column and row (counted from 0 in the file): a label that is missing or neither 0
    nor 1, a conversion without a click, a weight that is missing, negative or infinite. A conversion may be missing
    where there is no click: it counts as 0.
    """
    share = share_of(part.rows)
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda file: check_file(log, file, share), part.files))
        facts = [entry for entry, _ in found]
    hashes = [hash_K for _, hashes in found for hash_K in hashes]
    keys = Keys(np.sort(np.concatenate(hashes)), share) if hashes else None
    names = list(log.schema.labels)
    return LabelFacts(
        sum(f.rows for f in facts),
        {name: sum(f.positives[name] for f in facts) for name in names},
        math.fsum(f.weight for f in facts),
        {name: math.fsum(f.weights[name] for f in facts) for name in names},
        keys,
    )


def check_file(log: Log, file: PartFile, share: int) -> tuple[LabelFacts, list[np.ndarray]]:
    """What is in a file, and hashes of one in `share` of its exposure keys."""
    schema = log.schema
    columns = list(dict.fromkeys(filter(None, (*schema.labels.values(), schema.weight, schema.exposure))))
    start, positives = 0, dict.fromkeys(schema.labels, 0)
    weight, weights = 0.0, dict.fromkeys(schema.labels, 0.0)
    hashes: list[np.ndarray] = []
    for index, rows in enumerate(file.row_groups):
        table = log.read_row_group(file, index, columns)
        found = checked_labels(schema, table, file.path, start)
        weight_R = check_weight(table, schema.weight, file.path, start) if schema.weight else None
        weight += rows if weight_R is None else float(weight_R.sum())
        for name, label_R in found.items():
            ones = int(label_R.sum())
            positives[name] += ones
            weights[name] += ones if weight_R is None else float(weight_R[label_R].sum())
        if schema.exposure:
            hashes.append(key_hashes(table.column(schema.exposure), share))
        start += rows
    return LabelFacts(start, positives, weight, weights), hashes


def checked_labels(schema: Schema, table: pa.Table, path: str, start: int = 0) -> dict[str, np.ndarray]:
    """bool_R of every label. What has no meaning may be missing: the conversion of an exposure without a click.

    Raises UserError naming file, column and row, counted from `start`: a label that is missing, or neither 0 nor 1, a
    conversion without a click.
    """
    found = {name: label(table, column, path, start) for name, column in schema.labels.items()}
    for name, (label_R, missing_R) in found.items():
        outer = WITHIN.get(name)
        if outer in found and missing_R is not None:
            missing_R = missing_R & found[outer][0]
        if missing_R is not None and missing_R.any():
            where = f" where {schema.labels[outer]!r} is 1" if outer in found else ""
            row = start + int(missing_R.argmax())
            raise UserError(f"{path}: row {row}: column {schema.labels[name]!r} is missing{where}; a label is 0 or 1")
        if outer in found:
            alone_R = label_R & ~found[outer][0]
            if alone_R.any():
                raise UserError(
                    f"{path}: row {start + int(alone_R.argmax())}: column {schema.labels[name]!r} is 1 where "
                    f"{schema.labels[outer]!r} is 0; a {name} needs a {outer}"
                )
    return {name: label_R for name, (label_R, _) in found.items()}


def label(table: pa.Table, name: str, path: str, start: int) -> tuple[np.ndarray, np.ndarray | None]:
    """(bool_R of the column, bool_R of where it is missing, or None where it nowhere is)."""
    values_R = label_values(table.column(name))
    bad_R = (values_R != 0) & (values_R != 1)
    if not bad_R.any():
        return values_R.astype(bool), None
    missing_R = np.isnan(values_R)
    wrong = np.flatnonzero(bad_R & ~missing_R)
    if len(wrong):
        row = start + int(wrong[0])
        raise UserError(f"{path}: row {row}: column {name!r} is {values_R[wrong[0]]:g}; a label is 0 or 1")
    return values_R == 1, missing_R


def label_values(column: pa.ChunkedArray) -> np.ndarray:
    """A column that may be a label (kinds.is_number) as numbers, NaN where missing; whole numbers and booleans without
    a missing value stay as they are."""
    if pat.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pat.is_boolean(column.type):
        column = column.cast(pa.int8())
    if column.null_count or not pat.is_integer(column.type):
        column = column.cast(pa.float64(), safe=False).fill_null(float("nan"))
    return column.to_numpy()


def check_weight(table: pa.Table, name: str, path: str, start: int) -> np.ndarray:
    """The column as float64_R."""
    # as the loss reads it: what float32 cannot hold is infinite there
    weight_R = number(table, name)
    wrong = np.flatnonzero(~((weight_R >= 0) & (weight_R < np.inf)))
    if len(wrong):
        raise UserError(
            f"{path}: row {start + int(wrong[0])}: column {name!r} is {weight_R[wrong[0]]}; "
            "a weight is a finite number of at least 0"
        )
    return weight_R.astype(np.float64)
