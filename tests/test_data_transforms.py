"""Transforms of numeric features, buckets and parts of moments, against numpy, scikit-learn and the calendar."""

import dataclasses
import datetime
import json
import zoneinfo
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats
from sklearn.preprocessing import KBinsDiscretizer, QuantileTransformer

from data.encode import Encoder, numeric_moments
from data.errors import UserError
from data.log import Log, open_log
from data.measure import measured
from data.schema import Schema
from data.transforms import KNOTS, apply, chain_of, fit

ROWS = 3000


def entries(numeric: list[Any], categorical: list[Any] | None = None) -> dict[str, Any]:
    return {
        "format": "counterpoint.schema", "version": 2, "name": "toy", "categorical": categorical or [],
        "numeric": numeric, "labels": {"click": "click", "conversion": "buy"},
    }  # fmt: skip


def columns(seed: int = 0, rows: int = ROWS) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    price = np.exp(rng.normal(3, 1, rows))
    price[::50] = 9_999_999.0
    moment = np.datetime64("2026-03-27", "ms") + (rng.integers(0, 4 * 86_400_000, rows)).astype("timedelta64[ms]")
    return {
        "price": pa.array(price, mask=rng.random(rows) < 0.1),
        "views": rng.poisson(0.7, rows).astype(np.int32),
        "ts": pa.array(moment),
        "uploaded": pa.array(
            [None if n % 9 == 0 else str(m - np.timedelta64(n * 7, "h"))[:19] for n, m in enumerate(moment)]
        ),
        "click": rng.integers(0, 2, rows).astype(np.int8), "buy": np.zeros(rows, np.int8),
    }  # fmt: skip


def written(directory: Path, schema: dict[str, Any], **parts: dict[str, Any]) -> Log:
    for part, given in (parts or {"train": columns()}).items():
        (directory / part).mkdir(parents=True)
        pq.write_table(pa.table(given), directory / part / "part-0.parquet", row_group_size=700)
    (directory / "schema.json").write_text(json.dumps(schema))
    return open_log(directory)


def measure(log: Log) -> Log:
    return dataclasses.replace(log, schema=measured(log, {"train": log.part("train")}, {}))


def read(log: Log, part: str = "train") -> np.ndarray:
    """The numbers that the model reads."""
    encoder = Encoder(log.schema)
    return np.concatenate([encoder.encode(table).numeric_RN for table in log.read(log.part(part))])


def raw(name: str) -> np.ndarray:
    return pa.array(columns()[name]).to_numpy(zero_copy_only=False).astype(float)


def test_a_chain_is_what_numpy_computes_and_quantile_what_scikit_learn_does(tmp_path: Path) -> None:
    chain = [{"missing": [9999999]}, {"fill": "median"}, {"clip_quantiles": [0.01, 0.99]}, "log1p"]
    names = [
        {"name": "price", "transform": chain},
        {"name": "uniform", "from": "price", "transform": [{"quantile": "uniform"}]},
        {"name": "normal", "from": "price", "transform": [{"quantile": "normal"}]},
        {"name": "mean", "from": "price", "transform": [{"fill": "mean"}, {"clip": [None, 100]}]},
    ]
    found_RN = read(measure(written(tmp_path, entries(names))))
    price_R = raw("price")
    known_R = np.where(price_R == 9999999, np.nan, price_R)
    filled_R = np.where(np.isnan(known_R), np.nanmedian(known_R), known_R)
    np.testing.assert_array_equal(found_RN[:, 0], np.log1p(np.clip(filled_R, *np.quantile(filled_R, [0.01, 0.99]))))
    for n, to in ((1, "uniform"), (2, "normal")):
        judge = QuantileTransformer(n_quantiles=KNOTS, output_distribution=to, subsample=None)
        below_R = price_R < 9999999  # which is the greatest value several times: in the middle of its shares here
        wanted_R = judge.fit_transform(price_R[:, None])[:, 0]
        np.testing.assert_allclose(found_RN[below_R, n], wanted_R[below_R], atol=1e-12)
    top = np.flatnonzero(np.quantile(price_R[~np.isnan(price_R)], np.linspace(0, 1, KNOTS)) == 9999999)
    middle = (top[0] / (KNOTS - 1) + 1) / 2
    np.testing.assert_allclose(found_RN[price_R == 9999999, 1], middle)
    np.testing.assert_allclose(found_RN[price_R == 9999999, 2], stats.norm.ppf(middle))
    wanted_R = np.minimum(np.where(np.isnan(price_R), np.nanmean(price_R), price_R), 100)
    np.testing.assert_allclose(found_RN[:, 3], wanted_R, rtol=1e-14)


def test_moments_are_of_what_the_model_reads(tmp_path: Path) -> None:
    log = measure(written(tmp_path, entries([{"name": "price", "transform": ["log1p", {"quantile": "normal"}]}])))
    mean_N, std_N = numeric_moments(log, log.part("train"))
    read_R = read(log)[:, 0]
    assert [*mean_N, *std_N] == pytest.approx([np.nanmean(read_R), np.nanstd(read_R)])


def test_buckets_are_those_of_scikit_learn_and_of_given_boundaries(tmp_path: Path) -> None:
    fields = [
        {"name": "five", "kind": "range", "from": {"column": "price", "part": "bucket", "quantiles": 5}},
        {"name": "given", "kind": "range", "from": {"column": "views", "part": "bucket", "boundaries": [1, 3]}},
        {"name": "there", "kind": "range", "from": {"column": "price", "part": "missing"}},
    ]
    log = measure(written(tmp_path, entries(["views"], fields)))
    encoder = Encoder(log.schema)
    assert encoder.field_rows == (7, 5, 4)
    ids_RK = np.concatenate([encoder.encode(table).ids_RK for table in log.read(log.part("train"))])
    ids_RK -= np.array(encoder.offsets)
    price_R = raw("price")
    known_R = ~np.isnan(price_R)
    judge = KBinsDiscretizer(5, encode="ordinal", quantile_method="linear", subsample=None)
    bins_R = judge.fit_transform(price_R[known_R, None])[:, 0]
    np.testing.assert_array_equal(ids_RK[known_R, 0], 2 + bins_R)
    assert (ids_RK[~known_R, 0] == 0).all()
    np.testing.assert_array_equal(ids_RK[:, 1], 2 + np.digitize(raw("views"), [1, 3]))
    np.testing.assert_array_equal(ids_RK[:, 2], 2 + np.isnan(price_R))


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York"])
def test_clocks_are_those_of_the_calendar_through_a_change_to_summer_time(zone: str, tmp_path: Path) -> None:
    """Four days around 29 March 2026, when Europe's clocks go forward."""
    parts = ("hour", "weekday", "day", "month")
    fields = [{"name": part, "kind": "range", "from": {"column": "ts", "part": part, "zone": zone}} for part in parts]
    log = written(tmp_path, entries(["views"], fields))
    table = pa.concat_tables(log.read(log.part("train")))
    moments = [
        value.replace(tzinfo=datetime.UTC).astimezone(zoneinfo.ZoneInfo(zone)) for value in columns()["ts"].to_pylist()
    ]
    assert table["hour"].to_pylist() == [moment.hour for moment in moments]
    assert table["weekday"].to_pylist() == [moment.weekday() for moment in moments]
    assert table["day"].to_pylist() == [moment.day for moment in moments]
    assert table["month"].to_pylist() == [moment.month for moment in moments]


def test_an_age_is_in_days_whatever_writes_the_two_moments(tmp_path: Path) -> None:
    given = columns()
    given["seconds"] = pa.array([None if one is None else int(one.timestamp()) for one in (
        value if value is None else datetime.datetime.fromisoformat(value).replace(tzinfo=datetime.UTC)
        for value in given["uploaded"].to_pylist())])  # fmt: skip
    ages = [
        {"name": "text", "from": {"column": "uploaded", "part": "age_days", "at": "ts"}},
        {"name": "number", "from": {"column": "seconds", "unit": "s", "part": "age_hours", "at": "ts"}},
    ]
    found_RN = read(written(tmp_path, entries(ages), train=given))
    hours_R = np.arange(ROWS) * 7.0
    missing_R = np.arange(ROWS) % 9 == 0
    assert (np.isnan(found_RN[:, 0]) == missing_R).all()
    np.testing.assert_allclose(found_RN[~missing_R, 0], hours_R[~missing_R] / 24, atol=1.1 / 86_400)
    np.testing.assert_allclose(found_RN[~missing_R, 1], hours_R[~missing_R], atol=1.1 / 3_600)


def test_decimals_and_booleans_are_numbers(tmp_path: Path) -> None:
    given = columns()
    given["cents"] = pa.array(np.arange(ROWS)).cast(pa.decimal128(30, 0)).cast(pa.decimal128(32, 2))
    given["member"] = np.arange(ROWS) % 3 == 0
    chain = [{"clip": [1, 9]}, "log1p"]
    log = written(tmp_path, entries([{"name": "cents", "transform": chain}, "member", "cents_raw"]), train={
        **given, "cents_raw": given["cents"]})  # fmt: skip
    found_RN = read(measure(log))
    assert found_RN.dtype == np.float64
    np.testing.assert_array_equal(found_RN[:, 0], np.log1p(np.clip(np.arange(ROWS), 1, 9)))
    np.testing.assert_array_equal(found_RN[:, 1], np.arange(ROWS) % 3 == 0)
    np.testing.assert_array_equal(found_RN[:, 2], np.arange(ROWS))


def test_statistics_are_of_train_alone_and_travel_in_the_schema(tmp_path: Path) -> None:
    other = columns(1)
    other["price"] = pa.array(np.full(ROWS, 7.0))
    chain = [{"fill": "mean"}, {"clip_quantiles": [0.1, 0.9]}]
    log = written(tmp_path, entries([{"name": "price", "transform": chain}]), train=columns(), valid=other)
    parts = {name: log.part(name) for name in ("train", "valid")}
    schema = measured(log, parts, {})
    again = Schema.from_json(json.dumps(schema.to_dict()))
    assert again == schema
    assert schema.statistics["price"] == fit(chain_of(chain, ""), raw("price"))
    assert schema.unmeasured == ()
    known = {"price": ((1.0,), (2.0, 3.0))}
    assert measured(log, parts, known).statistics == known
    read_R = read(dataclasses.replace(log, schema=measured(log, parts, known)), "valid")[:, 0]
    assert (read_R == 3.0).all()


REFUSED = {
    "unknown step": ("log2p", "column 'price': transform: unknown step 'log2p'; did you mean log1p"),
    "a number too large": ({"fill": 10**400}, "column 'price': transform fill: want a number, mean or median"),
    "no list of two": ({"clip": [1]}, r"column 'price': transform clip: want \[low, high\]"),
    "low above high": ({"clip": [2, 1]}, "column 'price': transform clip: low 2 is above high 1"),
    "shares": ({"clip_quantiles": [0.9, 1.1]}, "clip_quantiles: want two shares in order"),
    "target": ({"quantile": "gauss"}, "quantile: want uniform or normal, not 'gauss'"),
    "fill": ({"fill": "mode"}, "fill: want a number, mean or median, not 'mode'"),
    "placeholder": ({"missing": ["-"]}, "missing: want numbers that stand for missing ones"),
    "two keys": ({"clip": [0, 1], "fill": 0}, "a step is a name or an object of one key"),
    "nothing": ([], "'transform' is an empty list"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_transform_is_refused_by_column(case: str) -> None:
    step, message = REFUSED[case]
    with pytest.raises(UserError, match=message) as error:
        Schema.from_dict(entries([{"name": "price", "transform": step}]))
    assert "\n" not in str(error.value)


SOURCES = {
    "unknown part": ({"column": "ts", "part": "hours"}, "part 'hours' is none; did you mean hour"),
    "no zone": ({"column": "ts", "part": "hour", "zone": "Mars/Base"}, "no time zone 'Mars/Base'"),
    "unsorted": ({"column": "price", "part": "bucket", "boundaries": [1, 3, 2]}, "must increase: 2 comes after 3"),
    "both": ({"column": "price", "part": "bucket", "boundaries": [1], "quantiles": 2}, "one of the two"),
    "other key": ({"column": "ts", "part": "hour", "at": "x"}, "unknown key 'at'"),
    "label": ({"column": "click", "part": "missing"}, "column 'click' is the click label and cannot be a feature"),
    "made of a made one": ({"column": "five", "part": "missing"}, "made of another column itself"),
}


@pytest.mark.parametrize("case", SOURCES)
def test_a_wrong_from_is_refused_by_column(case: str) -> None:
    source, message = SOURCES[case]
    five = {"name": "five", "kind": "range", "from": {"column": "price", "part": "bucket", "quantiles": 5}}
    with pytest.raises(UserError, match=message):
        Schema.from_dict(entries(["price"], [five, {"name": "made", "kind": "range", "from": source}]))


def test_a_logarithm_of_minus_one_or_less_is_named_by_file_column_and_row(tmp_path: Path) -> None:
    bad = columns()
    price = np.arange(1.0, ROWS + 1)
    price[1234] = -3.5
    bad["price"] = price
    schema = entries([{"name": "price", "transform": ["log1p"]}])
    log = written(tmp_path / "a", schema, train=columns(), valid=bad)
    parts = {name: log.part(name) for name in ("train", "valid")}
    message = r"valid/part-0\.parquet: column 'price' is -3\.5 in row 1234: log1p takes numbers above -1"
    with pytest.raises(UserError, match=message):
        measured(log, parts, {})
    with pytest.raises(UserError, match=r"column .price.: log1p takes numbers above -1, row 534 has -3\.5"):
        read(log, "valid")
    schema["numeric"][0]["transform"] = [{"clip": [0, None]}, "log1p"]
    log = written(tmp_path / "b", schema, train=bad)
    assert read(measure(log))[1234, 0] == 0


def test_nothing_to_measure_is_refused(tmp_path: Path) -> None:
    given = {**columns(), "price": pa.nulls(ROWS, pa.float64())}
    log = written(tmp_path, entries([{"name": "price", "transform": [{"fill": "median"}]}]), train=given)
    with pytest.raises(UserError, match=r"train: column 'price': fill median: all values of train are missing"):
        measure(log)


def test_a_moment_must_be_one(tmp_path: Path) -> None:
    field = {"name": "hour", "kind": "range", "from": {"column": "views", "part": "hour"}}
    log = written(tmp_path / "a", entries(["price"], [field]))
    with pytest.raises(UserError, match=r"column 'views' is of type int32: say in 'from' in which \"unit\" it counts"):
        log.part("train")
    field["from"] = {"column": "uploaded", "part": "hour"}
    given = {**columns(), "uploaded": pa.array(["soon"] * ROWS)}
    log = written(tmp_path / "b", entries(["price"], [field]), train=given)
    with pytest.raises(UserError, match=r"part-0\.parquet: column 'uploaded' holds 'soon', which is no time"):
        log.read_row_group(log.part("train").files[0], 0)


def test_apply_changes_nothing_it_was_given() -> None:
    values_R = np.array([1.0, np.nan, 5.0])
    kept_R = values_R.copy()
    apply(chain_of([{"fill": 0}, {"clip": [0, 2]}, {"missing": [2]}, "log1p"], ""), [()] * 4, values_R)
    np.testing.assert_array_equal(values_R, kept_R)


def test_a_log_may_gain_a_column_and_not_lose_it(tmp_path: Path) -> None:
    """Files without it come first, in the order of their paths: missing in all their rows."""
    schema = entries(["views", "price"], [{"name": "hour", "kind": "range", "from": {"column": "ts", "part": "hour"}}])
    full = pa.table(columns())
    for place, dropped in (("dt=1", ["price", "ts"]), ("dt=2", ["price"]), ("dt=3", [])):
        (tmp_path / "train" / place).mkdir(parents=True)
        pq.write_table(full.drop_columns(dropped), tmp_path / "train" / place / "part-0.parquet")
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    log = open_log(tmp_path)
    assert [file.absent for file in log.part("train").files] == [("ts", "price"), ("price",), ()]
    encoder = Encoder(log.schema)
    rows = [encoder.encode(table) for table in log.read(log.part("train"))]
    assert [bool(np.isnan(one.numeric_RN[:, 1]).all()) for one in rows] == [True, True, False]
    assert [bool((one.ids_RK == 0).all()) for one in rows] == [True, False, False]
    (tmp_path / "train" / "dt=4").mkdir()
    pq.write_table(full.drop_columns(["price"]), tmp_path / "train" / "dt=4" / "part-0.parquet")
    with pytest.raises(
        UserError, match=r"dt=4/part-0\.parquet: no column 'price'.*a log may gain a column, not lose it"
    ):
        log.part("train")
