"""A run directory: run.json (what ran), metrics.jsonl (how it went), summary.json (how it ended), checkpoints.

    new run      the directory is absent or empty
    resume       it holds the same run, unfinished
    done         it holds the same run with its summary
Anything else in the directory is somebody's work and is refused.
"""

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from data.cpus import usable_cpus as usable_cpus
from data.credentials import check_tree
from data.errors import UserError
from data.files import make_directory, write_whole
from data.write import check_local
from jobs.run.records import check_record

COMMIT = "COUNTERPOINT_COMMIT"
RUN_FILE, METRICS_FILE, SUMMARY_FILE = "run.json", "metrics.jsonl", "summary.json"
LOCK_FILE = ".lock"
"""Who works there at the moment: jobs/run/owner.py."""


class RunState(Enum):
    NEW = "new"
    RESUME = "resume"
    DONE = "done"


def inspect_run(out: Path, kind: str, config: dict[str, Any], may_change: frozenset[str] = frozenset()) -> RunState:
    """Say what `out` holds for a run of this kind and config, writing nothing.

    `may_change` names config keys that a resumed run may change, dotted or whole branches (the number of workers,
    say). A place that is spelt another way is the same place.
    Raises UserError if the directory holds something else.
    """
    check_tree(config, f"--out {out}")
    check_local(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file, not a directory")
    if not out.exists() or all(half_written(path) for path in out.iterdir()):
        return RunState.NEW
    path = out / RUN_FILE
    if not path.exists():
        raise UserError(f"--out {out} is not empty and holds no {RUN_FILE}: choose a new directory")
    earlier = read_json(path)
    if earlier["kind"] != kind:
        raise UserError(f"--out {out} holds a {earlier['kind']} run, not a {kind} run: choose another directory")
    before, now = flatten(earlier.get("config", {})), flatten(json.loads(json.dumps(config)))
    differs = sorted(key for key in before.keys() | now.keys() if not same_value(before.get(key), now.get(key)))
    differs = [key for key in differs if key not in may_change and key.split(".")[0] not in may_change]
    if differs:
        # What both have says more than what one alone has, such as the settings of another kind of policy.
        key = next((one for one in differs if one in before and one in now), differs[0])
        more = f" (and {len(differs) - 1} more)" if len(differs) > 1 else ""
        raise UserError(
            f"--out {out} holds another run: {key} was {before.get(key)!r}, now {now.get(key)!r}{more}; "
            "choose another directory, or the same settings to continue it"
        )
    return RunState.DONE if (out / SUMMARY_FILE).exists() else RunState.RESUME


def same_value(before: Any, now: Any) -> bool:
    """Equal, or two ways to spell one place."""
    return bool(before == now or (isinstance(before, str) and isinstance(now, str) and same_place(before, now)))


def same_place(one: str, other: str) -> bool:
    """Whether two paths or URIs are one place: by another way (., .., links), with a slash at the end, as file://."""
    return bool(one) and bool(other) and place_of(one) == place_of(other)


def place_of(location: str) -> str:
    scheme, separator, rest = location.partition("://")
    if separator and scheme != "file":
        return location.rstrip("/")
    return os.path.realpath(os.path.expanduser(unquote(rest) if separator else location))


def half_written(path: Path) -> bool:
    """A run.json that a kill kept from its name, or the lock of who was to write it: no more of a run yet."""
    return path.name.startswith((f".{RUN_FILE}.", LOCK_FILE)) and path.name.endswith((".tmp", LOCK_FILE))


_command: ContextVar[list[str] | None] = ContextVar("command", default=None)


@contextmanager
def recorded_as(command: list[str]) -> Iterator[None]:
    """Runs that start inside keep these words as their command: those of a Python call, whose process has others."""
    token = _command.set(command)
    try:
        yield
    finally:
        _command.reset(token)


def start_run(out: Path, kind: str, config: dict[str, Any], facts: dict[str, Any]) -> None:
    """Create the directory and write run.json: config, command, git commit, versions, hardware, and the given facts."""
    command = _command.get() or sys.argv
    check_tree([config, facts, command], f"--out {out}")
    make_directory(out)
    record = {
        "kind": kind,
        "config": config,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": shlex.join(command),
        "git": git_commit(),
        "versions": versions(),
        "hardware": hardware(),
        **facts,
    }
    write_json(out / RUN_FILE, record)


def git_commit() -> str | None:
    """Of the checkout; a submitted job has none, and is told by who submitted it."""
    if told := os.environ.get(COMMIT):
        return told
    root = Path(__file__).resolve().parents[2]
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        dirty = subprocess.run(
            ["git", "--no-optional-locks", "status", "--porcelain"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")


def versions() -> dict[str, str]:
    names = ("ray", "torch", "numpy", "pyarrow")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}


def hardware() -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {"cpu": model, "cores": usable_cpus(), "memory_gib": round(memory / 2**30, 1)}


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raise UserError naming the file if it is absent or broken, or a run's record that is odd
    (jobs/run/records.py)."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds a JSON {type(value).__name__}, not an object")
    check_record(path, value, kind_of)
    return value


def kind_of(out: Path) -> str:
    """Of the run in a directory; empty where there is none."""
    return str(read_json(out / RUN_FILE)["kind"]) if (out / RUN_FILE).exists() else ""


def location_of(out: Path, record: dict[str, Any]) -> str:
    """Of the log that the run in `out` was made from, by its run.json. Raises UserError if that names none."""
    location = (record.get("data") or {}).get("location")
    if not location:
        raise UserError(f"{out / RUN_FILE}: names no log (its 'data' has no 'location'); say where it is with --data")
    return str(location)


def inside(root: Path, name: str) -> Path:
    """root/name for a name that a file held. UserError if it leads out: by `..`, as an absolute path, by a link."""
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{root}: the name {name!r} leads out of the directory")
    return path


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write whole or not at all. UserError if the disk is full or closed to us."""
    write_whole(path, json.dumps(value, indent=1) + "\n")
