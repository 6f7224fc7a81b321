"""Rows of a table that stand in it more than once, alike in every column: a file that was copied, a join gone wrong.

A fixed share of the rows is looked at, told by the smallest of their hashes: memory is flat. Shapes: R rows of a block.
"""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.encode import one_chunk
from data.hashing import hash_array, splitmix64
from data.kinds import is_number, is_text

KEPT = 4096
"""Different rows that are followed: the share of repeats is exact below, and 1.6% off (one deviation) above."""
WORTH = 0.01
"""Share of rows from which on repeats are named."""


@dataclass
class Repeats:
    """How often each of the rows with the smallest hashes stands in the table."""

    hash_K: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    times_K: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    def add(self, table: pa.Table) -> None:
        hash_R = row_hashes(table)
        if len(self.hash_K) == KEPT:
            hash_R = hash_R[hash_R <= self.hash_K[-1]]
        new_K, counts_K = np.unique(hash_R, return_counts=True)
        all_K = np.concatenate([self.hash_K, new_K])
        found_K, place_K = np.unique(all_K, return_inverse=True)
        times_K = np.bincount(place_K, weights=np.concatenate([self.times_K, counts_K])).astype(np.int64)
        self.hash_K, self.times_K = found_K[:KEPT], times_K[:KEPT]

    @property
    def share(self) -> float:
        """Of the rows, those that stood in the table before."""
        return 1 - len(self.times_K) / max(int(self.times_K.sum()), 1)


def row_hashes(table: pa.Table) -> np.ndarray:
    """uint64_R of all numbers, texts and times of a row; of lists their lengths."""
    total_R = np.zeros(table.num_rows, np.uint64)
    for number, name in enumerate(table.column_names):
        values = plain(one_chunk(table, name))
        if values is None:
            continue
        hash_R = hash_array(values)
        if values.null_count:
            hash_R = np.where(values.is_null().to_numpy(zero_copy_only=False), np.uint64(1), hash_R)
        total_R += splitmix64(hash_R + np.uint64(number + 1))
    return total_R


def plain(values: pa.Array) -> pa.Array | None:
    """As integers or text, which can be hashed; None of other types."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        values, kind = values.cast(kind.value_type), kind.value_type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pc.list_value_length(values)
    if pa.types.is_null(kind):
        return None
    if pa.types.is_temporal(kind):
        return values.cast(pa.int32()).cast(pa.int64()) if kind.bit_width == 32 else values.cast(pa.int64())
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return values.cast(pa.float64(), safe=False).view(pa.int64())
    return values if is_text(kind) or is_number(kind) else None
