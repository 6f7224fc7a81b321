"""Where one run stands, whatever it is: from what it says of itself in process.json, and how old its files are."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.errors import UserError
from jobs.run.directory import METRICS_FILE, RUN_FILE, SUMMARY_FILE, read_json
from jobs.run.process import ALIVE, FINISHED, GONE, PROCESS_FILE, find_process

NEW, GOES_ON, STOPPED, DIVERGED = "new", "running", "stopped", "diverged"
STATES_AT_AN_END = (FINISHED, STOPPED, DIVERGED)
FRESH_S = 120.0
"""A run whose process cannot be asked after counts as running if it wrote within so many seconds."""
ENDS = {"143": "stopped by SIGTERM", "130": "stopped by Ctrl-C"}


@dataclass
class RunStatus:
    """What is known; None or empty where it is not."""

    run: str
    kind: str
    state: str = NEW
    unit: str = ""
    """What `done` and `total` count: epochs, generations, stages, trials."""
    done: float | None = None
    total: float | None = None
    now: str = ""
    """What it is at, of a run of several parts."""
    rate: float | None = None
    """Units a second."""
    eta_s: float | None = None
    eta_is_bound: bool = False
    """The run may end earlier of its own accord."""
    figures: dict[str, Any] = field(default_factory=dict)
    checkpoint_age_s: float | None = None
    written_age_s: float | None = None
    process: str = "not known"
    note: str = ""


def read_status(run: Path) -> RunStatus:
    """Where a run stands. Raises UserError, one line, for what is no run directory."""
    if not run.is_dir():
        raise UserError(f"{run}: no such run directory")
    if not (run / RUN_FILE).exists():
        raise UserError(f"{run}: is no run (it holds no {RUN_FILE})")
    where, about = find_process(run)
    found = RunStatus(run=str(run), kind=str(read_json(run / RUN_FILE).get("kind")))
    found.unit, found.now = str(about.get("unit") or ""), str(about.get("now") or "")
    found.done, found.total, found.rate = about.get("done"), about.get("total"), about.get("rate")
    found.figures, found.eta_is_bound = dict(about.get("figures") or {}), bool(about.get("may_end_early"))
    if found.rate and found.total is not None and found.done is not None:
        found.eta_s = max(0.0, (found.total - found.done) / found.rate)
    found.written_age_s = age(run / METRICS_FILE, run / PROCESS_FILE)
    found.checkpoint_age_s = age(*run.glob("checkpoint*"))
    found.process = describe(where, about)
    settle(run, where, about.get("ended") or {}, found)
    return found


def settle(run: Path, where: str, ended: dict[str, Any], found: RunStatus) -> None:
    """The state, from who works on it, how it ended, and when it last wrote."""
    message = str(ended.get("message") or "")
    if where == ALIVE:
        found.state = GOES_ON
    elif (run / SUMMARY_FILE).exists() and (where != GONE or ended.get("kind") == FINISHED):
        found.state, found.process = FINISHED, "ended"
    elif where == GONE:
        found.state = DIVERGED if "diverged" in message else STOPPED
        found.note = message if "diverged" in message else ""
    elif found.written_age_s is not None:
        found.state = GOES_ON if found.written_age_s < FRESH_S else STOPPED
        found.note = "the process cannot be asked: judged by when the run last wrote"


def describe(where: str, about: dict[str, Any]) -> str:
    """The process in words."""
    host, pid, ended = about.get("host"), about.get("pid"), about.get("ended") or {}
    message = str(ended.get("message") or "")
    job = f"; job {about['job']}" if about.get("job") else ""
    if where == ALIVE:
        return f"alive: {pid} on this machine, since {about.get('since')}{job}"
    if where == GONE and ended:
        return ENDS.get(message, f"ended: {ended.get('kind')}" + (f" {message}" if message else "")) + job
    if where == GONE:
        return f"gone: {pid} on this machine was killed or the machine restarted{job}"
    return f"not known: {pid} on {host}, which cannot be asked from here{job}" if host else "not known"


def age(*paths: Path) -> float | None:
    """Seconds since the youngest of the files was written; None if there is none."""
    stamps = [path.stat().st_mtime for path in paths if path.exists()]
    return max(0.0, time.time() - max(stamps)) if stamps else None
