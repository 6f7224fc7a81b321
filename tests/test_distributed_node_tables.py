"""Placement `node`: workers that share a machine's one table do what workers that hold one each do, to the bit."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from conftest import gang
from support import CPU, learner_of, stream_of
from test_distributed_tables import make_job

from data.log import open_log
from distributed.context import Context
from distributed.tables.node import NODE, Neighbours
from distributed.tables.node_table import ring_sum
from distributed.training.job import TrainJob
from distributed.training.learner import Learner
from distributed.training.validation import count

MACHINES = {2: ("00", "01"), 3: ("000", "011", "010", "012")}
"""Which of several machines each worker is on, by number of workers: one digit a worker."""
OPTIMIZERS = ("adam", "adagrad")


def in_process(rank: int, workers: int, folder: str, jobs: dict[str, TrainJob]) -> None:
    """One process of a gloo group. What it asserts fails the spawn, and so the fixture below."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet-{workers}", rank=rank, world_size=workers)
    check_sums(rank, workers)
    for machines in MACHINES[workers]:
        os.environ[NODE] = machines[rank]
        check_neighbours(rank, machines)
        for name in OPTIMIZERS if machines == MACHINES[workers][0] else OPTIMIZERS[:1]:
            check_same_bits(rank, workers, jobs[name])
    dist.barrier()
    dist.destroy_process_group()


def check_sums(rank: int, workers: int) -> None:
    """Dense gradients are added in gloo's own order, however many there are."""
    for count_N in (1, 2, 3, 5, 7, 100, 1001, 300_007, 1_000_001):
        generator = torch.Generator().manual_seed(count_N)
        numbers_WN = torch.randn(workers, count_N, generator=generator).exp()
        expected = numbers_WN[rank].clone()
        dist.all_reduce(expected)
        assert torch.equal(ring_sum(numbers_WN, torch.empty(count_N)), expected)


def check_neighbours(rank: int, machines: str) -> None:
    neighbours = Neighbours()
    assert neighbours.ranks == [other for other, machine in enumerate(machines) if machine == machines[rank]]
    assert [machines[ranks[0]] for ranks in neighbours.nodes] == list(dict.fromkeys(machines))
    for _ in range(3):
        numbers = neighbours.tensor((4, 2))
        assert numbers[neighbours.place].tolist() == [0, 0]
        numbers[neighbours.place, 1] = rank
        neighbours.arrive()
        neighbours.wait()
        assert numbers[: len(neighbours.ranks), 1].tolist() == neighbours.ranks
    neighbours.close()


def check_same_bits(rank: int, workers: int, job: TrainJob) -> None:
    """Eighteen steps over an epoch's end: the same weights, optimizer state, losses and figures."""
    context = Context(rank, workers)
    learners = [
        learner_of(dataclasses.replace(job, config=dataclasses.replace(job.config, tables=tables)), context, steps=24)
        for tables in ("replicated", "node")
    ]
    compare(learners)
    log = dataclasses.replace(open_log(job.location), schema=job.schema)
    stream = stream_of(job, log, rank, workers)
    batches = [*stream.epoch(0), *[batch for _, batch in zip(range(6), stream.epoch(1), strict=False)]]
    problem, valid = job.open_problem(CPU), job.parts["valid"]
    for step, batch in enumerate(batches):
        terms = [learner.step(batch, step) for learner in learners]
        assert {name: float(term) for name, term in terms[0].items()} == {
            name: float(term) for name, term in terms[1].items()
        }
        if step in (11, 17):  # 2 row groups: with three workers, one has nothing to look up
            figures = [
                count(problem, learner.network, log, valid, problem.counts(log, valid), context).figures()
                for learner in learners
            ]
            assert figures[0] == figures[1]
    compare(learners)


def compare(learners: list[Learner]) -> None:
    states = [learner.state() for learner in learners]
    assert len(learners[0].tables) == 2
    for room in ("model", "optimizer", "rows"):
        one, two = (getattr(state, room) for state in states)
        assert one.keys() == two.keys()
        for name in one:
            values = [found.tensor if room == "rows" else found for found in (one[name], two[name])]
            assert torch.equal(*values), name


@pytest.mark.slow
@pytest.mark.parametrize("workers", MACHINES)
def test_the_same_bits(workers: int, small_log: Path, tmp_path: Path) -> None:
    jobs = {name: make_job(tmp_path / name, small_log, optimizer__embedding=name) for name in OPTIMIZERS}
    gang(in_process, (workers, str(tmp_path), jobs), workers)
