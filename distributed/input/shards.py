"""Which rows each worker reads, and in which order: pure functions of (seed, epoch), the same for any world size.

An epoch puts all row groups in a seeded random order, end to end, and cuts that line into `lanes` equal pieces. Every
global batch takes an equal share of each lane (to a row), so it holds the same rows whether one worker reads all lanes
or eight read one each. A lane's position is the step alone: nothing is read again, and nothing skipped by reading, on
resume.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True)
class Slice:
    """Rows start..stop of row group `group` (numbered over the whole part)."""

    group: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


def lane_slices(group_rows: tuple[int, ...], lanes: int, seed: int, epoch: int) -> list[list[Slice]]:
    """For each lane, its slices in reading order. Every row of every group is in exactly one slice.

    Lanes differ by one row at most, the last ones being longer (see lane_begin); a row group that a cut falls into is
    shared by two neighbours.
    """
    order = np.random.default_rng([seed, epoch, 0]).permutation(len(group_rows))
    total = sum(group_rows)
    cuts = np.cumsum([0, *((total + lane) // lanes for lane in range(lanes))]).tolist()
    ends = np.cumsum([group_rows[group] for group in order])
    result = []
    for begin, end in pairwise(cuts):
        slices = []
        first = int(np.searchsorted(ends, begin, side="right"))
        while begin < end:
            group = int(order[first])
            origin = int(ends[first]) - group_rows[group]
            stop = min(end, int(ends[first]))
            slices.append(Slice(group, begin - origin, stop - origin))
            begin, first = stop, first + 1
        result.append([piece for piece in slices if piece.rows])
    return result


def lane_buffers(slices: list[Slice], shuffle_rows: int) -> list[list[Slice]]:
    """Runs of consecutive slices, each of at least shuffle_rows rows (but the last), that are shuffled together."""
    buffers: list[list[Slice]] = []
    rows = shuffle_rows
    for piece in slices:
        if rows >= shuffle_rows:
            buffers.append([])
            rows = 0
        buffers[-1].append(piece)
        rows += piece.rows
    return buffers


def lanes_of(rank: int, world_size: int, lanes: int) -> range:
    """The consecutive lanes that a worker reads (consecutive, so that shared row groups stay in one worker)."""
    return range(lanes * rank // world_size, lanes * (rank + 1) // world_size)


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Steps of at most batch_size rows each, as even as can be: they differ by one row."""
    return -(-rows // batch_size)


def lane_begin(rows: int, steps: int, lanes: int, lane: int, step: int) -> int:
    """Rows of its own that a lane has given before a step; at step = steps, all it has.

    Before step k all lanes together have given rows * k // steps, dealt out one to each in turn. So all lanes end with
    the last step, and no step waits for the lanes that were cut a row longer.
    """
    return (rows * step // steps + lane) // lanes
