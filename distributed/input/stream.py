"""Batches of a part: read, encoded and shuffled ahead of the network by one thread."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np

from data.log import Log, Part
from data.reading import read_ahead
from distributed.config import TrainConfig
from distributed.context import Context
from distributed.input.shards import Slice, lane_begin, lane_buffers, lane_slices, lanes_of, steps_per_epoch
from funnel.problem import Problem, Units

CACHED_ROW_GROUPS = 2


class TrainStream:
    """This worker's share of every global batch of one epoch, from step `start` on.

    The units (rows, or requests) of a batch are a function of (seed, epoch, step, lane): the same for any number of
    workers, after any resume. What is shuffled together is decoded, hashed and permuted once per buffer, never one by
    one. `sizes`: units of each row group of the part.
    """

    def __init__(
        self, problem: Problem, log: Log, part: Part, sizes: tuple[int, ...], config: TrainConfig, context: Context
    ) -> None:
        self.problem, self.log, self.sizes = problem, log, sizes
        self.config, self.batch_size, self.seed = config.stream, config.batch_size, config.seed
        self.groups = list(part.row_groups())
        self.lanes = lanes_of(context.rank, context.world_size, self.config.lanes)
        self.steps = steps_per_epoch(sum(sizes), self.batch_size)
        self._encoded: OrderedDict[int, Units] = OrderedDict()

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Batches start, start + 1, ... of the epoch; a worker's share of some may be empty. Read ahead in a thread."""
        return read_ahead(lambda: self._batches(epoch, start), self.config.read_ahead)

    def empty(self) -> Any:
        """A batch without units: whoever runs out of them takes part in the workers' messages all the same."""
        return self.problem.empty().batch()

    def _batches(self, epoch: int, start: int) -> Iterator[Any]:
        slices = lane_slices(self.sizes, self.config.lanes, self.seed, epoch)
        lanes = [self._lane(slices[lane], epoch, lane, start) for lane in self.lanes]
        for _ in range(start, self.steps):
            shares = [next(lane) for lane in lanes]
            yield shares[0].join(shares).batch()

    def _lane(self, slices: list[Slice], epoch: int, lane: int, start: int) -> Iterator[Units]:
        """The lane's shares of batches start, start + 1, ... to the last; any of them may be empty."""
        total, lanes = sum(self.sizes), self.config.lanes
        begins = [lane_begin(total, self.steps, lanes, lane, step) for step in range(start, self.steps + 1)]
        skip, step = begins[0], 0
        pending: list[Units] = []
        held = 0
        for number, buffer in enumerate(lane_buffers(slices, self.config.shuffle_rows)):
            units = sum(piece.rows for piece in buffer)
            if skip >= units:
                skip -= units
                continue
            shuffled = self._shuffled(buffer, [self.seed, epoch, 1 + lane, number])
            if skip:
                shuffled, skip = shuffled.take(slice(skip, None)), 0
            pending.append(shuffled)
            held += len(shuffled)
            if held < begins[step + 1] - begins[step]:
                continue
            joined, given = pending[0].join(pending), 0
            while step + 1 < len(begins) and held - given >= (size := begins[step + 1] - begins[step]):
                yield joined.take(slice(given, given + size))
                given, step = given + size, step + 1
            pending, held = [joined.take(slice(given, None))], held - given
        while step + 1 < len(begins):  # a lane with fewer rows than there are steps
            yield self.problem.empty()
            step += 1

    def _shuffled(self, buffer: list[Slice], address: list[int]) -> Units:
        pieces = [self._read(piece) for piece in buffer]
        units = pieces[0].join(pieces)
        return units.take(np.random.default_rng(address).permutation(len(units)))

    def _read(self, piece: Slice) -> Units:
        """A slice of a row group; neighbouring lanes that share one decode and encode it once."""
        if piece.group not in self._encoded:
            file, index = self.groups[piece.group]
            while len(self._encoded) >= CACHED_ROW_GROUPS:
                self._encoded.popitem(last=False)
            table = self.log.read_row_group(file, index, list(self.problem.columns))
            self._encoded[piece.group] = self.problem.encode(table)
        return self._encoded[piece.group].take(slice(piece.start, piece.stop))
