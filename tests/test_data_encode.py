"""data/encode.py and hashing.py against plain loops over Python ints, dicts and numpy's own moments."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data.encode import Encoder, field_ids, numeric_moments
from data.hashing import BLOCK_ROWS, P, hash_array, splitmix64
from data.labels import check_labels
from data.log import open_log
from data.schema import CategoricalField, Schema
from data.write import PartWriter, new_log

MASK = 2**64 - 1


def splitmix64_of(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def string_hash_of(text: str) -> int:
    data = text.encode()
    return splitmix64_of((len(data) + sum((b + 1) * int(P) ** (i + 1) for i, b in enumerate(data))) & MASK)


def test_splitmix64_gives_the_published_sequence() -> None:
    # The first outputs of the generator seeded with 1234567: its state grows by the golden ratio each step.
    state = [(1234567 + i * 0x9E3779B97F4A7C15) & MASK for i in range(3)]
    assert splitmix64(np.array(state, np.uint64)).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]
    values = [0, 1, 2**63, MASK, 12345678901234567890]
    assert splitmix64(np.array(values, np.uint64)).tolist() == [splitmix64_of(x) for x in values]


@pytest.mark.parametrize("kind", [pa.int8(), pa.int16(), pa.int32(), pa.int64()])
def test_an_integer_hashes_the_same_whatever_its_width(kind: pa.DataType) -> None:
    values = [0, 1, -1, 127, -128]
    assert hash_array(pa.array(values, kind)).tolist() == [splitmix64_of(x & MASK) for x in values]


def test_unsigned_integers_hash_as_signed_ones_of_the_same_value() -> None:
    assert hash_array(pa.array([0, 200], pa.uint8())).tolist() == [splitmix64_of(0), splitmix64_of(200)]
    assert hash_array(pa.array([MASK], pa.uint64())).tolist() == [splitmix64_of(MASK)]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_strings_hash_as_the_polynomial_says(kind: pa.DataType) -> None:
    texts = ["", "a", "b", "ab", "ba", "zürich", "\x00", "\x00\x00", "x" * 300, "user-000017", "a"]
    array = pa.array(texts).cast(kind)
    assert hash_array(array).tolist() == [string_hash_of(text) for text in texts]
    # A slice shares its parent's buffers.
    assert hash_array(array.slice(3, 5)).tolist() == [string_hash_of(text) for text in texts[3:8]]
    assert len(hash_array(array.slice(0, 0))) == 0


def test_strings_spread_evenly_over_buckets() -> None:
    bucket = hash_array(pa.array([f"shop-{i}" for i in range(100_000)])) % np.uint64(100)
    count = np.bincount(bucket.astype(int), minlength=100)
    # chi-square with 99 degrees of freedom: mean 99, standard deviation sqrt(198)
    assert abs(((count - 1000) ** 2 / 1000).sum() - 99) < 4 * np.sqrt(198)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_strings_of_many_blocks_hash_as_alone(kind: pa.DataType) -> None:
    """A string's place in its block is divided out again, whatever stands before it."""
    texts = ["x" * (row * 7919 % 50) + str(row) if row % 11 else "" for row in range(2 * BLOCK_ROWS + 3)]
    found = hash_array(pa.array([None, *texts], kind).slice(1))
    assert found.tolist() == [string_hash_of(text) for text in texts]


def test_hash_ids_leave_row_0_to_missing_values() -> None:
    field = CategoricalField("user", "hash", 7)
    ids = field_ids(field, None, pa.array([5, None, -5, 10**12]))
    assert ids.tolist() == [1 + splitmix64_of(x & MASK) % 7 if x is not None else 0 for x in (5, None, -5, 10**12)]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_vocabulary_ids_of_strings_against_a_dict(kind: pa.DataType) -> None:
    words = tuple(f"word{i}" for i in range(50))
    place = {word: 2 + i for i, word in enumerate(words)}
    values = [*np.random.default_rng(0).choice([*words, "new", ""], 1000).tolist(), None]
    ids = field_ids(CategoricalField("f", "vocabulary", vocabulary=words), pa.array(words), pa.array(values).cast(kind))
    assert ids.tolist() == [0 if value is None else place.get(value, 1) for value in values]


def test_vocabulary_ids_of_integers_against_a_dict() -> None:
    words = (40, -3, 1000)
    place = {word: 2 + i for i, word in enumerate(words)}
    values = [40, -3, 7, None]
    # int8 cannot hold 1000: the vocabulary must not be squeezed into the column's type.
    ids = field_ids(CategoricalField("f", "vocabulary", vocabulary=words), pa.array(words), pa.array(values, pa.int8()))
    assert ids.tolist() == [0 if value is None else place.get(value, 1) for value in values]


def test_range_ids() -> None:
    values = [0, 23, 24, -1, None]
    for kind in (pa.int8(), pa.int64()):
        assert field_ids(CategoricalField("h", "range", 24), None, pa.array(values, kind)).tolist() == [2, 25, 1, 1, 0]
    assert field_ids(CategoricalField("h", "range", 24), None, pa.array([3, 200], pa.uint8())).tolist() == [5, 1]


SCHEMA = Schema(
    name="toy",
    categorical=(CategoricalField("h", "range", 4), CategoricalField("c", "vocabulary", vocabulary=("a", "b"))),
    numeric=("x", "n", "constant", "empty"),
    labels={"click": "click", "conversion": "conversion"},
    weight="w",
)


def toy_table() -> pa.Table:
    rng = np.random.default_rng(1)
    return pa.table(
        {
            "h": pa.array(rng.integers(0, 5, 1000), pa.int16()),
            "c": pa.array(rng.choice(["a", "b"], 1000)),
            "x": pa.array(1e4 + rng.normal(size=1000), mask=rng.random(1000) < 0.1),
            "n": pa.array(rng.integers(-5, 5, 1000), pa.int32()),
            "constant": np.full(1000, 0.1),
            "empty": pa.array([None] * 1000, pa.float32()),
            "click": pa.array(rng.random(1000) < 0.5),
            "conversion": pa.array(np.zeros(1000, np.int8)),
            "w": rng.random(1000),
        }
    )


def test_rows_hold_what_the_table_says() -> None:
    table, encoder = toy_table(), Encoder(SCHEMA)
    rows = encoder.encode(pa.concat_tables([table.slice(0, 400), table.slice(400)]))
    assert encoder.field_rows == (6, 4)
    assert rows.ids_RK.dtype == np.int64
    assert rows.ids_RK.flags.c_contiguous
    hours, channels = table.column("h").to_pylist(), table.column("c").to_pylist()
    assert rows.ids_RK[:, 0].tolist() == [h + 2 if h < 4 else 1 for h in hours]
    assert rows.ids_RK[:, 1].tolist() == [6 + {"a": 2, "b": 3}[c] for c in channels]
    for n, name in enumerate(SCHEMA.numeric):
        np.testing.assert_array_equal(rows.numeric_RN[:, n], np.array(table.column(name).to_pylist(), np.float64))
    np.testing.assert_array_equal(rows.labels["click"], np.array(table.column("click").to_pylist(), np.float32))
    assert rows.weight_R is not None
    np.testing.assert_array_equal(rows.weight_R, table.column("w").to_numpy().astype(np.float32))
    assert {a.dtype for a in (rows.labels["click"], rows.labels["conversion"], rows.weight_R)} == {np.dtype("f4")}
    assert rows.numeric_RN.dtype == np.float64  # some columns are: float32 would round them


def toy_log(path: Path, table: pa.Table) -> Path:
    with new_log(path, SCHEMA) as out, PartWriter(out, "train", SCHEMA, 300, 100) as writer:
        writer.write(table)
    return path


def test_moments_against_numpy(tmp_path: Path) -> None:
    log = open_log(toy_log(tmp_path / "log", toy_table()))
    mean_N, std_N = numeric_moments(log, log.part("train"))
    values = Encoder(SCHEMA).encode(toy_table()).numeric_RN[:, :2].astype(np.float64)
    np.testing.assert_allclose(mean_N[:2], np.nanmean(values, axis=0), rtol=1e-12)
    np.testing.assert_allclose(std_N[:2], np.nanstd(values, axis=0), rtol=1e-9)
    assert mean_N[2] == pytest.approx(0.1)
    assert (std_N[2], mean_N[3], std_N[3]) == (1, 0, 1)


def test_moments_of_some_rows_are_those_of_evenly_spread_row_groups(tmp_path: Path) -> None:
    log = open_log(toy_log(tmp_path / "log", toy_table()))
    mean_N, _ = numeric_moments(log, log.part("train"), max_rows=250)
    taken = pa.concat_tables([toy_table().slice(100 * group, 100) for group in (0, 3, 6)])
    assert mean_N[1] == pytest.approx(taken.column("n").to_numpy().mean())


def test_an_infinite_value_is_named(tmp_path: Path) -> None:
    table = toy_table()
    table = table.set_column(table.column_names.index("x"), "x", pa.array([np.inf] + [0.0] * 999))
    log = open_log(toy_log(tmp_path / "log", table))
    with pytest.raises(ValueError, match=r"part-00000\.parquet: column 'x' has an infinite value"):
        numeric_moments(log, log.part("train"))
    with pytest.raises(ValueError, match="column 'x' has an infinite value"):
        Encoder(SCHEMA).encode(table)


def test_a_weight_must_be_finite_and_not_negative(tmp_path: Path) -> None:
    table = toy_table()
    table = table.set_column(table.column_names.index("w"), "w", pa.array([1.0] * 150 + [-1.0] * 850))
    log = open_log(toy_log(tmp_path / "log", table))
    with pytest.raises(ValueError, match=r"part-00000\.parquet: row 150: column 'w' is -1\.0; a weight is a finite"):
        check_labels(log, log.part("train"))
