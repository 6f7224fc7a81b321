"""Batches of a part: read, encoded and shuffled ahead of the model by one thread.

Shapes: B rows of this worker's share of a global batch, K single-valued categorical fields, N numeric features.
"""

import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from data.encode import Encoder, Rows
from data.log import Log, Part
from distributed.config import StreamConfig
from distributed.shards import Slice, lane_batch, lane_buffers, lane_slices, lanes_of, steps_per_epoch
from models.objectives.base import Labels
from models.pooling import BagTensors

CACHED_ROW_GROUPS = 2


@dataclass(frozen=True)
class Batch:
    """ids_BK int64 with field offsets, numeric_BN float32 with NaN for missing, labels float32, bags of ids."""

    ids_BK: Tensor
    numeric_BN: Tensor
    labels: Labels
    bags: tuple[BagTensors, ...] = ()

    def __len__(self) -> int:
        return len(self.labels.click_B)

    @classmethod
    def join(cls, parts: list[Rows]) -> "Batch":
        """The rows of all parts, one after the other."""
        return cls.of(Rows.join(parts))

    @classmethod
    def of(cls, rows: Rows) -> "Batch":
        weight_B = tensor(rows.weight_R) if rows.weight_R is not None else None
        labels = Labels(tensor(rows.click_R), tensor(rows.conversion_R), weight_B)
        bags = tuple(BagTensors(tensor(bag.ids_S), tensor(bag.offset_R1)) for bag in rows.bags)
        return cls(tensor(rows.ids_RK), tensor(rows.numeric_RN), labels, bags)

    def to(self, device: torch.device) -> "Batch":
        if device.type == "cpu":
            return self

        def moved(tensor: Tensor) -> Tensor:
            return tensor.pin_memory().to(device, non_blocking=True)

        labels = self.labels
        weight_B = moved(labels.weight_B) if labels.weight_B is not None else None
        return Batch(
            moved(self.ids_BK),
            moved(self.numeric_BN),
            Labels(moved(labels.click_B), moved(labels.conversion_B), weight_B),
            tuple(BagTensors(moved(bag.ids_S), moved(bag.offset_B1)) for bag in self.bags),
        )


def tensor(values: np.ndarray) -> Tensor:
    """The same memory as a tensor; a copy where it is Arrow's and not to be written."""
    return torch.from_numpy(values if values.flags.writeable else values.copy())


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


def ordered_tables(
    log: Log, part: Part, columns: list[str], rank: int = 0, world_size: int = 1, ahead: int = 2
) -> Iterator[pa.Table]:
    """The row groups of a part in file order, every world_size-th of them, read ahead in a thread."""
    mine = list(part.row_groups())[rank::world_size]
    return read_ahead(lambda: (log.read_row_group(file, index, columns) for file, index in mine), ahead)


Item = TypeVar("Item")


def read_ahead(produce: Callable[[], Iterator[Item]], depth: int) -> Iterator[Item]:
    """Iterate over produce() with a thread that stays up to `depth` items ahead; its exceptions surface here.

    Closing the iterator early stops the thread.
    """
    ready: queue.Queue[tuple[str, Item | BaseException | None]] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(kind: str, item: Item | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put((kind, item), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in produce():
                if not put("item", item):
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    thread = threading.Thread(target=work, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, item = ready.get()
            if kind == "end":
                return
            if kind == "error":
                assert isinstance(item, BaseException)
                raise item
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join(timeout=5)
