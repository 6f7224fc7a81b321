"""Writes a generated exposure log with known truth, shard by shard; data/world.py has the equations.

Every draw is addressed by (seed, part, shard): shards do not depend on each other, and more rows only add shards.
"""

from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa

from data.days import FIRST_DAY, WHOLE_DAY, day_name
from data.errors import UserError
from data.history import list_column
from data.population import AGES, CATEGORIES, CHANNELS, CITIES, PRICE_UNIT, SEGMENTS, Population
from data.schema import CategoricalField, Many, Schema, TruthColumns
from data.world import CANDIDATES, SHARDS, TIMES, Exposures, World, address
from data.world import GeneratedLog as GeneratedLog
from data.worlds import INSTRUMENTS
from data.write import PartFacts, PartWriter, new_log, truth_table

PARTS = ("train", "valid", "test")
DAYS = ((0, 8), (8, 1), (9, 1))
"""First day and number of days of each, where a log tells times."""
SHARD_REQUESTS = 512
SHARD_ROWS = SHARD_REQUESTS * CANDIDATES
MISSING = {"price": 0.03, "user_activity": 0.05, "item_age_days": 0.02}


def part_rows(rows: int) -> tuple[int, int, int]:
    """Rows of train, valid and test: 80/10/10."""
    tenth = rows // 10
    return rows - 2 * tenth, tenth, tenth


def generate_log(
    config: GeneratedLog, out: str | Path, progress: Callable[[int], None] = lambda rows: None
) -> dict[str, PartFacts]:
    """Write the log and its truth to `out` and say what is in each part. `progress` gets the rows of each shard.

    Raises UserError if `out` is not empty. Memory holds one shard and one row group, whatever the rows.
    """
    world, schema, facts = World(config), generated_schema(config), {}
    with new_log(out, schema) as directory:
        for part, (name, rows) in enumerate(zip(PARTS, part_rows(config.rows), strict=True)):
            with PartWriter(directory, name, schema, config.rows_per_file, config.rows_per_group) as writer:
                for table, truth in shards(world, part, rows):
                    writer.write(table, truth)
                    progress(table.num_rows)
            facts[name] = writer.facts
    return facts


def generate_days(
    config: GeneratedLog, days: int, out: str | Path, progress: Callable[[int], None] = lambda rows: None
) -> dict[str, PartFacts]:
    """Write `config.rows` rows of the same world as `days` day partitions, 2026-01-01 and on (data/days.py).

    Each day has exposures and keys of its own; users and items do not drift. Raises UserError if
    `out` is not empty or a day would have no row.
    """
    if not 1 <= days <= config.rows:
        raise UserError(f"--days must be from 1 to the {config.rows} rows, got {days}")
    world, schema, facts = World(config), generated_schema(config), {}
    with new_log(out, schema) as directory:
        for number in range(days):
            name = day_name(number)
            rows = config.rows // days + (number < config.rows % days)
            with PartWriter(directory, name, schema, config.rows_per_file, config.rows_per_group) as writer:
                for table, truth in shards(world, len(PARTS) + number, rows):
                    writer.write(table, truth)
                    progress(table.num_rows)
            (directory / name / WHOLE_DAY).touch()
            facts[name] = writer.facts
    return facts


def shards(world: World, part: int, rows: int) -> Iterator[tuple[pa.Table, pa.Table]]:
    """The first `rows` rows of a part, shard by shard; the last one is cut short."""
    for shard in range(-(-rows // SHARD_ROWS)):
        table, truth = shard_tables(world, part, shard)
        left = rows - shard * SHARD_ROWS
        yield table.slice(0, left), truth.slice(0, left)


def shard_tables(world: World, part: int, shard: int) -> tuple[pa.Table, pa.Table]:
    """(log, truth) of SHARD_REQUESTS requests; the same for a config whatever its number of rows."""
    rng = address(world.config.seed, SHARDS, part, shard)
    shown = world.draw_exposures(rng, SHARD_REQUESTS)
    truly = world.probabilities(shown)
    click_R = rng.random(SHARD_ROWS) < truly.propensity_R
    potential_R = rng.random(SHARD_ROWS) < truly.conversion_R
    # Keys stay apart between parts and between shards however many rows there are.
    exposure_R = (part << 40) + shard * SHARD_ROWS + np.arange(SHARD_ROWS)
    request_R = (part << 40) + shard * SHARD_REQUESTS + np.arange(SHARD_ROWS) // CANDIDATES
    columns = {"exposure_id": exposure_R, "request_id": request_R, **features(world.population, shown, rng)}
    if world.history is not None:
        columns["history"] = list_column(world.history.take(shown.user_R))
    if world.config.world == "conflict":
        columns["value"] = world.value(shown).astype(np.float32)
    columns |= {"click": click_R.astype(np.int8), "conversion": (click_R & potential_R).astype(np.int8)}
    if world.config.delay:
        columns |= moments(world, part, shard, shown, click_R & potential_R)
    truth = truth_table(
        generated_schema(world.config),
        exposure_R,
        potential_R.astype(np.int8),
        propensity=truly.propensity_R,
        conversion_probability=truly.conversion_R,
    )
    return pa.table(columns), truth


def moments(
    world: World, part: int, shard: int, shown: Exposures, converted_R: np.ndarray
) -> dict[str, pa.Array | np.ndarray]:
    """The columns time and conversion_time, missing where there is no conversion."""
    begin, days = DAYS[part] if part < len(PARTS) else (part - len(PARTS), 1)
    rng = address(world.config.seed, TIMES, part, shard)
    request = begin + days * rng.random(SHARD_REQUESTS)
    time_R = np.repeat(request, CANDIDATES)
    then_R = time_R + world.delays(shown, rng)
    start = int((FIRST_DAY - date(1970, 1, 1)).days)
    time, then = ((86_400_000 * (start + days_R)).astype(np.int64) for days_R in (time_R, then_R))
    kind = pa.timestamp("ms")
    return {"time": pa.array(time).cast(kind), "conversion_time": pa.array(then, mask=~converted_R).cast(kind)}


def features(people: Population, shown: Exposures, rng: np.random.Generator) -> dict[str, pa.Array | np.ndarray]:
    """The observed columns; a few per cent of some numbers are missing."""
    user_R, item_R = shown.user_R, shown.item_R
    numbers = {
        "user_activity": people.user_activity_U[user_R],
        "item_popularity": people.popularity_I[item_R],
        "item_age_days": rng.exponential(90, len(item_R)),
        "price": PRICE_UNIT * np.exp(people.log_price_I[item_R]),
        "discount": shown.discount_R,
    }
    lost = {name: rng.random(len(item_R)) < share for name, share in MISSING.items()}
    return {
        "user_id": user_R,
        "user_segment": named(people.segment_U[user_R], segment_names()),
        "user_age": named(people.age_U[user_R], AGES),
        "user_city": people.city_U[user_R].astype(np.int32),
        "item_id": item_R,
        "item_category": named(people.category_I[item_R], category_names()),
        "item_brand": people.brand_I[item_R].astype(np.int32),
        "item_shop": people.shop_I[item_R].astype(np.int32),
        "channel": named(shown.channel_R, CHANNELS),
        "hour": shown.hour_R.astype(np.int8),
        "position": shown.position_R.astype(np.int8),
        **{name: pa.array(x.astype(np.float32), mask=lost.get(name)) for name, x in numbers.items()},
    }


def generated_schema(config: GeneratedLog) -> Schema:
    item = CategoricalField("item_id", "range", config.items)
    past = item.shared("history", Many("attention", max=config.history, query="item_id"))
    words = {"user_segment": segment_names(), "user_age": AGES, "item_category": category_names()}
    return Schema(
        name=f"generated-{config.rows}-seed{config.seed}",
        categorical=(
            CategoricalField("user_id", "hash", config.users),
            *(CategoricalField(name, "vocabulary", vocabulary=tuple(words[name])) for name in words),
            CategoricalField("user_city", "range", CITIES),
            item,
            CategoricalField("item_brand", "hash", max(config.items // 10, 1)),
            CategoricalField("item_shop", "hash", max(config.items // 5, 1)),
            CategoricalField("channel", "vocabulary", vocabulary=CHANNELS),
            CategoricalField("hour", "range", 24),
            CategoricalField("position", "range", CANDIDATES),
            *((past,) if config.history else ()),
        ),
        numeric=("user_activity", "item_popularity", "item_age_days", "price", "discount"),
        labels={"click": "click", "conversion": "conversion"},
        exposure="exposure_id",
        user="user_id",
        request="request_id",
        value="value" if config.world == "conflict" else None,
        truth=TruthColumns("exposure_id", "potential_conversion", "propensity", "conversion_probability"),
        time="time" if config.delay else None,
        conversion_time="conversion_time" if config.delay else None,
        instrument=INSTRUMENTS if config.world == "instrument" else (),
    )


def named(code_R: np.ndarray, names: tuple[str, ...]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(code_R.astype(np.int32)), pa.array(names)).cast(pa.string())


def segment_names() -> tuple[str, ...]:
    return tuple(f"segment-{i:02d}" for i in range(SEGMENTS))


def category_names() -> tuple[str, ...]:
    return tuple(f"category-{i:02d}" for i in range(CATEGORIES))
