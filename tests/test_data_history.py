"""The history field of a generated log: it changes nothing else, tells of taste, and is the user's alone."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data.generate import generate_log
from data.log import open_log
from data.world import GeneratedLog, World

SHAPE = {"rows": 6000, "seed": 4, "users": 300, "items": 120, "rows_per_file": 2000, "rows_per_group": 500}


def made(directory: Path, history: int) -> pa.Table:
    generate_log(GeneratedLog(world="aligned", **SHAPE, history=history), directory)
    log = open_log(directory)
    return pa.concat_tables(log.read(log.part("train"), log.schema.all_columns)).combine_chunks()


def test_history_is_a_column_more_and_nothing_else(tmp_path: Path) -> None:
    without, table = made(tmp_path / "without", 0), made(tmp_path / "with", 6)
    assert table.drop_columns("history").equals(without.select(table.drop_columns("history").column_names))
    (field,) = open_log(tmp_path / "with").schema.many
    assert (field.name, field.share, field.rows) == ("history", "item_id", 2 + 120)
    assert not open_log(tmp_path / "without").schema.many
    by_user: dict[int, list[int] | None] = {}
    for user, past in zip(table.column("user_id").to_pylist(), table.column("history").to_pylist(), strict=True):
        assert by_user.setdefault(user, past) == past
    lengths = [0 if past is None else len(past) for past in by_user.values()]
    assert (min(lengths), max(lengths)) == (0, 6)


def test_history_tells_of_the_users_taste() -> None:
    world = World(GeneratedLog(world="aligned", **SHAPE, history=20))
    assert world.history is not None
    user_S = np.repeat(np.arange(300), np.diff(world.history.offset_R1))
    rng = np.random.default_rng(0)
    clicked = world.population.interest(user_S, world.history.ids_S)
    anyone = world.population.interest(rng.permutation(user_S), world.history.ids_S)
    assert clicked.mean() > anyone.mean() + 0.5 * anyone.std()
    assert np.array_equal(World(GeneratedLog(world="aligned", **SHAPE, history=20)).history.ids_S, world.history.ids_S)


def test_a_negative_history_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="history is -1, must be at least 0"):
        World(GeneratedLog(world="aligned", history=-1))
