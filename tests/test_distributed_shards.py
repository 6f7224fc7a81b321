"""Lanes: every row once, in an order that no worker can change."""

from hypothesis import given, settings
from hypothesis import strategies as st

from distributed.input.shards import lane_batch, lane_buffers, lane_slices, lanes_of, steps_per_epoch

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


@given(batch=st.integers(1, 300), lanes=st.integers(1, 20))
def test_lane_shares_add_up_to_the_batch(batch: int, lanes: int) -> None:
    shares = [lane_batch(batch, lanes, lane) for lane in range(lanes)]
    assert sum(shares) == batch
    assert max(shares) - min(shares) <= 1


def test_steps_by_hand() -> None:
    assert steps_per_epoch(100, batch_size=10, lanes=1) == 10
    assert steps_per_epoch(101, batch_size=10, lanes=1) == 11
    assert steps_per_epoch(100, batch_size=8, lanes=4) == 13  # lanes of 25 rows, 2 a step


@given(groups=GROUPS, size=st.integers(1, 100))
def test_buffers_keep_order_and_size(groups: list[int], size: int) -> None:
    (lane,) = lane_slices(tuple(groups), 1, 0, 0)
    buffers = lane_buffers(lane, size)
    assert [piece for buffer in buffers for piece in buffer] == lane
    assert all(sum(piece.rows for piece in buffer) >= size for buffer in buffers[:-1])
