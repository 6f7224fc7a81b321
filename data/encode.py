"""From a table of the log to the arrays a model reads, and the moments that put numeric features on one scale.

Shapes: R rows, K single-valued categorical fields, N numeric features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

from data.bags import Bags, list_values
from data.errors import UserError
from data.hashing import hash_array
from data.kinds import is_list, is_text, number
from data.kinds import one_chunk as one_chunk
from data.log import Log, Part, PartFile
from data.schema import WITHIN, CategoricalField, Schema
from data.transforms import apply

FLOAT32_MOST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Rows:
    """Encoded rows.

    ids_RK         int64, C-contiguous: rows of the fused embedding table (every field's offset is added) of the
                   single-valued fields
    numeric_RN     C-contiguous: as in the log, NaN where missing; float64 if a column has numbers that float32 does not
    labels         float32_R by label, 0 or 1; "conversion" is there, 0, where a log has clicks and no conversions
    weight_R       float32, or None if the schema names no weight
    bags           the same ids of the multi-valued fields, one Bags a field, in the schema's order
    """

    ids_RK: np.ndarray
    numeric_RN: np.ndarray
    labels: dict[str, np.ndarray]
    weight_R: np.ndarray | None
    bags: tuple[Bags, ...] = ()

    def __len__(self) -> int:
        return len(self.ids_RK)

    def take(self, index: np.ndarray | slice) -> "Rows":
        """The rows of an index, or of a slice of step 1."""
        return Rows(
            chosen(self.ids_RK, index),
            chosen(self.numeric_RN, index),
            {name: chosen(label_R, index) for name, label_R in self.labels.items()},
            chosen(self.weight_R, index) if self.weight_R is not None else None,
            tuple(bags.take(index) for bags in self.bags),
        )

    @classmethod
    def join(cls, parts: Sequence["Rows"]) -> "Rows":
        """The rows of all parts, one after the other."""
        if len(parts) == 1:
            return parts[0]

        def joined(name: str) -> np.ndarray:
            return np.concatenate([getattr(rows, name) for rows in parts])

        return cls(
            joined("ids_RK"),
            joined("numeric_RN"),
            {name: np.concatenate([rows.labels[name] for rows in parts]) for name in parts[0].labels},
            joined("weight_R") if parts[0].weight_R is not None else None,
            tuple(Bags.join(bags) for bags in zip(*(rows.bags for rows in parts), strict=True)),
        )


def chosen(array: np.ndarray, index: np.ndarray | slice) -> np.ndarray:
    # take moves whole rows, at twice the speed of array[index]
    return array[index] if isinstance(index, slice) else array.take(index, axis=0)


class Encoder:
    """Encodes tables of one schema. `field_rows[k]` is the size of categorical field k's block in the fused table.

    A field that shares another's rows has no block (0 rows) and that field's offset.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        fields = schema.categorical
        self.field_rows: tuple[int, ...] = tuple(0 if field.share else field.rows for field in fields)
        begins = {field.name: sum(self.field_rows[:k]) for k, field in enumerate(fields)}
        self.offsets: tuple[int, ...] = tuple(begins[field.share or field.name] for field in fields)
        self._parts = {
            field.name: (field, pa.array(field.vocabulary) if field.vocabulary else None, offset)
            for field, offset in zip(fields, self.offsets, strict=True)
        }

    def encode(self, table: pa.Table) -> Rows:
        """Encode a table that holds the schema's columns (as Log.read_row_group reads it).

        Raises UserError naming the column where a numeric feature is infinite.
        """
        schema, rows = self.schema, table.num_rows
        # Field by field into lines, turned at the end: storing into columns touches a cache line for each id.
        ids_KR = np.empty((len(schema.single), rows), np.int64)
        for k, single in enumerate(schema.single):
            field, vocabulary, offset = self._parts[single.name]
            np.add(field_ids(field, vocabulary, one_chunk(table, field.name)), offset, out=ids_KR[k])
        numeric_RN = numeric_values(table, schema.numeric, schema)
        infinite = is_infinite(numeric_RN)
        if infinite.any():
            raise UserError(f"column {schema.numeric[int(infinite.argmax())]!r} has an infinite value")
        return Rows(
            np.ascontiguousarray(ids_KR.T),
            numeric_RN,
            self._with_absent({name: label_number(table, column) for name, column in schema.labels.items()}),
            number(table, schema.weight) if schema.weight else None,
            tuple(self._bags(field.name, table) for field in schema.many),
        )

    def empty(self) -> Rows:
        """No rows, with the columns of this schema."""
        schema, none = self.schema, np.empty(0, np.float32)
        ids_RK = np.empty((0, len(schema.single)), np.int64)
        numeric_RN = np.empty((0, len(schema.numeric)), np.float32)
        bags = tuple(Bags.none() for _ in schema.many)
        labels = self._with_absent(dict.fromkeys(schema.labels, none))
        return Rows(ids_RK, numeric_RN, labels, none if schema.weight else None, bags)

    def _with_absent(self, labels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A label within another one that the log does not have, conversions in a log of clicks, is nowhere 1."""
        absent = {name: np.zeros_like(labels[outer]) for name, outer in WITHIN.items()
                  if outer in labels and name not in labels}  # fmt: skip
        return labels | absent

    def _bags(self, name: str, table: pa.Table) -> Bags:
        field, vocabulary, offset = self._parts[name]
        assert field.many is not None
        column = one_chunk(table, name)
        if not is_list(column.type):  # a file in which all are missing
            return Bags(np.empty(0, np.int64), np.zeros(len(column) + 1, np.int64))
        values, offset_R1 = list_values(column, field.many.max)
        return Bags(field_ids(field, vocabulary, values) + offset, offset_R1)


def field_ids(field: CategoricalField, vocabulary: pa.Array | None, column: pa.Array) -> np.ndarray:
    """int64_R: the rows of the field's own block of the embedding table (see CategoricalField)."""
    if field.kind == "hash":
        hash_R = hash_array(column)
        # numpy divides by a scalar without a division per element; it has no such path for %.
        bucket_R = hash_R - hash_R // np.uint64(field.size) * np.uint64(field.size)
        ids_R = bucket_R.view(np.int64) + 1
        return marked(ids_R, column)
    if pat.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pat.is_boolean(column.type):
        column = column.cast(pa.int8())
    if field.kind == "range":
        values_R = column.fill_null(0).to_numpy()
        ids_R = np.where((values_R >= 0) & (values_R < field.size), values_R.astype(np.int64), -1) + 2
    else:
        assert vocabulary is not None
        if column.null_count == len(column):
            column = pa.nulls(len(column), vocabulary.type)
        # What int64 cannot hold is in no vocabulary; cast, it would be a negative number that may be in one.
        beyond = pc.greater(column, pa.scalar(2**63 - 1, pa.uint64())) if pat.is_uint64(column.type) else None
        column = column.cast(pa.large_string() if is_text(column.type) else pa.int64(), safe=False)
        ids_R = pc.index_in(column, vocabulary.cast(column.type)).fill_null(-1).to_numpy().astype(np.int64)
        # -1 (not in the vocabulary) becomes row 1
        ids_R += 2
        if beyond is not None:
            ids_R[beyond.fill_null(False).to_numpy(zero_copy_only=False)] = 1
    return marked(ids_R, column)


def marked(ids_R: np.ndarray, column: pa.Array) -> np.ndarray:
    """With row 0 where the value is missing."""
    if column.null_count:
        ids_R[column.is_null().to_numpy(zero_copy_only=False)] = 0
    return ids_R


EXACT = (pa.float32(), pa.float16(), pa.int16(), pa.int8(), pa.uint16(), pa.uint8(), pa.bool_())
"""Types whose numbers float32 holds."""


def label_number(table: pa.Table, name: str) -> np.ndarray:
    """float32_R of a label. One that is missing is a conversion without a click (data/labels.py), and so 0."""
    values_R = number(table, name)
    return np.nan_to_num(values_R) if np.isnan(values_R).any() else values_R


def numeric_values(table: pa.Table, names: Sequence[str], schema: Schema | None = None) -> np.ndarray:
    """R x N numbers, transformed as the schema says: float32, or float64 where a column is of a type that float32 would
    round. Raises UserError naming the column that a transform cannot take.

    Far from 0 what float32 leaves of a number may not tell one row from another: epoch milliseconds come in steps of
    two minutes. So the mean is taken away first, in the model (models/layers.py: Standardise).
    """
    types = {table.schema.field(name).type for name in names}
    wide = any((kind.value_type if pat.is_dictionary(kind) else kind) not in EXACT for kind in types)
    values_RN = np.empty((table.num_rows, len(names)), np.float64 if wide else np.float32)
    transforms = schema.transforms if schema else {}
    for n, name in enumerate(names):
        values_RN[:, n] = (
            transformed(table, name, schema) if schema and name in transforms else number(table, name, wide)
        )
    return values_RN


def transformed(table: pa.Table, name: str, schema: Schema) -> np.ndarray:
    """float64_R of a numeric feature as the model reads it."""
    try:
        return apply(*schema.steps(name), number(table, name, wide=True))
    except UserError as error:
        raise UserError(f"column {name!r}: {error}") from None


def is_infinite(values_RN: np.ndarray) -> np.ndarray:
    """bool_N: columns with a number that is infinite, or as a float32 would be."""
    with np.errstate(invalid="ignore"):
        return np.asarray((np.abs(values_RN) > FLOAT32_MOST).any(axis=0))


def numeric_moments(log: Log, part: Part, max_rows: int = 1_000_000) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population standard deviation of every numeric feature: (float64_N, float64_N).

    Streams whole row groups, spread evenly over the part, until about max_rows rows are seen. Missing values are
    left out; a constant feature has std 1, one without any value mean 0 and std 1. Moments of row groups are joined
    as in Chan, Golub, LeVeque 1979. Raises UserError naming file and column where a value is infinite.
    """
    names = list(log.schema.numeric)
    count_N, mean_N, square_N = (np.zeros(len(names)) for _ in range(3))
    for file, index in spread(part, max_rows) if names else ():
        table = log.read_row_group(file, index, names)
        values_RN = numeric_values(table, names, log.schema).astype(np.float64, copy=False)
        infinite = is_infinite(values_RN)
        if infinite.any():
            raise UserError(
                f"{file.path}: column {names[int(infinite.argmax())]!r} has an infinite value: write it as missing"
            )
        seen_RN = ~np.isnan(values_RN)
        here_N = seen_RN.sum(axis=0)
        here_mean_N = np.where(seen_RN, values_RN, 0).sum(axis=0) / np.maximum(here_N, 1)
        here_square_N = (np.where(seen_RN, values_RN - here_mean_N, 0) ** 2).sum(axis=0)
        total_N = np.maximum(count_N + here_N, 1)
        shift_N = here_mean_N - mean_N
        square_N += here_square_N + shift_N**2 * count_N * here_N / total_N
        mean_N += shift_N * here_N / total_N
        count_N += here_N
    std_N = np.sqrt(square_N / np.maximum(count_N, 1))
    # The mean of n equal floats can miss them by a rounding error, which is no spread.
    return mean_N, np.where(std_N > 1e-12 * np.maximum(np.abs(mean_N), 1e-30), std_N, 1.0)


def spread(part: Part, max_rows: int) -> list[tuple[PartFile, int]]:
    """Row groups at even distances over the part, about max_rows rows together."""
    groups = list(part.row_groups())
    wanted = min(len(groups), max(1, -(-max_rows * len(groups) // max(part.rows, 1))))
    return [groups[i * len(groups) // wanted] for i in range(wanted)]
