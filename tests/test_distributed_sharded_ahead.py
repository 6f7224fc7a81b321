"""What changes no bit of sharded tables: plans, rows and gradients that travel beside other steps, or through memory
that workers of a machine share."""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from conftest import gang
from support import CPU, config, final_tensors, job_of, learner_of, stream_of
from test_distributed_tables import DIES_AT, die_at, make_job

from benchmarks.training.table_bytes import bytes_of_counts, bytes_per_step
from data.errors import UserError
from data.log import open_log
from distributed.context import Context
from distributed.input.stream import TrainStream
from distributed.tables.collectives import sent
from distributed.tables.node import NODE
from distributed.tables.node_shards import NodeShards
from distributed.tables.sharded import Sharded, common
from distributed.training.job import TrainJob
from distributed.training.learner import Learner
from distributed.training.loop import train
from distributed.training.stopping import Stop, Stopped
from distributed.training.validation import count
from models.embedding import EmbeddingTable

WAYS: dict[str, dict[str, Any]] = {
    "nothing ahead": {"plan_ahead": False, "prefetch": "off"},
    "plans": {"prefetch": "off"},
    "rows": {"prefetch": "on"},
}
OPTIMIZERS = ("adam", "adagrad")
MACHINES = {2: ("00",), 4: ("0011", "0121")}
"""Which of several machines each worker is on, by number of workers: one digit a worker."""
STEPS = 18  # six of them after an epoch's end
PROPER = TrainStream.epoch
LOOKS = (7, 9)  # states are taken before these steps, as a checkpoint is


def with_config(job: TrainJob, **more: Any) -> TrainJob:
    return dataclasses.replace(job, config=dataclasses.replace(job.config, **more))


def in_process(rank: int, workers: int, folder: str, jobs: dict[str, TrainJob]) -> None:
    """One process of a gloo group. What it asserts fails the spawn, and so the fixture below."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet-{workers}", rank=rank, world_size=workers)
    for name in OPTIMIZERS[: 2 if workers == 2 else 1]:
        check_same_bits(rank, workers, jobs[name])
    for machines in MACHINES[workers]:
        os.environ[NODE] = machines[rank]
        check_what_is_sent(rank, workers, machines, jobs["adam"])
    if workers == 2:
        check_bytes(rank, workers)
        check_halves(rank, workers, jobs["adagrad"])
        check_ends(rank, workers, jobs)
    dist.barrier()
    dist.destroy_process_group()


def stepped(learner: Learner, job: TrainJob, rank: int, workers: int) -> list[dict[str, torch.Tensor]]:
    """States before LOOKS and after STEPS steps. Every fifth batch of the last worker is empty."""
    log = dataclasses.replace(open_log(job.location), schema=job.schema)
    stream = stream_of(job, log, rank, workers)
    step, found = 0, []

    def given(epoch: int) -> Iterator[Any]:
        for number, batch in zip(range(STEPS - 12 * epoch), stream.epoch(epoch), strict=False):
            yield stream.empty() if number % 5 == 2 and rank == workers - 1 else batch

    for epoch in (0, 1):
        for batch in learner.upcoming(given(epoch)):
            if step in LOOKS:
                found.append(tensors(learner))
            learner.step(batch, step)
            step += 1
    assert step == STEPS
    return [*found, tensors(learner)]


def tensors(learner: Learner) -> dict[str, torch.Tensor]:
    state = learner.state()
    rows = {name: table.tensor for name, table in state.rows.items()}
    return {name: tensor.clone() for name, tensor in (state.model | state.optimizer | rows).items()}


def check_same_bits(rank: int, workers: int, job: TrainJob) -> None:
    """Weights, moments and counters on the way and at the end, and figures: as those of workers on as many machines, of
    which none does anything ahead."""
    name = job.config.optimizer.embedding
    apart = "".join(map(str, range(workers)))
    cases = [("sharded", machines) for machines in (apart, *MACHINES[workers])]
    first: dict[str, Any] = {}
    for tables, machines in [*cases, ("replicated", apart)] if workers == 2 else cases:
        os.environ[NODE] = machines[rank]
        ways = list(WAYS) if (workers, name) == (2, "adam") else ["nothing ahead", "rows"]
        for way in ["nothing ahead", "plans"] if tables == "replicated" else ways:
            own = with_config(job, tables=tables, **WAYS[way])
            learner = learner_of(own, Context(rank, workers), steps=24)
            assert (learner.ahead is None) == (way == "nothing ahead")
            assert isinstance(learner.node, NodeShards) == (tables == "sharded" and machines != apart)
            found = stepped(learner, own, rank, workers)
            expected = first.setdefault(tables, found)
            for one, two in zip(expected, found, strict=True):
                assert one.keys() == two.keys()
                for key in one:
                    assert torch.equal(one[key], two[key]), (tables, machines, way, key)
        counted = figures(own, learner, rank, workers)
        assert first.setdefault(f"{tables}, figures", counted) == counted


def check_bytes(rank: int, workers: int) -> None:
    """Rows that are in two batches travel once each time, like all others, and a mark of one byte tells which they
    are."""
    torch.manual_seed(1)
    table = Sharded(EmbeddingTable(50, 4))
    generator = torch.Generator().manual_seed(0)
    everyone = [[torch.randint(0, 50, (20,), generator=generator) for _ in range(workers)] for _ in range(2)]
    sent.clear()
    one, two = (table.plan(batch[rank]) for batch in everyone)
    table.divide(one, two)
    table.prefetch(two)
    expected = marks = 0
    for batch in everyone:
        distinct = [{*ids.tolist()} for ids in batch]
        mine = sum(row % workers == rank for row in distinct[rank])
        others = sum(row % workers == rank for n in range(workers) if n != rank for row in distinct[n])
        expected += bytes_per_step(len(distinct[rank]), mine, others, 0, workers)
        marks += others
    assert sent["ids"] + sent["counts"] == expected
    assert sent["marks"] == marks
    assert two.late is not None
    table.travel(two.late)
    assert sent["rows"] == 16 * others
    first, second = ({row for ids in batch for row in ids.tolist()} for batch in everyone)
    assert {*two.late.own(two.own.ids_U).tolist()} == {*everyone[1][rank].tolist()} & first
    assert one.deferred is not None
    assert {*one.deferred.own(one.own.ids_U).tolist()} == {*everyone[0][rank].tolist()} - second


def check_halves(rank: int, workers: int, job: TrainJob) -> None:
    """bfloat16 on the wire: half the bytes of rows, other weights, by little; the same ones where nothing is sent."""
    found, sizes = [], []
    os.environ[NODE] = str(rank)
    for wire in ("float32", "bfloat16"):
        own = with_config(job, tables="sharded", prefetch="off", wire=wire)
        sent.clear()
        found.append(stepped(learner_of(own, Context(rank, workers), steps=24), own, rank, workers)[-1])
        sizes.append(sent["rows"])
    assert sizes[0] == 2 * sizes[1] > 0
    os.environ[NODE] = ""
    near = stepped(learner_of(own, Context(rank, workers), steps=24), own, rank, workers)[-1]
    assert all(torch.equal(tensor, near[name]) for name, tensor in found[1].items())
    name = "embedding.tables.0.weight"
    assert not torch.equal(found[0][name], found[1][name])
    torch.testing.assert_close(found[1][name], found[0][name], rtol=0.1, atol=0.02)


def unreadable(stream: TrainStream, epoch: int, start: int = 0) -> Iterator[Any]:
    """The second epoch's fifth batch lies in a file that is gone."""
    for number, batch in enumerate(PROPER(stream, epoch, start)):
        if epoch == 1 and number == 4:
            raise UserError("part-3.parquet: gone")
        yield batch


def check_ends(rank: int, workers: int, jobs: dict[str, TrainJob]) -> None:
    """Whatever ends a training with rows under way, the next start goes on to the bits of one that fetched nothing
    ahead and never stopped; the first run is checked for in the test below."""
    train(jobs["unbroken"], Context(rank, workers))
    die_at(DIES_AT, jobs["killed"], rank, workers)
    train(jobs["killed"], Context(rank, workers))

    calls = iter([0] * 18 + [15] * 10_000)
    asked = Stop(signalled=(lambda: next(calls)) if rank == 1 else (lambda: 0))
    with pytest.raises(Stopped) as stopped:
        train(jobs["stopped"], Context(rank, workers, stop=asked))
    assert 12 < stopped.value.step < 18  # validations look at it as well
    train(jobs["stopped"], Context(rank, workers))

    if rank == 1:
        TrainStream.epoch = unreadable  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"^part-3\.parquet: gone$"):
        train(jobs["unread"], Context(rank, workers))
    TrainStream.epoch = PROPER  # type: ignore[method-assign]
    train(jobs["unread"], Context(rank, workers))

    learner = learner_of(jobs["killed"], Context(rank, workers), steps=24)

    def torn(batch: Any) -> list[torch.Tensor]:
        raise ValueError("this batch has no ids")

    learner.network.asked = torn  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"^this batch has no ids$"):
        next(iter(learner.upcoming(iter([learner.problem.empty().batch()]))))


def figures(job: TrainJob, learner: Learner, rank: int, workers: int) -> dict[str, Any]:
    """2 row groups: with three workers, one has nothing to look up."""
    log, valid = job.open_log(), job.parts["valid"]
    problem = job.open_problem(CPU)
    return count(problem, learner.network, log, valid, problem.counts(log, valid), Context(rank, workers)).figures()


def check_what_is_sent(rank: int, workers: int, machines: str, job: TrainJob) -> None:
    """Only what goes to another machine is sent: ids, gradients, vectors for who asks from there; and it goes in one
    message."""
    learner = learner_of(with_config(job, tables="sharded", plan_ahead=False), Context(rank, workers), steps=24)
    (batch, *_) = stream_of(job, open_log(job.location), rank, workers).epoch(0)
    assert isinstance(learner.node, NodeShards)
    across = learner.node.across[None]
    sent.clear()
    messages = []
    proper = dist.all_to_all_single
    with mock.patch.object(dist, "all_to_all_single") as patched:
        patched.side_effect = lambda *values, group: (
            messages.append(dist.get_world_size(group) - 1), proper(*values, group=group)
        )  # fmt: skip
        learner.step(batch, 0)
    asked, rows = 0, 0
    for table in learner.tables.values():
        assert table.touched is not None
        everyone: list[Any] = [None] * workers
        dist.all_gather_object(everyone, table.touched.ids_U.tolist())
        own = [{row for row in ids if machines[row % workers] == machines[rank]} for ids in everyone]
        asked += (gone := len(everyone[rank]) - len(own[rank]))
        handed = sum(len(own[client]) for client in across.clients if client != rank)
        rows += 4 * table.width * (gone + handed)
    counts = bytes_of_counts(Counter(machines).values(), len(across.members)) * len(learner.tables)
    assert (sent["ids"], sent["rows"], sent["counts"]) == (4 * asked, rows, counts)
    # of each table counts, ids, vectors, gradients; the totals
    others = 0 if len({*machines}) == 1 else len(across.members) - 1
    assert messages == [others] * (4 * len(learner.tables) + 1 if others else 0)
    assert len({*Counter(machines).values()}) > 1 or others == len({*machines}) - 1


@pytest.fixture(scope="module")
def ahead_runs(small_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of 2 and then of 4 gloo processes; each group is started once, for that is what takes time."""
    folder = tmp_path_factory.mktemp("ahead")
    jobs = {name: make_job(folder / name, small_log, optimizer__embedding=name) for name in OPTIMIZERS}
    jobs["unbroken"] = make_job(folder / "unbroken", small_log, tables="sharded", plan_ahead=False)
    for name in ("killed", "stopped", "unread"):
        jobs[name] = make_job(folder / name, small_log, tables="sharded", prefetch="on")
    for workers in (2, 4):
        gang(in_process, (workers, str(folder), jobs), workers)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["killed", "stopped", "unread"])
def test_what_was_under_way_when_a_run_ended_is_neither_lost_nor_made_twice(ahead_runs: Path, name: str) -> None:
    one, two = final_tensors(ahead_runs / "unbroken"), final_tensors(ahead_runs / name)
    assert one.keys() == two.keys()
    for tensor in one:
        assert torch.equal(one[tensor], two[tensor]), tensor


def test_what_two_batches_share() -> None:
    generator = torch.Generator().manual_seed(3)
    for sizes in ((40, 60), (0, 5), (5, 0), (0, 0), (1, 1)):
        one, two = (torch.unique(torch.randint(0, 80, (size,), generator=generator)) for size in sizes)
        in_two, in_one = common(one, two)
        assert in_two.tolist() == [row in two.tolist() for row in one.tolist()]
        assert in_one.tolist() == [row in one.tolist() for row in two.tolist()]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prefetch": "perhaps"}, "prefetch must be 'auto', 'on' or 'off', got 'perhaps'"),
        ({"prefetch": "on"}, "prefetch 'on' needs tables 'sharded' and plan_ahead"),
        ({"prefetch": "on", "tables": "sharded", "plan_ahead": False}, "prefetch 'on' needs tables 'sharded'"),
        ({"wire": "int8"}, "wire must be 'float32' or 'bfloat16', got 'int8'"),
    ],
)
def test_settings_of_tables_that_do_not_go_together(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(**values)


def test_alone_nothing_is_done_ahead(small_log: Path, tmp_path: Path) -> None:
    job = job_of(tmp_path, small_log, config(tables="sharded", prefetch="on"))
    learner = learner_of(job, Context(), steps=24)
    assert learner.ahead is None
    batch = learner.problem.empty().batch()
    assert list(learner.upcoming(iter([batch, batch]))) == [batch, batch]
