"""Multi-valued and shared fields: the schema's words and mistakes, and encoding against plain Python loops."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.bags import Bags, list_values
from data.encode import Encoder, field_ids
from data.labels import check_labels
from data.log import open_log
from data.schema import CategoricalField, Many, Schema
from data.write import PartWriter, new_log

ITEM = CategoricalField("item", "hash", 1000, width=8)
FIELDS = (
    CategoricalField("tags", "vocabulary", vocabulary=("a", "b", "c"), many=Many("sum")),
    ITEM,
    ITEM.shared("history", Many("attention", max=3, query="item")),
    CategoricalField("hour", "range", 24),
    ITEM.shared("similar", Many("mean")),
    CategoricalField("hours", "range", 24, many=Many("mean", max=2)),
)
LABELS = {"click": "click", "conversion": "conversion"}
SCHEMA = Schema("lists", FIELDS, ("price",), LABELS, exposure="exposure_id")
LISTS: dict[str, list[Any]] = {
    "tags": [["a", "z"], None, [], ["c", None, "b"], ["a"]],
    "history": [[1, 2, 3, 4, 5], [7], None, [9, None, 9, 10, None], []],
    "similar": [[5], [5, 6], [], None, [1, 2]],
    "hours": [[0, 1, 23], [24, -1], [5], None, [None]],
}


def lists_table(**types: pa.DataType) -> pa.Table:
    usual = {"tags": pa.list_(pa.string())} | {name: pa.list_(pa.int64()) for name in ("history", "similar", "hours")}
    columns = {name: pa.array(values, (usual | types)[name]) for name, values in LISTS.items()}
    plain = {"exposure_id": [0, 1, 2, 3, 4], "item": [1, 5, 7, 1, 2], "hour": [0, 1, 2, 3, 4]}
    return pa.table(columns | plain | {"price": [1.0] * 5, "click": [1, 0, 1, 0, 1], "conversion": [1, 0, 0, 0, 0]})


def local_ids(field: CategoricalField, values: list[Any]) -> list[int]:
    vocabulary = pa.array(field.vocabulary) if field.vocabulary else None
    return field_ids(field, vocabulary, pa.array(values, pa.string() if field.name == "tags" else pa.int64())).tolist()


def rows_of(bags: Bags) -> list[list[int]]:
    return [bags.ids_S[a:b].tolist() for a, b in zip(bags.offset_R1, bags.offset_R1[1:], strict=False)]


def test_a_schema_with_lists_survives_its_file(tmp_path: Path) -> None:
    SCHEMA.save(tmp_path / "schema.json")
    assert Schema.load(tmp_path / "schema.json") == SCHEMA
    entry = {field["name"]: field for field in SCHEMA.to_dict()["categorical"]}
    assert entry["history"] == {
        "name": "history",
        "share": "item",
        "many": {"pooling": "attention", "max": 3, "query": "item"},
    }
    assert entry["item"] == {"name": "item", "kind": "hash", "size": 1000, "width": 8}
    assert [field.name for field in SCHEMA.single] == ["item", "hour"]
    assert [field.name for field in SCHEMA.many] == ["tags", "history", "similar", "hours"]


HISTORY = {"name": "h", "share": "item", "many": {"pooling": "mean"}}


def test_null_is_as_good_as_no_key() -> None:
    nothing = {"share": None, "width": None, "many": None}
    given = {**SCHEMA.to_dict(), "categorical": [{"name": "a", "kind": "hash", "size": 4, **nothing}]}
    assert Schema.from_dict(given).categorical == (CategoricalField("a", "hash", 4),)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({**HISTORY, "many": {"pooling": "max"}}, "column 'h': pooling 'max' is none of sum, mean, attention, din"),
        ({**HISTORY, "many": {}}, "column 'h': 'many': missing key 'pooling'; valid keys: pooling, max, query"),
        ({**HISTORY, "many": {"pooling": "sum", "length": 3}}, "column 'h': 'many': unknown key 'length'"),
        ({**HISTORY, "many": "mean"}, "column 'h': 'many': must be a JSON object, not str"),
        ({**HISTORY, "many": {"pooling": "sum", "max": 0}}, "column 'h': max is 0, must be a whole number of at least"),
        (
            {**HISTORY, "many": {"pooling": "attention"}},
            "pooling attention needs 'query', a single-valued categorical field",
        ),
        (
            {**HISTORY, "many": {"pooling": "din", "query": "h"}},
            "pooling din needs 'query', a single-valued categorical",
        ),
        ({**HISTORY, "many": {"pooling": "attention", "query": "tags"}}, "field (item), not 'tags'"),
        (
            {**HISTORY, "many": {"pooling": "mean", "query": "item"}},
            "'query' goes with pooling attention or din, not mean",
        ),
        ({**HISTORY, "share": "nobody"}, "'share' is 'nobody', must be a field with rows of its own (item, tags)"),
        ({**HISTORY, "share": "h"}, "'share' is 'h', must be a field with rows of its own (item, tags)"),
        ({**HISTORY, "share": ["item"]}, "column 'h': 'share' must be a non-empty string, not ['item']"),
        ({**HISTORY, "size": 4}, "column 'h': takes 'size' from the field it shares; leave the key out"),
        ({**HISTORY, "width": 4}, "column 'h': takes 'width' from the field it shares; leave the key out"),
        ({"name": "h", "kind": "hash", "size": 4, "width": 0}, "column 'h': width is 0, must be a whole number of at"),
        ({"name": "h", "kind": "hash", "size": 4, "width": "8"}, "column 'h': width is '8', must be a whole number"),
        ({**HISTORY, "name": "click"}, "column 'click' is the click label and cannot be a feature"),
    ],
)
def test_a_mistake_is_named(entry: dict[str, Any], message: str) -> None:
    tags = {"name": "tags", "kind": "hash", "size": 9, "many": {"pooling": "sum"}}
    given = {**SCHEMA.to_dict(), "categorical": [ITEM.to_dict(), tags, entry]}
    with pytest.raises(ValueError, match=r"^here: ") as caught:
        Schema.from_dict(given, "here")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_sharing_field_made_in_code_must_agree_with_its_owner() -> None:
    with pytest.raises(ValueError, match="column 'h': kind, size and width must be those of 'item'"):
        Schema(
            "x",
            (ITEM, CategoricalField("h", "hash", 999, share="item")),
            (),
            LABELS,
        )
    with pytest.raises(ValueError, match="column 'h': 'share' is 'gone', must be a field with rows of its own"):
        Schema("x", (CategoricalField("h", "hash", 9, share="gone"),), (), LABELS)


def expected(name: str) -> list[list[int]]:
    field = next(field for field in FIELDS if field.name == name)
    offset = Encoder(SCHEMA).offsets[FIELDS.index(field)]
    assert field.many is not None
    rows = []
    for values in LISTS[name]:
        there = [value for value in values or [] if value is not None]
        kept = there[-field.many.max :] if field.many.max else there
        rows.append([offset + i for i in local_ids(field, kept)])
    return rows


@pytest.mark.parametrize("kind", ["list", "large_list", "narrow", "sliced", "chunked"])
def test_lists_are_encoded_as_a_loop_would(kind: str) -> None:
    value = pa.int32() if kind == "narrow" else pa.int64()
    make = pa.large_list if kind == "large_list" else pa.list_
    table = lists_table(history=make(value), similar=make(value), hours=make(value))
    start = 2 if kind == "sliced" else 0
    table = pa.concat_tables([table.slice(0, 2), table.slice(2)]) if kind == "chunked" else table.slice(start)
    rows = Encoder(SCHEMA).encode(table)
    for name, bags in zip(("tags", "history", "similar", "hours"), rows.bags, strict=True):
        assert rows_of(bags) == expected(name)[start:]
        assert (bags.ids_S.dtype, bags.offset_R1.dtype) == (np.int64, np.int64)
    assert rows.ids_RK.shape == (5 - start, 2)


def test_offsets_of_owners_and_of_those_who_share() -> None:
    encoder = Encoder(SCHEMA)
    assert encoder.field_rows == (5, 1001, 0, 26, 0, 26)
    assert encoder.offsets == (0, 5, 5, 1006, 5, 1032)
    rows = encoder.encode(lists_table())
    assert rows_of(rows.bags[2])[0] == rows.ids_RK[1, :1].tolist()  # item 5, in a list and alone


def test_fixed_size_lists_and_dictionaries_of_strings() -> None:
    values, offset = list_values(pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int64(), 2)), None)
    assert (values.to_pylist(), offset.tolist()) == ([1, 2, 3, 4], [0, 2, 2, 4])
    words = pa.array([["b", "q"], ["a"]], pa.list_(pa.dictionary(pa.int32(), pa.string())))
    plain = pa.array([["b", "q"], ["a"]], pa.list_(pa.string()))
    for field in (FIELDS[0], ITEM):
        vocabulary = pa.array(field.vocabulary) if field.vocabulary else None
        one, two = (field_ids(field, vocabulary, list_values(column, None)[0]) for column in (words, plain))
        assert one.tolist() == two.tolist()


def test_rows_are_taken_and_joined_with_their_lists() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 5, 200)
    bags = Bags(rng.integers(0, 99, lengths.sum()), np.concatenate([[0], np.cumsum(lengths)]))
    plain = rows_of(bags)
    order = rng.permutation(200)
    assert rows_of(bags.take(order)) == [plain[i] for i in order]
    for part in (slice(0, 0), slice(3, 77), slice(150, None), slice(200, 300), slice(None)):
        assert rows_of(bags.take(part)) == plain[part]
    assert rows_of(Bags.join([bags.take(slice(0, 9)), Bags.none(), bags.take(slice(9, None))])) == plain
    assert len(bags.take(np.empty(0, np.int64))) == 0


def test_a_log_of_lists_is_written_read_and_checked(tmp_path: Path) -> None:
    with new_log(tmp_path / "log", SCHEMA) as out, PartWriter(out, "train", SCHEMA, 4, 2) as writer:
        writer.write(lists_table())
    log = open_log(tmp_path / "log")
    part = log.part("train")
    assert check_labels(log, part).positives["click"] == 3
    encoded = [Encoder(log.schema).encode(table) for table in log.read(part)]
    assert len(encoded) == 3
    for place, name in enumerate(("tags", "history", "similar", "hours")):
        assert rows_of(Bags.join([rows.bags[place] for rows in encoded])) == expected(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item": [[1]] * 5}, "column 'item' is of type list.* without 'many' must be a single value"),
        ({"history": [1] * 5}, "column 'history' is of type int64; a categorical feature with 'many' must be lists"),
        ({"history": [[0.5]] * 5}, "column 'history' is of type list.* must be lists of integers or strings"),
        ({"hours": [["a"]] * 5}, "column 'hours' is of type list.* must be lists of integers"),
        ({"tags": [[1]] * 5}, "column 'tags' is of type list.* must be lists of strings"),
    ],
)
def test_a_column_of_the_wrong_kind_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    (tmp_path / "train").mkdir()
    SCHEMA.save(tmp_path / "schema.json")
    table = pa.table({name: change.get(name, lists_table().column(name)) for name in lists_table().column_names})
    pq.write_table(table, tmp_path / "train" / "a.parquet")
    with pytest.raises(ValueError, match=rf"a\.parquet: {message}"):
        open_log(tmp_path).part("train")
