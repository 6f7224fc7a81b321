"""Checks the labels of a whole part before a run starts: a bad row found after an hour is an hour lost."""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from data.errors import UserError
from data.log import Log, Part, PartFile

THREADS = min(16, 2 * (os.cpu_count() or 1))


WITHIN = {"conversion": "click"}
"""A label that is 1 only where another one is."""


@dataclass(frozen=True)
class LabelFacts:
    rows: int
    positives: dict[str, int]
    """Rows where a label is 1, by label."""
    weight: float
    """What all rows weigh: their number, if the schema names no weight."""
    weights: dict[str, float]
    """What the rows weigh where a label is 1, by label."""


def check_labels(log: Log, part: Part) -> LabelFacts:
    """Stream the label and weight columns of every file and count.

    Raises UserError naming file, column and row (counted from 0 in the file): a label that is missing or neither 0
    nor 1, a conversion without a click, a weight that is missing, negative or infinite.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        facts = list(pool.map(lambda file: check_file(log, file), part.files))
    names = list(log.schema.labels)
    return LabelFacts(
        sum(f.rows for f in facts),
        {name: sum(f.positives[name] for f in facts) for name in names},
        math.fsum(f.weight for f in facts),
        {name: math.fsum(f.weights[name] for f in facts) for name in names},
    )


def check_file(log: Log, file: PartFile) -> LabelFacts:
    schema = log.schema
    columns = [*schema.labels.values(), *([schema.weight] if schema.weight else [])]
    start, positives = 0, dict.fromkeys(schema.labels, 0)
    weight, weights = 0.0, dict.fromkeys(schema.labels, 0.0)
    for index, rows in enumerate(file.row_groups):
        table = log.read_row_group(file, index, columns)
        found = {name: label(table, column, file.path, start) for name, column in schema.labels.items()}
        for inner, outer in WITHIN.items():
            if inner in found and outer in found:
                alone = np.flatnonzero(found[inner] & ~found[outer])
                if len(alone):
                    raise UserError(
                        f"{file.path}: row {start + alone[0]}: column {schema.labels[inner]!r} is 1 where "
                        f"{schema.labels[outer]!r} is 0; a {inner} needs a {outer}"
                    )
        weight_R = check_weight(table, schema.weight, file.path, start) if schema.weight else None
        start += rows
        weight += rows if weight_R is None else float(weight_R.sum())
        for name, label_R in found.items():
            ones = int(label_R.sum())
            positives[name] += ones
            weights[name] += ones if weight_R is None else float(weight_R[label_R].sum())
    return LabelFacts(start, positives, weight, weights)


def label(table: pa.Table, name: str, path: str, start: int) -> np.ndarray:
    """The column as bool_R."""
    column = table.column(name)
    if column.null_count:
        row = start + int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise UserError(f"{path}: row {row}: column {name!r} is missing; a label is 0 or 1")
    values_R = column.to_numpy()
    wrong = np.flatnonzero((values_R != 0) & (values_R != 1))
    if len(wrong):
        row = start + int(wrong[0])
        raise UserError(f"{path}: row {row}: column {name!r} is {values_R[wrong[0]]}; a label is 0 or 1")
    return values_R.astype(bool)


def check_weight(table: pa.Table, name: str, path: str, start: int) -> np.ndarray:
    """The column as float64_R."""
    # as the loss reads it: what float32 cannot hold is infinite there
    weight_R = table.column(name).cast(pa.float32(), safe=False).fill_null(float("nan")).to_numpy()
    wrong = np.flatnonzero(~((weight_R >= 0) & (weight_R < np.inf)))
    if len(wrong):
        raise UserError(
            f"{path}: row {start + int(wrong[0])}: column {name!r} is {weight_R[wrong[0]]}; "
            "a weight is a finite number of at least 0"
        )
    return weight_R.astype(np.float64)
