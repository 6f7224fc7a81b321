"""Who works on a run and how far it is: RUN/process.json, written by the run itself.

    with present(out) as process:
        process.update(unit="epochs", done=1.5, total=4, figures={"loss": 0.31})

jobs.status reads it and so needs to know no kind of run. A process that is killed leaves the file as it was; on the
same machine it can be seen that the process is gone.
"""

import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from data.files import write_whole
from jobs.run.directory import SUMMARY_FILE, read_json, write_json

PROCESS_FILE = "process.json"
ALIVE, GONE, UNKNOWN = "alive", "gone", "unknown"
FINISHED = "finished"
EVERY_S, ALIVE_S = 1.0, 30.0
"""Between two writes: at least, and at most."""


class Process:
    """The file of one run, while it goes on. A thread writes it again where there is no news for long, so that a reader
    on another machine sees that the process lives."""

    def __init__(self, out: Path) -> None:
        self.path = out / PROCESS_FILE
        self.about: dict[str, Any] = {
            "host": platform.node(),
            "pid": os.getpid(),
            "born": started_at(os.getpid()),
            "since": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "job": os.environ.get("COUNTERPOINT_RUN_ID"),
        }
        self.begun: tuple[float, float] | None = None
        """Time and `done` of the first update: what the rate is measured from."""
        self._written = 0.0
        self._lock, self._ended = threading.Lock(), threading.Event()

    def begin(self) -> None:
        """From here on the run says that this process works on it."""
        write_json(self.path, self.about)
        threading.Thread(target=self._show_life, name="process.json", daemon=True).start()

    def update(
        self,
        unit: str,
        done: float,
        total: float | None,
        figures: dict[str, Any] | None = None,
        now: str = "",
        may_end_early: bool = False,
    ) -> None:
        """`done` of `total` units; `figures`: what people look at, by the names they know; `now`: what it is at.

        Costs a dictionary; the file is written at most once a second.
        """
        moment = time.time()
        self.begun = self.begun or (moment, done)
        since, first = self.begun
        rate = (done - first) / (moment - since) if moment > since else 0.0
        with self._lock:
            self.about |= {"unit": unit, "done": done, "total": total, "rate": rate, "now": now}
            self.about |= {"figures": figures or {}, "may_end_early": may_end_early}
            if moment - self._written >= EVERY_S:
                self._written = moment
                self._write()

    def _write(self) -> None:
        """Whole, but without fsync, which may take seconds on a busy disk: after a power cut nobody asks how far a
        process had been. A full disk is no reason to end here; the run says so where it cannot do without."""
        with suppress(ValueError):
            write_whole(self.path, json.dumps(self.about, default=float), durable=False)

    def _show_life(self) -> None:
        while not self._ended.wait(ALIVE_S):
            with self._lock:
                self._write()

    def end(self, kind: str, message: str = "") -> None:
        """`kind`: finished, or the name of the exception that ended the run."""
        self._ended.set()
        with self._lock:
            self.about["ended"] = {"kind": kind, "message": message, "at": time.time()}
            self._write()


@contextmanager
def present(out: Path) -> Iterator[Process]:
    """Say in `out`, an existing run directory, that this process works on it, and how it ended."""
    process = Process(out)
    try:
        process.begin()  # within: a signal that comes before it has returned is an end of the run as well
        yield process
    except BaseException as error:
        process.end(type(error).__name__, " ".join(str(error).split()))
        raise
    process.end(FINISHED)


def find_process(out: Path) -> tuple[str, dict[str, Any]]:
    """(alive, gone or unknown, process.json). Unknown: no process said that it works here, or it is of another host."""
    path = out / PROCESS_FILE
    if not path.exists() or not path.read_bytes().strip(b"\0 \n"):  # or emptied by a power cut
        return UNKNOWN, {}
    about = read_json(path)
    ended, pid, born = about.get("ended"), about.get("pid"), about.get("born")
    # Of an end that went well the summary is written a moment later, after a judgement on held-out data, say.
    if ended and (ended.get("kind") != FINISHED or (out / SUMMARY_FILE).exists()):
        return GONE, about
    if about.get("host") != platform.node() or not isinstance(pid, int) or born is None:
        return UNKNOWN, about
    # A number is given to another process in time; when it was started tells them apart.
    return (ALIVE if started_at(pid) == born else GONE), about


def started_at(pid: int) -> int | None:
    """Clock ticks from the machine's start to that of a process; None if there is none (or no /proc to ask)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # a process may have any name, with brackets too
    return None if fields[0] == "Z" else int(fields[19])
