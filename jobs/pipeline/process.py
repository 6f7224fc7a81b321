"""What the process of a pipeline holds to while it works: quiet, stopped by a signal."""

import contextlib
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.files import open_to_add

OUTPUT = "output.log"
STOPPED = 143


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
    with open_to_add(out / OUTPUT) as file, contextlib.redirect_stdout(file):
        yield


def clean(out: Path) -> None:
    """Remove what a kill left half-written: nobody else works in `out`, so whatever machine it was on."""
    for path in [*out.rglob(".*.tmp"), *out.rglob(".*.partial")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
