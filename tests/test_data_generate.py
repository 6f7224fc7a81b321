"""The generated log against its own equations: rates, propensities, truth, selection, and the same log again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data.encode import Encoder
from data.generate import PARTS, SHARD_ROWS, GeneratedLog, generate_log, part_rows, shard_tables
from data.labels import check_labels
from data.log import Log, open_log
from data.world import World, address, solve

CONFIG = GeneratedLog(world="aligned", rows=300_000, seed=3, users=5000, items=2000)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    out = tmp_path_factory.mktemp("generated") / "log"
    generate_log(CONFIG, out)
    return open_log(out)


def joined(log: Log, name: str = "train") -> pa.Table:
    """The log's rows with their truth beside them."""
    table = pa.concat_tables(log.read(log.part(name), log.schema.all_columns))
    truth = log.truth(name)
    rows = truth.lookup(table.column("exposure_id").to_numpy())
    assert truth.propensity_R is not None
    assert truth.probability_R is not None
    columns = {"r": truth.potential_R[rows], "q": truth.propensity_R[rows], "p": truth.probability_R[rows]}
    for key, values in columns.items():
        table = table.append_column(key, pa.array(values))
    return table


def array(table: pa.Table, name: str) -> np.ndarray:
    return table.column(name).to_numpy().astype(np.float64)


def test_the_parts_hold_what_was_asked_for(log: Log) -> None:
    assert tuple(log.part(name).rows for name in PARTS) == part_rows(CONFIG.rows) == (240_000, 30_000, 30_000)
    requests = np.concatenate([np.unique(array(joined(log, name), "request_id")) for name in PARTS])
    assert len(np.unique(requests)) == len(requests) == CONFIG.rows // 30
    keys = np.concatenate([log.truth(name).key_R for name in PARTS])
    assert len(np.unique(keys)) == CONFIG.rows
    assert all(check_labels(log, log.part(name)).positives["conversion"] > 0 for name in PARTS)


def test_a_request_is_a_list_of_30_for_one_user(log: Log) -> None:
    table = joined(log, "test")
    request, user = array(table, "request_id"), array(table, "user_id")
    starts = np.arange(0, table.num_rows, 30)
    assert (request.reshape(-1, 30) == request[starts, None]).all()
    assert (user.reshape(-1, 30) == user[starts, None]).all()
    assert (array(table, "position").reshape(-1, 30) == np.arange(30)).all()
    items = np.sort(array(table, "item_id").reshape(-1, 30), axis=1)
    assert (np.diff(items, axis=1) == 0).mean() < 0.01


def test_the_rates_are_those_asked_for(log: Log) -> None:
    table = joined(log)
    click, conversion, q = array(table, "click"), array(table, "conversion"), array(table, "q")
    clicks, rows = click.sum(), len(click)
    # Four standard errors, which are wider than a binomial's (by less than 1.25): rows of a request share a user.
    assert abs(clicks / rows - 0.04) < 4 * 1.25 * np.sqrt(0.04 * 0.96 / rows)
    assert abs(conversion.sum() / clicks - 0.05) < 4 * 1.25 * np.sqrt(0.05 * 0.95 / clicks)
    # Given the propensities, clicks are independent.
    assert abs(clicks - q.sum()) < 4 * np.sqrt((q * (1 - q)).sum())


def test_a_conversion_is_a_click_whose_potential_conversion_is_one(log: Log) -> None:
    table = joined(log)
    np.testing.assert_array_equal(array(table, "conversion"), array(table, "click") * array(table, "r"))


@pytest.mark.parametrize(("outcome", "probability"), [("click", "q"), ("r", "p")])
def test_the_truth_is_calibrated_in_every_decile(log: Log, outcome: str, probability: str) -> None:
    table = joined(log)
    y, p = array(table, outcome), array(table, probability)
    for rows in np.array_split(np.argsort(p), 10):
        error = np.sqrt((p[rows] * (1 - p[rows])).sum())
        assert abs(y[rows].sum() - p[rows].sum()) < 4 * error


def test_the_potential_conversion_is_independent_of_the_click_given_the_probabilities(log: Log) -> None:
    table = joined(log)
    click, r, p = array(table, "click") == 1, array(table, "r"), array(table, "p")
    assert abs((r - p)[click].sum()) < 4 * np.sqrt((p * (1 - p))[click].sum())


def test_clicks_overstate_conversion_and_the_true_weights_undo_it(log: Log) -> None:
    table = joined(log)
    click, r, q, p = (array(table, name) for name in ("click", "r", "q", "p"))
    assert r[click == 1].mean() > 1.4 * r.mean()
    weighted = click * r / q
    # Its variance given the truth: sum p/q - p^2.
    assert abs(weighted.sum() - p.sum()) < 4 * np.sqrt((p / q - p**2).sum())


@pytest.mark.slow
def test_a_model_of_clicks_alone_is_wrong_about_all_exposures_and_weights_repair_it(log: Log) -> None:
    """The reason for entire-space objectives must be in the data: a small logistic regression shows it."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    encoder = Encoder(log.schema)
    coarse = [k for k, field in enumerate(log.schema.categorical) if field.rows < 100]
    sizes = np.array([encoder.field_rows[k] for k in coarse])

    def features(name: str) -> np.ndarray:
        rows = [encoder.encode(table) for table in log.read(log.part(name))]
        local = np.concatenate([r.ids_RK for r in rows])[:, coarse] - np.array(encoder.offsets)[coarse]
        one_hot = np.zeros((len(local), sizes.sum()), np.float32)
        np.put_along_axis(one_hot, local + np.cumsum(sizes) - sizes, 1.0, axis=1)
        return np.hstack([one_hot, np.nan_to_num(np.concatenate([r.numeric_RN for r in rows])) / (100, 1, 100, 30, 1)])

    train, test = joined(log), joined(log, "test")
    clicked = array(train, "click") == 1
    x, y, q = features("train")[clicked], array(train, "r")[clicked], array(train, "q")[clicked]
    pcoc = {}
    for name, weight in (("naive", None), ("weighted", q.mean() / q)):
        model = linear_model.LogisticRegression(C=0.1, max_iter=300).fit(x, y, sample_weight=weight)
        pcoc[name] = model.predict_proba(features("test"))[:, 1].mean() / array(test, "p").mean()
    assert pcoc["naive"] > 1.2
    assert abs(pcoc["weighted"] - 1) < 0.5 * abs(pcoc["naive"] - 1)


@pytest.mark.parametrize(
    "knobs",
    [
        {"click_rate": 0.2, "conversion_rate": 0.3},
        {"selection": 3.0, "confounding": -2.0},
        {"hidden": 2.0},
        {"selection": 0.0},
    ],
)
def test_intercepts_meet_the_rates_for_any_knobs(knobs: dict[str, float]) -> None:
    config = replace(CONFIG, **knobs)
    world = World(config)
    shown = world.draw_exposures(address(99), 5000)
    truly = world.probabilities(shown)
    q, p = truly.propensity_R, truly.conversion_R
    assert q.mean() == pytest.approx(world.knobs["click_rate"], rel=0.05)
    assert q @ p / q.sum() == pytest.approx(world.knobs["conversion_rate"], rel=0.05)
    logit = np.log(q / (1 - q))
    assert logit.std() == pytest.approx(np.hypot(config.selection, world.knobs["hidden"]), rel=0.03)


def test_without_confounding_clicks_tell_the_truth() -> None:
    world = World(replace(CONFIG, confounding=0.0))
    truly = world.probabilities(world.draw_exposures(address(99), 5000))
    q, p = truly.propensity_R, truly.conversion_R
    assert q @ p / q.sum() == pytest.approx(p.mean(), rel=0.05)


def test_the_hidden_cause_is_in_the_truth_and_in_no_column() -> None:
    world = World(replace(CONFIG, hidden=1.0))
    shown = world.draw_exposures(address(99), 200)
    truly = world.probabilities(shown)
    other = world.probabilities(replace(shown, hidden_R=-shown.hidden_R))
    assert not np.allclose(truly.propensity_R, other.propensity_R)
    assert not np.allclose(truly.conversion_R, other.conversion_R)
    table, _ = shard_tables(world, 0, 0)
    drawn = world.draw_exposures(address(CONFIG.seed, 2, 0, 0), SHARD_ROWS // 30).hidden_R
    numbers = [name for name in table.column_names if pa.types.is_floating(table.column(name).type)]
    for name in numbers:
        known = np.nan_to_num(table.column(name).to_numpy(), nan=0.0)
        assert abs(np.corrcoef(known, drawn)[0, 1]) < 4 / np.sqrt(SHARD_ROWS)


def test_users_and_items_have_a_long_tail_and_some_numbers_are_missing(log: Log) -> None:
    table = joined(log)
    for name in ("user_id", "item_id"):
        count = np.sort(np.unique(array(table, name), return_counts=True)[1])[::-1]
        assert count[: len(count) // 10].sum() > 0.3 * count.sum()
    lost = {name: table.column(name).null_count / table.num_rows for name in log.schema.numeric}
    expected = {"price": 0.03, "user_activity": 0.05, "item_age_days": 0.02, "item_popularity": 0, "discount": 0}
    assert lost == pytest.approx(expected, abs=0.002)


def test_no_value_is_outside_its_vocabulary_or_range(log: Log) -> None:
    encoder = Encoder(log.schema)
    rows = encoder.encode(next(log.read(log.part("valid"))))
    local_RK = rows.ids_RK - np.array(encoder.offsets)
    closed = [k for k, field in enumerate(log.schema.categorical) if field.kind != "hash"]
    assert local_RK[:, closed].min() == 2
    assert (local_RK.max(axis=0) < encoder.field_rows).all()


def test_the_same_settings_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        generate_log(replace(CONFIG, rows=40_000), tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 7
    for path in files:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()


def test_more_rows_only_add_rows(tmp_path: Path) -> None:
    for rows in (30_000, 60_000):
        generate_log(replace(CONFIG, rows=rows), tmp_path / str(rows))
    few, many = (open_log(tmp_path / str(rows)) for rows in (30_000, 60_000))
    for part in PARTS:
        assert joined(many, part).slice(0, few.part(part).rows).equals(joined(few, part))


def test_shards_do_not_depend_on_their_order() -> None:
    world = World(CONFIG)
    later = [shard_tables(world, 0, shard) for shard in (2, 0)]
    again = [shard_tables(World(CONFIG), 0, shard) for shard in (0, 2)]
    assert later[0][0].equals(again[1][0])
    assert later[1][1].equals(again[0][1])
    assert not later[0][0].equals(shard_tables(World(replace(CONFIG, seed=4)), 0, 2)[0])


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"rows": 299}, "rows is 299, must be at least 300"),
        ({"users": 0}, "users is 0, must be at least 1"),
        ({"seed": -1}, "seed is -1, must not be negative"),
        ({"click_rate": 1.0}, "click_rate is 1.0, must lie between 0 and 1"),
        ({"conversion_rate": 0.0}, "conversion_rate is 0.0, must lie between 0 and 1"),
        ({"selection": float("nan")}, r"selection is nan, must lie in 0\.\.10"),
        ({"confounding": 11.0}, r"confounding is 11.0, must lie in -10\.\.10"),
    ],
)
def test_a_knob_that_makes_no_log_is_named(tmp_path: Path, knobs: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate_log(replace(CONFIG, **knobs), tmp_path / "log")
    assert list(tmp_path.iterdir()) == []


def test_solve_finds_the_root() -> None:
    assert solve(lambda x: 1 / (1 + np.exp(-x)), 0.25) == pytest.approx(np.log(0.25 / 0.75))
