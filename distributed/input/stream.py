"""Batches of a part: read, encoded and shuffled ahead of the model by one thread.

Shapes: B rows of this worker's share of a global batch, K single-valued categorical fields, N numeric features.
"""

from collections import OrderedDict
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from data.encode import Encoder, Rows
from data.log import Log, Part
from data.reading import read_ahead
from distributed.config import StreamConfig
from distributed.input.shards import Slice, lane_batch, lane_buffers, lane_slices, lanes_of, steps_per_epoch
from funnel.batch import Batch

CACHED_ROW_GROUPS = 2


class TrainStream:
    """This worker's share of every global batch of one epoch, from step `start` on.

    The rows of a batch are a function of (seed, epoch, step, lane): the same for any number of workers, after any
    resume. Rows that are shuffled together are decoded, hashed and permuted once per buffer, never one by one.
    """

    def __init__(
        self, log: Log, part: Part, config: StreamConfig, batch_size: int, seed: int, rank: int, world_size: int
    ) -> None:
        self.log, self.part, self.config, self.batch_size, self.seed = log, part, config, batch_size, seed
        self.groups = list(part.row_groups())
        self.group_rows = tuple(file.row_groups[index] for file, index in self.groups)
        self.lanes = lanes_of(rank, world_size, config.lanes)
        self.steps = steps_per_epoch(sum(self.group_rows), batch_size, config.lanes)
        self.encoder = Encoder(log.schema)
        self._decoded: OrderedDict[int, pa.Table] = OrderedDict()

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches start, start + 1, ... of the epoch; some may be empty at its end. Read ahead in a thread."""
        return read_ahead(lambda: self._batches(epoch, start), self.config.read_ahead)

    def empty(self) -> Batch:
        return Batch.of(self.encoder.empty())

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        slices = lane_slices(self.group_rows, self.config.lanes, self.seed, epoch)
        lanes = [self._lane(slices[lane], epoch, lane, start) for lane in self.lanes]
        for _ in range(start, self.steps):
            yield Batch.join([next(lane) for lane in lanes])

    def _lane(self, slices: list[Slice], epoch: int, lane: int, start: int) -> Iterator[Rows]:
        """The lane's share of batches start, start + 1, ...; empty for ever once its rows are used up."""
        size = lane_batch(self.batch_size, self.config.lanes, lane)
        skip = start * size
        pending: list[Rows] = []
        held = 0
        for number, buffer in enumerate(lane_buffers(slices, self.config.shuffle_rows)):
            rows = sum(piece.rows for piece in buffer)
            if skip >= rows:
                skip -= rows
                continue
            shuffled = self._shuffled(buffer, [self.seed, epoch, 1 + lane, number])
            if skip:
                shuffled, skip = shuffled.take(slice(skip, None)), 0
            pending.append(shuffled)
            held += len(shuffled)
            if held < size:
                continue
            joined = Rows.join(pending)
            whole = held - held % size
            for begin in range(0, whole, size):
                yield joined.take(slice(begin, begin + size))
            pending, held = [joined.take(slice(whole, None))], held - whole
        rest = Rows.join(pending) if pending else self.encoder.empty()
        if len(rest):
            yield rest
        while True:
            yield rest.take(slice(0, 0))

    def _shuffled(self, buffer: list[Slice], address: list[int]) -> Rows:
        table = pa.concat_tables([self._read(piece) for piece in buffer])
        order = np.random.default_rng(address).permutation(table.num_rows)
        return self.encoder.encode(table).take(order)

    def _read(self, piece: Slice) -> pa.Table:
        """A slice of a row group; neighbouring lanes that share one decode it once."""
        if piece.group not in self._decoded:
            file, index = self.groups[piece.group]
            while len(self._decoded) >= CACHED_ROW_GROUPS:
                self._decoded.popitem(last=False)
            self._decoded[piece.group] = self.log.read_row_group(file, index)
        return self._decoded[piece.group].slice(piece.start, piece.rows)
