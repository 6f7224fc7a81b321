"""What is said of a log before anything is trained: outcomes among the features, squeezed columns, repeated rows, a
truth that contradicts its log."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import arguments as train_arguments
from support import error_line

from data.encode import numeric_moments
from data.errors import UserError
from data.labels import check_labels
from data.log import Log, open_log
from data.repeats import Keys, key_hashes, repeat_warnings, share_of
from data.schema import Schema
from data.suspects import suspicious_columns
from data.truth_check import check_truth
from funnel.trained_log import for_scoring
from jobs import evaluate, score, train

ROWS = 20_000
SCHEMA: dict[str, Any] = {
    "format": "counterpoint.schema",
    "version": 2,
    "name": "toy",
    "categorical": [{"name": "user", "kind": "hash", "size": 500}],
    "numeric": ["price"],
    "labels": {"click": "click", "conversion": "conversion"},
    "exposure": "exposure",
}


def toy(seed: int = 0, rows: int = ROWS) -> pa.Table:
    rng = np.random.default_rng(seed)
    click = rng.random(rows) < 0.2
    conversion = click & (rng.random(rows) < 0.3)
    price = np.exp(rng.normal(3, 1, rows))
    return pa.table(
        {
            "exposure": np.arange(rows) + seed * 10**6,
            "user": rng.integers(0, 100, rows),
            "price": price,
            "revenue": np.where(conversion, price, 0.0),
            "seconds": pa.array(rng.exponential(20, rows), mask=~click),
            "order": pa.array([f"o{n}" for n in range(rows)], mask=~conversion),
            "bought": conversion,
            "basket": pa.array([[1, 2] if yes else [] for yes in conversion], pa.list_(pa.int32())),
            "outlier": np.where(rng.random(rows) < 0.0005, 9_999_999.0, price),
            "epoch_ms": 1_770_000_000_000 + rng.permutation(rows) % 4000,
            "huge": 1e20 + rng.integers(0, 1000, rows),
            "rare": (rng.random(rows) < 0.0005).astype(float),
            "click": click.astype(np.int8),
            "conversion": conversion.astype(np.int8),
            "potential": (conversion | (~click & (rng.random(rows) < 0.3))).astype(np.int8),
        }
    )


def write(where: Path, parts: dict[str, pa.Table] | None = None, truth: bool = False, **schema: Any) -> Log:
    tables = {name: toy(seed) for seed, name in enumerate(("train", "valid", "test"))} | (parts or {})
    for name, table in tables.items():
        (where / name).mkdir(parents=True)
        pq.write_table(table, where / name / "a.parquet", row_group_size=4096)
        if truth:
            (where / "truth" / name).mkdir(parents=True)
            pq.write_table(table.select(["exposure", "potential"]), where / "truth" / name / "a.parquet")
    known = {"truth": {"key": "exposure", "potential_conversion": "potential"}} if truth else {}
    (where / "schema.json").write_text(json.dumps({**SCHEMA, **known, **schema}))
    return open_log(where)


def said(log: Log) -> list[str]:
    mean_N, std_N = numeric_moments(log, log.part("train"))
    return suspicious_columns(log, log.part("train"), mean_N.tolist(), std_N.tolist())


def test_a_clean_log_is_not_suspected(tmp_path: Path) -> None:
    assert said(write(tmp_path, numeric=["price", "rare"])) == []


@pytest.mark.parametrize(
    ("schema", "line"),
    [
        ({"numeric": ["revenue"]}, "column 'revenue' is there, and not 0, only where 'conversion' is 1"),
        ({"numeric": ["bought"]}, "column 'bought' is there, and not 0, only where 'conversion' is 1"),
        ({"numeric": ["seconds"]}, "column 'seconds' is there, and not 0, only where 'click' is 1"),
        ({"value": "revenue"}, "column 'revenue', the 'value', is there, and not 0, only where 'conversion' is 1"),
        ({"categorical": [{"name": "order", "kind": "hash", "size": 9}]}, "column 'order' is there, and not 0, only"),
        (
            {"categorical": [{"name": "bought", "kind": "range", "size": 2}]},
            "column 'bought' is there, and not 0, only",
        ),
        (
            {"categorical": [{"name": "basket", "kind": "hash", "size": 9, "many": {"pooling": "mean"}}]},
            "column 'basket' is there, and not 0, only where 'conversion' is 1",
        ),
    ],
)
def test_an_outcome_among_the_features_is_named(tmp_path: Path, schema: dict[str, Any], line: str) -> None:
    (found,) = said(write(tmp_path, **schema))
    assert found.startswith(line)
    assert ("under 'reward'" in found) == ("value" in schema)


def test_a_label_under_another_name_and_scale_is_named(tmp_path: Path) -> None:
    """-1 and 7 in place of 0 and 1, with one row in a hundred wrong: no zeros, but the column tells it alone."""
    table = toy()
    flipped = (table["click"].to_numpy() == 1) ^ (np.arange(ROWS) % 100 == 0)
    log = write(tmp_path, {"train": table.append_column("hint", pa.array(np.where(flipped, -1, 7)))}, numeric=["hint"])
    for part in ("valid", "test"):
        pq.write_table(toy().append_column("hint", pa.array(np.zeros(ROWS, int))), tmp_path / part / "a.parquet")
    (line,) = said(log)
    assert line.startswith("column 'hint' alone tells where 'click' is 1 (AUC 0.99")


def test_a_placeholder_that_squeezes_a_column_is_named(tmp_path: Path) -> None:
    (line,) = said(write(tmp_path, numeric=["outlier"]))
    assert line.startswith("column 'outlier': 98% of the values lie within 0.000")
    assert "as far as 9,999,999: if that is a placeholder, write it as missing" in line


def test_values_that_the_model_cannot_tell_apart_are_named(tmp_path: Path) -> None:
    """A hundred prices a tenth apart, spread by rows that the sample does not show: float32 has steps of 1 there."""
    assert said(write(tmp_path / "clean", numeric=["epoch_ms"])) == []
    log = write(tmp_path / "log", numeric=["steps"])
    table = toy().append_column("steps", pa.array(1e7 + np.arange(ROWS) % 100 * 0.1))
    pq.write_table(table, tmp_path / "log/train/a.parquet")
    lines = suspicious_columns(log, log.part("train"), [1e7], [1e9])
    assert any("100 different values of a sample are 11 to the model" in line for line in lines), lines


def test_repeated_exposures_are_reported_with_an_example(tmp_path: Path) -> None:
    first = toy(0)
    log = write(
        tmp_path,
        {
            "train": pa.concat_tables([first, first.slice(17, 40)]),
            "valid": pa.concat_tables([toy(1), first.slice(5, 3)]),
        },
    )
    parts = {name: log.part(name) for name in ("train", "valid", "test")}
    lines = repeat_warnings(log, parts, {name: check_labels(log, part).keys for name, part in parts.items()})
    assert len(lines) == 2
    assert lines[0].startswith(
        "train: 40 of 20,040 rows repeat an exposure that is there already, by column 'exposure'"
    )
    assert lines[1].startswith("train and valid have 3 exposures in common, by column 'exposure', such as ")
    assert f"({tmp_path}/valid/a.parquet: row 20,00".replace(",", "") in lines[1]


def test_of_many_keys_a_fixed_share_is_looked_at() -> None:
    assert [share_of(rows) for rows in (1, 1 << 22, (1 << 22) + 1, 1 << 23, (1 << 23) + 1)] == [1, 1, 2, 2, 4]
    keys = pa.chunked_array([pa.array(range(40_000)), pa.array([None, 7], pa.int64())])
    kept = key_hashes(keys, 8)
    assert set(kept) <= set(key_hashes(keys, 2))
    assert len(kept) == pytest.approx(5000, rel=0.1)
    doubled = Keys(np.sort(np.concatenate([kept, kept])), 8)
    assert len(doubled.repeated()) * 8 == pytest.approx(40_000, rel=0.1)


def changed_truth(log: Path, change: Any) -> None:
    path = log / "truth/test/a.parquet"
    pq.write_table(change(pq.read_table(path)), path)


def test_a_truth_that_contradicts_its_log_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write(tmp_path / "log", truth=True)
    check_truth(log, log.part("test"))
    first = int(np.flatnonzero(toy(2)["conversion"].to_numpy())[0])
    changed_truth(tmp_path / "log", lambda t: t.set_column(1, "potential", pa.array(np.zeros(ROWS, np.int8))))
    words = ["--data", tmp_path / "log", "--out", tmp_path / "run", "--workers", 0]
    line = error_line(train, words, monkeypatch, capsys)
    assert (
        f"test/a.parquet: row {first}: the log contradicts its truth: exposure {2 * 10**6 + first} was clicked" in line
    )
    assert "'conversion' is 1, but 'potential' is 0" in line
    assert not (tmp_path / "run").exists()


def test_missing_rows_of_truth_are_found_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "log", truth=True)
    changed_truth(tmp_path / "log", lambda t: t.slice(0, ROWS - 3))
    words = ["--data", tmp_path / "log", "--out", tmp_path / "run", "--workers", 0]
    line = error_line(train, words, monkeypatch, capsys)
    assert f"test/a.parquet: the truth has no row for exposure {2 * 10**6 + ROWS - 3} (and 2 more)" in line
    assert not (tmp_path / "run").exists()


def test_a_truth_of_other_types_is_read(tmp_path: Path) -> None:
    log = write(tmp_path, truth=True)
    table = pq.read_table(tmp_path / "truth/test/a.parquet")
    half = table.slice(ROWS // 2).cast(pa.schema([("exposure", pa.int32()), ("potential", pa.float64())]))
    pq.write_table(table.slice(0, ROWS // 2), tmp_path / "truth/test/a.parquet")
    (tmp_path / "truth/test/more").mkdir()
    pq.write_table(half, tmp_path / "truth/test/more/b.parquet")
    check_truth(log, log.part("test"))
    assert log.truth("test").potential_R.sum() == table["potential"].to_numpy().sum()


def test_a_reward_is_written_beside_the_scores_and_is_no_feature(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        UserError, match="column 'revenue' is the reward, which is known only afterwards, and cannot be a"
    ):
        Schema.from_dict({**SCHEMA, "numeric": ["revenue"], "reward": "revenue"})
    with pytest.raises(UserError, match="'value' and 'reward' are the same column 'price'"):
        Schema.from_dict({**SCHEMA, "numeric": [], "value": "price", "reward": "price"})
    schema = Schema.from_dict({**SCHEMA, "value": "price", "reward": "revenue"})
    assert Schema.from_dict(schema.to_dict()) == schema
    log = write(tmp_path / "log", value="price", reward="revenue")
    train.run(train_arguments(tmp_path / "log", tmp_path / "run"))
    assert "warning" not in capsys.readouterr().out
    out = score.run(score.Arguments(run=tmp_path / "run", data=str(tmp_path / "log"), out=tmp_path / "s.parquet"))
    table = pq.read_table(out)
    np.testing.assert_array_equal(table["reward"].to_numpy(), toy(2)["revenue"].to_numpy().astype(np.float32))
    assert for_scoring(log, log.schema).schema.reward == "revenue"
    (tmp_path / "log/schema.json").write_text(json.dumps({**SCHEMA, "value": "revenue"}))
    score.run(score.Arguments(run=tmp_path / "run", data=str(tmp_path / "log"), out=tmp_path / "t.parquet"))
    printed = " ".join(capsys.readouterr().out.split())
    assert "warning: column 'revenue', the 'value', is there, and not 0, only where there was a conversion" in printed


def test_order_values_in_whole_cents_are_scored(tmp_path: Path) -> None:
    """Whole numbers above 2^24 have no exact float32; the nearest one is as good."""
    cents = np.where(np.arange(ROWS) % 5 == 0, 20_000_001, 100)
    parts = {
        name: toy(seed).append_column("cents", pa.array(cents)) for seed, name in enumerate(("train", "valid", "test"))
    }
    write(tmp_path / "log", parts, value="cents")
    train.run(train_arguments(tmp_path / "log", tmp_path / "run"))
    out = score.run(score.Arguments(run=tmp_path / "run", data=str(tmp_path / "log"), out=tmp_path / "s.parquet"))
    np.testing.assert_array_equal(pq.read_table(out)["value"].to_numpy(), cents.astype(np.float32))


@pytest.mark.slow
def test_slices_by_a_64_bit_id(tmp_path: Path) -> None:
    """Whole numbers beyond 2^53, and widths that differ from file to file."""
    shop = np.arange(ROWS) % 40 + 2**60 + 1
    region = np.arange(ROWS) % 3 + 300
    extra = {}
    for seed, name in enumerate(("train", "valid", "test")):
        extra[name] = toy(seed).append_column("shop", pa.array(shop)).append_column("region", pa.array(region))
    write(tmp_path / "log", extra)
    narrow = toy(7, 300).append_column("shop", pa.array(shop[:300])).append_column("region", pa.nulls(300, pa.int8()))
    pq.write_table(narrow, tmp_path / "log/test/b.parquet")
    train.run(train_arguments(tmp_path / "log", tmp_path / "run"))
    words = {"data": str(tmp_path / "log"), "run": tmp_path / "run", "replicates": 40}
    found = evaluate.run(evaluate.Arguments(**words, by=("shop", "region")))
    assert sum(1 for name in found if name.startswith("by.shop.") and name.endswith(".ctr.auc")) >= 4
    for value in (300, 301, 302):
        assert f"by.region.{value}.ctr.auc" in found
