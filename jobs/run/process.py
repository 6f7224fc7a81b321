"""Who works on a run: RUN/process.json while it goes on, with the reason if it ended otherwise than well.

    with present(out):
        ...                     # the file names this process; it is gone after a good end

A process that is killed leaves its name behind; where the same machine is asked, that it is gone can be told.
"""

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


@contextmanager
def present(out: Path) -> Iterator[None]:
    """Say in `out`, an existing run directory, that this process works on it, and how it ended if not well."""
    about: dict[str, Any] = {
        "host": platform.node(),
        "pid": os.getpid(),
        "born": birth(os.getpid()),
        "since": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "job": os.environ.get("COUNTERPOINT_RUN_ID"),
    }
    try:
        write_json(out / PROCESS_FILE, about)
        yield
    except BaseException as error:
        message = " ".join(str(error).split())
        about["ended"] = {"kind": type(error).__name__, "message": message, "at": time.time()}
        with suppress(ValueError):  # a full disk may be why it ended
            write_json(out / PROCESS_FILE, about)
        raise
    (out / PROCESS_FILE).unlink(missing_ok=True)


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
