"""Which rows each worker reads, and in which order: pure functions of (seed, epoch), the same for any world size.

An epoch puts all row groups in a seeded random order, end to end, and cuts that line into `lanes` equal pieces. Every
global batch takes an equal share of each lane, so it holds the same rows whether one worker reads all lanes or eight
read one each. A lane's position is the step alone: nothing is read again, and nothing skipped by reading, on resume.
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

    Lanes differ by one row at most; a row group that a cut falls into is shared by two neighbours.
    """
    order = np.random.default_rng([seed, epoch, 0]).permutation(len(group_rows))
    total = sum(group_rows)
    cuts = [total * lane // lanes for lane in range(lanes + 1)]
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


def lane_batch(batch_size: int, lanes: int, lane: int) -> int:
    """Rows that a lane gives to each global batch."""
    return batch_size * (lane + 1) // lanes - batch_size * lane // lanes


def steps_per_epoch(rows: int, batch_size: int, lanes: int) -> int:
    """Steps until the last lane is empty. The last batches may be short; all workers take all steps."""
    sizes = [rows * (lane + 1) // lanes - rows * lane // lanes for lane in range(lanes)]
    return max(-(-size // lane_batch(batch_size, lanes, lane)) for lane, size in enumerate(sizes))
