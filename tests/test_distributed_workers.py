"""Several workers against one: collectives and the whole loop over plain gloo processes, then Ray Train itself."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from conftest import forking, gang
from test_distributed_train import config, events, final_tensors, train_here

from data.log import open_log
from distributed import checkpoint_store
from distributed.checkpoint import read_checkpoint
from distributed.checkpoint_store import CheckpointStore
from distributed.collectives import sum_gradients, sum_rows
from distributed.config import TrainConfig
from distributed.reporter import METRICS
from distributed.stopping import Stopped
from distributed.stream import TrainStream
from distributed.train_loop import CHECKPOINTS, Trainer, train
from distributed.trainer import TrainJob, prepare, run_training
from distributed.worker_group import FAILURES

WORKERS = 3
OBJECTIVES = ("escm2_dr", "escm2_snips")


def worker(rank: int, rendezvous: str, jobs: dict[str, TrainJob]) -> None:
    """One process of a gloo group. What it asserts fails the spawn, and so the fixture below."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=WORKERS)
    check_collectives(rank)
    check_same_weights_everywhere(rank, jobs["escm2_snips"])
    for job in jobs.values():
        assert train(job, rank, WORKERS, torch.device("cpu"))["train.workers"] == WORKERS
    dist.barrier()
    dist.destroy_process_group()


def check_collectives(rank: int) -> None:
    """Row gradients and dense gradients summed over ranks, against the sum formed in one place."""
    generator = torch.Generator().manual_seed(0)
    everyone = []
    for number in range(WORKERS):
        count = 0 if number == 1 else 20 + number  # rank 1 touched nothing
        ids = torch.unique(torch.randint(0, 60, (count,), generator=generator))
        everyone.append((ids, torch.randn(len(ids), 3, generator=generator)))
    expected = torch.zeros(60, 3)
    for ids, values in everyone:
        expected.index_add_(0, ids, values)
    ids, values = sum_rows(*everyone[rank])
    assert ids.tolist() == sorted({row for ids, _ in everyone for row in ids.tolist()})
    torch.testing.assert_close(torch.zeros(60, 3).index_copy_(0, ids, values), expected)

    first, second, resting = (torch.zeros(shape, requires_grad=True) for shape in ((2, 3), (4,), (5,)))
    first.grad = torch.full((2, 3), float(rank + 1))
    if rank == 0:
        second.grad = torch.arange(4.0)
    sum_gradients([first, resting, second])
    assert resting.grad is None  # no worker's loss reached it
    assert torch.equal(first.grad, torch.full((2, 3), WORKERS * (WORKERS + 1) / 2))
    assert second.grad is not None
    assert torch.equal(second.grad, torch.arange(4.0))


def check_same_weights_everywhere(rank: int, job: TrainJob) -> None:
    """After some steps every rank holds rank 0's bits: nobody drifts."""
    trainer = Trainer(job, torch.device("cpu"), rank, steps=24)
    log = open_log(job.location)
    stream = TrainStream(log, job.parts["train"], job.config.stream, job.config.batch_size, 0, rank, WORKERS)
    for step, batch in zip(range(6), stream.epoch(0), strict=False):
        trainer.step(batch, step)
    state = trainer.state()
    rows = {name: table.tensor for name, table in state.rows.items()}
    for name, tensor in sorted((state.model | state.optimizer | rows).items()):
        reference = tensor.clone()
        dist.broadcast(reference, src=0)
        assert torch.equal(reference, tensor), name


def settings_of(objective: str) -> TrainConfig:
    return config("epochs=1", f"objective.name={objective}")


@pytest.fixture(scope="module")
def three_workers(small_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of three plain gloo processes, by objective (one spawn for all: starting Python is what takes time)."""
    directory = tmp_path_factory.mktemp("three")
    jobs = {}
    for objective in OBJECTIVES:
        (directory / objective).mkdir()
        jobs[objective], _ = prepare(directory / objective, open_log(small_log), settings_of(objective), time.time())
    gang(worker, (str(directory / "rendezvous"), jobs), WORKERS)
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_three_workers_train_what_one_trains(
    three_workers: Path, small_log: Path, tmp_path: Path, objective: str
) -> None:
    """The same global batches, the same normalisation: equal weights to float32 tolerance after 24 steps."""
    alone = train_here(tmp_path, small_log, settings_of(objective))
    one, three = final_tensors(tmp_path), final_tensors(three_workers / objective)
    assert one.keys() == three.keys()
    for name in one:
        torch.testing.assert_close(three[name], one[name], rtol=2e-3, atol=2e-5, msg=name)
    (valid,) = events(three_workers / objective, "valid")
    (expected,) = events(tmp_path, "valid")
    assert valid["ctr.auc"] == pytest.approx(expected["ctr.auc"], abs=2e-4)
    assert valid["ctr.count"] == expected["ctr.count"]
    assert alone["train.steps"] == valid["step"]
    losses = [[event["loss"] for event in events(run, "step")] for run in (tmp_path, three_workers / objective)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def hit_workers(run: Path, number: int, step: int, starts: int, hit: list[int]) -> None:
    """Send a signal to one Ray Train worker once the run's so-manieth start has got some steps further than `step`."""
    deadline = time.time() + 300
    while time.time() < deadline:
        lines = (
            [json.loads(line) for line in (run / METRICS).read_text().splitlines(True)[:-1]]
            if (run / METRICS).exists()
            else []
        )
        begun = [number for number, line in enumerate(lines) if line["event"] == "start"]
        if len(begun) >= starts and lines[-1]["step"] >= step and len(lines) - begun[-1] > 3:
            pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and is_train_worker(entry)]
            if pids:
                os.kill(pids[-1], number)
                hit.append(pids[-1])
                return
        time.sleep(0.02)


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
        train(job, rank, 2, torch.device("cpu"))
    dist.destroy_process_group()


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_that_is_hit_three_times_ends_with_the_same_bits(
    ray_cluster: None, small_log: Path, tmp_path: Path
) -> None:
    """Ray Train, 2 workers, sharded tables: one worker is killed, one is told to go (SIGTERM), then the driver is told
    to stop. The rest is trained without Ray, as is the run that nothing happened to. And what it cost is counted."""
    settings = config("epochs=12", "checkpoint_steps=7", "log_steps=2", "patience=0", "tables=sharded")
    jobs = {}
    for name in ("unbroken", "broken"):
        (tmp_path / name).mkdir()
        jobs[name], _ = prepare(tmp_path / name, open_log(small_log), settings, time.time())
    hit: list[int] = []
    signals: list[int] = []

    def trouble() -> None:
        run = tmp_path / "broken"
        hit_workers(run, signal.SIGKILL, 30, 1, hit)
        hit_workers(run, signal.SIGTERM, 60, 2, hit)
        hit_workers(run, 0, 90, 3, hit)  # nothing: but the moment has come
        signals.append(signal.SIGTERM)

    threading.Thread(target=trouble, daemon=True).start()
    with pytest.raises(Stopped) as stopped:
        run_training(jobs["broken"], workers=2, signalled=lambda: sum(signals))
    assert stopped.value.signal == signal.SIGTERM
    assert len(set(hit)) == 3
    latest = CheckpointStore(tmp_path / "broken" / CHECKPOINTS).latest()
    assert latest is not None
    assert latest.name == f"step-{stopped.value.step:08d}"

    gang(finish_both, (str(tmp_path / "rendezvous"), jobs), 2)
    whole, mended = final_tensors(tmp_path / "unbroken"), final_tensors(tmp_path / "broken")
    assert whole.keys() == mended.keys()
    assert all(torch.equal(whole[name], mended[name]) for name in whole)
    starts = events(tmp_path / "broken", "start")
    assert [start["workers"] for start in starts] == [2] * 4
    assert 0 < starts[1]["lost_steps"] <= 7  # the kill; checkpoints are seven steps apart
    assert [start["lost_steps"] for start in starts[2:]] == [0, 0]  # both notices: nothing
    assert starts[3]["step"] == stopped.value.step
    failures = [json.loads(line) for line in (tmp_path / "broken" / FAILURES).read_text().splitlines()]
    assert len(failures) == 2
    assert "Preempted" in str(failures[1]["workers"])
    ended = [event for run in ("unbroken", "broken") for event in events(tmp_path / run, "valid")[-1:]]
    assert ended[0]["ctcvr.log_loss"] == ended[1]["ctcvr.log_loss"]


def write_slowly(job: TrainJob) -> None:
    """Train, with a pause after each file of a checkpoint: steps go on, and one is nearly always being written."""
    proper = checkpoint_store.sync

    def slow(path: Path) -> None:
        time.sleep(0.1)
        proper(path)

    checkpoint_store.sync = slow  # type: ignore[assignment]
    train(job, 0, 1, torch.device("cpu"))


@pytest.mark.slow
def test_a_process_killed_while_it_writes_loses_nothing_that_stood(small_log: Path, tmp_path: Path) -> None:
    settings = config("checkpoint_steps=3", "patience=0")
    train_here(tmp_path / "unbroken", small_log, settings)
    run = tmp_path / "broken"
    run.mkdir()
    job, _ = prepare(run, open_log(small_log), settings, time.time())
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


@pytest.mark.ray
@pytest.mark.slow
def test_a_users_mistake_in_a_worker_reaches_the_driver(ray_cluster: None, small_log: Path, tmp_path: Path) -> None:
    job, _ = prepare(tmp_path, open_log(small_log), config("optimizer.learning_rate=1e30"), time.time())
    with pytest.raises(ValueError, match="training diverged"):
        run_training(job, workers=1)
