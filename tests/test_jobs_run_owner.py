"""One process at a time in a run directory: real processes, owners that were killed, owners on other machines."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import error_line, wait_until

from data.errors import UserError
from jobs import calibrate, evaluate, evolve, pipeline, train, tune
from jobs.run import owner
from jobs.run.owner import owned

ROOT = Path(__file__).resolve().parent.parent
HOLD = """
import sys, time
from pathlib import Path
from jobs.run.owner import owned
with owned(Path(sys.argv[1])):
    print("here", flush=True)
    time.sleep(600)
"""
ELSEWHERE = {"host": "other", "pid": 77, "since": "2026-01-01T00:00:00+0000", "machine": "another", "token": "x"}
EVOLVE = ("--objective", "sphere", "--workers", "0", "--generations", "3")


@contextmanager
def holder(out: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns the directory."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        yield process
    finally:
        process.kill()
        process.wait()


def signed_by(out: Path, about: dict[str, Any], age_s: float = 0.0) -> Path:
    """The lock file that an owner has left."""
    out.mkdir(exist_ok=True)
    lock = out / ".lock"
    lock.write_text(json.dumps(about))
    os.utime(lock, (time.time() - age_s,) * 2)
    return lock


@pytest.mark.slow
def test_two_commands_on_one_directory(tmp_path: Path) -> None:
    """A long evolution is at work; the same command again ends with 2 and one line, and disturbs nothing."""
    out = tmp_path / "run"
    words = [sys.executable, "-m", "jobs.evolve", "--objective", "sphere", "--workers", "0", "--out", str(out),
             "--generations", "10000000"]  # fmt: skip
    first = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not (out / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
            assert first.poll() is None, first.stderr and first.stderr.read()
            time.sleep(0.1)
        second = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert second.returncode == 2
        assert second.stderr.count("\n") == 1
        assert f"process {first.pid} on {os.uname().nodename} has been at work there since 20" in second.stderr
        assert first.poll() is None
        first.kill()
        first.wait()
        with owned(out):  # at once: the kernel has let go of it
            pass
    finally:
        first.kill()
        first.wait()


def test_every_command_says_who_works_there(
    small_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    commands: list[tuple[Any, tuple[Any, ...]]] = [
        (train, ("--data", small_log, "--out", out, "--workers", "0")),
        (evolve, (*EVOLVE, "--out", out)),
        (tune, ("--data", small_log, "--out", out, "--samples", "1", "--concurrent", "1")),
        (pipeline, ("--data", small_log, "--out", out, "--workers", "0")),
    ]
    with holder(out) as process:
        for command, words in commands:
            line = error_line(command, words, monkeypatch, capsys)
            assert f"process {process.pid} on {os.uname().nodename} has been at work there since" in line
        assert sorted(path.name for path in out.iterdir()) == [".lock"]


def test_a_run_is_calibrated_and_evaluated_by_one_at_a_time(
    place: Path, small_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, judged = place / "run", tmp_path / "judged"
    with holder(run) as process:
        assert f"process {process.pid} on" in error_line(calibrate, ("--run", run), monkeypatch, capsys)
    with holder(judged) as process:
        words = ("--run", run, "--data", small_log, "--out", judged)
        assert f"process {process.pid} on" in error_line(evaluate, words, monkeypatch, capsys)


def test_a_killed_owner_leaves_no_lock(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with holder(out) as process:
        with pytest.raises(UserError, match=rf"process {process.pid} on .* since .* one process at a time"), owned(out):
            pass
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert json.loads((out / ".lock").read_text())["pid"] == process.pid
        started = time.monotonic()
        with owned(out):
            assert json.loads((out / ".lock").read_text())["pid"] == os.getpid()
        assert time.monotonic() - started < owner.LOST_S / 2


def test_what_was_not_begun_leaves_nothing(tmp_path: Path) -> None:
    with owned(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / ".lock").exists()
    assert not (tmp_path / "a").exists()
    with owned(tmp_path / "run"):
        (tmp_path / "run" / "run.json").write_text("{}")
    assert (tmp_path / "run" / ".lock").read_text() == ""


def test_what_an_owner_calls_may_own_it_too_but_no_other_thread(tmp_path: Path) -> None:
    found: list[str] = []

    def other() -> None:
        try:
            with owned(tmp_path / "run"):
                found.append("in")
        except UserError as error:
            found.append(str(error))

    with owned(tmp_path / "run"):
        with owned(tmp_path / "run"):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert f"process {os.getpid()} on" in found[0]


def test_an_owner_elsewhere_that_is_seen_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its touches go on: it lives, though its lock means nothing here."""
    monkeypatch.setattr(owner, "LOOK_S", 0.05)
    lock = signed_by(tmp_path / "run", ELSEWHERE, age_s=20)
    threading.Timer(0.3, os.utime, (lock,)).start()
    with pytest.raises(UserError, match="process 77 on other has been at work there since 2026-01-01"):
        owned(tmp_path / "run").__enter__()
    assert json.loads(lock.read_text()) == ELSEWHERE


@pytest.mark.slow
def test_an_owner_elsewhere_that_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once if its last touch is old, else once it has been silent for so long."""
    signed_by(tmp_path / "old", ELSEWHERE, age_s=owner.LOST_S + 1)
    started = time.monotonic()
    with owned(tmp_path / "old"):
        assert time.monotonic() - started < owner.LOST_S / 2
    monkeypatch.setattr(owner, "LOOK_S", 0.05)
    monkeypatch.setattr(owner, "LOST_S", 2.0)
    touched = signed_by(tmp_path / "new", ELSEWHERE, age_s=0.5).stat().st_mtime
    with owned(tmp_path / "new"):
        assert touched + 2 <= time.time() < touched + 20  # what a busy machine adds


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the name and the touches decide, on one machine too."""

    def none(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "no locks here")

    monkeypatch.setattr(owner, "LOOK_S", 0.05)
    monkeypatch.setattr(owner, "LOST_S", 20.0)
    monkeypatch.setattr(fcntl, "flock", none)
    here = {**ELSEWHERE, "machine": owner.machine()}
    lock = signed_by(tmp_path / "run", here)
    threading.Timer(0.3, os.utime, (lock,)).start()
    with pytest.raises(UserError, match="process 77 on other"):
        owned(tmp_path / "run").__enter__()
    monkeypatch.setattr(owner, "LOST_S", 0.5)
    signed_by(tmp_path / "run", here)
    with owned(tmp_path / "run"):
        assert json.loads(lock.read_text())["pid"] == os.getpid()


def test_an_owner_that_was_taken_for_lost_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by SIGTERM, and without touching the lock of the other."""
    monkeypatch.setattr(owner, "BEAT_S", 0.05)
    ended = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        with owned(tmp_path / "run"):
            (tmp_path / "run" / "run.json").write_text("{}")
            lock = signed_by(tmp_path / "run", ELSEWHERE, age_s=5)
            assert ended.wait(60)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert json.loads(lock.read_text()) == ELSEWHERE
    assert time.time() - lock.stat().st_mtime > 4


def test_a_live_owner_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "BEAT_S", 0.05)
    with owned(tmp_path / "run"):
        lock = tmp_path / "run" / ".lock"
        os.utime(lock, (1, 1))
        wait_until(lambda: lock.stat().st_mtime >= 2)
        assert time.time() - lock.stat().st_mtime < 60


def test_a_run_directory_inside_a_file(
    small_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file" / "x", tmp_path / "file" / "x" / "y"):
        for command, words in (
            (train, ("--data", small_log, "--out", out, "--workers", "0")),
            (evolve, (*EVOLVE, "--out", out)),
            (tune, ("--data", small_log, "--out", out, "--samples", "1", "--concurrent", "1")),
            (pipeline, ("--data", small_log, "--out", out, "--workers", "0")),
        ):
            assert f"{out}: cannot be written (" in error_line(command, words, monkeypatch, capsys)


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_a_directory_too_long_for_sockets(
    small_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Before anything is written."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv(name, "/tmp/" + "x" * 60)
    out = tmp_path / "run"
    for command, words in (
        (train, ("--data", small_log, "--out", out, "--workers", "1")),
        (evolve, ("--objective", "sphere", "--generations", "3", "--out", out, "--workers", "1")),
        (tune, ("--data", small_log, "--out", out, "--samples", "1", "--concurrent", "1")),
        (pipeline, ("--data", small_log, "--out", out, "--workers", "1")),
    ):
        line = error_line(command, words, monkeypatch, capsys)
        assert f"{name}=/tmp/xxx" in line
        assert "(65 bytes, at most 39); set RAY_TMPDIR to a shorter directory" in line
        assert not out.exists()
