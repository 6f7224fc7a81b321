"""The batch stream: the same rows in the same batches for any number of workers, from any step, after any resume."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from support import row_stream, wait_until

from data.encode import Encoder
from data.log import open_log
from data.reading import ordered_tables, read_ahead
from distributed.config import StreamConfig
from distributed.input.shards import Slice
from distributed.input.stream import TrainStream
from funnel.batch import Batch

CONFIG = StreamConfig(lanes=4, shuffle_rows=700, read_ahead=2)
BATCH = 130


def stream(log_dir: Path, rank: int = 0, world_size: int = 1, config: StreamConfig = CONFIG) -> TrainStream:
    log = open_log(log_dir)
    return row_stream(log, log.part("train"), config, BATCH, rank, world_size)


def rows_of(batch: Batch) -> list[tuple]:
    """Rows as comparable tuples (user and item ids, features, labels): enough to tell all rows of the log apart."""
    columns = [batch.ids_BK.double(), torch.nan_to_num(batch.numeric_BN.double(), nan=-1e9)]
    labels = torch.stack([batch.labels["click"], batch.labels["conversion"]], 1).double()
    return [tuple(row) for row in torch.cat([*columns, labels], 1).tolist()]


def equal(one: Batch, other: Batch) -> bool:
    pairs = [
        (one.ids_BK, other.ids_BK),
        (one.numeric_BN.nan_to_num(-1), other.numeric_BN.nan_to_num(-1)),
        (one.labels["click"], other.labels["click"]),
        (one.labels["conversion"], other.labels["conversion"]),
    ]
    return all(torch.equal(a, b) for a, b in pairs)


def test_an_epoch_is_every_row_once(small_log: Path) -> None:
    log = open_log(small_log)
    batches = list(stream(small_log).epoch(0))
    assert len(batches) == stream(small_log).steps
    sizes = {len(batch) for batch in batches}
    assert max(sizes) <= BATCH
    assert max(sizes) - min(sizes) <= 1
    encoder = Encoder(log.schema)
    expected = []
    for table in log.read(log.part("train")):
        rows = encoder.encode(table)
        expected += rows_of(Batch.of(rows))
    assert sorted(row for batch in batches for row in rows_of(batch)) == sorted(expected)


def test_rows_are_shuffled_anew_in_each_epoch_lane_and_seed(small_log: Path) -> None:
    """The same buffer of the log, addressed otherwise: not only row groups change their places."""
    one = stream(small_log)

    def order(epoch: int = 0, lane: int = 0, seed: int = 5) -> list[tuple]:
        one.seed = seed
        return rows_of(next(one._lane([Slice(0, 0, 400)], epoch, lane, 0)).batch())

    assert order() == order()
    orders = [order(), order(epoch=1), order(epoch=2), order(lane=1), order(seed=6)]
    for index, rows in enumerate(orders):
        assert rows not in orders[:index]


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_global_batches_do_not_depend_on_the_number_of_workers(small_log: Path, world_size: int) -> None:
    alone = list(stream(small_log).epoch(1))
    together = [list(stream(small_log, rank, world_size).epoch(1)) for rank in range(world_size)]
    assert {len(batches) for batches in together} == {len(alone)}
    for step, batch in enumerate(alone):
        parts = [row for batches in together for row in rows_of(batches[step])]
        assert parts == rows_of(batch)


@pytest.mark.parametrize("start", [1, 7, 20, 36])
def test_starting_at_a_step_gives_the_bits_of_the_unbroken_epoch(small_log: Path, start: int) -> None:
    whole = list(stream(small_log).epoch(2))
    resumed = list(stream(small_log).epoch(2, start))
    assert len(resumed) == len(whole) - start
    assert all(equal(one, other) for one, other in zip(resumed, whole[start:], strict=True))


def test_epochs_and_rows_within_a_buffer_are_shuffled(small_log: Path) -> None:
    first, second = (next(iter(stream(small_log).epoch(epoch))) for epoch in (0, 1))
    assert not equal(first, second)
    whole = StreamConfig(lanes=1, shuffle_rows=10_000, read_ahead=1)
    batch = next(iter(stream(small_log, config=whole).epoch(0)))
    log = open_log(small_log)
    encoder = Encoder(log.schema)
    ids_of_groups = [set(map(tuple, encoder.encode(table).ids_RK.tolist())) for table in log.read(log.part("train"))]
    touched = sum(any(tuple(row) in ids for row in batch.ids_BK.tolist()) for ids in ids_of_groups)
    assert touched > len(ids_of_groups) / 2  # a batch is drawn from most row groups


def test_more_lanes_than_rows(small_log: Path) -> None:
    log = open_log(small_log)
    config = StreamConfig(lanes=7000, shuffle_rows=10, read_ahead=2)
    lone = row_stream(log, log.part("valid"), config, 7000, 6999, 7000)
    assert sum(len(batch) for batch in lone.epoch(0)) <= 1


def test_ordered_tables_deal_row_groups(small_log: Path) -> None:
    log = open_log(small_log)
    part, columns = log.part("train"), ["exposure_id"]
    alone = [table.column(0).to_numpy() for table in ordered_tables(log, part, columns)]
    dealt = [[t.column(0).to_numpy() for t in ordered_tables(log, part, columns, rank, 3)] for rank in range(3)]
    assert [len(tables) for tables in dealt] == [len(alone[rank::3]) for rank in range(3)]
    assert sorted(np.concatenate([ids for mine in dealt for ids in mine])) == sorted(np.concatenate(alone))


def test_read_ahead_passes_errors_on_and_stops_its_thread() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("part-3.parquet: broken")

    iterator = read_ahead(broken, 4)
    assert next(iterator) == 1
    with pytest.raises(ValueError, match=r"part-3\.parquet"):
        next(iterator)

    def endless() -> Iterator[int]:
        while True:
            yield 0

    before = threading.active_count()
    iterator = read_ahead(endless, 2)
    next(iterator)
    assert threading.active_count() == before + 1
    iterator.close()  # type: ignore[attr-defined]
    wait_until(lambda: threading.active_count() == before)
