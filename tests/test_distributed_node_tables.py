"""Placement `node`: workers that share a machine's one table do what workers that hold one each do, to the bit."""

import dataclasses
import json
import os
import shutil
import signal
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from conftest import forking, gang
from support import CPU, events, final_tensors, learner_of, same_bits, stream_of
from test_distributed_tables import die_at, make_job

from data.errors import UserError
from data.log import open_log
from distributed.context import Context
from distributed.tables.collectives import sent
from distributed.tables.node import NODE, Neighbours
from distributed.tables.node_sums import ring_sum
from distributed.tables.node_table import NodeTables
from distributed.training import launch
from distributed.training.job import TrainJob
from distributed.training.launch import run_training
from distributed.training.learner import Learner
from distributed.training.loop import train
from distributed.training.stopping import Stop, Stopped
from distributed.training.validation import count

MACHINES = {2: ("00", "01"), 3: ("000", "010"), 4: ("0011",)}
"""Which of several machines each worker is on, by number of workers: one digit a worker."""
OPTIMIZERS = ("adam", "adagrad")
DIES_AT, RESUMES_FROM = 15, 14
CHANGES = (("to-node", "replicated", "node"), ("from-node", "node", "replicated"))
"""Runs that are killed: their placement before and after."""
STUCK_S = 2.0


def in_process(rank: int, workers: int, folder: str, jobs: dict[str, TrainJob]) -> None:
    """One process of a gloo group. What it asserts fails the spawn, and so the fixture below."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet-{workers}", rank=rank, world_size=workers)
    check_sums(rank, workers)
    for machines in MACHINES[workers]:
        os.environ[NODE] = machines[rank]
        check_neighbours(rank, machines)
        check_auto(rank, workers, machines, jobs["adam"])
        for name in OPTIMIZERS if machines == "00" else OPTIMIZERS[:1]:
            check_same_bits(rank, workers, jobs[name])
    go_through_everything(rank, workers, folder, jobs)
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


def check_auto(rank: int, workers: int, machines: str, job: TrainJob) -> None:
    """Left to itself a training shares memory where any machine has several workers, and only there."""
    learner = learner_of(under(job, "auto"), Context(rank, workers), steps=24)
    assert isinstance(learner.node, NodeTables) == (len(set(machines)) < workers)
    assert (learner.ahead is None) == (learner.node is not None)


def check_same_bits(rank: int, workers: int, job: TrainJob) -> None:
    """Some steps: the same weights, optimizer state, losses and figures."""
    context = Context(rank, workers)
    learners = [learner_of(under(job, tables), context, steps=24) for tables in ("replicated", "node")]
    compare(learners)
    log = dataclasses.replace(open_log(job.location), schema=job.schema)
    machines = len(learners[1].node.neighbours.nodes) if learners[1].node else 0
    for step, batch in zip(range(5), stream_of(job, log, rank, workers).epoch(0), strict=False):
        terms = []
        for learner in learners:
            sent.clear()
            terms.append(learner.step(batch, step))
        touched = [(table.touched, table.width) for table in learners[1].tables.values()]
        each_row_once = sum(len(rows.ids_U) * (8 + 4 * width) for rows, width in touched if rows)
        assert sum(sent.values()) == (machines - 1) * each_row_once
        assert {name: float(term) for name, term in terms[0].items()} == {
            name: float(term) for name, term in terms[1].items()
        }
    problem, valid = job.open_problem(CPU), job.parts["valid"]
    figures = [  # 2 row groups: with three workers, one has nothing to look up
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


def go_through_everything(rank: int, workers: int, folder: str, jobs: dict[str, TrainJob]) -> None:
    """Whole trainings: killed ones that go on under another placement, and with another number of workers."""
    os.environ[NODE] = ""
    context = Context(rank, workers)
    if workers == 2:
        train(jobs["replicated"], context)
        for name, first, then in CHANGES:
            die_at(DIES_AT, under(jobs[name], first), rank, workers)
            dist.barrier()  # all shards are written
            if rank == 0 and name == "from-node":
                for copy in ("node-of-1", "node-of-3", "replicated-of-3"):
                    shutil.copytree(f"{folder}/{name}", f"{folder}/{copy}", dirs_exist_ok=True)
            dist.barrier()
            train(under(jobs[name], then), context)
        asked = Stop(signalled=lambda: signal.SIGTERM if rank == 1 and stopping[0] else 0)
        stopping = [False]
        with pytest.raises(Stopped) as stopped:
            train(jobs["stopped"], Context(rank, workers, stop=asked), lambda figures: not stopping.insert(0, True))
        assert (stopped.value.signal, stopped.value.step) == (signal.SIGTERM, 12)
        train(jobs["stopped"], context)
    if workers == 3:
        for name in ("node-of-3", "replicated-of-3"):
            train(jobs[name], context)


def under(job: TrainJob, tables: str) -> TrainJob:
    return dataclasses.replace(job, config=dataclasses.replace(job.config, tables=tables))


@pytest.fixture(scope="module")
def runs(small_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of 2, of 3 and of 4 gloo processes; each group is started once, for that is what takes time."""
    folder = tmp_path_factory.mktemp("node")
    jobs = {name: make_job(folder / name, small_log, optimizer__embedding=name) for name in OPTIMIZERS}
    names = ("replicated", "stopped", "node-of-3", "replicated-of-3", *(name for name, _, _ in CHANGES))
    for name in names:
        jobs[name] = under(make_job(folder / name, small_log), "replicated" if "replicated" in name else "node")
    for workers in MACHINES:
        gang(in_process, (workers, str(folder), jobs), workers)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, _, _ in CHANGES])
def test_a_killed_run_goes_on_to_the_same_bits_under_any_placement(runs: Path, name: str) -> None:
    same_bits(runs / "replicated", runs / name)
    assert [event["step"] for event in events(runs / name, "start")] == [0, RESUMES_FROM]
    last = [events(runs / run, "valid")[-1] for run in ("replicated", name)]
    assert last[0]["ctcvr.log_loss"] == last[1]["ctcvr.log_loss"]


@pytest.mark.slow
def test_another_number_of_workers_goes_on_to_the_same_bits_as_with_tables_on_each(runs: Path) -> None:
    same_bits(runs / "node-of-3", runs / "replicated-of-3")
    assert [event["workers"] for event in events(runs / "node-of-3", "start")] == [2, 3]


@pytest.mark.slow
def test_a_process_alone_goes_on_from_a_shared_table(runs: Path, small_log: Path) -> None:
    """The same weights and moments, to tolerance: its sums have another order."""
    run_training(under(make_job(runs / "node-of-1", small_log), "node"), workers=0)
    assert [event["workers"] for event in events(runs / "node-of-1", "start")] == [2, 1]
    two, one = final_tensors(runs / "replicated"), final_tensors(runs / "node-of-1")
    for name in two:
        torch.testing.assert_close(one[name], two[name], rtol=2e-3, atol=2e-5, msg=name)


@pytest.mark.slow
def test_a_stopped_run_loses_no_step_and_no_bit(runs: Path) -> None:
    same_bits(runs / "replicated", runs / "stopped")
    assert [event["step"] for event in events(runs / "stopped", "start")] == [0, 12]


# ---- workers that end, or stand still


def join(rank: int, folder: str, what: str) -> None:
    """Two workers that share memory. The second is killed, or stands still; the first says what it met, and when."""
    meet = {"init_method": f"file://{folder}/meet", "rank": rank, "world_size": 2}
    dist.init_process_group("gloo", timeout=timedelta(seconds=STUCK_S), **meet)
    neighbours = Neighbours()
    numbers = neighbours.tensor((1 << 20,))
    numbers[:] = 1.0
    neighbours.arrive()
    neighbours.wait()
    if rank == 1:
        if what == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        threading.Event().wait()
    shared = Path("/proc/self/maps").read_text().count("/memfd:counterpoint")
    began = time.monotonic()
    neighbours.arrive()
    try:
        neighbours.wait()
    except RuntimeError as error:
        told = {"error": str(error), "after_s": time.monotonic() - began, "shared": shared}
        Path(folder, "told.json").write_text(json.dumps(told))
    os._exit(0)


@pytest.mark.slow
@pytest.mark.parametrize(("what", "error"), [("killed", "has ended"), ("still", "timed out")])
def test_who_waits_for_a_worker_that_is_gone_gets_an_error(what: str, error: str, tmp_path: Path) -> None:
    """At once for a dead one, after a collective's time for one that stands still; and no memory stays."""
    before = {*os.listdir("/dev/shm")}
    workers = [forking().Process(target=join, args=(rank, str(tmp_path), what), daemon=True) for rank in range(2)]
    for process in workers:
        process.start()
    workers[0].join(60)
    workers[1].kill()
    workers[1].join()
    assert workers[0].exitcode == 0
    told = json.loads((tmp_path / "told.json").read_text())
    assert error in told["error"]
    assert "worker 1" in told["error"]
    assert (told["after_s"] > STUCK_S / 2) == (what == "still")
    assert told["shared"] == 1
    assert not [name for name in {*os.listdir("/dev/shm")} - before if "counterpoint" in name]
    pids = {str(process.pid) for process in workers}
    assert not pids & {path.name for path in Path("/proc").iterdir()}


def test_workers_with_gpus_are_refused(small_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "gpus", lambda workers: True)
    with pytest.raises(UserError, match=r"tables node: .* take another placement"):
        run_training(under(make_job(tmp_path / "run", small_log), "node"), workers=2)
