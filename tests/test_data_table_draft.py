"""What make_data --source table drafts beyond kinds: transforms, hours, weekdays, ages, and a split the table has."""

import datetime
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from data.errors import UserError
from data.loaders.table import Loaded, TableOptions, load_table
from data.loaders.table_files import open_table
from data.loaders.table_profile import ENDS, SAMPLED, Numbers
from data.loaders.table_shape import shape_of
from data.log import open_log
from data.transforms import words

ROWS = 4000


def numbers(values_R: np.ndarray, block: int = 700) -> Numbers:
    found = Numbers()
    for begin in range(0, len(values_R), block):
        found.add(values_R[begin : begin + block].astype(float))
    return found


def drawn(kind: str) -> np.ndarray:
    rng = np.random.default_rng(1)
    normal_R = rng.normal(50, 5, ROWS)
    tail_R = np.exp(rng.normal(3, 1, ROWS))
    if kind == "long tail":
        return tail_R
    if kind == "placeholder":
        return np.where(np.arange(ROWS) % 50 == 7, 9_999_999, tail_R)
    if kind == "many placeholders":
        return np.where(np.arange(ROWS) % 3 == 0, -999, normal_R)
    if kind == "minus one":
        return np.where(np.arange(ROWS) % 9 == 0, -1, rng.integers(0, 30, ROWS))
    if kind == "lone outliers":
        return np.where(np.isin(np.arange(ROWS), [5, 900]), [[1e6], [0]][0], normal_R)
    if kind == "zeros":
        return np.where(np.arange(ROWS) % 2 == 0, 0, rng.uniform(0, 1, ROWS))
    return {"normal": normal_R, "uniform": rng.uniform(-1, 1, ROWS)}[kind]


PROPOSED = {
    "normal": "",
    "uniform": "",
    "zeros": "",
    "long tail": "clip 0 none, log1p",
    "placeholder": "missing 9,999,999, clip 0 none, log1p",
    "many placeholders": "missing -999",
    "minus one": "missing -1",
    "lone outliers": "clip_quantiles 0.001 0.999",
}


@pytest.mark.parametrize("kind", PROPOSED)
def test_a_transform_is_proposed_where_numbers_want_one(kind: str) -> None:
    shape = shape_of("x", numbers(drawn(kind)))
    assert words(shape.chain) == PROPOSED[kind], shape
    assert bool(shape.why) == bool(PROPOSED[kind])


def test_of_many_numbers_a_sample_is_kept_and_the_ends_are_counted_exactly() -> None:
    values_R = np.random.default_rng(0).permutation(np.arange(300_000) % 100_000).astype(float)
    found = numbers(values_R, block=40_000)
    assert SAMPLED / 4 < len(found.sample) <= SAMPLED
    np.testing.assert_allclose(np.quantile(found.sample, [0.1, 0.5, 0.9]), [1e4, 5e4, 9e4], rtol=0.03)
    assert found.ends == {True: {99_999.0 - n: 3 for n in range(ENDS)}, False: {float(n): 3 for n in range(ENDS)}}


def table(days: int, rows: int = ROWS) -> pa.Table:
    rng = np.random.default_rng(2)
    moment = np.datetime64("2026-03-02", "s") + np.sort(rng.integers(0, days * 86_400, rows)).astype("timedelta64[s]")
    click = rng.random(rows) < 0.3
    conversion = click & (rng.random(rows) < 0.3)
    return pa.table(
        {
            "ts": pa.array(moment.astype(np.int64)),
            "user_id": rng.integers(0, 300, rows),
            "uploaded": moment - rng.integers(0, 10**7, rows).astype("timedelta64[s]"),
            "seen_at": pa.array(moment + np.timedelta64(60, "s")),
            "price": pa.array(np.exp(rng.normal(2, 1.2, rows))).cast(pa.decimal128(20, 6)),
            "member": rng.random(rows) < 0.5,
            "click": click,
            "conversion": conversion,
        }
    )


def load(source: Path, out: Path, **options: object) -> Loaded:
    return load_table(str(source), out, TableOptions(**options))  # type: ignore[arg-type]


def test_moments_become_hours_weekdays_and_ages(tmp_path: Path) -> None:
    pq.write_table(table(12), tmp_path / "raw.parquet")
    loaded = load(tmp_path / "raw.parquet", tmp_path / "log", zone="Asia/Tokyo")
    schema = json.loads((tmp_path / "log" / "schema.json").read_text())
    fields = {entry["name"]: entry for entry in schema["categorical"]}
    clock = {"column": "ts", "zone": "Asia/Tokyo", "unit": "s"}
    assert fields["ts_hour"] == {"name": "ts_hour", "kind": "range", "size": 24, "from": {**clock, "part": "hour"}}
    assert fields["ts_weekday"]["from"] == {**clock, "part": "weekday"}
    assert fields["member"] == {"name": "member", "kind": "range", "size": 2}
    age = next(entry for entry in schema["numeric"] if entry["name"] == "uploaded_age_days")
    assert age["from"] == {"column": "uploaded", "part": "age_days", "at": "ts", "at_unit": "s"}
    assert age["transform"] == [{"clip": [0.0, None]}, "log1p"]
    assert {"name": "price", "transform": [{"clip": [0.0, None]}, "log1p"]} in schema["numeric"]
    why = {one.column: one.why for one in loaded.draft.decisions}
    assert "later than 'ts' in 4,000 rows: known only afterwards" in why["seen_at"]
    assert "ts_hour and ts_weekday in Asia/Tokyo (--zone)" in why["ts"]
    assert "a long tail" in why["price"]
    assert not any("seen_at" in name for name in open_log(tmp_path / "log").schema.features)
    log = open_log(tmp_path / "log")
    read = next(log.read(log.part("train")))
    first = datetime.datetime(2026, 3, 2, 9, tzinfo=datetime.UTC)  # midnight in UTC
    assert read["ts_hour"][0].as_py() == first.hour
    assert read["ts_weekday"][0].as_py() == first.weekday()


def test_a_week_that_train_does_not_have_gives_no_weekday(tmp_path: Path) -> None:
    pq.write_table(table(8), tmp_path / "raw.parquet")
    loaded = load(tmp_path / "raw.parquet", tmp_path / "log")
    assert "ts_weekday" not in loaded.draft.schema.features
    assert any("no weekday: train has 6 days" in one.why for one in loaded.draft.decisions)


def test_the_split_is_one_that_the_table_has(tmp_path: Path) -> None:
    full = table(8)
    cases = {
        "time": (full, "train 2026-03-02 to 2026-03-07"),
        "user": (full.drop_columns(["ts"]), "split by user, as no column is a time"),
        "days": (table(2), "split by user, as 2 days are too few"),
        "row": (full.drop_columns(["ts", "user_id"]), "split by row, as no column is a time"),
    }
    for name, (rows, note) in cases.items():
        pq.write_table(rows, tmp_path / f"{name}.parquet")
        loaded = load(tmp_path / f"{name}.parquet", tmp_path / name)
        assert loaded.notes[0].startswith(note), loaded.notes
        assert sum(fact.rows for fact in loaded.facts.values()) == ROWS


def test_rows_are_dealt_so_that_a_few_conversions_reach_all_parts(tmp_path: Path) -> None:
    click = np.arange(100) % 12 == 0
    rows = pa.table({"x": np.arange(100) % 7 / 7, "click": click, "conversion": click & (np.arange(100) % 36 == 0)})
    pacsv.write_csv(rows, tmp_path / "raw.csv")
    loaded = load(tmp_path / "raw.csv", tmp_path / "log")
    assert [fact.conversions for fact in loaded.facts.values()] == [1, 1, 1]
    assert all(fact.clicks >= 2 for fact in loaded.facts.values())
    assert [fact.rows for fact in loaded.facts.values()] == pytest.approx([80, 10, 10], abs=4)
    with pytest.raises(UserError, match=r"--split user needs the column of the user"):
        load(tmp_path / "raw.csv", tmp_path / "other", split="user")


def test_too_few_users_and_too_few_conversions_have_advice(tmp_path: Path) -> None:
    rows = pa.table(
        {"user_id": [1] * 100, "x": np.arange(100) % 7 / 7, "click": np.arange(100) == 3, "buy": np.zeros(100)}
    )
    pacsv.write_csv(rows, tmp_path / "raw.csv")
    with pytest.raises(UserError, match=r"has no rows of 100, split by user: take .*--held-out 0\.1, or --split row"):
        load(tmp_path / "raw.csv", tmp_path / "out", split="user")
    loaded = load(tmp_path / "raw.csv", tmp_path / "out")
    assert "1 users with 0 of the rarest outcome too few (--split)" in loaded.notes[0]
    assert loaded.notes[1] == "1 clicks in 100 rows are too few for three parts: bring more rows"


def test_csv_files_by_a_pattern_and_those_that_lack_a_column(tmp_path: Path) -> None:
    one, two = table(8).slice(0, 100).drop_columns(["price"]), table(8).slice(100, 50)
    pacsv.write_csv(one, tmp_path / "a_1.csv")
    pacsv.write_csv(two, tmp_path / "a_2.csv")
    (tmp_path / "notes.txt").write_text("nothing of this table\nat all\n")
    with pytest.raises(UserError, match=r"notes\.txt: has no column of .*a_1\.csv: two tables"):
        open_table(str(tmp_path))
    found = pa.concat_tables(block for block, _ in open_table(str(tmp_path / "a_*.csv")).blocks())
    assert found.num_rows == 150
    assert found["price"].null_count == 100
