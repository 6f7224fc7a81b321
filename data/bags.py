"""A multi-valued column in memory: all values end to end, and where each row's begin (CSR), without padding.

Shapes: R rows, S values of all rows together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class Bags:
    """Row r holds ids_S[offset_R1[r] : offset_R1[r + 1]]; both int64, offset_R1 begins with 0 and ends with S."""

    ids_S: np.ndarray
    offset_R1: np.ndarray

    def __len__(self) -> int:
        return len(self.offset_R1) - 1

    @classmethod
    def none(cls) -> "Bags":
        """No rows."""
        return cls(np.empty(0, np.int64), np.zeros(1, np.int64))

    def take(self, index: np.ndarray | slice) -> "Bags":
        """The rows of an index, or of a slice of step 1."""
        if isinstance(index, slice):
            begin, end, step = index.indices(len(self))
            assert step == 1
            offset_R1 = self.offset_R1[begin : max(begin, end) + 1]
            return Bags(self.ids_S[offset_R1[0] : offset_R1[-1]], offset_R1 - offset_R1[0])
        begin_R = self.offset_R1[index]
        offset_R1 = offsets(self.offset_R1[index + 1] - begin_R)
        # The place of every value: its place in the result, moved by as much as its row moves.
        place_S = np.repeat(begin_R - offset_R1[:-1], np.diff(offset_R1)) + np.arange(offset_R1[-1])
        return Bags(self.ids_S.take(place_S), offset_R1)

    @classmethod
    def join(cls, parts: Sequence["Bags"]) -> "Bags":
        """The rows of all parts, one after the other."""
        if len(parts) == 1:
            return parts[0]
        length_R = np.concatenate([np.diff(part.offset_R1) for part in parts])
        return cls(np.concatenate([part.ids_S for part in parts]), offsets(length_R))


def offsets(length_R: np.ndarray) -> np.ndarray:
    """int64 (R + 1): where rows of these lengths begin, and where the last one ends."""
    offset_R1 = np.zeros(len(length_R) + 1, np.int64)
    np.cumsum(length_R, out=offset_R1[1:])
    return offset_R1


def list_values(column: pa.Array, most: int | None) -> tuple[pa.Array, np.ndarray]:
    """(values_S, offset_R1) of a list column: the last `most` values of each row, without missing ones.

    A missing list is an empty one.
    """
    length_R = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    values = column.flatten()  # of the rows that are there, whatever the buffers hold beside them
    if values.null_count:
        there_S = values.is_valid().to_numpy(zero_copy_only=False)
        row_S = np.repeat(np.arange(len(length_R)), length_R)
        length_R = np.bincount(row_S[there_S], minlength=len(length_R))
        values = values.drop_null()
    if most is None or len(length_R) == 0 or length_R.max() <= most:
        return values, offsets(length_R)
    # Counted from the end of its row, a value is kept if it is among the last `most`.
    from_end_S = np.repeat(np.cumsum(length_R), length_R) - np.arange(len(values))
    return values.take(pa.array(np.flatnonzero(from_end_S <= most))), offsets(np.minimum(length_R, most))
