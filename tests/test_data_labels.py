"""data/labels.py: what a label may be, in whatever type; and a model of clicks, which needs no conversions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import arguments as train_arguments
from support import change_column, change_schema, copy, error_line

from data.encode import Encoder
from data.errors import UserError
from data.labels import check_labels, label_values
from data.log import open_log
from jobs import evaluate, export, score, train

CLICK = [0, 1, 1, 0, 1, 0]
CONVERSION = [None, 1, 0, None, 1, None]
WRITTEN: dict[str, Any] = {
    "integers": pa.int8(),
    "unsigned": pa.uint32(),
    "booleans": pa.bool_(),
    "floats": pa.float64(),
    "halves": pa.float16(),
    "decimals": pa.decimal128(3, 1),
    "dictionaries": pa.dictionary(pa.int32(), pa.int64()),
}


def write(where: Path, click: pa.Array, conversion: pa.Array) -> Path:
    table = pa.table({"user": np.arange(len(click)), "click": click, "conversion": conversion})
    (where / "train").mkdir(parents=True)
    pq.write_table(table, where / "train/a.parquet")
    schema = {
        "format": "counterpoint.schema",
        "version": 2,
        "name": "labels",
        "categorical": [{"name": "user", "kind": "hash", "size": 9}],
        "numeric": [],
        "labels": {"click": "click", "conversion": "conversion"},
    }
    (where / "schema.json").write_text(json.dumps(schema))
    return where


def typed(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode()
    if pa.types.is_boolean(kind):
        return pa.array([None if value is None else bool(value) for value in values], kind)
    return pa.array(values, pa.float64() if pa.types.is_decimal(kind) else kind).cast(kind)


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_label_may_be_of_any_number_type(tmp_path: Path, kind: str) -> None:
    """And a conversion may be missing where there was no click."""
    log = open_log(write(tmp_path, typed(CLICK, WRITTEN[kind]), typed(CONVERSION, WRITTEN[kind])))
    part = log.part("train")
    assert check_labels(log, part).positives == {"click": 3, "conversion": 2}
    labels = Encoder(log.schema).encode(log.read_row_group(part.files[0], 0)).labels
    assert labels["click"].tolist() == CLICK
    assert labels["conversion"].tolist() == [0, 1, 0, 0, 1, 0]


def test_a_missing_conversion_may_be_not_a_number_and_a_column_of_nulls(tmp_path: Path) -> None:
    """As DuckDB and polars write a left join, and pandas a file in which nothing was clicked."""
    nan = pa.array([0.0 if value is None else float(value) for value in CONVERSION])
    nan = pa.array(np.where(np.array(CLICK) == 0, np.nan, nan.to_numpy()))
    log = open_log(write(tmp_path / "nan", pa.array(CLICK), nan))
    assert check_labels(log, log.part("train")).positives["conversion"] == 2
    log = open_log(write(tmp_path / "null", pa.array([0] * 6), pa.nulls(6)))
    assert check_labels(log, log.part("train")).positives == {"click": 0, "conversion": 0}


@pytest.mark.parametrize(
    ("click", "conversion", "message"),
    [
        ([0, 1, None], [0, 0, 0], "row 2: column 'click' is missing; a label is 0 or 1"),
        ([0, 1, 1], [0, 0, None], "row 2: column 'conversion' is missing where 'click' is 1; a label is 0 or 1"),
        ([0.0, 1.0, 0.5], [0, 0, 0], "row 2: column 'click' is 0.5; a label is 0 or 1"),
        ([0, 1, 2], [0, 0, 0], "row 2: column 'click' is 2; a label is 0 or 1"),
        ([0, 1, 0], [0, 0, 1], "row 2: column 'conversion' is 1 where 'click' is 0; a conversion needs a click"),
    ],
)
def test_what_is_no_label_is_named_by_row(tmp_path: Path, click: list, conversion: list, message: str) -> None:
    log = open_log(write(tmp_path, pa.array(click), pa.array(conversion)))
    with pytest.raises(UserError, match=rf"train/a\.parquet: {message}"):
        check_labels(log, log.part("train"))


def test_values_of_labels() -> None:
    assert label_values(pa.chunked_array([pa.array([True, None])]))[0] == 1
    assert np.isnan(label_values(pa.chunked_array([pa.array([True, None])]))[1])
    assert label_values(pa.chunked_array([pa.array([3, 4], pa.int8())])).tolist() == [3, 4]


def test_a_training_whose_labels_are_written_otherwise_has_the_same_bits(small_log: Path, tmp_path: Path) -> None:
    logs = [copy(small_log, tmp_path / name) for name in ("plain", "other")]
    clicked = pq.read_table(sorted((small_log / "train").iterdir())[-1])["click"].to_numpy() == 1
    change_column(logs[0], "train", "conversion", lambda values: values)  # the same row groups
    change_column(logs[1], "train", "conversion", lambda values: np.where(clicked, values, np.nan))
    change_column(logs[1], "train", "click", lambda values: values.astype(float))
    change_column(logs[0], "train", "click", lambda values: values)
    found = [train.run(train_arguments(log, log.parent / "run")) for log in logs]
    for name in ("ctr.log_loss", "ctcvr.log_loss", "cvr.click.auc"):
        assert found[0][name] == found[1][name]


@pytest.mark.slow
def test_a_model_of_clicks_needs_no_conversions(
    small_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained, scored, evaluated, exported and given to another training as the propensities."""
    log = copy(small_log, tmp_path)
    change_schema(log, lambda schema: (schema["labels"].pop("conversion"), schema.update(truth=None)))
    for part in ("train", "valid", "test"):
        for path in (log / part).iterdir():
            pq.write_table(pq.read_table(path).drop_columns(["conversion"]), path)
    words = ["--data", log, "--out", tmp_path / "no", "--workers", 0]
    assert "no label 'conversion'; it has click" in error_line(train, words, monkeypatch, capsys)
    line = error_line(train, [*words, "--objective.name", "naive"], monkeypatch, capsys)
    assert (
        "stop_metric ctcvr.log_loss: the valid part has no conversions; for a model of clicks take ctr.log_loss" in line
    )
    run = tmp_path / "clicks"
    summary = train.run(train_arguments(log, run, "--preset", "clicks", "--epochs", 1))
    assert "warning: train or valid has no conversions: a model of clicks" in " ".join(capsys.readouterr().out.split())
    assert 0.5 < summary["ctr.auc"] < 1
    assert "cvr.click.auc" not in summary
    table = pq.read_table(score.run(score.Arguments(run=run, data=str(log), out=tmp_path / "scored.parquet")))
    assert ("click" in table.column_names, "conversion" in table.column_names) == (True, False)
    found = evaluate.run(evaluate.Arguments(run=run, data=str(log), replicates=40))
    assert found["ctr.auc"] == pytest.approx(summary["ctr.auc"], abs=1e-6)
    export.run(export.Arguments(run=run, out=tmp_path / "served", formats=("pt2",)))
    two = train.run(train_arguments(small_log, tmp_path / "two", "--given", f"propensities={run}"))
    assert "ctcvr.auc" in two
