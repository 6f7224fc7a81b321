"""Small numbers and dense gradients of workers that share machines, summed through the memory that they share.

Shapes: W workers, N numbers. The order of every sum, and so its bits, are those of collectives.py: gloo's up to so many
workers, the order of ranks from then on. From one machine to another goes one message (counterparts.py): the receiver
lays it open for its neighbours.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from distributed.tables.collectives import sum_flat, world_size
from distributed.tables.counterparts import Counterparts
from distributed.tables.grid import MANY
from distributed.tables.node import Neighbours

SEGMENT_BYTES = 1 << 20  # of gloo's all-reduce, at most


class NodeSums:
    """alone: whether all workers are on this machine."""

    def __init__(self, neighbours: Neighbours) -> None:
        self.neighbours, self.across = neighbours, Counterparts(neighbours)
        self.alone = self.across.alone
        self.numbers: list[Tensor] = []
        self.dense_WN: Tensor | None = None
        self.pieces: list[Tensor] = []

    def gather(self, numbers_N: Tensor) -> Tensor:
        """(W, N): every worker's numbers, in the order of ranks."""
        if not self.numbers:
            shape = (world_size(), len(numbers_N))
            self.numbers = [self.neighbours.tensor(shape, numbers_N.dtype) for _ in range(2)]
        self.numbers.reverse()  # who is still reading the last ones reads others than who writes the next
        self.numbers[0][self.across.clients] = self.across.tell_all(numbers_N)
        self.neighbours.arrive()
        self.neighbours.wait()
        return self.numbers[0].clone()

    def add(self, flat_N: Tensor, meanwhile: Callable[[], None] = lambda: None) -> Tensor:
        """The sum over all workers of their dense gradients; `meanwhile` is called while others are still on their way.
        What the workers of this machine laid open before they came here can be read then."""
        workers = world_size()
        if workers >= MANY:
            return self.add_pieces(flat_N)
        if not self.alone:
            self.neighbours.arrive()
            flat_N = sum_flat(flat_N)
            self.neighbours.wait()
            return flat_N
        if self.dense_WN is None:
            self.dense_WN = self.neighbours.tensor((workers, len(flat_N)), flat_N.dtype)
        self.dense_WN[self.neighbours.rank] = flat_N
        self.neighbours.arrive()
        meanwhile()
        self.neighbours.wait()
        return ring_sum(self.dense_WN, flat_N)

    def add_pieces(self, flat_N: Tensor) -> Tensor:
        """The same where there are many: each adds up one piece, in the order of ranks, and hands it out."""
        across, near, workers = self.across, self.neighbours, world_size()
        size = -(-len(flat_N) // workers)
        if not self.pieces:
            self.pieces = [near.tensor((workers, count, size), flat_N.dtype) for count in (len(near.ranks), 1)]
        pieces_WLS, totals_W1S = self.pieces
        padded_WS = flat_N.new_zeros(workers, size)
        padded_WS.view(-1)[: len(flat_N)] = flat_N
        pieces_WLS[across.clients] = across.deal(padded_WS)
        near.arrive()
        near.wait()
        total, *others = pieces_WLS[:, near.place].clone()
        for piece in others:
            total += piece
        totals_W1S[across.clients] = across.tell_all(total)[:, None]
        near.arrive()
        near.wait()
        return totals_W1S.view(-1)[: len(flat_N)].clone()


def ring_sum(numbers_WN: Tensor, out_N: Tensor) -> Tensor:
    """The sum over workers in the order in which gloo's all-reduce adds, so to its bits, whatever goes which way.

    Gloo cuts the numbers into segments of equal size, as many for each worker. Those of worker g go round from worker
    g - 1 downwards, and each worker adds its own.
    """
    workers, count = numbers_WN.shape
    size = numbers_WN.element_size()
    segments = max(-(-count * size // SEGMENT_BYTES), 2 * workers)
    of_worker = -(-segments // workers)
    segment = -(-count // (of_worker * workers))
    for worker in range(workers):
        own = slice(worker * of_worker * segment, (worker + 1) * of_worker * segment)
        torch.add(numbers_WN[worker - 1, own], numbers_WN[worker - 2, own], out=out_N[own])
        for step in range(2, workers):
            out_N[own] += numbers_WN[(worker - 1 - step) % workers, own]
    return out_N
