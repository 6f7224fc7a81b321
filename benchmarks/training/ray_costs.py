"""What Ray costs: CPU seconds of every process of a training's session, to the first step and in a minute of steps.

    python -m benchmarks.training.ray_costs --repeats 3
    python -m benchmarks.training.ray_costs --other /tmp/older --workers 0 1 2 --repeats 3     # beside another checkout

Each run is a `python -m jobs.train` of its own. Every process that descends from it is looked at 20 times a second
(utime + stime in /proc), and what one had used when it was last seen is its cost: by kind, up to the first step and
between the first step and the last. Processes whose parent has gone fall to this one (a subreaper), so none is missed;
what one used in its last 50 ms is. With --other the two checkouts take turns, and who begins changes.
"""

import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from benchmarks.bench import markdown, write_result

HERE = Path(__file__).resolve().parent.parent.parent
OTHER, THIS = "other", "this"
LOOK_S = 0.05
TICKS = os.sysconf("SC_CLK_TCK")
SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of prctl(2)."""
KINDS = {  # part of a command line -> what the process is
    "raylet/raylet": "Ray: raylet",  # first: its command line has those of what it starts
    "gcs/gcs_server": "Ray: control service",
    "ray::RayTrainWorker": "train worker",
    "Controller": "train controller",
    "ray::SynchronizationActor": "train's other actors",
    "ray::DatasetManager": "train's other actors",
    "ray::PlacementGroupCleaner": "train's other actors",
    "ray::_AutoscalingCoordinatorActor": "train's other actors",
    "ray::DashboardAgent": "Ray: agents",
    "ray::RuntimeEnvAgent": "Ray: agents",
    "ray::": "idle or other worker",
    "default_worker.py": "idle or other worker",
    "setup_worker.py": "idle or other worker",
    "monitor.py": "Ray: monitors",
    "dashboard/dashboard.py": "Ray: dashboard server",
    "dashboard": "Ray: agents",
    "runtime_env/agent": "Ray: agents",
    "jobs.train": "driver",
}


@dataclass
class Arguments:
    other: Path | None = None
    """Directory of another checkout, to be measured in turns with this one."""
    rows: int = 400_000
    """Of the generated log; four fifths are trained on."""
    epochs: int = 1
    repeats: int = 3
    workers: tuple[int, ...] = (0, 1, 2)
    options: tuple[str, ...] = ()
    """More of jobs.train, as one would type them: --options --batch-size 4096"""


@dataclass
class Session:
    """CPU seconds of the processes of one run."""

    first_step_s: float = 0.0
    """Seconds on the clock from the command to the first step."""
    last_step_s: float = 0.0
    seconds: float = 0.0
    start: dict[str, float] = field(default_factory=dict)
    """By kind, up to the first step."""
    steps: dict[str, float] = field(default_factory=dict)
    """By kind, between the first step and the last."""
    rows_per_s: float = 0.0


def main(arguments: Arguments) -> None:
    """Run all in turns, write the tables."""
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    places = {THIS: HERE}
    if arguments.other is not None:
        places = {OTHER: arguments.other.expanduser().resolve(), THIS: HERE}
    found: dict[int, dict[str, list[Session]]] = {number: {who: [] for who in places} for number in arguments.workers}
    with tempfile.TemporaryDirectory(prefix="ray-costs-") as name:
        folder = Path(name)
        log = folder / "log"
        command = [sys.executable, "-m", "jobs.make_data", "--rows", str(arguments.rows), "--out", str(log)]
        subprocess.run(command, cwd=places.get(OTHER, HERE), check=True, capture_output=True)
        for repeat in range(arguments.repeats):
            order = list(places) if repeat % 2 == 0 else list(places)[::-1]
            for workers in arguments.workers:
                for who in order:
                    session = watch(places[who], log, folder / f"{who}-{workers}-{repeat}", workers, arguments)
                    found[workers][who].append(session)
                    print(
                        f"{workers} workers, {who}: first step after {session.first_step_s:.1f} s and "
                        f"{sum(session.start.values()):.1f} CPU s, {session.rows_per_s:,.0f} rows/s",
                        flush=True,
                    )
    tables = "\n".join(table(workers, runs) for workers, runs in found.items())
    options = "".join(f" {option}" for option in arguments.options)
    words = (
        f"{arguments.rows * 4 // 5:,} rows, {arguments.epochs} epochs, one thread a process{options and ','}{options}; "
        f"medians of {arguments.repeats}.\n\n{tables}"
    )
    plain = {
        str(workers): {who: [vars(run) for run in runs] for who, runs in both.items()}
        for workers, both in found.items()
    }
    name = "ray-costs-workers-" + "-".join(map(str, arguments.workers))
    write_result(name, {"runs": plain}, words)


def watch(place: Path, log: Path, out: Path, workers: int, arguments: Arguments) -> Session:
    """One training, watched to its end."""
    environment = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "PYTHONPATH")}
    command = [sys.executable, "-m", "jobs.train", "--data", str(log), "--out", str(out)]
    command += ["--workers", str(workers), "--epochs", str(arguments.epochs), *arguments.options]
    began, session, mark = time.perf_counter(), Session(), out / ".step"
    used: dict[int, tuple[str, float]] = {}
    at_first: dict[int, tuple[str, float]] | None = None
    at_last, last = used, b""
    with open(out.with_suffix(".err"), "w") as errors:
        process = subprocess.Popen(
            command, cwd=place, env=environment | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=errors
        )
    while process.poll() is None:
        look(used)
        now = time.perf_counter() - began
        step = mark.read_bytes() if mark.exists() else b""
        if step and at_first is None:
            session.first_step_s, at_first = now, dict(used)
        if step != last:
            session.last_step_s, at_last, last = now, dict(used), step
        time.sleep(LOOK_S)
    session.seconds = time.perf_counter() - began
    if process.returncode or at_first is None:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}: {out.with_suffix('.err').read_text()}")
    reap()
    session.start = by_kind(at_first, {}, used)
    session.steps = by_kind(at_last, at_first, used)
    session.rows_per_s = json.loads((out / "summary.json").read_text())["train.rows_per_s"]
    return session


def look(used: dict[int, tuple[str, float]]) -> None:
    """Bring `used` (process id -> command, CPU seconds) up to date for every descendant of this process."""
    parents, found = {}, {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                parents[int(entry)] = int(fields[1])
                found[int(entry)] = (int(fields[11]) + int(fields[12])) / TICKS
            except OSError:
                continue
    for pid in parents:
        above = pid
        while above not in (0, 1, os.getpid()):
            above = parents.get(above, 0)
        if above == os.getpid() and pid != above:
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                words = ""
            used[pid] = (words.strip() or used.get(pid, ("", 0.0))[0], found[pid])


def reap() -> None:
    """Wait for what the run has left behind, so that the next one is measured alone."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(LOOK_S)
        except ChildProcessError:
            return


def by_kind(
    now: dict[int, tuple[str, float]], before: dict[int, tuple[str, float]], named: dict[int, tuple[str, float]]
) -> dict[str, float]:
    """CPU seconds between two looks. A process is named by its last command line: Ray's workers change theirs."""
    sums: dict[str, float] = {}
    for pid, (_, seconds) in now.items():
        kind = kind_of(named[pid][0])
        sums[kind] = sums.get(kind, 0.0) + seconds - before.get(pid, ("", 0.0))[1]
    return sums


def kind_of(command: str) -> str:
    return next((kind for part, kind in KINDS.items() if part in command), "other")


def table(workers: int, runs: dict[str, list[Session]]) -> str:
    """Of one number of workers: a line for each kind of process, then the clock."""
    kinds = sorted({kind for sessions in runs.values() for run in sessions for kind in (*run.start, *run.steps)})
    rows: list[list[Any]] = []
    for kind in kinds:
        cells = [f"{middle([run.start.get(kind, 0.0) for run in sessions]):.1f}" for sessions in runs.values()]
        cells += [f"{middle([per_minute(run, kind) for run in sessions]):.2f}" for sessions in runs.values()]
        rows.append([kind, *cells])
    totals = [f"{middle([sum(run.start.values()) for run in sessions]):.1f}" for sessions in runs.values()]
    totals += [
        f"{middle([sum(per_minute(run, kind) for kind in run.steps) for run in sessions]):.2f}"
        for sessions in runs.values()
    ]
    rows.append(["all", *totals])
    heads = [f"CPU s to the first step, {who}" for who in runs] + [f"CPU s a minute of steps, {who}" for who in runs]
    clock = [
        [
            who,
            spread([run.first_step_s for run in sessions], ".1f"),
            spread([run.rows_per_s for run in sessions], ",.0f"),
            spread([run.seconds - run.last_step_s for run in sessions], ".1f"),
        ]
        for who, sessions in runs.items()
    ]
    return (
        f"## {workers} workers\n\n"
        + markdown(["process", *heads], rows)
        + "\n"
        + markdown(["checkout", "s to the first step", "rows/s", "s from the last step to the end"], clock)
    )


def per_minute(run: Session, kind: str) -> float:
    return 60 * run.steps.get(kind, 0.0) / max(run.last_step_s - run.first_step_s, LOOK_S)


def middle(values: list[float]) -> float:
    return statistics.median(values)


def spread(values: list[float], form: str) -> str:
    return f"{middle(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
