"""What the process of a pipeline holds to while it works: alone in its directory, quiet, stopped by a signal."""

import contextlib
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from jobs.cluster.connect import names_cluster
from jobs.run.directory import usable_cpus

LOCK, OUTPUT = ".lock", "output.log"
STOPPED = 143


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Nobody else works in `out`. Raises ValueError if somebody does."""
    lock = FileLock(out / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"--out {out}: another process is at work there") from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def threads(workers: int) -> Iterator[None]:
    """Leave the workers their CPUs: what this process computes beside them takes the others, at least one."""
    before = torch.get_num_threads()
    if workers and not names_cluster():
        torch.set_num_threads(max(1, usable_cpus() - workers))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def stops() -> Iterator[None]:
    """SIGTERM ends the pipeline with exit code 143 where it stands; what is saved is saved."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        print("stopped; the same command goes on from here", file=sys.stderr)
        raise SystemExit(STOPPED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def quiet(out: Path) -> Iterator[None]:
    """What the stages print goes to OUT/output.log; the pipeline has a line for each."""
    with (out / OUTPUT).open("a") as file, contextlib.redirect_stdout(file):
        yield


def clean(out: Path) -> None:
    """Remove what a kill left half-written."""
    for path in [*out.rglob(".*.tmp"), *out.rglob(".*.partial-*")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
