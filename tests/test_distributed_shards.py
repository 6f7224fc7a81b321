"""Lanes: every row once, in an order that no worker can change."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from distributed.input.shards import lane_begin, lane_buffers, lane_slices, lanes_of, steps_per_epoch

GROUPS = st.lists(st.integers(0, 50), min_size=1, max_size=30).filter(lambda rows: sum(rows) > 0)


@settings(max_examples=200, deadline=None)
@given(groups=GROUPS, lanes=st.integers(1, 12), seed=st.integers(0, 99), epoch=st.integers(0, 5))
def test_lanes_hold_every_row_once_and_differ_by_one(groups: list[int], lanes: int, seed: int, epoch: int) -> None:
    result = lane_slices(tuple(groups), lanes, seed, epoch)
    rows = [(piece.group, row) for lane in result for piece in lane for row in range(piece.start, piece.stop)]
    assert sorted(rows) == [(group, row) for group, count in enumerate(groups) for row in range(count)]
    sizes = [sum(piece.rows for piece in lane) for lane in result]
    assert max(sizes) - min(sizes) <= 1
    assert result == lane_slices(tuple(groups), lanes, seed, epoch)


def test_order_changes_with_seed_and_epoch() -> None:
    groups = tuple([10] * 40)
    first = lane_slices(groups, 4, seed=0, epoch=0)
    assert first != lane_slices(groups, 4, seed=0, epoch=1)
    assert first != lane_slices(groups, 4, seed=1, epoch=0)


@given(lanes=st.integers(1, 40), world_size=st.integers(1, 12))
def test_workers_share_out_all_lanes(lanes: int, world_size: int) -> None:
    dealt = [lane for rank in range(world_size) for lane in lanes_of(rank, world_size, lanes)]
    assert dealt == list(range(lanes))


@given(rows=st.integers(1, 5000), batch=st.integers(1, 300), lanes=st.integers(1, 20))
def test_steps_are_even_and_lanes_end_together(rows: int, batch: int, lanes: int) -> None:
    steps = steps_per_epoch(rows, batch)
    begins = np.array([[lane_begin(rows, steps, lanes, lane, k) for k in range(steps + 1)] for lane in range(lanes)])
    shares = np.diff(begins, axis=1)
    assert (begins[:, 0] == 0).all()
    assert begins[:, -1].tolist() == [sum(piece.rows for piece in lane) for lane in lane_slices((rows,), lanes, 0, 0)]
    assert (shares >= 0).all()
    assert shares.max(axis=0).max() - shares.min(axis=0).min() <= 2
    assert (shares.max(axis=0) - shares.min(axis=0) <= 1).all()
    per_step = shares.sum(axis=0)
    assert per_step.max() <= batch
    assert per_step.max() - per_step.min() <= 1


def test_steps_by_hand() -> None:
    assert steps_per_epoch(100, batch_size=10) == 10
    assert steps_per_epoch(101, batch_size=10) == 11
    assert [lane_begin(10, 3, 2, lane, step) for lane in (0, 1) for step in range(4)] == [0, 1, 3, 5, 0, 2, 3, 5]
    # A batch of 15 over 8 lanes: 14 or 15 rows in every step, where lanes of 1 and 2 rows a step would end apart.
    begins = [[lane_begin(80_000, 5334, 8, lane, step) for step in range(5335)] for lane in range(8)]
    assert set(np.diff(begins, axis=1).sum(axis=0).tolist()) == {14, 15}


@given(groups=GROUPS, size=st.integers(1, 100))
def test_buffers_keep_order_and_size(groups: list[int], size: int) -> None:
    (lane,) = lane_slices(tuple(groups), 1, 0, 0)
    buffers = lane_buffers(lane, size)
    assert [piece for buffer in buffers for piece in buffer] == lane
    assert all(sum(piece.rows for piece in buffer) >= size for buffer in buffers[:-1])
