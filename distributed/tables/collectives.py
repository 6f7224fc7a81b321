"""What workers tell each other; with one worker (or no process group) every function is the identity.

Shapes: U distinct table rows of this worker's batch, V of all workers' together, E width, W workers.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from data.errors import UserError
from distributed.tables.grid import MANY, Grid, make_grid

sent: Counter[str] = Counter()
"""Bytes of table rows that this process has handed to others: "ids", "rows" (vectors and gradients), "counts", and
"marks" (which rows two batches share)."""
_counting = threading.Lock()
spent = {"seconds": 0.0}
"""Seconds that the training thread has been in collectives, waiting for the others included."""
TIMEOUT_S = 300
"""A worker waits so long for another. More than one may rightly need: to read a cold file, to write its shard."""
Group = dist.ProcessGroup | None
"""Over which connections workers talk: None is the group that all trainings have, for the training thread alone;
whoever talks beside it needs a group of its own, so that messages do not get mixed up."""


@contextmanager
def communicating(group: Group = None) -> Iterator[None]:
    """Count the time of the body. On a GPU a collective returns before it is done: what is left counts where it is
    waited for."""
    began = time.perf_counter()
    try:
        yield
    finally:
        if group is None:
            spent["seconds"] += time.perf_counter() - began


def count_sent(kind: str, size: int) -> None:
    with _counting:
        sent[kind] += size


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_workers(tensor: Tensor) -> Tensor:
    """In place: the sum over all workers, the same bits on each."""
    if world_size() > 1:
        with communicating():
            dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
    return tensor


def max_over_workers(tensor: Tensor) -> Tensor:
    """In place: the elementwise maximum over all workers."""
    if world_size() > 1:
        with communicating():
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor


def add_up(sums: Sequence[Tensor], peaks: Sequence[Tensor], device: torch.device) -> None:
    """In place: counters summed, and peaks maximised, over all workers; `device` is where the workers communicate."""
    for tensors, share in ((sums, sum_over_workers), (peaks, max_over_workers)):
        for tensor in tensors:
            if world_size() > 1:
                tensor.copy_(share(tensor.to(device)))


def sum_gradients(parameters: Sequence[Tensor], add: Callable[[Tensor], Tensor] | None = None) -> None:
    """Sum the .grad of dense parameters over workers, in one flat buffer, by sum_flat or what else `add` is.

    The objective has divided by the global batch's totals already, so the sum is the gradient of the whole batch. A
    parameter that no worker's loss reached keeps no gradient (its optimizer rests), as with one worker: flags that are
    summed along say so.
    """
    if world_size() == 1:
        return
    flags = [float(p.grad is not None) for p in parameters]
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([gradients[0].new_tensor(flags), *[gradient.reshape(-1) for gradient in gradients]])
    flat = (add or sum_flat)(flat)
    reached, summed = flat[: len(flags)], flat[len(flags) :]
    for index, (parameter, piece) in enumerate(
        zip(parameters, summed.split([g.numel() for g in gradients]), strict=True)
    ):
        if parameter.grad is not None or reached[index] > 0:
            parameter.grad = piece.view_as(parameter)


def sum_flat(flat_N: Tensor) -> Tensor:
    """The sum over all workers, the same bits on each.

    From MANY workers on, on CPUs, each adds up one piece of it, in the order of ranks, and hands it out: the messages
    of gloo's all-reduce wait for each other, twice round the ring.
    """
    if flat_N.device.type != "cpu" or world_size() < MANY:
        with communicating():
            dist.all_reduce(flat_N, op=dist.ReduceOp.SUM)
        return flat_N
    workers = world_size()
    size = -(-len(flat_N) // workers)
    padded = flat_N.new_zeros(workers * size)
    padded[: len(flat_N)] = flat_N
    total, *others = swap(padded.view(workers, size))
    for piece in others:
        total += piece
    return swap(total.expand(workers, size)).view(-1)[: len(flat_N)]


_grids: dict[Group, Grid] = {}


def connect(group: Group = None) -> None:
    """Lay out the grid by which small messages go, for a group of all workers. All of them call it, from the training
    thread."""
    _grids.pop(group, None)
    if world_size() > 1 and (grid := make_grid(TIMEOUT_S)) is not None:
        _grids[group] = grid


def swap(blocks_WN: Tensor, group: Group = None) -> Tensor:
    """(W, N): block w goes to worker w; back come those that the workers had for this one, in the order of ranks."""
    with communicating(group):
        grid = _grids.get(group)
        if grid is not None and blocks_WN.device.type == "cpu":
            return grid.swap(blocks_WN.contiguous())
        found = blocks_WN.new_empty(blocks_WN.shape)
        dist.all_to_all_single(found.view(-1), blocks_WN.contiguous().view(-1), group=group)
    return found


def gather_numbers(numbers_N: Tensor, group: Group = None) -> Tensor:
    """(W, N): every worker's numbers, in the order of ranks."""
    if world_size() == 1:
        return numbers_N.unsqueeze(0)
    return swap(numbers_N.expand(world_size(), len(numbers_N)), group)


def gather_rows(rows_U: Tensor, sizes: Sequence[int], kind: str, group: Group = None) -> Tensor:
    """All workers' rows (sizes[w] of worker w), in the order of ranks."""
    most = max(sizes)
    # all_gather wants equal shapes: room for the longest
    padded = rows_U.new_zeros(most, *rows_U.shape[1:])
    padded[: len(rows_U)] = rows_U
    everyone = padded.new_empty(world_size() * most, *rows_U.shape[1:])
    with communicating(group):
        dist.all_gather_single(everyone, padded, group=group)
    count_sent(kind, padded.nbytes * (world_size() - 1))
    return torch.cat([everyone[rank * most : rank * most + size] for rank, size in enumerate(sizes)])


def exchange(values: Tensor, out: Sequence[int], back: Sequence[int], kind: str, group: Group = None) -> Tensor:
    """Send the first out[0] rows of `values` to worker 0, the next out[1] to worker 1, ...; their back[w] rows in turn.

    What comes lies in the order of ranks, whoever was first.
    """
    if world_size() == 1:
        return values
    found = values.new_empty(sum(back), *values.shape[1:])
    with communicating(group):
        dist.all_to_all_single(found, values.contiguous(), list(back), list(out), group=group)
    one = values.element_size() * values[:1].numel() if len(values) else 0
    count_sent(kind, one * (len(values) - out[dist.get_rank()]))
    return found


def agree(error: str | None) -> None:
    """Raise the first worker's UserError on all of them, so that none waits for one that has given up."""
    errors: list[Any] = [error]
    if world_size() > 1:
        errors = [None] * world_size()
        dist.all_gather_object(errors, error)
    for found in errors:
        if found is not None:
            raise UserError(found)


def broadcast_object(value: Any) -> Any:
    """Rank 0's small plain object, on every worker."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
