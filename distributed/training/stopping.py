"""Stopping between two steps: who may ask for it, and how all workers come to stop at the same one.

    Ctrl-C or SIGTERM of the driver        the driver writes it into RUN/.stop, which all workers look at
    SIGTERM of one worker, a spot machine  the worker notes it, and writes it into RUN/.stop for the others
    more or fewer workers than before      Ray Train is about to end the group, and waits for it
    what no other try would mend           a file of the log is gone, the disk is full

Each is a number. A step begins with a small message between all workers, in which each gives its own (0: go on); the
largest counts, for all of them, before the step has changed anything. Then the state is saved as it is.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from data import errors
from data.errors import UserError
from distributed.checkpoint.read import Progress, State
from distributed.checkpoint.store import CannotWrite, CheckpointStore, unwritable
from distributed.tables.collectives import agree, broadcast_object

RESIZED, PREEMPTED = 1, 2
SIGNALS = 100  # and the number of the signal that the driver has received
NO_INPUT, NO_STORAGE = 200, 201
FILE = ".stop"
LOOK_EVERY_S = 0.5
GRACE_S = 30.0
"""From a signal to the end of the process, at most. Clouds give 30 s (Google, Kubernetes) to two minutes (AWS)."""


class Interrupted(Exception):
    """All workers have agreed to stop before this step. `code` says why."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Stopped(errors.Stopped):
    """The run was stopped, and goes on where it was when it is started again. `signal`: what the driver received."""

    def __init__(self, code: int, step: int, saved: bool = True) -> None:
        super().__init__(code, step, saved)
        self.code, self.step, self.saved = code, step, saved
        self.signal = max(code - SIGNALS, 0)

    def __str__(self) -> str:
        return f"stopped at step {self.step}" if self.saved else f"stopped; not saved within {GRACE_S:g} s"


class Stop:
    """What asks this worker to stop, as far as it knows.

    `run`: the directory in which workers and driver find each other's word; None for a worker alone. `signalled`: the
    signal that this process has received, else 0.
    """

    def __init__(self, run: Path | None = None, signalled: Callable[[], int] = lambda: 0) -> None:
        self.run, self.signalled = run, signalled
        self.error: str | None = None
        self.found = 0
        self._looked = 0.0

    def code(self) -> int:
        """0: go on. Costs nothing, but looks into the file twice a second."""
        if self.found < NO_INPUT:
            received = self.signalled()
            own = max(asked, SIGNALS + received if received else 0)
            now = time.monotonic()
            if self.run is not None and now - self._looked > LOOK_EVERY_S:
                self._looked = now
                if own == PREEMPTED:
                    write_code(self.run, PREEMPTED)  # the others may be in the middle of a long validation
                own = max(own, read_code(self.run))
            self.found = max(self.found, own)
        return self.found

    def clear(self) -> None:
        """Forget what stopped an earlier start. Worker 0 calls it before any other looks."""
        if self.run is not None:
            write_code(self.run, 0)

    def fail(self, code: int, error: str) -> None:
        """Note what keeps this worker from going on; all find out at the next step. The first failure counts."""
        if self.error is None:
            self.found, self.error = code, error

    @contextmanager
    def storing(self) -> Iterator[None]:
        """What cannot be written in the body is noted and not raised: the other workers are waiting."""
        try:
            yield
        except OSError as error:
            self.fail(NO_STORAGE, unwritable(error))
        except CannotWrite as error:
            self.fail(NO_STORAGE, str(error))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """The same for what cannot be read."""
        try:
            yield
        except UserError as error:
            self.fail(NO_INPUT, str(error))


def save_and_stop(
    code: int,
    stop: Stop,
    store: CheckpointStore,
    state: Callable[[], State],
    progress: Progress,
    identity: dict[str, Any],
) -> NoReturn:
    """Save where the run stands and raise Stopped; UserError if a worker has failed. All workers call it.

    After a failed write nothing is saved: the checkpoints that stand are whole.
    """
    if code != NO_STORAGE:
        with stop.storing():
            store.wait()
        if not broadcast_object(store.holds(progress.step)):
            with stop.storing():
                store.save(state(), progress, identity)
                store.wait()
    agree(stop.error)
    raise Stopped(code, progress.step)


# ---- the file RUN/.stop


def write_code(run: Path, code: int) -> None:
    """Let all workers know. Written in place: who has looked before looks into the same file again."""
    with suppress(OSError):  # a full disk is found out elsewhere
        (run / FILE).write_text(str(code))


def read_code(run: Path) -> int:
    try:
        return int((run / FILE).read_text() or 0)
    except (OSError, ValueError):
        return 0


# ---- a process of its own: what happens to a worker's main thread while another one trains

asked = 0
"""What was asked of this process by a signal or by Ray Train."""
_training_ended = threading.Event()


def listen() -> None:
    """Take SIGTERM for a notice. To be called in the main thread; a second SIGTERM ends the process."""
    global asked
    asked = 0
    _training_ended.clear()
    before = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: Any) -> None:
        ask(PREEMPTED)
        signal.signal(number, before)

    signal.signal(signal.SIGTERM, handle)


def ask(code: int) -> None:
    global asked
    asked = max(asked, code)


def ended() -> None:
    """The training in this process is over."""
    _training_ended.set()


def finish(code: int, timeout_s: float) -> bool:
    """Ask for an end, and wait for it."""
    ask(code)
    return _training_ended.wait(timeout_s)
