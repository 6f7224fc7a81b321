"""Workers of a training that are killed, told to go, or stand still: the same bits, and what it costs is counted."""

import json
import os
import signal
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from conftest import forking, gang
from support import config, events, final_tensors, job_of, train_here

from distributed.checkpoint import store as checkpoint_store
from distributed.checkpoint.read import read_checkpoint
from distributed.checkpoint.store import CheckpointStore
from distributed.context import Context
from distributed.reporting.reporter import METRICS
from distributed.training.job import TrainJob
from distributed.training.launch import run_training
from distributed.training.loop import train
from distributed.training.ray_group import FAILURES
from distributed.training.recorder import CHECKPOINTS
from distributed.training.stopping import Stopped


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of JSON that is being written."""
    return [json.loads(line) for line in path.read_text().splitlines(True) if line.endswith("\n")] \
        if path.exists() else []  # fmt: skip


@dataclass
class Hit:
    """A signal to a worker: when, and a step that was logged before."""

    pid: int
    time: float
    step: int


def hit_worker(run: Path, number: int, step: int, starts: int) -> Hit:
    """Send a signal to one Ray Train worker once the run's so-manieth start has got some steps further than `step`."""
    deadline = time.time() + 300
    while time.time() < deadline:
        lines = lines_of(run / METRICS)
        begun = [number for number, line in enumerate(lines) if line["event"] == "start"]
        if len(begun) >= starts and lines[-1]["step"] >= step and len(lines) - begun[-1] > 3:
            pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and is_train_worker(entry)]
            if pids:
                os.kill(pids[-1], number)
                return Hit(pids[-1], time.time(), lines[-1]["step"])
        time.sleep(0.02)
    raise TimeoutError(f"{run}: start {starts} never came to step {step}")


def is_train_worker(pid: str) -> bool:
    """A Ray Train worker of this process's own cluster: other tests may run theirs beside it."""
    try:
        if b"RayTrainWorker" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return False
        while pid not in ("0", "1"):
            if int(pid) == os.getpid():
                return True
            pid = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]  # its parent
    except OSError:
        pass
    return False


def finish_both(rank: int, rendezvous: str, jobs: dict[str, TrainJob]) -> None:
    """Two plain gloo processes: the whole of one run, and the rest of the other."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    for job in jobs.values():
        train(job, Context(rank, 2))
    dist.destroy_process_group()


@dataclass
class Struck:
    """A run to which things happened, one to which nothing did, and what is known of the former."""

    unbroken: Path
    broken: Path
    hits: list[Hit]
    stopped: Stopped

    @property
    def starts(self) -> list[dict[str, Any]]:
        return events(self.broken, "start")

    @property
    def failures(self) -> list[dict[str, Any]]:
        return lines_of(self.broken / FAILURES)


CHECKPOINT_STEPS = 7
HANG_S = 8.0


@pytest.fixture(scope="module")
def struck(ray_cluster: None, small_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Struck:
    """Ray Train, 2 workers, sharded tables: one worker is killed, one told to go (SIGTERM), one stopped where it stands
    (SIGSTOP), then the driver is told to stop. The rest is trained without Ray, as is the run that nothing happened to.
    """
    folder = tmp_path_factory.mktemp("struck")
    settings = config(epochs=12, checkpoint_steps=CHECKPOINT_STEPS, log_steps=2, patience=0, tables="sharded")
    jobs = {}
    for name in ("unbroken", "broken"):
        (folder / name).mkdir()
        jobs[name] = job_of(folder / name, small_log, settings)
    hits: list[Hit] = []
    signals: list[int] = []

    def trouble() -> None:
        try:
            for number, kind in enumerate((signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP, 0)):
                hits.append(hit_worker(folder / "broken", kind, 30 * (number + 1), number + 1))
        finally:
            signals.append(signal.SIGTERM)

    threading.Thread(target=trouble, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", str(HANG_S))
        with pytest.raises(Stopped) as stopped:
            run_training(jobs["broken"], workers=2, signalled=lambda: sum(signals))
    gang(finish_both, (str(folder / "rendezvous"), jobs), 2)
    return Struck(folder / "unbroken", folder / "broken", hits, stopped.value)


def check_made_again(start: dict[str, Any], hit: Hit) -> None:
    """It begins at a checkpoint, at most one before the last due; the steps between are counted as lost."""
    assert start["step"] % CHECKPOINT_STEPS == 0 or start["step"] % 24 == 0
    assert hit.step <= start["step"] + start["lost_steps"]
    assert start["lost_steps"] < 2 * CHECKPOINT_STEPS  # the last one may still be being written


@pytest.mark.ray
@pytest.mark.slow
def test_the_same_bits_whatever_happened(struck: Struck) -> None:
    whole, mended = final_tensors(struck.unbroken), final_tensors(struck.broken)
    assert whole.keys() == mended.keys()
    assert all(torch.equal(whole[name], mended[name]) for name in whole)
    ended = [events(run, "valid")[-1] for run in (struck.unbroken, struck.broken)]
    assert ended[0]["ctcvr.log_loss"] == ended[1]["ctcvr.log_loss"]
    assert [start["workers"] for start in struck.starts] == [2] * 5
    assert len(struck.failures) == 3  # what the driver asks for is none


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_worker_costs_the_steps_since_the_checkpoint(struck: Struck) -> None:
    check_made_again(struck.starts[1], struck.hits[0])


@pytest.mark.ray
@pytest.mark.slow
def test_a_worker_that_is_told_to_go_costs_nothing(struck: Struck) -> None:
    assert struck.starts[2]["lost_steps"] == 0
    assert struck.starts[2]["step"] >= struck.hits[1].step
    assert "Preempted" in str(struck.failures[1]["workers"])


@pytest.mark.ray
@pytest.mark.slow
def test_a_worker_that_stands_still_is_found_and_replaced(struck: Struck) -> None:
    """In the time that is set for it, where Ray would wait ten minutes; what is left of it is ended."""
    hit, found = struck.hits[2], struck.failures[2]
    assert "HealthCheckTimeout" in str(found["workers"])
    assert HANG_S - 1 < found["time"] - hit.time < HANG_S + 60  # a busy machine adds to it
    assert not is_train_worker(str(hit.pid))
    check_made_again(struck.starts[3], hit)


@pytest.mark.ray
@pytest.mark.slow
def test_a_driver_that_is_told_to_stop_loses_nothing(struck: Struck) -> None:
    assert struck.stopped.signal == signal.SIGTERM
    assert struck.stopped.step >= struck.hits[3].step
    assert struck.starts[4]["step"] == struck.stopped.step
    assert struck.starts[4]["lost_steps"] == 0


STUCK_S = 3.0


def stick(rank: int, rendezvous: str, job: TrainJob) -> None:
    """One of two plain gloo processes; the second never comes back from its epoch's end, the first says what it met."""
    torch.set_num_threads(1)
    meet = {"init_method": f"file://{rendezvous}", "rank": rank, "world_size": 2}
    dist.init_process_group("gloo", timeout=timedelta(seconds=STUCK_S), **meet)
    began = time.monotonic()

    def on_epoch(figures: dict[str, Any]) -> bool:
        nonlocal began
        began = time.monotonic()
        if rank == 1:
            threading.Event().wait()
        return True

    try:
        train(job, Context(rank, 2), on_epoch)
    except RuntimeError as error:
        told = {"error": str(error), "after_s": time.monotonic() - began}
        (Path(job.run) / "told.json").write_text(json.dumps(told))
    os._exit(0)


@pytest.mark.slow
def test_a_thread_that_is_stuck_is_an_error_for_the_others(small_log: Path, tmp_path: Path) -> None:
    """Its process answers: what finds it is that the others wait for it in a collective, for so long and no longer."""
    job = job_of(tmp_path, small_log, config(epochs=2))
    rendezvous = str(tmp_path / "rendezvous")
    workers = [forking().Process(target=stick, args=(rank, rendezvous, job), daemon=True) for rank in range(2)]
    for process in workers:
        process.start()
    workers[0].join(120)
    assert workers[0].exitcode == 0
    assert workers[1].is_alive()
    workers[1].kill()
    told = json.loads((tmp_path / "told.json").read_text())
    assert "timed out" in told["error"].lower()
    assert STUCK_S - 1 < told["after_s"] < STUCK_S + 60


def write_slowly(job: TrainJob) -> None:
    """Train, with a pause after each file of a checkpoint: steps go on, and one is nearly always being written."""
    proper = checkpoint_store.sync

    def slow(path: Path) -> None:
        time.sleep(0.1)
        proper(path)

    checkpoint_store.sync = slow  # type: ignore[assignment]
    train(job)


@pytest.mark.slow
def test_a_process_killed_while_it_writes_loses_nothing_that_stood(small_log: Path, tmp_path: Path) -> None:
    settings = config(checkpoint_steps=3, patience=0)
    train_here(tmp_path / "unbroken", small_log, settings)
    run = tmp_path / "broken"
    run.mkdir()
    job = job_of(run, small_log, settings)
    process = forking().Process(target=write_slowly, args=(job,))
    process.start()
    store = CheckpointStore(run / CHECKPOINTS)
    while process.is_alive():
        stood = store.latest()
        if stood is not None and stood.name >= "step-00000006" and list(store.directory.glob(".*.tmp/*")):
            process.kill()
            break
        time.sleep(0.005)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    latest = store.latest()
    assert latest is not None
    assert stood is not None
    assert latest >= stood
    assert read_checkpoint(latest).progress.step >= 6
    train_here(run, small_log, settings)
    assert not list(store.directory.glob(".*.tmp"))
    whole, resumed = final_tensors(tmp_path / "unbroken"), final_tensors(run)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
