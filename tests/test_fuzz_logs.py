"""Broken logs: whatever schema.json and the Parquet files hold, it is refused in one line or read for what it is.

What is read is compared with a reading of its own, in plain Python, of the same file.
"""

import copy
import json
import math
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import REFUSED, attempt, fuzz
from hypothesis import given
from hypothesis import strategies as st

from data.encode import Encoder, numeric_moments
from data.hashing import splitmix64
from data.labels import check_labels
from data.log import open_log
from data.schema import Schema

SCHEMA = {
    "format": "counterpoint.schema",
    "version": 1,
    "name": "fuzzed",
    "categorical": [
        {"name": "item", "kind": "hash", "size": 50, "width": 4},
        {"name": "hour", "kind": "range", "size": 24},
        {"name": "channel", "kind": "vocabulary", "vocabulary": ["a", "b"]},
        {"name": "level", "kind": "vocabulary", "vocabulary": [-1, 3]},
        {"name": "seen", "share": "item", "many": {"pooling": "attention", "query": "item", "max": 2}},
    ],
    "numeric": ["price"],
    "click": "click",
    "conversion": "conversion",
    "exposure": "id",
    "user": "user",
    "request": None,
    "weight": "weight",
    "value": None,
    "truth": {"key": "id", "potential_conversion": "potential", "propensity": "q"},
}
SCALARS = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.just(2**70) | st.floats() | st.text(max_size=3)
    | st.sampled_from(["item", "hour", "hash", "vocabulary", "click", "attention", "counterpoint.schema"])
)  # fmt: skip
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "kind", "max"]), inner),
    max_leaves=4,
)


def places(value, path=()):
    """Every place in a JSON value, the value itself first."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


@st.composite
def mutated(draw, original):
    """The JSON value with one to three places deleted, replaced or added to."""
    value = copy.deepcopy(original)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(value))))
        new = draw(JSON)
        if not path:
            if draw(st.booleans()):
                value = new
            continue
        parent = value
        for key in path[:-1]:
            parent = parent[key]
        how = draw(st.sampled_from(["replace", "delete", "add", "twice"]))
        if how == "delete":
            del parent[path[-1]]
        elif how == "add" and isinstance(parent, dict):
            parent[draw(st.sampled_from(["width", "size", "share", "weight", "extra", "vocabulary", "many"]))] = new
        elif how == "twice" and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[path[-1]]))
        else:
            parent[path[-1]] = new
    return value


@pytest.mark.slow
@fuzz(150)
@given(mutated(SCHEMA))
def test_a_mutated_schema_is_refused_or_means_what_it_says(value):
    schema = attempt(lambda: Schema.from_json(json.dumps(value), "log/schema.json"))
    if schema is REFUSED:
        return
    labels = value["labels"] if value["version"] == 2 else {name: value[name] for name in ("click", "conversion")}
    assert (schema.name, schema.labels) == (value["name"], labels)
    for key in ("exposure", "user", "request", "weight", "value"):
        assert getattr(schema, key) == value.get(key)
    assert list(schema.numeric) == value["numeric"]
    own = {entry["name"]: entry for entry in value["categorical"] if entry.get("share") is None}
    for field, entry in zip(schema.categorical, value["categorical"], strict=True):
        source = own[entry["share"]] if entry.get("share") is not None else entry
        assert (field.name, field.kind, field.width) == (entry["name"], source["kind"], source.get("width"))
        assert list(field.vocabulary) == source.get("vocabulary", [])
        assert field.size == source.get("size", 0)
        assert (field.many is None) == (entry.get("many") is None)
        if field.many:
            assert field.many.max == entry["many"].get("max")
    encoder = attempt(lambda: Encoder(schema))  # what was accepted can be used
    assert encoder is not REFUSED
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema


@fuzz(60)
@given(st.data())
def test_broken_bytes_of_a_schema(data):
    text = bytearray(json.dumps(SCHEMA).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        if not text:
            break
        place = data.draw(st.integers(0, len(text) - 1))
        how = data.draw(st.sampled_from(["flip", "cut", "insert"]))
        if how == "flip":
            text[place] ^= 1 << data.draw(st.integers(0, 7))
        elif how == "cut":
            del text[place:]
        else:
            text[place:place] = data.draw(st.binary(max_size=4) | st.just(b"[" * 100_000))
    schema = attempt(lambda: Schema.from_json(bytes(text), "log/schema.json"))
    if schema is not REFUSED:
        assert schema.name == json.loads(bytes(text))["name"]


def test_found_numbers_that_do_not_fit():
    wide = {**SCHEMA, "categorical": [{"name": "level", "kind": "vocabulary", "vocabulary": [1, 2**70]}], "truth": None}
    with pytest.raises(ValueError, match="'level': a number of the vocabulary has more than 64 bits"):
        Schema.from_dict(wide)
    with pytest.raises(ValueError, match="'item': size is 1180591620717411303424, must"):
        Schema.from_dict({**wide, "categorical": [{"name": "item", "kind": "hash", "size": 2**70}]})


# ---- Parquet contents ----

TEXT = st.sampled_from(["", "a", "b", "ü", "c" * 30])
WHOLE = {
    pa.int8(): st.integers(-128, 127), pa.int64(): st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 30),
    pa.uint64(): st.integers(0, 2**64 - 1) | st.just(2**64 - 1), pa.int32(): st.integers(-2, 30),
}  # fmt: skip
FLOATS = {
    pa.float32(): st.floats(width=32), pa.float64(): st.floats() | st.sampled_from([1e300, -1e300, 3.5e38]),
    pa.float16(): st.floats(width=16),
}  # fmt: skip
TEXTS = {pa.string(): TEXT, pa.large_string(): TEXT, pa.dictionary(pa.int32(), pa.string()): TEXT}
STRANGE = {
    pa.binary(): st.binary(max_size=2), pa.date32(): st.dates().map(lambda day: day), pa.null(): st.none(),
    pa.bool_(): st.booleans(), pa.decimal128(9, 2): st.just(None), pa.list_(pa.int64()): st.lists(st.integers(0, 9)),
}  # fmt: skip
LISTS = {
    pa.list_(kind): st.lists(values | st.none(), max_size=4) for kind, values in {**WHOLE, pa.string(): TEXT}.items()
} | {pa.large_list(pa.int64()): st.lists(WHOLE[pa.int32()], max_size=4), pa.list_(pa.int8(), 2): st.just([1, 2])}
LABELS = {
    pa.int8(): st.sampled_from([0, 1]), pa.bool_(): st.booleans(), pa.int64(): st.sampled_from([0, 1, 1, 0, 2]),
    pa.uint8(): st.sampled_from([0, 1]), pa.float32(): st.sampled_from([0.0, 1.0]),
}  # fmt: skip
RIGHT = {
    "item": {**WHOLE, **TEXTS}, "hour": WHOLE, "channel": TEXTS, "level": WHOLE, "seen": LISTS, "price": FLOATS | WHOLE,
    "click": LABELS, "conversion": LABELS, "id": WHOLE, "user": {**WHOLE, **TEXTS}, "weight": FLOATS | WHOLE,
}  # fmt: skip


@st.composite
def tables(draw):
    rows = draw(st.integers(1, 12))
    columns = {}
    odd = draw(st.sampled_from([None, None, *RIGHT]))
    for name, kinds in RIGHT.items():
        choices = {**STRANGE, **WHOLE, **FLOATS, **TEXTS, **LISTS} if name == odd else kinds
        kind = draw(st.sampled_from(list(choices)))
        values = choices[kind]
        if draw(st.integers(0, 3)) == 0 and name not in ("click", "conversion", "weight"):
            values = values | st.none()
        columns[name] = pa.array(draw(st.lists(values, min_size=rows, max_size=rows)), kind)
    if odd and draw(st.booleans()):
        columns.pop(odd)
    if "conversion" in columns and "click" in columns and draw(st.booleans()):
        columns["conversion"] = columns["click"]  # otherwise few tables have a conversion only where there is a click
    return pa.table(columns)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzzed")
    (folder / "schema.json").write_text(json.dumps({**SCHEMA, "truth": None}))
    (folder / "train").mkdir()
    return folder


def read(folder):
    """As a training reads: footers, labels, moments, then rows."""
    log = open_log(folder)
    part = log.part("train")
    facts = check_labels(log, part)
    numeric_moments(log, part)
    tables = list(log.read(part))
    return log.schema, facts, [Encoder(log.schema).encode(table) for table in tables]


def f32(value):
    if value is None:
        return math.nan
    try:
        return struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return math.inf


def expected_id(field, value):
    """An id by the words of CategoricalField, one value at a time; None where a hash is only checked for its range."""
    if value is None:
        return 0
    if field.kind == "range":
        return 2 + value if 0 <= value < field.size else 1
    if field.kind == "vocabulary":
        return 2 + field.vocabulary.index(value) if value in field.vocabulary else 1
    if isinstance(value, int):
        return 1 + int(splitmix64(np.array([value % 2**64], np.uint64))[0]) % field.size
    return None


def same_ids(field, found, values):
    for one, value in zip(found, values, strict=True):
        expected = expected_id(field, value)
        assert one == expected if expected is not None else 1 <= one <= field.size, (field.name, value, one)


def compare(schema, facts, encoded, table):
    """The encoded rows against the table's values as Python objects."""
    rows = table.to_pylist()
    assert facts.rows == len(rows)
    assert facts.positives["click"] == sum(bool(row["click"]) for row in rows)
    assert facts.positives["conversion"] == sum(bool(row["conversion"]) for row in rows)
    offsets = dict(zip((field.name for field in schema.categorical), Encoder(schema).offsets, strict=True))
    begin = 0
    for part in encoded:
        here = rows[begin : begin + len(part)]
        begin += len(part)
        assert part.labels["click"].tolist() == [float(row["click"]) for row in here]
        assert part.labels["conversion"].tolist() == [float(row["conversion"] or 0) for row in here]
        assert part.weight_R.tolist() == [f32(row["weight"]) for row in here]
        assert np.isfinite(part.weight_R).all()
        wide = part.numeric_RN.dtype == np.float64  # where float32 would round
        prices = [float(row["price"]) if wide and row["price"] is not None else f32(row["price"]) for row in here]
        np.testing.assert_array_equal(part.numeric_RN[:, 0], np.array(prices, part.numeric_RN.dtype))
        assert not np.isinf(part.numeric_RN).any()
        for k, field in enumerate(schema.single):
            same_ids(field, part.ids_RK[:, k] - offsets[field.name], [row[field.name] for row in here])
        (seen,) = schema.many
        (bags,) = part.bags
        for r, row in enumerate(here):
            values = [value for value in row["seen"] or [] if value is not None][-seen.many.max :]
            same_ids(seen, bags.ids_S[bags.offset_R1[r] : bags.offset_R1[r + 1]] - offsets["seen"], values)
    assert begin == len(rows)


@fuzz(60)
@given(tables(), st.integers(1, 5))
def test_strange_tables_are_refused_or_read_right(place, table, rows_per_group):
    pq.write_table(table, place / "train" / "part.parquet", row_group_size=rows_per_group)
    found = attempt(lambda: read(place))
    if found is not REFUSED:
        compare(*found, table)


def test_found_values_that_wrap_or_overflow(place):
    """A vocabulary of -1 took 2**64 - 1 for it; a weight of 1e300 became infinite; a wide unsigned one raised."""
    rows = {name: pa.array([1]) for name in RIGHT} | {"channel": pa.array(["a"]), "seen": pa.array([[1]])}

    def write(**columns):
        pq.write_table(pa.table(rows | columns), place / "train" / "part.parquet")
        return read(place)

    schema, _, (encoded,) = write(level=pa.array([2**64 - 1], pa.uint64()), weight=pa.array([2**64 - 1], pa.uint64()))
    level = [field.name for field in schema.single].index("level")
    assert encoded.ids_RK[0, level] - Encoder(schema).offsets[level] == 1
    assert encoded.weight_R.tolist() == [2.0**64]
    with pytest.raises(ValueError, match="row 0: column 'weight' is inf"):
        write(weight=pa.array([1e300]))


@fuzz(70)
@given(st.data())
def test_damaged_parquet_files(place, data):
    columns = {
        "item": pa.array(range(40)), "hour": pa.array([3, None] * 20), "channel": pa.array(["a", "x"] * 20),
        "level": pa.array([-1, 3] * 20), "seen": pa.array([[1, 2, 3], None] * 20), "price": pa.array([0.5, None] * 20),
        "click": pa.array([1, 0] * 20, pa.int8()), "conversion": pa.array([1, 0, 0, 0] * 10, pa.int8()),
        "id": pa.array(range(40)), "user": pa.array(["u", "v"] * 20), "weight": pa.array([1.0, 2.0] * 20),
    }  # fmt: skip
    path = place / "train" / "part.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=16, write_page_checksum=True)
    raw = bytearray(path.read_bytes())
    if data.draw(st.integers(0, 3)) == 0:
        del raw[data.draw(st.integers(0, len(raw) - 1)) :]
    else:
        for _ in range(data.draw(st.integers(1, 3))):
            footer = int.from_bytes(raw[-8:-4], "little") + 8 if len(raw) > 8 else 0
            begin = max(len(raw) - footer, 0) if data.draw(st.booleans()) else 0
            raw[data.draw(st.integers(begin, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    found = attempt(lambda: read(place))
    if found is REFUSED:
        return
    try:  # the footer has no checksum: what it says now
        whole = pq.read_table(path, columns=list(columns), page_checksum_verification=True)
    except (pa.ArrowException, OSError):
        whole = pa.table(columns)
    compare(*found, whole)
