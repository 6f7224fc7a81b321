"""The two worlds of generated logs: what sets clicks against purchases, its knobs, and the older world's same bits."""

import zlib

import numpy as np
import pyarrow as pa
import pytest

from data.generate import generated_schema, shard_tables
from data.world import World, address
from data.worlds import CANDIDATES, WORLDS, GeneratedLog, check, completed

SMALL = {"rows": 6000, "seed": 3, "users": 200, "items": 100}


def crc32(table: pa.Table) -> int:
    value = 0
    for name in table.column_names:
        value = zlib.crc32(repr((name, table.column(name).to_pylist())).encode(), value)
    return value


def test_the_aligned_world_is_the_one_there_was() -> None:
    """Checksums of the first shard as the version before the worlds made it."""
    config = GeneratedLog(world="aligned", click_rate=0.2, conversion_rate=0.3, history=5, **SMALL)
    table, truth = shard_tables(World(config), 0, 0)
    assert (crc32(table), crc32(truth)) == (3648284960, 3934131489)


@pytest.mark.parametrize("name", WORLDS)
def test_settings_that_are_left_out_are_the_worlds(name: str) -> None:
    config = GeneratedLog(world=name, **SMALL)  # type: ignore[arg-type]
    assert completed(config) == WORLDS[name]
    world = World(GeneratedLog(world=name, users=5000, items=2000))  # type: ignore[arg-type]
    truly = world.probabilities(world.draw_exposures(address(99), 5000))
    q, p = truly.propensity_R, truly.conversion_R
    assert q.mean() == pytest.approx(WORLDS[name]["click_rate"], rel=0.05)
    assert q @ p / q.sum() == pytest.approx(WORLDS[name]["conversion_rate"], rel=0.05)


def test_a_conversion_has_a_value_in_the_world_of_conflict() -> None:
    """The price paid, in prices of the median item, by how much the segment orders."""
    config = GeneratedLog(**SMALL)
    world = World(config)
    table, _ = shard_tables(world, 0, 0)
    schema = generated_schema(config)
    assert schema.value == "value"
    assert "value" not in schema.features
    price = table.column("price").to_numpy(zero_copy_only=False)
    discount, value = table.column("discount").to_numpy(), table.column("value").to_numpy()
    known = np.isfinite(price)
    size = (value / (price / 20 * (1 - discount)))[known]
    order_U = world.conflict.order_size_U
    np.testing.assert_allclose(size, order_U[table.column("user_id").to_numpy()[known]], rtol=1e-4)
    assert np.log(order_U).std() == pytest.approx(0.3, rel=0.25)
    assert generated_schema(GeneratedLog(world="aligned", **SMALL)).value is None


def test_what_draws_clicks_disappoints() -> None:
    """Items' mean propensity and mean conversion probability conflict; in the aligned world they do not."""
    found = {}
    for name in WORLDS:
        world = World(GeneratedLog(world=name, users=5000, items=2000))  # type: ignore[arg-type]
        shown = world.draw_exposures(address(7), 20_000)
        truly = world.probabilities(shown)
        count_I = np.bincount(shown.item_R, minlength=2000)
        seen = count_I > 50
        means = [
            np.bincount(shown.item_R, x, 2000)[seen] / count_I[seen] for x in (truly.propensity_R, truly.conversion_R)
        ]
        found[name] = np.corrcoef(*means)[0, 1]
    assert found["conflict"] == pytest.approx(-0.33, abs=0.12)
    assert found["aligned"] > 0.1


def test_the_best_order_gains_over_the_best_single_score() -> None:
    """At least 5% in expected value@10 where scores conflict, hardly anything where they agree."""
    gains = {}
    for name in WORLDS:
        world = World(GeneratedLog(world=name))  # type: ignore[arg-type]
        shown = world.draw_exposures(np.random.default_rng([0, 1]), 2000)
        truly = world.probabilities(shown)
        value_R = world.value(shown) if name == "conflict" else np.ones(len(shown.user_R))
        q, p, v = (x.reshape(-1, CANDIDATES) for x in (truly.propensity_R, truly.conversion_R, value_R))
        reward = q * (1 + 10 * p * v)

        def at_10(score: np.ndarray, reward: np.ndarray = reward) -> float:
            best = np.argsort(-score, axis=1, kind="stable")[:, :10]
            return float(np.take_along_axis(reward, best, axis=1).sum(axis=1).mean())

        gains[name] = at_10(q * (1 + 10 * p)) / max(map(at_10, (q, p, q * p))) - 1
    assert gains["conflict"] > 0.05
    assert gains["aligned"] < 0.01


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"world": "flat"}, "world is 'flat', must be one of conflict, aligned"),
        ({"clickbait": -1.0}, "clickbait is -1.0, must lie in 0..10"),
        ({"world": "aligned", "segment_value": 0.5}, "segment_value has no effect in the world aligned"),
        ({"click_rate": 1.0}, "click_rate is 1.0, must lie between 0 and 1"),
    ],
)
def test_what_makes_no_log_is_named(knobs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(GeneratedLog(**{**SMALL, **knobs}))
