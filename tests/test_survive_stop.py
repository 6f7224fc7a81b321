"""A training that is told to stop, or cannot go on: what it has is saved, one line says so, and it can go on."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from conftest import begin, forking
from support import Settings, config, events, job_of, same_bits, train_here

from data.errors import UserError
from distributed.checkpoint.read import OPTIMIZER, RECORD, read_checkpoint, sealed
from distributed.checkpoint.store import CheckpointStore
from distributed.training import launch as trainer
from distributed.training import ray_group as worker_group
from distributed.training.launch import run_training
from distributed.training.learner import Learner
from distributed.training.ray_group import FAILURES, TRIES, Failures, GivenUp, Preempted
from distributed.training.recorder import CHECKPOINTS
from distributed.training.stopping import GRACE_S, SIGNALS, Stopped, read_code
from es.checkpoint import read_checkpoint as read_es_checkpoint
from funnel.batch import Batch

ROOT = Path(__file__).resolve().parent.parent
STEPS = 24  # an epoch's, of the small log


@pytest.fixture(scope="module")
def unbroken(small_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("stops") / "unbroken"
    train_here(run, small_log, config())
    return run


def stopped_at(run: Path, log: Path, looks: int, given: Settings | None = None) -> Stopped:
    """Train in this process; the signal is there when the loop looks for it for the so-manieth time."""
    job = job_of(run, log, given or config())
    left = [looks]

    def signalled() -> int:
        left[0] -= 1
        return signal.SIGTERM if left[0] < 0 else 0

    with pytest.raises(Stopped) as stopped:
        run_training(job, workers=0, signalled=signalled)
    return stopped.value


def test_a_stop_at_any_moment_loses_nothing(unbroken: Path, small_log: Path, tmp_path: Path) -> None:
    """No checkpoint but at the epochs' ends, and the one of the stop: in the first step, in the middle, in a
    validation, after it, in the last evaluation. One run, stopped again and again, ends with the same bits."""
    steps = []
    for looks in (0, 7, 18, 2, 3, 20):
        stopped = stopped_at(tmp_path, small_log, looks)
        assert stopped.code == SIGNALS + signal.SIGTERM
        assert stopped.signal == signal.SIGTERM
        latest = CheckpointStore(tmp_path / CHECKPOINTS).latest()
        assert latest is not None
        assert latest.name == f"step-{stopped.step:08d}"
        steps.append(stopped.step)
    assert steps[:3] == [0, 7, STEPS]  # looked at before each step, and before each row group of a validation
    assert steps[3] == STEPS
    assert steps == sorted(steps)
    train_here(tmp_path, small_log, config())
    same_bits(unbroken, tmp_path)
    whole = [(event["step"], event["ctcvr.log_loss"]) for event in events(unbroken, "valid")]
    assert [(event["step"], event["ctcvr.log_loss"]) for event in events(tmp_path, "valid")] == whole
    assert [event["lost_steps"] for event in events(tmp_path, "start")] == [0] * 7


def train_and_die(run: Path, log: Path, at: int) -> None:
    step = Learner.step

    def dying(self: Learner, batch: Batch, number: int) -> dict[str, torch.Tensor]:
        if number == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, batch, number)

    Learner.step = dying  # type: ignore[method-assign]
    train_here(run, log, config())


@pytest.mark.parametrize("embedding", ["adagrad", "adam"])
def test_a_run_stopped_before_its_first_step_goes_on(small_log: Path, tmp_path: Path, embedding: str) -> None:
    """Twice in a row, and to the bits of the unbroken run. There is nothing to keep of Adagrad's dense state yet."""
    given = config(optimizer__embedding=embedding, epochs=1)
    (tmp_path / "stopped").mkdir()
    for _ in range(2):
        assert stopped_at(tmp_path / "stopped", small_log, 0, given).step == 0
    assert train_here(tmp_path / "stopped", small_log, given)["train.steps"] == STEPS
    train_here(tmp_path / "unbroken", small_log, given)
    same_bits(tmp_path / "stopped", tmp_path / "unbroken")


def test_a_moment_file_that_is_gone_after_a_step_is_missed(small_log: Path, tmp_path: Path) -> None:
    """Only before the first step may there be none."""
    stopped_at(tmp_path, small_log, 3, config(optimizer__embedding="adagrad"))
    latest = CheckpointStore(tmp_path / CHECKPOINTS).latest()
    assert latest is not None
    record = json.loads((latest / RECORD).read_text())
    del record["checksums"][OPTIMIZER]
    (latest / RECORD).write_text(json.dumps(sealed(record)))
    (latest / OPTIMIZER).unlink()
    with pytest.raises(UserError, match=r"optimizer\.safetensors: cannot be read"):
        read_checkpoint(latest)


@pytest.mark.slow
def test_what_a_crash_loses_is_counted(unbroken: Path, small_log: Path, tmp_path: Path) -> None:
    """Killed in step 12 without a checkpoint: twelve steps are made again; then one more look, one stop, none lost."""
    process = forking().Process(target=train_and_die, args=(tmp_path, small_log, 12))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    figures = train_here(tmp_path, small_log, config())
    assert [event["lost_steps"] for event in events(tmp_path, "start")] == [0, 12]
    assert figures["train.lost_steps"] == 12
    (recovered,) = events(tmp_path, "recovered")
    assert 0 < recovered["down_s"] == figures["train.down_s"] < 60
    same_bits(unbroken, tmp_path)


# ---- what cannot be read or written


def test_a_file_that_vanishes_is_named_and_what_was_learned_is_kept(
    unbroken: Path, small_log: Path, tmp_path: Path
) -> None:
    log, run = tmp_path / "log", tmp_path / "run"
    shutil.copytree(small_log, log)
    job = job_of(run, log, config(stream__read_ahead=1))
    run.mkdir()
    gone = sorted((log / "train").glob("*.parquet"))[1]
    gone.rename(log / "kept")
    with pytest.raises(ValueError, match=rf"{gone}.*No such file") as raised:
        run_training(job, workers=0)
    assert "\n" not in str(raised.value)
    latest = CheckpointStore(run / CHECKPOINTS).latest()
    assert latest is not None  # of the steps before
    (log / "kept").rename(gone)
    settings = config(stream__read_ahead=1)
    run_training(job_of(run, log, settings), workers=0)
    same_bits(unbroken, run)


SMALL_DISK = """mount -t tmpfs -o size={kilobytes}k tmpfs {mount} || exit 77
cd {root}; {command}
code=$?
cp -r {mount}/run {copy}
exit $code"""


def on_a_small_disk(folder: Path, kilobytes: int, *words: str) -> subprocess.CompletedProcess[str]:
    """A command with `--out MOUNT/run`, MOUNT being a file system of so many KB in a mount namespace of its own; what
    it leaves is copied to FOLDER/copy."""
    mount = folder / "disk"
    mount.mkdir()
    command = shlex.join([sys.executable, "-m", *words, "--out", str(mount / "run")])
    script = SMALL_DISK.format(kilobytes=kilobytes, mount=mount, root=ROOT, command=command, copy=folder / "copy")
    done = subprocess.run(["unshare", "-Urm", "sh", "-c", script], capture_output=True, text=True, check=False)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
    return done


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_last_checkpoint_stands(small_log: Path, tmp_path: Path) -> None:
    """The model takes some 120 KB with its optimizer: several checkpoints fit while two are kept, then no more."""
    settings = ["--batch-size", "200", "--checkpoint-steps", "3", "--log-steps", "1", "--stream.lanes", "4"]
    settings += ["--patience", "0"]
    options = ["--data", str(small_log), "--workers", "0", "--epochs", "4", *settings]
    done = on_a_small_disk(tmp_path, 3000, "jobs.train", *options)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert re.search(r"error: .*/disk/run/.*cannot be written \(No space left on device\)", line)
    store = CheckpointStore(tmp_path / "copy" / CHECKPOINTS)
    latest = store.latest()
    assert latest is not None
    assert read_checkpoint(latest).progress.step > 0  # whole, by its checksums
    assert not list((tmp_path / "copy").rglob("*.tmp"))


@pytest.mark.slow
def test_a_full_disk_stops_an_evolution_in_one_line(tmp_path: Path) -> None:
    options = ["--objective", "sphere", "--workers", "0", "--generations", "3000", "--checkpoint-every", "20"]
    done = on_a_small_disk(tmp_path, 300, "jobs.evolve", *options)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]  # TensorBoard's may be beside it
    assert len(lines) == 1
    assert re.search(r"error: .*/disk/run/.*cannot be written \(No space left on device\)", lines[0])
    header, tensors = read_es_checkpoint(tmp_path / "copy" / "checkpoint.safetensors")
    assert header["counters"]["evaluations"] > 0
    assert int(tensors["generation"][0]) % 20 == 0
    assert not list((tmp_path / "copy").glob(".*.tmp"))


@pytest.mark.slow
def test_a_log_that_does_not_fit_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    done = on_a_small_disk(tmp_path, 24, "jobs.make_data", "--rows", "20000")
    assert done.returncode == 2
    assert re.fullmatch(
        r"error: .*/disk/run: cannot be written \(No space left on device\)\n", done.stderr.splitlines(True)[0]
    )
    assert not (tmp_path / "copy").exists()


# ---- the command, and when to give up


@pytest.mark.slow
def test_the_command_stops_with_143_and_says_that_it_goes_on(unbroken: Path, small_log: Path, tmp_path: Path) -> None:
    words = ["--data", small_log, "--out", tmp_path, "--workers", "0", "--epochs", "200"]
    words += ["--batch-size", "200", "--patience", "0", "--stream.lanes", "4"]
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        mark = tmp_path / ".step"
        before = mark.read_text() if mark.exists() else ""
        process = begin("jobs.train", *words, errors=tmp_path.with_suffix(".errors"))
        while process.is_alive() and (not mark.exists() or mark.read_text() == before):
            time.sleep(0.02)
        os.kill(process.pid, number)
        told = time.monotonic()
        process.join(60)
        errors = tmp_path.with_suffix(".errors").read_text()
        assert process.exitcode == code, errors
        assert re.fullmatch(r"stopped at step \d+; the same command goes on from here\n", errors)
        assert time.monotonic() - told < GRACE_S
        latest = CheckpointStore(tmp_path / CHECKPOINTS).latest()
        assert latest is not None
        assert latest.name == f"step-{int(errors.split()[3].rstrip(';')):08d}"
    starts = events(tmp_path, "start")
    assert len(starts) == 2
    assert starts[1]["step"] > 0
    assert starts[1]["lost_steps"] == 0


def test_a_group_that_does_not_stop_in_time_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal reaches the workers' file; after the grace the driver goes without them."""
    monkeypatch.setattr(trainer, "GRACE_S", 0.5)
    over = threading.Event()
    with pytest.raises(Stopped, match="not saved within") as stopped:
        trainer.wait_for(lambda: over.wait(60), tmp_path, lambda: signal.SIGTERM)
    assert not stopped.value.saved
    assert read_code(tmp_path) == SIGNALS + signal.SIGTERM
    over.set()


def test_a_group_that_gets_no_further_is_given_up(tmp_path: Path) -> None:
    """What Ray Train's controller is told of failures; a mistake ends the training at once, a notice never does."""
    failures = Failures(str(tmp_path), str(tmp_path / CHECKPOINTS))

    def fail(error: Exception) -> None:
        worker_group._failed = False
        failures.after_exception(None, {1: error})

    for _ in range(TRIES):
        fail(RuntimeError("peer reset\nthe connection"))
    fail(Preempted("stopped at step 3"))
    (tmp_path / CHECKPOINTS / "step-00000007").mkdir(parents=True)
    (tmp_path / CHECKPOINTS / "step-00000007" / "checkpoint.json").touch()
    for _ in range(TRIES):  # it has got further: counted anew
        fail(RuntimeError("peer reset"))
    with pytest.raises(GivenUp, match=r"failed 4 times without getting from step 7 .*: RuntimeError: peer reset"):
        fail(RuntimeError("peer reset"))
    with pytest.raises(UserError, match="not a whole parquet file"):
        fail(UserError("part-00000.parquet: not a whole parquet file"))
    lines = [json.loads(line) for line in (tmp_path / FAILURES).read_text().splitlines()]
    assert len(lines) == 2 * TRIES + 3
    assert lines[0]["workers"] == {"1": "RuntimeError: peer reset"}
