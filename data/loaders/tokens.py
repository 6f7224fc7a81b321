"""Texts of many field/id pairs in one cell, taken apart a whole block at a time.

Shapes: R rows (lines) of a block, S pairs of all rows together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.errors import UserError


@dataclass(frozen=True)
class Tokens:
    """The pairs of a block, in the order of its rows."""

    rows: int
    row_S: np.ndarray
    code_S: np.ndarray
    id_S: np.ndarray
    names: dict[str, int]

    def of(self, field: str) -> tuple[np.ndarray, np.ndarray]:
        """(row, id) of every pair of a field."""
        here_S = self.code_S == self.names.get(field, -1)
        return self.row_S[here_S], self.id_S[here_S]


def tokenize(text: pa.Array, separators: Sequence[str], path: Path, start: int) -> Tokens:
    """Split pairs (separators: between pairs, inside a pair) or triples (a third one: before the value, which is left).

    Raises UserError naming file and line where a text is no whole number of pairs or an id is no whole number.
    """
    width = len(separators)
    for inner in separators[1:]:
        text = pc.replace_substring(text, inner, separators[0])
    cut = pc.split_pattern(text, separators[0])
    length_R = pc.list_value_length(cut).fill_null(0).to_numpy(zero_copy_only=False)
    # An empty text splits into one empty piece, and has no pairs.
    blank_R = pc.equal(pc.binary_length(text.fill_null("")), 0).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero((length_R % width != 0) & ~blank_R)
    if len(wrong):
        raise UserError(f"{path}: line {start + wrong[0] + 1}: {length_R[wrong[0]]} pieces are no whole features")
    parents_S, pieces = pc.list_parent_indices(cut).to_numpy(), pc.list_flatten(cut)
    kept = np.flatnonzero(~blank_R[parents_S])
    row_S = parents_S[kept[::width]].astype(np.int64)
    field = pieces.take(pa.array(kept[::width])).dictionary_encode()
    try:
        id_S = pieces.take(pa.array(kept[1::width])).cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid as error:
        last = start + len(text)
        raise UserError(f"{path}: lines {start + 1} .. {last}: an id is no whole number ({error})") from None
    names = {name: code for code, name in enumerate(field.dictionary.to_pylist())}
    return Tokens(len(text), row_S, field.indices.to_numpy(), id_S, names)


def first_ids(tokens: Tokens, field: str) -> pa.Array:
    """int64 of length R: the first id of the field in each row, missing where there is none."""
    row, id_ = tokens.of(field)
    ids_R, seen_R = np.zeros(tokens.rows, np.int64), np.zeros(tokens.rows, bool)
    # Later writes win: going backwards, the first id of a row stays.
    ids_R[row[::-1]] = id_[::-1]
    seen_R[row] = True
    return pa.array(ids_R, mask=~seen_R)


def id_lists(tokens: Tokens, field: str) -> pa.Array:
    """list<int64> of length R: all ids of the field in each row."""
    row, id_ = tokens.of(field)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=tokens.rows))])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(id_, pa.int64()))
