"""Files of several writers in one log: types that go together just work, ids of two kinds are refused by file."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import arguments as train_arguments
from support import error_line

from data.columns import feature_kinds
from data.encode import Encoder
from data.errors import UserError
from data.kinds import common_type, id_kind
from data.labels import check_labels
from data.log import open_log
from data.schema import Schema
from distributed.checkpoint.read import MODEL_DIRECTORY
from jobs import calibrate, evaluate, export, score, train
from jobs.pipeline.days import cut_day

ROWS = 600
SCHEMA: dict[str, Any] = {
    "format": "counterpoint.schema",
    "version": 2,
    "name": "toy",
    "categorical": [
        {"name": "user", "kind": "hash", "size": 500},
        {"name": "item", "kind": "hash", "size": 500},
        {"name": "channel", "kind": "vocabulary", "vocabulary": ["a", "b"]},
        {"name": "seen", "share": "item", "many": {"pooling": "mean"}},
    ],
    "numeric": ["price"],
    "labels": {"click": "click", "conversion": "conversion"},
    "exposure": "exposure",
    "user": "user",
    "request": "request",
}


def toy(seed: int, rows: int = ROWS) -> pa.Table:
    rng = np.random.default_rng(seed)
    click = rng.random(rows) < 0.4
    return pa.table(
        {
            "exposure": np.arange(rows) + seed * 10_000,
            "user": rng.integers(0, 60, rows),
            "request": np.arange(rows) // 6 + seed * 1000,
            "item": rng.integers(0, 40, rows),
            "channel": pa.array(rng.choice(["a", "b"], rows)),
            "seen": pa.array([list(map(int, rng.integers(0, 40, n % 4))) for n in range(rows)], pa.list_(pa.int64())),
            "price": np.round(4 * rng.normal(50, 10, rows)) / 4,  # which a decimal holds exactly
            "click": click.astype(np.int8),
            "conversion": (click & (rng.random(rows) < 0.5)).astype(np.int8),
        }
    )


def write(where: Path, files: dict[str, pa.Table] | None = None, **schema: Any) -> Path:
    """A log of train, valid and test, with these files (by path in the log) in place of, or beside, its own."""
    own = {f"{part}/a.parquet": toy(seed) for seed, part in enumerate(("train", "valid", "test"), start=1)}
    for name, table in (own | (files or {})).items():
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, where / name)
    (where / "schema.json").write_text(json.dumps(SCHEMA | schema))
    return where


def put(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


def cast(table: pa.Table, **kinds: pa.DataType) -> pa.Table:
    for name, kind in kinds.items():
        table = put(table, name, table[name].cast(kind))
    return table


TEXT_IDS = {
    "user": lambda t: cast(t, user=pa.string()),
    "item": lambda t: cast(t, item=pa.large_string()),
    "seen": lambda t: cast(t, seen=pa.list_(pa.string())),
    "request": lambda t: cast(t, request=pa.string()),
    "exposure": lambda t: cast(t, exposure=pa.string()),
}


@pytest.mark.parametrize("name", TEXT_IDS)
def test_integers_in_one_file_and_text_in_another_are_refused(tmp_path: Path, name: str) -> None:
    log = open_log(write(tmp_path, {"train/b.parquet": TEXT_IDS[name](toy(9))}))
    with pytest.raises(UserError, match=rf"train/b\.parquet: column '{name}' holds text, .*integers") as found:
        log.part("train")
    assert str(tmp_path / "train/a.parquet") in str(found.value)


def test_a_list_of_text_beside_the_integers_it_shares_rows_with_is_refused(tmp_path: Path) -> None:
    """Also where all files say the same: the list would never meet the rows of its owner."""
    parts = {f"{part}/a.parquet": TEXT_IDS["seen"](toy(1)) for part in ("train", "valid", "test")}
    log = open_log(write(tmp_path, parts))
    with pytest.raises(
        UserError, match=r"a\.parquet: column 'seen' holds text, and 'item', whose table rows it shares"
    ):
        log.part("train")


def test_parts_of_two_kinds_are_refused_before_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write(tmp_path / "log", {"test/a.parquet": TEXT_IDS["user"](toy(3))})
    line = error_line(train, ["--data", log, "--out", tmp_path / "run", "--workers", 0], monkeypatch, capsys)
    assert "test/a.parquet: column 'user' holds text, but integers in " in line
    assert "train/a.parquet" in line
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    train.run(train_arguments(write(folder / "log"), folder / "run"))
    return folder / "run"


@pytest.mark.slow
def test_a_model_keeps_what_its_ids_are(finished: Path, tmp_path: Path) -> None:
    record = json.loads((finished / MODEL_DIRECTORY / "checkpoint.json").read_text())
    assert record["schema"]["kinds"] == {"user": "integers", "item": "integers", "channel": "text"}
    export.run(export.Arguments(run=finished, out=tmp_path / "served", formats=("pt2",)))
    inputs = {entry["name"]: entry for entry in json.loads((tmp_path / "served/serving.json").read_text())["inputs"]}
    ids = {entry["column"]: entry["values"] for entry in inputs["ids"]["columns"]}
    assert (ids, inputs["seen.ids"]["values"]) == (
        {"user": "integers", "item": "integers", "channel": "text"},
        "integers",
    )


@pytest.mark.parametrize("command", ["score", "evaluate", "export", "calibrate", "start_from", "given"])
def test_a_log_whose_ids_are_text_is_refused_by_a_model_of_integers(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    text = {f"{part}/a.parquet": cast(toy(5), user=pa.string()) for part in ("train", "valid", "test")}
    log, out = write(tmp_path / "log", text), tmp_path / "out"
    words = ["--data", log]
    if command == "start_from":
        line = error_line(train, [*words, "--out", out, "--start-from", finished, "--workers", 0], monkeypatch, capsys)
    elif command == "given":
        given = ("--given", f"propensities={finished}")
        line = error_line(train, [*words, "--out", out, *given, "--workers", 0], monkeypatch, capsys)
    else:
        job: Any = {"score": score, "evaluate": evaluate, "export": export, "calibrate": calibrate}[command]
        words += ["--run", finished, *(["--out", out] if command != "calibrate" else [])]
        line = error_line(job, words, monkeypatch, capsys)
    if command in ("start_from", "given"):
        assert "column 'user' holds integers there and text in --data" in line
    else:
        assert "a.parquet: column 'user' holds text, the model was trained on integers" in line
    assert not out.exists()


OTHER_TYPES: dict[str, Any] = {
    "narrow integers": lambda t: cast(t, user=pa.int16(), item=pa.uint8(), request=pa.int32(), exposure=pa.int32()),
    "unsigned": lambda t: cast(t, user=pa.uint64(), request=pa.uint64()),
    "whole decimals": lambda t: cast(t, user=pa.decimal128(38, 0), request=pa.decimal128(20, 0)),
    "dictionaries": lambda t: put(
        put(t, "user", t["user"].dictionary_encode()), "channel", t["channel"].dictionary_encode()
    ),
    "large and views": lambda t: cast(t, channel=pa.large_string(), seen=pa.large_list(pa.int64())),
    "string views": lambda t: cast(t, channel=pa.string_view()),
    "bytes": lambda t: cast(t, channel=pa.binary()),
    "integer labels of 64 bits": lambda t: cast(t, click=pa.int64(), conversion=pa.uint16()),
    "boolean labels": lambda t: cast(t, click=pa.bool_(), conversion=pa.bool_()),
    "float labels": lambda t: cast(t, click=pa.float64(), conversion=pa.float32()),
    "decimal labels": lambda t: cast(t, click=pa.decimal128(5, 0), conversion=pa.decimal128(5, 1)),
    "a decimal feature": lambda t: put(
        t, "price", pa.array(t["price"].to_pylist()).cast(pa.decimal128(12, 2), safe=False)
    ),
    "not null": lambda t: t.cast(pa.schema([field.with_nullable(False) for field in t.schema])),
    "lists of integers that are not null": lambda t: put(
        t, "seen", t["seen"].combine_chunks().cast(pa.list_(pa.field("item", pa.int64(), nullable=False)))
    ),
    "lists of fewer bits": lambda t: cast(t, seen=pa.list_(pa.int16())),
}


@pytest.mark.parametrize("change", OTHER_TYPES)
def test_files_of_other_fitting_types_are_the_same_rows(finished: Path, tmp_path: Path, change: str) -> None:
    """Encoded, counted and scored as the rows are that their writer gave 64-bit integers and strings."""
    plain, other = toy(4), OTHER_TYPES[change](toy(4))
    found = []
    for number, table in enumerate((plain, other)):
        where = write(tmp_path / str(number), {"test/b.parquet": table})
        log = open_log(where)
        part, encoder = log.part("test"), Encoder(log.schema)
        rows = [encoder.encode(log.read_row_group(file, index)) for file, index in part.row_groups()]
        joined = rows[0].join(rows)
        whole = pa.concat_tables(log.read(part, log.schema.all_columns))  # one table, whatever the files' types
        assert whole.num_rows == 2 * ROWS
        scored = score.run(score.Arguments(run=finished, data=str(where), out=tmp_path / f"{number}.parquet"))
        found.append((joined, check_labels(log, part), pq.read_table(scored)))
    (rows, labels, scored), (rows_too, labels_too, scored_too) = found
    np.testing.assert_array_equal(rows.ids_RK, rows_too.ids_RK)
    np.testing.assert_array_equal(rows.numeric_RN, rows_too.numeric_RN)
    np.testing.assert_array_equal(rows.bags[0].ids_S, rows_too.bags[0].ids_S)
    assert labels == labels_too
    for name in scored.column_names:
        assert scored[name].to_pylist() == scored_too[name].to_pylist(), name


def test_a_column_of_nothing_but_nulls_is_missing_values(tmp_path: Path) -> None:
    """As pandas writes a column that is empty in one file: of type null, or a list of nulls."""
    empty = toy(4)
    for name in ("user", "item", "channel", "seen", "price", "request"):
        empty = put(empty, name, pa.nulls(ROWS))
    log = open_log(
        write(tmp_path, {"train/b.parquet": empty, "train/c.parquet": put(toy(5), "seen", pa.array([[None]] * ROWS))})
    )
    part = log.part("train")
    rows = Encoder(log.schema).encode(log.read_row_group(part.files[1], 0))
    assert rows.ids_RK.tolist() == [[0, 501, 1002]] * ROWS  # the first row of each field's block
    assert (np.isnan(rows.numeric_RN).all(), rows.bags[0].offset_R1.max()) == (True, 0)
    assert Encoder(log.schema).encode(log.read_row_group(part.files[2], 0)).bags[0].offset_R1.max() == 0
    assert pa.concat_tables(log.read(part, log.schema.all_columns))["channel"].null_count == ROWS


def test_ids_of_four_bytes_here_and_of_eight_there_are_scored(finished: Path, tmp_path: Path) -> None:
    wide = put(toy(4), "request", pa.array(np.arange(ROWS) + 2**40))
    where = write(tmp_path, {"test/a.parquet": cast(toy(3), request=pa.int32()), "test/b.parquet": wide})
    table = pq.read_table(score.run(score.Arguments(run=finished, data=str(where), out=tmp_path / "s.parquet")))
    assert table.schema.field("request").type == pa.int64()
    assert table["request"][-1].as_py() == 2**40 + ROWS - 1


@pytest.mark.parametrize("role", ["user", "request", "exposure"])
def test_ids_that_became_floats_are_refused_at_the_first_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], role: str
) -> None:
    floats = {
        f"{part}/a.parquet": toy(1).append_column("id", pa.array(np.arange(ROWS) * 1.0))
        for part in ("train", "valid", "test")
    }
    log = write(tmp_path / "log", floats, **{role: "id"})
    line = error_line(train, ["--data", log, "--out", tmp_path / "run", "--workers", 0], monkeypatch, capsys)
    assert "train/a.parquet: column 'id' is of type double; the " in line
    assert "must be integers or strings; where pandas made whole numbers floats, astype('Int64')" in line


def test_a_column_that_is_there_twice_is_named(tmp_path: Path) -> None:
    log = open_log(write(tmp_path, {"train/a.parquet": toy(1).append_column("price", toy(1)["price"])}))
    with pytest.raises(UserError, match=r"train/a\.parquet: has 2 columns named 'price'; rename all but one"):
        log.part("train")


def test_an_empty_file_says_nothing_of_types(tmp_path: Path) -> None:
    """A job that found no rows writes a file without columns' types."""
    log = open_log(write(tmp_path, {"train/b.parquet": cast(toy(1, 0), user=pa.string(), price=pa.string())}))
    assert log.part("train").rows == ROWS


def test_a_decimal_of_more_than_64_bits_is_named(tmp_path: Path) -> None:
    wide = put(toy(1), "user", pa.array([Decimal(10) ** 25] * ROWS, pa.decimal128(38, 0)))
    log = open_log(write(tmp_path, {"train/a.parquet": wide}))
    with pytest.raises(UserError, match=r"train/a\.parquet: column 'user' does not fit int64"):
        list(log.read(log.part("train")))


def test_a_day_of_several_writers_is_cut_into_one_log(tmp_path: Path) -> None:
    """The types of all files together, and conversions that are missing where there was no click."""
    day, other = "2026-01-02", cast(toy(5), user=pa.int32(), request=pa.int16(), channel=pa.large_string())
    missing = pa.array(other["conversion"].to_pylist(), mask=other["click"].to_numpy() == 0)
    other = put(other, "conversion", missing)
    log = open_log(write(tmp_path / "days", {f"{day}/a.parquet": toy(4), f"{day}/sub/b.parquet": other}))
    rows = cut_day(log, day, day, 0.5, 0, tmp_path / "cut")
    cut = open_log(tmp_path / "cut")
    facts = [check_labels(cut, cut.part(name)) for name in ("train", "valid")]
    assert sum(rows.values()) == sum(fact.rows for fact in facts) == 2 * ROWS
    whole = check_labels(log, log.part(day))
    assert sum(fact.positives["conversion"] for fact in facts) == whole.positives["conversion"] > 0


def test_kinds_of_types() -> None:
    assert {
        id_kind(kind) for kind in (pa.int8(), pa.uint64(), pa.bool_(), pa.decimal128(38, 0), pa.list_(pa.int32()))
    } == {"integers"}
    assert {id_kind(kind) for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.binary())} == {"text"}
    assert {id_kind(kind) for kind in (pa.float64(), pa.timestamp("ms"), pa.date32(), pa.decimal128(9, 2))} == {None}
    assert (id_kind(pa.null()), id_kind(pa.list_(pa.null()))) == ("", "")
    assert common_type([pa.int32(), pa.int64()]) == common_type([pa.int8(), pa.uint64()]) == pa.int64()
    assert common_type([pa.uint8(), pa.uint64()]) == pa.uint64()
    assert common_type([pa.int32(), pa.float32()]) == common_type([pa.bool_(), pa.decimal128(9, 2)]) == pa.float64()
    assert common_type([pa.null(), pa.string(), pa.dictionary(pa.int8(), pa.string())]) == pa.large_string()
    with pytest.raises(TypeError):
        common_type([pa.int32(), pa.string()])


def test_kinds_of_a_schema_are_kept_and_checked(tmp_path: Path) -> None:
    schema = Schema.from_dict({**SCHEMA, "kinds": {"user": "text"}})
    assert Schema.from_dict(schema.to_dict()) == schema
    with pytest.raises(UserError, match=r"'kinds' must be an object of column: 'integers' or 'text'"):
        Schema.from_dict({**SCHEMA, "kinds": {"user": "floats"}})
    log = open_log(write(tmp_path))
    parts = [log.part(name).kinds for name in ("train", "valid")]
    assert feature_kinds(log.schema, parts) == {"user": "integers", "item": "integers", "channel": "text"}
