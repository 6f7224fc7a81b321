"""Small messages by way of a grid: the same blocks as sending all to all, at any shape of the grid."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from distributed.tables import collectives
from distributed.tables.grid import MANY, make_grid, sides

meeting = threading.local()


class Threads:
    """A process group of W threads of this process: what the module needs of torch.distributed."""

    def __init__(self, workers: int) -> None:
        self.workers, self.barrier, self.sent = (
            workers,
            threading.Barrier(workers),
            dict[int, tuple[Sequence[Tensor], list[int]]](),
        )
        self.messages = [0] * workers

    def all_to_all_single(
        self,
        found: Tensor,
        values: Tensor,
        back: list[int] | None = None,
        out: list[int] | None = None,
        group: list[int] | None = None,
    ) -> None:
        ranks, rank = group or list(range(self.workers)), meeting.rank
        equal = [len(values) // len(ranks)] * len(ranks)
        self.sent[rank] = values.split(out or equal), ranks
        self.barrier.wait()
        place = ranks.index(rank)
        for block, other in zip(found.split(back or equal), ranks, strict=True):
            theirs, known = self.sent[other]
            assert known == ranks
            assert len(theirs[place]) == len(block)
            block.copy_(theirs[place])
        self.messages[rank] += len(ranks) - 1
        self.barrier.wait()

    def run(self, work: Callable[[int], Any]) -> list[Any]:
        """work(rank) of each; what one raises is raised here."""
        results: list[Any] = [None] * self.workers
        failed = list[BaseException]()

        def one(rank: int) -> None:
            meeting.rank = rank
            try:
                results[rank] = work(rank)
            except BaseException as error:
                failed.append(error)
                self.barrier.abort()

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        if failed:
            raise failed[0]
        return results


@pytest.fixture
def group_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Threads]:
    def make(workers: int) -> Threads:
        group = Threads(workers)
        monkeypatch.setattr(dist, "is_initialized", lambda: True)
        monkeypatch.setattr(dist, "get_world_size", lambda: workers)
        monkeypatch.setattr(dist, "get_rank", lambda: meeting.rank)
        monkeypatch.setattr(dist, "new_group", lambda ranks, **_: ranks)
        monkeypatch.setattr(dist, "all_to_all_single", group.all_to_all_single)
        return group

    return make


@pytest.mark.parametrize(("workers", "messages"), [(4, 2), (6, 3), (12, 5), (15, 6)])
def test_every_block_arrives_in_its_place(group_of: Callable[[int], Threads], workers: int, messages: int) -> None:
    group = group_of(workers)
    blocks = torch.arange(workers * workers * 3).view(workers, workers, 3)  # from, to

    def swap(rank: int) -> Tensor:
        grid = make_grid(1.0, least=2)
        assert grid is not None
        return grid.swap(blocks[rank])

    found = group.run(swap)
    for rank in range(workers):
        assert torch.equal(found[rank], blocks[:, rank])
    assert group.messages == [messages] * workers


def test_gradients_are_summed_in_the_order_of_ranks_by_either_way(
    group_of: Callable[[int], Threads], monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = 10
    group = group_of(workers)
    values = torch.randn(workers, 17, generator=torch.Generator().manual_seed(0)) * 1e3
    expected = torch.zeros(17)
    for row in values:
        expected += row
    flat = group.run(lambda rank: collectives.sum_flat(values[rank]))
    local = threading.local()

    class PerThread(dict):
        """The module's memory is a process's; here each thread is a worker."""

        def get(self, key: Any) -> Any:
            return local.grid

    def by_grid(rank: int) -> Tensor:
        local.grid = make_grid(1.0, least=2)
        return collectives.sum_flat(values[rank])

    monkeypatch.setattr(collectives, "_grids", PerThread())
    gridded = group.run(by_grid)
    for rank in range(workers):
        assert torch.equal(flat[rank], expected)
        assert torch.equal(gridded[rank], expected)
    assert group.messages == [2 * 9 + 2 * 5] * workers


def test_the_squarest_grid() -> None:
    assert [sides(n) for n in (1, 2, 7, 12, 64, 96)] == [(1, 1), (1, 2), (1, 7), (3, 4), (8, 8), (8, 12)]


def test_few_workers_and_primes_have_none(group_of: Callable[[int], Threads]) -> None:
    for workers in (2, MANY - 1, 17):
        assert group_of(workers).run(lambda rank: make_grid(1.0)) == [None] * workers
