"""Peak memory and start-up time of the engine beside EvoTorch: the same case, each in a fresh process.

    python -m benchmarks.es.memory --peer /tmp/peer/bin/python           # peer.py says how to make it
    python -m benchmarks.es.memory                                       # the engine alone

The cases of benchmarks/es/engine.py (vectorised sphere, OpenAI-ES; the peer's PGPE with fixed sigma), in process and
with two Ray actors; the peer with actors in both of its modes. Counted are the driver and its actors, not Ray's own
daemons or idle workers:
    RSS    the sum of the processes' own peaks (VmHWM); pages that processes share count in each of them
    PSS    the largest sum seen at one time, looked at ten times a second; shared pages count once
Start-up: from starting the process to the end of its first generation, imports and a local Ray included. Linux only.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.bench import markdown, write_result

LOOK_EVERY_S = 0.1
ACTORS = ("ray::Worker", "ray::EvaluationActor")  # ours and the peer's, as Ray names their processes
MODES = {"in process": (0, False), "2 actors": (2, False), "2 actors, distributed": (2, True)}


@dataclass
class Arguments:
    peer: Path | None = None
    """Python of an environment with EvoTorch 0.6.1."""
    cases: tuple[str, ...] = ("100000x1000", "1000000x256")
    """Parameters x candidates."""
    generations: int = 3
    child: str | None = None
    """Used by the script itself: one case as JSON, answered as the peer does."""


def main(arguments: Arguments) -> None:
    if arguments.child:
        print(json.dumps(run_case(json.loads(arguments.child))))
        return
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_worker_niceness="0")
    rows = []
    for case in arguments.cases:
        dimension, popsize = map(int, case.split("x"))
        for mode, (actors, distributed) in MODES.items():
            asked = {"dimension": dimension, "popsize": popsize, "actors": actors, "distributed": distributed}
            asked["generations"] = arguments.generations
            row: dict[str, Any] = {"dimension": dimension, "popsize": popsize, "mode": mode}
            if not distributed:
                row["ours"] = watch([sys.executable, "-m", "benchmarks.es.memory", "--child", json.dumps(asked)], "")
            if arguments.peer:
                script = Path(__file__).with_name("peer.py")
                row["peer"] = watch([str(arguments.peer), str(script)], json.dumps(asked) + "\n")
            rows.append(row)
            print(json.dumps(row), flush=True)
    write_result("es-memory", {"rows": rows}, describe(rows))


def run_case(case: dict[str, Any]) -> dict[str, Any]:
    """The engine's side of a case."""
    from es import engine
    from es.config import ESConfig
    from es.objectives.toy import Sphere

    config = ESConfig(
        pairs=case["popsize"] // 2, generations=case["generations"], workers=case["actors"], centre_every=0
    )
    ends: list[float] = []
    result = engine.run(Sphere(case["dimension"]), config, on_generation=lambda metrics: ends.append(time.time()))
    return {"milliseconds": [metrics["seconds"] * 1e3 for metrics in result.history], "first_at": ends[0]}


def watch(command: list[str], asked: str) -> dict[str, float]:
    """Run a case to its end; peak RSS and PSS of driver and actors in MiB, start-up in seconds."""
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "RAY_ADDRESS")}
    began, peaks, together = time.time(), dict[int, float](), 0.0
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=clean
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(asked)
    process.stdin.close()
    while process.poll() is None:
        now = 0.0
        for pid in counted(process.pid):
            peaks[pid] = max(peaks.get(pid, 0.0), kib(pid, "status", "VmHWM:") / 1024)
            now += kib(pid, "smaps_rollup", "Pss:") / 1024
        together = max(together, now)
        time.sleep(LOOK_EVERY_S)
    answer = json.loads(process.stdout.readline())
    figures = {"rss_mib": sum(peaks.values()), "pss_mib": together, "processes": len(peaks)}
    milliseconds = answer["milliseconds"]
    return {**figures, "start_s": answer["first_at"] - began, "generation_ms": min(milliseconds[1:] or milliseconds)}


def counted(driver: int) -> list[int]:
    """The driver and, of its descendants, the actors."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue  # it has ended
            parents[int(folder.name)] = int(fields[1])
    found, below = [driver], {driver}
    while fresh := {pid for pid, parent in parents.items() if parent in below and pid not in below}:
        below |= fresh
    for pid in below - {driver}:
        try:
            name = Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            continue
        if name.startswith(ACTORS):
            found.append(pid)
    return found


def kib(pid: int, file: str, name: str) -> float:
    """A line of a process's file under /proc, in KiB; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) for line in lines if line.startswith(name)), 0.0)


def describe(rows: list[dict[str, Any]]) -> str:
    def cells(row: dict[str, Any], who: str) -> list[str]:
        if who not in row:
            return ["-"] * 3
        found = row[who]
        return [f"{found['rss_mib']:,.0f}", f"{found['pss_mib']:,.0f}", f"{found['start_s']:.1f}"]

    table = []
    for row in rows:
        ours = next((each for each in rows if "ours" in each and same_case(each, row)), row)
        ratio = f"{row['peer']['pss_mib'] / ours['ours']['pss_mib']:.1f}" if "peer" in row and "ours" in ours else "-"
        case = f"{row['dimension']:,} x {row['popsize']:,}, {row['mode']}"
        table.append([case, *cells(row, "ours"), *cells(row, "peer"), ratio])
    header = ["parameters x candidates", "ours: RSS, MiB", "PSS, MiB", "start-up, s"]
    header += ["EvoTorch: RSS, MiB", "PSS, MiB", "start-up, s", "PSS, theirs / ours"]
    return (
        "Peak memory of driver and actors, and seconds from starting a fresh process to the end of the first "
        "generation. RSS: the sum of each process's peak; PSS: the largest sum at one time, shared pages counted "
        "once. The distributed mode is the peer's; it stands beside ours with two actors.\n\n"
        f"{markdown(header, table)}\nLoad average {os.getloadavg()[0]:.1f} at the end.\n"
    )


def same_case(one: dict[str, Any], other: dict[str, Any]) -> bool:
    actors = [MODES[row["mode"]][0] for row in (one, other)]
    return bool((one["dimension"], one["popsize"]) == (other["dimension"], other["popsize"]) and actors[0] == actors[1])


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
