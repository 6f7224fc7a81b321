"""One message a machine: what sharded tables, totals and dense gradients are over any workers on any machines, which
are threads of this process, and how many messages that takes."""

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from test_distributed_sharded_grid import Threads, group_of, meeting  # noqa: F401
from torch import Tensor

from distributed.tables import collectives, node_shards
from distributed.tables.counterparts import Counterparts, clients_of, receiver
from distributed.tables.node import Neighbours
from distributed.tables.node_shards import NodeShards
from distributed.tables.node_sums import NodeSums
from distributed.tables.placement import share_of
from distributed.tables.sharded import Sharded
from models.embedding import EmbeddingTable
from models.row_kernels import sum_rows
from models.rows import NO_ROW

MACHINES = ("00", "01", "0011", "0101", "0110", "0001", "0121", "2110", "001122", "012012", "00000111", "0011011")
STEPS, ROWS, WIDTH = 5, 61, 3


class Near(Neighbours):
    """Those of a thread, on a machine that it is said to be on."""

    def __init__(self, machines: str, shared: dict[Any, Any], group: Any = None) -> None:
        self.rank, self.group, self.timeout = meeting.rank, group, 10.0
        names = list(dict.fromkeys(machines))
        self.nodes = [[rank for rank, name in enumerate(machines) if name == own] for own in names]
        self.node_of = [names.index(name) for name in machines]
        self.ranks = self.nodes[self.node_of[self.rank]]
        self.place = self.ranks.index(self.rank)
        self.peers = {}
        with meeting_place:
            own = shared.setdefault((group, machines[self.rank]), (Counter[int](), defaultdict[int, Tensor](), []))
        self.come, self.tensors, _ = own
        self.begun = self.asked = 0

    def tensor(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        with meeting_place:
            found = self.tensors.setdefault(self.asked, torch.zeros(*shape, dtype=dtype))
        self.asked += 1
        assert (found.shape, found.dtype) == (torch.Size(shape), dtype)
        return found

    def arrive(self) -> None:
        self.begun += 1
        with meeting_place:
            self.come[self.rank] += 1
            meeting_place.notify_all()

    def wait(self) -> None:
        with meeting_place:
            assert meeting_place.wait_for(lambda: all(self.come[rank] >= self.begun for rank in self.ranks), timeout=10)


meeting_place = threading.Condition()


def batches(workers: int, seed: int) -> list[list[tuple[Tensor, Tensor]]]:
    """Of each step and worker: ids, some without any, and what their vectors are multiplied by."""
    generator = torch.Generator().manual_seed(seed)
    return [
        [
            (torch.randint(0, ROWS, (count,), generator=generator), torch.randn(count, WIDTH, generator=generator))
            for count in torch.randint(0, 40, (workers,), generator=generator).tolist()
        ]
        for _ in range(STEPS)
    ]


def in_one_place(table: EmbeddingTable, steps: list[list[tuple[Tensor, Tensor]]]) -> Tensor:
    """The whole table after all steps: of each row the workers' sums are added in the order of ranks."""
    weight = table.weight.clone()
    for step in steps:
        total = torch.zeros_like(weight)
        for ids, values in step:
            order = ids.argsort(stable=True)
            rows, counts = ids[order].unique_consecutive(return_counts=True)
            total[rows] += sum_rows(values, order, counts.cumsum(0) - counts)
        weight -= 0.1 * total
    return weight


def apply(weight: Tensor, sums: Any) -> None:
    if sums is not None:
        weight[sums.ids_V] -= 0.1 * sums.gradient_VE


def trained(placement: Sharded, steps: list[list[tuple[Tensor, Tensor]]], rank: int, ahead: bool, look: Any) -> Tensor:
    """This worker's rows after all steps, each of which reads what `look` says. ahead: as ahead.py does it."""
    table, beside = placement.table, "beside" if ahead else None
    node = getattr(placement, "node", None)
    plans = [placement.plan(steps[0][rank][0], beside)] if ahead else []
    for number, step in enumerate(steps):
        ids, values = step[rank]
        if ahead:
            if number + 1 < STEPS:
                plans.append(placement.plan(steps[number + 1][rank][0], beside))
                placement.divide(plans[number], plans[number + 1], beside)
            apply(table.weight, placement.deferred(beside))
            if number + 1 < STEPS:
                placement.prefetch(plans[number + 1], beside)
            placement.use(plans[number])
        vectors = table(ids)
        look(number, ids, vectors)
        (vectors * values).sum().backward()
        if node:
            node.lay()
            node.gather(torch.zeros(1))
        assert table.touched is not None
        apply(table.weight, placement.collect(table.touched))
        if node:
            node.finish()
    return table.weight


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("machines", MACHINES)
def test_rows_are_what_they_are_in_one_place(
    group_of: Callable[[int], Threads],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    machines: str,
    ahead: bool,
) -> None:
    workers, shared = len(machines), dict[Any, Any]()
    group = group_of(workers)
    steps = batches(workers, seed=workers)
    torch.manual_seed(1)
    whole = EmbeddingTable(ROWS, WIDTH)
    after = [in_one_place(whole, steps[:number]) for number in range(STEPS + 1)]
    tables = []
    for _ in range(workers):
        torch.manual_seed(1)
        tables.append(EmbeddingTable(ROWS, WIDTH, share=NO_ROW))
    monkeypatch.setattr(node_shards, "Neighbours", lambda own: Near(machines, shared, own))
    collectives.sent.clear()

    def look(number: int, ids: Tensor, vectors: Tensor) -> None:
        assert torch.equal(vectors, after[number][ids])

    def work(rank: int) -> Tensor:
        node = NodeShards(Near(machines, shared), [tables[rank]], torch.float32)
        if ahead:
            node.join("beside")
        rows = trained(node.placements[0], steps, rank, ahead, look)
        node.settle()
        scored = tables[rank].eval()(torch.arange(ROWS))
        assert torch.equal(scored, after[STEPS])
        return rows

    for rank, rows in enumerate(group.run(work)):
        assert torch.equal(rows, after[STEPS][share_of("sharded", rank).first :: workers])
    count = len({*machines})
    if workers % count == 0 and len({*Counter(machines).values()}) == 1:
        # counts, ids, vectors, gradients; the totals; ahead: marks, early vectors, late gradients; the scores
        exchanges = 5 * STEPS + 3 * (STEPS - 1 if ahead else 0) + (3 if count > 1 else 0)
        assert group.messages == [exchanges * (count - 1)] * workers
    far = [{rank: machines[rank] != own for rank in range(workers)} for own in machines]
    asked = sum(
        far[rank][row % workers] for step in steps for rank, (ids, _) in enumerate(step) for row in {*ids.tolist()}
    )
    scored = sum(far[rank][row % workers] for rank in range(workers) for row in range(ROWS))
    assert collectives.sent["ids"] == 4 * (asked + scored)
    assert collectives.sent["rows"] == 4 * WIDTH * (2 * asked + scored)


@pytest.mark.parametrize("machines", ["0000000000", "0000011111", "0101010101", "0120120120", "00122222222"])
def test_totals_and_dense_gradients_of_many_workers(
    group_of: Callable[[int], Threads],  # noqa: F811
    machines: str,
) -> None:
    """They are added in the order of ranks; with two machines a worker sends one message for totals, two for sums."""
    workers, shared = len(machines), dict[Any, Any]()
    group = group_of(workers)
    values = torch.randn(3, workers, 17, generator=torch.Generator().manual_seed(0)) * 1e3

    def work(rank: int) -> list[tuple[Tensor, Tensor]]:
        sums = NodeSums(Near(machines, shared))
        return [(sums.gather(step[rank, :3]), sums.add(step[rank].clone())) for step in values]

    expected = values[:, 0].clone()
    for rank in range(1, workers):
        expected += values[:, rank]
    for found in group.run(work):
        for step, sums, (gathered, added) in zip(values, expected, found, strict=True):
            assert torch.equal(gathered, step[:, :3])
            assert torch.equal(added, sums)
    if machines in ("0000011111", "0101010101"):
        assert group.messages == [3 * 3] * workers


def test_who_sends_to_whom(group_of: Callable[[int], Threads]) -> None:  # noqa: F811
    """Each worker has one receiver on each machine, in its own group."""
    for machines in MACHINES:
        group, shared = group_of(len(machines)), dict[Any, Any]()
        found: list[Counterparts] = group.run(lambda rank, own=machines, known=shared: Counterparts(Near(own, known)))
        for rank, across in enumerate(found):
            assert sorted(across.order) == list(range(len(machines)))
            assert [machines[to] for to in across.receivers].count(machines[rank]) == 1
            assert {machines[to] for to in across.receivers} == {*machines}
            assert {*across.receivers, *across.clients} <= {*across.members}
            assert all(rank in found[to].clients for to in across.receivers)
            assert all(rank in found[client].receivers for client in across.clients)
    nodes = [[0, 3], [1, 4], [2, 5, 6]]
    assert [receiver(nodes, 6, node) for node in range(3)] == [0, 1, 6]
    assert [receiver(nodes, 3, node) for node in range(3)] == [3, 4, 5]


def test_clients_of_a_machine(group_of: Callable[[int], Threads]) -> None:  # noqa: F811
    group_of(7)
    assert clients_of([[0, 3], [1, 4], [2, 5, 6]], 0) == [[0, 1, 2, 6], [3, 4, 5]]
