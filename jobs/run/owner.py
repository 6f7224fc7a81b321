"""A run directory belongs to one process at a time: RUN/.lock, which no owner leaves behind, however it ends.

    with owned(out):
        ...                                # whoever else comes is told, in one line, who works here and since when

The file is locked by the system (flock), holds who the owner is, and is touched every BEAT_S. Which of these decides:

    one machine                            the lock: the kernel lets go of it when its process ends, by SIGKILL too
    another machine that shares locks      the lock (NFS 4, CephFS, Lustre mounted with flock); after a power cut it is
                                           free once the file server has noticed
    another machine, no shared locks       the touches: an owner that has not been seen for LOST_S counts as gone

An owner that was frozen for so long that another took over finds the other's name in the file and ends as by SIGTERM.
"""

import errno
import fcntl
import json
import os
import platform
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.files import unwritable
from jobs.run.directory import LOCK_FILE, RUN_FILE, RunState, inspect_run

BEAT_S, LOST_S, LOOK_S = 10.0, 60.0, 1.0
"""Between two touches; an owner elsewhere without one for so long is gone; between two looks for one."""
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
"""What a file system answers that has no locks."""
BOOT = Path("/proc/sys/kernel/random/boot_id")


HELD: dict[Path, int] = {}
"""Directories that this process owns, and the thread that took each: what that calls may own it too."""


@contextmanager
def entered(
    out: Path, kind: str, config: dict[str, Any], may_change: frozenset[str] = frozenset()
) -> Iterator[RunState]:
    """What `out` holds for a run (inspect_run); unless that is done, this process owns it while the body runs."""
    state = inspect_run(out, kind, config, may_change)
    if state is RunState.DONE:
        yield state
        return
    with owned(out):
        yield inspect_run(out, kind, config, may_change)  # again: until now somebody else may have worked there


@contextmanager
def owned(out: Path) -> Iterator[None]:
    """This process alone works in `out` while the body runs. Raises UserError if another one does.

    The directory is made if need be; if the body ends before a run began there, nothing of it is left.
    """
    place, thread = out.resolve(), threading.get_ident()
    if HELD.get(place) == thread:
        yield
        return
    made = made_directories(out)
    try:
        descriptor, locks = take(out)
        try:
            look_elsewhere(out, locks)
            with signing(out, descriptor):
                HELD[place] = thread
                try:
                    yield
                finally:
                    del HELD[place]
        finally:
            os.close(descriptor)
    finally:
        if not (out / RUN_FILE).exists():
            for directory in made:
                with suppress(OSError):  # somebody's files are in it
                    directory.rmdir()


@contextmanager
def signing(out: Path, descriptor: int) -> Iterator[None]:
    """The lock file names this process and is touched while the body runs. Where no run was begun it goes away then."""
    mine, ended = about_me(), threading.Event()
    sign(descriptor, mine)
    thread = threading.Thread(target=beat, args=(out, mine, ended), name="owner", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        with suppress(OSError):
            if signed(out / LOCK_FILE)[0] == mine:
                sign(descriptor, {})
                if not (out / RUN_FILE).exists():
                    (out / LOCK_FILE).unlink()  # while it is locked: see `take`


def made_directories(out: Path) -> list[Path]:
    """Make `out`; which directories that made, the deepest first. Raises UserError of one line if that cannot be."""
    absent = [path for path in (out, *out.parents) if not path.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(unwritable(out, error)) from error
    return absent


def take(out: Path) -> tuple[int, bool]:
    """(descriptor of the lock file, whether the file system has locks). Raises UserError if somebody holds it."""
    path = out / LOCK_FILE
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise UserError(unwritable(path, error)) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_LOCKS:
                return descriptor, False
            os.close(descriptor)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise UserError(taken(out, signed(path)[0])) from None
            raise
        if os.fstat(descriptor).st_nlink:
            return descriptor, True
        os.close(descriptor)  # its last owner began nothing and removed it after we had opened it


def look_elsewhere(out: Path, locks: bool) -> None:
    """Where the lock says nothing of the last owner: wait until it is seen again (UserError), or has been lost."""
    path = out / LOCK_FILE
    owner, touched = signed(path)
    if not owner or (locks and owner.get("machine") == machine()):
        return
    age = now_at(out) - touched
    if age >= LOST_S:
        return
    where = f"process {owner.get('pid')} on {owner.get('host')}"
    print(f"{out}: {where} wrote {max(age, 0):.0f} s ago; waiting whether it still does", file=sys.stderr)
    deadline = time.monotonic() + LOST_S - max(age, 0.0)
    while time.monotonic() < deadline:
        time.sleep(LOOK_S)
        found, again = signed(path)
        if not found:
            return
        if again != touched or found != owner:
            raise UserError(taken(out, found))


def beat(out: Path, mine: dict[str, Any], ended: threading.Event) -> None:
    """Touch the file again and again. Where it names another owner, who took us for lost, this process ends."""
    while not ended.wait(BEAT_S):
        with suppress(OSError):  # a disk that is away for a while is no reason to end
            found = signed(out / LOCK_FILE)[0]
            if found and found != mine:
                print(taken(out, found), file=sys.stderr)
                os.kill(os.getpid(), signal.SIGTERM)
                return
            if found:
                os.utime(out / LOCK_FILE)


def about_me() -> dict[str, Any]:
    return {
        "host": platform.node(),
        "pid": os.getpid(),
        "since": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": machine(),
        "token": secrets.token_hex(8),
    }


def machine() -> str:
    """Which machine this is, since it was switched on: containers on it share its locks, whatever they are called."""
    try:
        return BOOT.read_text().strip()
    except OSError:
        return platform.node()


def sign(descriptor: int, owner: dict[str, Any]) -> None:
    """Write into the lock file who owns it; nobody, if `owner` is empty."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(owner).encode() if owner else b"", 0)


def signed(path: Path) -> tuple[dict[str, Any], float]:
    """(owner, or {} if it names none; when it was touched, by the file system's clock).

    Opened, not only asked about: a network file system answers from memory otherwise.
    """
    try:
        with path.open("rb") as file:
            return parsed(file.read(1 << 12)), os.fstat(file.fileno()).st_mtime
    except OSError:
        return {}, 0.0


def parsed(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def now_at(out: Path) -> float:
    """The time by the clock of the file system, which may be another machine's."""
    probe = out / f"{LOCK_FILE}.{os.getpid()}.tmp"
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def taken(out: Path, owner: dict[str, Any]) -> str:
    """Who works there, in one line."""
    who = f"process {owner.get('pid')} on {owner.get('host')}" if owner else "another process"
    since = f" since {owner.get('since')}" if owner else ""
    return f"{out}: {who} has been at work there{since}; a run directory belongs to one process at a time"
