"""Columns that look wrong, from a sample of the rows: one line each, by name, to be said before a training.

An outcome among the features, a placeholder that squeezes all other values together, numbers that the model cannot tell
apart. Shapes: R rows of the sample, N numeric features.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from data.encode import Encoder, numeric_values, spread
from data.kinds import cast_table, number
from data.labels import checked_labels
from data.log import Log, Part, PartFile

SAMPLE = 32_768
ALONE = 0.98
"""AUC of one column from which on it is taken for the outcome itself."""
FEWEST = 20
BY_CHANCE = 1e-6
VALUES = 64
"""Categorical columns of at most so many values are tried value by value."""
FAR = 2048.0
"""As models/layers.py has it."""


def suspicious_columns(log: Log, part: Part, mean_N: Sequence[float], std_N: Sequence[float]) -> list[str]:
    """One line for each column of the part that looks wrong. `mean_N`, `std_N`: of the numeric features."""
    schema = log.schema
    table, labels = sample(log, part)
    lines: list[str] = []
    for name, mean, std in zip(schema.numeric, mean_N, std_N, strict=True):
        values_R = number(table, name, wide=True)
        there_R, group_R = ~np.isnan(values_R) & (values_R != 0), ordered(values_R)
        lines += outcome(f"column {name!r}", there_R, group_R, labels)
        lines += squeezed(name, numeric_values(table, [name], schema)[:, 0].astype(float), mean, std)
    if schema.value and schema.value not in schema.numeric:
        values_R, about = number(table, schema.value, wide=True), f"column {schema.value!r}, the 'value',"
        found = outcome(about, ~np.isnan(values_R) & (values_R != 0), ordered(values_R), labels)
        lines += [f"{line}; name what is known only afterwards under 'reward'" for line in found]
    encoder = Encoder(schema)
    rows, offset = encoder.encode(table), dict(zip((f.name for f in schema.categorical), encoder.offsets, strict=True))
    for k, field in enumerate(schema.single):
        ids_R = rows.ids_RK[:, k] - offset[field.name]
        lines += outcome(f"column {field.name!r}", *groups(ids_R, labels), labels)
    for field, bags in zip(schema.many, rows.bags, strict=True):
        there_R = np.diff(bags.offset_R1) > 0
        lines += outcome(f"column {field.name!r}", there_R, there_R.astype(int), labels)
    return lines


def sample(log: Log, part: Part) -> tuple[pa.Table, dict[str, np.ndarray]]:
    """Some SAMPLE rows of a few row groups, and their labels, bool_R."""
    schema = log.schema
    groups = spread(part, SAMPLE)[:16]
    columns = list(dict.fromkeys([*schema.columns, *([schema.value] if schema.value else [])]))

    def read(group: tuple[PartFile, int]) -> pa.Table:
        file, index = group
        table = log.read_row_group(file, index, columns)
        step = max(1, table.num_rows * len(groups) // SAMPLE)
        taken = table.take(pa.array(np.arange(0, table.num_rows, step))) if step > 1 else table
        return cast_table(taken, part.types, file.path)

    with ThreadPoolExecutor(4) as pool:
        table = pa.concat_tables(pool.map(read, groups))
    return table, checked_labels(schema, table, part.name)


def groups(ids_R: np.ndarray, labels: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(rows that have not the commonest value, groups) of a categorical column of few values, which are ordered by the
    rate of the last label; of one of many values (rows that have one, the same as groups)."""
    if len(np.unique(ids_R[:4096])) <= VALUES and labels:
        values, code_R, count = np.unique(ids_R, return_inverse=True, return_counts=True)
        if len(values) <= VALUES:
            rate = np.bincount(code_R, weights=list(labels.values())[-1]) / count
            return code_R != np.argmax(count), np.argsort(np.argsort(rate, kind="stable"))[code_R]
    there_R = ids_R != 0
    return there_R, there_R.astype(int)


def ordered(values_R: np.ndarray) -> np.ndarray:
    """Groups of a numeric column: equal values are one, in increasing order; missing ones come first."""
    known_R = np.nan_to_num(values_R, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    order_R = np.argsort(known_R)
    sorted_R = known_R[order_R]
    group_R = np.empty(len(values_R), np.int64)
    group_R[order_R] = np.concatenate([[0], np.cumsum(sorted_R[1:] != sorted_R[:-1])])
    return group_R


def outcome(what: str, there_R: np.ndarray, group_R: np.ndarray, labels: dict[str, np.ndarray]) -> Iterator[str]:
    """At most one line: values are there only where a label is 1, or tell its rows from all others by themselves.

    `there_R`: bool, rows whose value says anything; `group_R`: numbers of equal values, in an order.
    """
    known = int(there_R.sum())
    for name, label_R in reversed(labels.items()):
        positive = int(label_R.sum())
        if min(positive, len(label_R) - positive) < FEWEST:
            continue
        if known and label_R[there_R].all() and (positive / len(label_R)) ** known < BY_CHANCE:
            yield f"{what} is there, and not 0, only where {name!r} is 1: is it an outcome?"
            return
        auc = grouped_auc(group_R, label_R)
        if max(auc, 1 - auc) > ALONE:
            yield f"{what} alone tells where {name!r} is 1 (AUC {max(auc, 1 - auc):.3f}): is it an outcome?"
            return


def grouped_auc(group_R: np.ndarray, label_R: np.ndarray) -> float:
    """AUC of the rows' groups, numbered in increasing order of what is judged; ties count half."""
    positive_G = np.bincount(group_R, weights=label_R)
    negative_G = np.bincount(group_R) - positive_G
    below_G = np.cumsum(negative_G) - negative_G / 2
    return float((positive_G * below_G).sum() / (positive_G.sum() * negative_G.sum()))


def squeezed(name: str, values_R: np.ndarray, mean: float, std: float) -> Iterator[str]:
    """Lines on a numeric feature whose values the model will hardly tell apart."""
    sorted_R = np.sort(values_R[~np.isnan(values_R)])
    if not len(sorted_R):
        return
    low, high = sorted_R[len(sorted_R) // 100], sorted_R[-1 - len(sorted_R) // 100]
    middle = sorted_R[(sorted_R >= low) & (sorted_R <= high)]
    if 0 < high - low < 0.1 * std and distinct(middle) > 10:
        ends = sorted_R[0], sorted_R[-1]
        farthest = max(ends, key=lambda value: abs(value - mean))
        yield (
            f"column {name!r}: 98% of the values lie within {(high - low) / std:.2g} standard deviations, as a few are "
            f"as far as {farthest:,.10g}: if that is a placeholder, write it as missing, or "
            f"{{\"missing\": [{farthest:.10g}]}} under its 'transform'"
        )
    there, left = distinct(sorted_R), distinct(standardised(sorted_R, mean, std))
    if there > 10 and left < 0.5 * there:
        yield f"column {name!r}: {there:,} different values of a sample are {left:,} to the model: scale it down"


def standardised(values_R: np.ndarray, mean: float, std: float) -> np.ndarray:
    """float32_R as models/layers.py: Standardise has them."""
    if abs(mean) > FAR * std:
        return np.clip(((values_R - mean) / std).astype(np.float32), -10, 10)
    return np.clip((values_R.astype(np.float32) - np.float32(mean)) / np.float32(std), -10, 10)


def distinct(sorted_R: np.ndarray) -> int:
    return 1 + int((sorted_R[1:] != sorted_R[:-1]).sum()) if len(sorted_R) else 0
