"""data/schema.py: the round trip, the sizes of embedding blocks, and every mistake by its message."""

import json
from typing import Any

import pytest

from data.schema import CategoricalField, Schema, TruthColumns

SCHEMA = Schema(
    name="toy",
    categorical=(
        CategoricalField("user", "hash", 10),
        CategoricalField("channel", "vocabulary", vocabulary=("search", "feed")),
        CategoricalField("hour", "range", 24),
    ),
    numeric=("price",),
    labels={"click": "click", "conversion": "conversion"},
    exposure="exposure_id",
    user="user",
    request="request_id",
    weight="weight",
    value="price",
    truth=TruthColumns("exposure_id", "potential", "propensity", None),
)


def test_a_schema_survives_its_file(tmp_path: Any) -> None:
    SCHEMA.save(tmp_path / "schema.json")
    assert Schema.load(tmp_path / "schema.json") == SCHEMA
    assert Schema.from_dict(json.loads(json.dumps(SCHEMA.to_dict()))) == SCHEMA


def test_rows_of_the_embedding_blocks() -> None:
    assert [field.rows for field in SCHEMA.categorical] == [1 + 10, 2 + 2, 2 + 24]


def test_columns_are_the_features_then_the_labels_then_the_weight() -> None:
    assert SCHEMA.columns == ["user", "channel", "hour", "price", "click", "conversion", "weight"]
    assert SCHEMA.all_columns == [*SCHEMA.columns, "exposure_id", "request_id"]


def changed(**changes: Any) -> dict[str, Any]:
    return {**SCHEMA.to_dict(), **changes}


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in SCHEMA.to_dict().items() if name != key}


USER = {"name": "user", "kind": "hash", "size": 10}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "must be a JSON object, not list"),
        (changed(label=1), "unknown key 'label'; did you mean labels?"),
        (without("labels"), "missing key 'labels'; valid keys: format"),
        (changed(labels=["click"]), "'labels' must be an object of name: column"),
        (changed(version=3), "version 3; this reads 'counterpoint.schema' version 2"),
        (changed(format="other"), "format 'other'"),
        (changed(numeric="price"), "'numeric' must be a list"),
        (changed(numeric=[3]), "a 'numeric' entry must be a non-empty string, not 3"),
        (changed(labels={"click": None}), "label 'click' must be a non-empty string, not None"),
        (changed(weight=3), "'weight' must be a non-empty string or null, not 3"),
        (changed(categorical=[], numeric=[]), "no features"),
        (changed(numeric=["price", "user"]), "feature 'user' is listed twice"),
        (changed(numeric=["price", "click"]), "column 'click' is the click label and cannot be a feature"),
        (changed(numeric=["conversion"]), "column 'conversion' is the conversion label and cannot be a feature"),
        (changed(numeric=["weight"]), "column 'weight' is the row weight and cannot be a feature"),
        (changed(numeric=["potential"]), "column 'potential' is the truth column 'potential_conversion'"),
        (changed(numeric=["propensity"]), "column 'propensity' is the truth column 'propensity'"),
        (changed(numeric=["exposure_id"]), "column 'exposure_id' is the exposure key"),
        (changed(labels={"click": "click", "conversion": "click"}), "'click' and 'conversion' are the same column"),
        (changed(exposure=None), "name its column under 'exposure'"),
        (changed(truth={"key": "e"}), "'truth': missing key 'potential_conversion'"),
        (changed(truth={"key": "e", "potential_conversion": "p", "q": 1}), "'truth': unknown key 'q'; valid keys: key"),
        (changed(categorical=[{**USER, "size": 0}]), "column 'user': size is 0, must be a whole number of at least 1"),
        (changed(categorical=[{**USER, "size": 2.5}]), "column 'user': size is 2.5"),
        (changed(categorical=[{**USER, "size": True}]), "column 'user': size is True"),
        (changed(categorical=[{**USER, "kind": "onehot"}]), "kind 'onehot' is none of hash, vocabulary, range"),
        (changed(categorical=[{**USER, "bins": 3}]), "unknown key 'bins'; valid keys: name, kind, size, vocabulary"),
        (changed(categorical=["user"]), "a 'categorical' entry: must be a JSON object, not str"),
        (changed(categorical=[{**USER, "kind": "vocabulary"}]), "kind 'vocabulary' takes 'vocabulary', and no 'size'"),
        (changed(categorical=[{"name": "a", "kind": "hash"}]), "column 'a': kind 'hash' takes 'size'"),
        (changed(categorical=[{"name": "a", "kind": "vocabulary", "vocabulary": []}]), "the vocabulary is empty"),
        (
            changed(categorical=[{"name": "a", "kind": "vocabulary", "vocabulary": [1, "b"]}]),
            "all strings or all whole",
        ),
        (changed(categorical=[{"name": "a", "kind": "vocabulary", "vocabulary": [1, 1]}]), "lists a value twice"),
    ],
)
def test_a_mistake_is_named(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r"^here: ") as caught:
        Schema.from_dict(value, "here")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_absent_or_no_json_is_named(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="no such file"):
        Schema.load(tmp_path / "schema.json")
    (tmp_path / "schema.json").write_text('{"format": ')
    with pytest.raises(ValueError, match=r"schema\.json: not readable as JSON"):
        Schema.load(tmp_path / "schema.json")


def test_version_1_is_read_as_version_2() -> None:
    """Logs and models of earlier versions name their two labels by keys of their own."""
    now = SCHEMA.to_dict()
    before = {key: value for key, value in now.items() if key != "labels"} | {"version": 1, **now["labels"]}
    assert Schema.from_dict(before) == SCHEMA
    with pytest.raises(ValueError, match="label 'click' must be a non-empty string"):
        Schema.from_dict({key: value for key, value in before.items() if key != "click"})
