"""Who works on a run and how far it is: RUN/process.json, written by the run itself.

    with present(out) as process:
        process.update(unit="epochs", done=1.5, total=4, figures={"loss": 0.31})

jobs.status reads it and so needs to know no kind of run. A process that is killed leaves the file as it was; on the
same machine it can be seen that the process is gone.
"""

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jobs.run.directory import read_json, write_json

PROCESS_FILE = "process.json"
ALIVE, GONE, UNKNOWN = "alive", "gone", "unknown"
FINISHED = "finished"
EVERY_S = 1.0
"""Between two writes, at least."""


class Process:
    """The file of one run, while it goes on."""

    def __init__(self, out: Path) -> None:
        self.path = out / PROCESS_FILE
        self.about: dict[str, Any] = {
            "host": platform.node(),
            "pid": os.getpid(),
            "born": birth(os.getpid()),
            "since": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "job": os.environ.get("COUNTERPOINT_RUN_ID"),
        }
        self.begun: tuple[float, float] | None = None
        """Time and `done` of the first update: what the rate is measured from."""
        self._written = 0.0

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
        self.about |= {"unit": unit, "done": done, "total": total, "rate": rate, "now": now}
        self.about |= {"figures": figures or {}, "may_end_early": may_end_early}
        if moment - self._written >= EVERY_S:
            self._written = moment
            with suppress(OSError):  # where a run stands is not worth its end
                self._write()

    def _write(self) -> None:
        """Whole, but not synced to the disk: after a power cut nobody asks how far a process had been."""
        temporary = self.path.with_name(f".{PROCESS_FILE}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(self.about))
        temporary.replace(self.path)

    def end(self, kind: str, message: str = "") -> None:
        self.about["ended"] = {"kind": kind, "message": message, "at": time.time()}
        with suppress(ValueError):  # a full disk may be why it ended
            write_json(self.path, self.about)


@contextmanager
def present(out: Path) -> Iterator[Process]:
    """Say in `out`, an existing run directory, that this process works on it, and how it ended."""
    process = Process(out)
    write_json(process.path, process.about)
    try:
        yield process
    except BaseException as error:
        process.end(type(error).__name__, " ".join(str(error).split()))
        raise
    process.end(FINISHED)


def whereabouts(out: Path) -> tuple[str, dict[str, Any]]:
    """(alive, gone or unknown, process.json). Unknown: no process said that it works here, or it is of another host."""
    path = out / PROCESS_FILE
    if not path.exists():
        return UNKNOWN, {}
    about = read_json(path)
    if "ended" in about:
        return GONE, about
    pid = about.get("pid")
    if about.get("host") != platform.node() or not isinstance(pid, int):
        return UNKNOWN, about
    # A number is given to another process in time; when it was born tells them apart.
    return (ALIVE if birth(pid) == about.get("born") is not None else GONE), about


def birth(pid: int) -> int | None:
    """Clock ticks from the machine's start to that of a process; None if there is none (or no /proc to ask)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # a process may have any name, with brackets too
    return None if fields[0] == "Z" else int(fields[19])
