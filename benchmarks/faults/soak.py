"""Train and evolve again and again with random kills, and watch the memory of everything that lives through it.

    python -m benchmarks.faults.soak --minutes 30

One process, one Ray of its own. A cycle is a training with two workers, of which one is killed, and an evolution with
two actors, of which some are. Every few seconds: proportional memory (PSS) and open files of every process, and what
lies in /dev/shm of this session. Slopes are least squares over the means of cycles, the first quarter left out.
"""

import dataclasses
import math
import os
import random
import shutil
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import ray
import tyro
from scipy import stats

from benchmarks.bench import RESULTS, markdown, write_result
from benchmarks.faults.machines import ACTOR, TRAIN_WORKER, Trouble, descendants, events, processes, send, title
from benchmarks.faults.survive import SETTINGS, SlowSphere, job_for
from benchmarks.settings import options
from data.generate import generate_log
from data.world import GeneratedLog
from distributed.training.launch import run_training
from es import engine
from es.config import ESConfig
from jobs.cluster.connect import RECOVERY

matplotlib.use("Agg")
from matplotlib import pyplot

KILL = 9
ROLES = {
    b"/gcs/gcs_server ": "gcs_server",
    b"/raylet/raylet ": "raylet",
    b"/log_monitor.py ": "log monitor",
    b"/monitor.py ": "autoscaler monitor",
    b"/dashboard/dashboard.py ": "dashboard",
    b"ray::RuntimeEnvAgent": "runtime env agent",
    b"ray::DashboardAgent": "node agent",
    b"ray::_AutoscalingCoordinator": "autoscaling coordinator",
    TRAIN_WORKER: "train worker",
    b"ray::TrainController": "train controller",
    ACTOR: "evolution actor",
}
BY_CYCLE = ("train worker", "train controller", "evolution actor")
LONG_LIVED = ("driver", *(role for role in ROLES.values() if role not in BY_CYCLE))


@dataclasses.dataclass
class Arguments:
    minutes: float = 30.0
    every_s: float = 5.0
    """Between two looks at the processes."""
    seed: int = 0
    folder: Path = Path("/tmp/counterpoint-soak")
    """Emptied first."""


@dataclasses.dataclass
class Sample:
    seconds: float
    cycle: int
    role: str
    pid: int
    pss_mib: float
    files: int


class Watch:
    """Looks at this process and all its descendants, in a thread, until it is stopped."""

    def __init__(self, every_s: float) -> None:
        self.samples: list[Sample] = []
        self.shm: list[tuple[float, int, float]] = []
        self.cycle, self.began, self.every_s = 0, time.time(), every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self._over.wait(self.every_s):
            now = time.time() - self.began
            for pid in [os.getpid(), *descendants(os.getpid())]:
                role = "driver" if pid == os.getpid() else role_of(title(pid))
                if role and (memory := pss_mib(pid)) is not None:
                    self.samples.append(Sample(now, self.cycle, role, pid, memory, open_files(pid)))
            self.shm.append((now, self.cycle, shm_mib()))

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


def role_of(name: bytes) -> str | None:
    words = name.split(b" --")[0] + b" "  # options name other processes' sockets
    return next((role for part, role in ROLES.items() if part in words), None)


def pss_mib(pid: int) -> float | None:
    """Proportional set size: shared pages are divided among those that share them."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return None


def open_files(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def shm_mib() -> float:
    """What is resident of the /dev/shm files that this process and its raylet map: Ray's store (unlinked, so not to be
    seen as a file) and noise tables."""
    found, counts = 0.0, False
    for pid in [os.getpid(), *(pid for pid in descendants(os.getpid()) if role_of(title(pid)) == "raylet")]:
        try:
            lines = Path(f"/proc/{pid}/smaps").read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            if "-" in line.split(" ", 1)[0]:
                counts = "/dev/shm/" in line
            elif counts and line.startswith("Rss:"):
                found += int(line.split()[1]) / 1024
    return found


def train_once(folder: Path, log: Path, rng: np.random.Generator) -> dict[str, Any]:
    run = folder / "train"

    def strike() -> float | None:
        pids = processes(TRAIN_WORKER)
        if pids:
            send(KILL, [pids[rng.integers(len(pids))]])
        return time.time() if pids else None

    run_training(job_for(run, log), workers=2, signalled=Trouble(run, strike, 1, rng, (3, 60)))
    lost = sum(event["lost_steps"] for event in events(run) if event["event"] == "start")
    shutil.rmtree(run)
    return {"kills": 1, "lost_steps": lost}


def evolve_once(folder: Path, chance: random.Random) -> dict[str, Any]:
    out, kills = folder / "evolve", [0]
    due = [math.inf]

    def strike() -> bool:
        if kills[0] < 3 and time.time() > due[0] and (pids := processes(ACTOR)):
            send(KILL, [chance.choice(pids)])
            kills[0] += 1
            due[0] = time.time() + chance.uniform(0.5, 2)
        return False

    config = ESConfig(seed=5, pairs=48, generations=60, batch_pairs=2, workers=2, min_workers=1, max_lost_workers=50)

    def begun(metrics: dict[str, Any]) -> None:
        due[0] = min(due[0], time.time() + chance.uniform(0.5, 2))

    result = engine.run(SlowSphere(6), config, out, begun, strike)
    shutil.rmtree(out)
    return {"kills": kills[0], "lost_pairs": result.lost_pairs}


def slope(pairs: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Per hour, of (hours, value): least squares with a 95% interval."""
    if len(pairs) < 3:
        return float("nan"), float("nan"), float("nan")
    hours, values = np.array(pairs).T
    fit = stats.linregress(hours, values)
    half = float(stats.t.ppf(0.975, len(pairs) - 2) * fit.stderr)
    return float(fit.slope), float(fit.slope) - half, float(fit.slope) + half


def by_cycle(samples: list[Sample], role: str, what: str) -> list[tuple[float, float]]:
    """(hours, mean) of each cycle; of processes that live for a part of one, the largest value of each cycle."""
    values = defaultdict(list)
    for sample in samples:
        if sample.role == role:
            values[sample.cycle].append((sample.seconds / 3600, getattr(sample, what)))
    summed = max if role in BY_CYCLE else np.mean
    return [
        (float(np.mean([hour for hour, _ in own])), float(summed([value for _, value in own])))
        for _, own in sorted(values.items())
    ]


def summarise(watch: Watch) -> tuple[list[list[str]], dict[str, Any]]:
    rows, figures = [], dict[str, Any]()
    for role in (*LONG_LIVED, *BY_CYCLE):
        memory, files = (by_cycle(watch.samples, role, what) for what in ("pss_mib", "files"))
        later = len(memory) // 4
        if len(memory) - later < 3:
            continue
        growth, low, high = slope(memory[later:])
        more, fewest, most = slope(files[later:])
        figures[role] = {"pss_mib": memory, "files": files, "mib_per_hour": [growth, low, high]}
        first, last = memory[later][1], memory[-1][1]
        rows.append(
            [
                role + (" (largest of a cycle)" if role in BY_CYCLE else ""),
                f"{first:.0f} to {last:.0f}",
                f"{growth:+.1f} [{low:+.1f}, {high:+.1f}]",
                f"{files[-1][1]:.0f}",
                f"{more:+.1f} [{fewest:+.1f}, {most:+.1f}]",
            ]
        )
    return rows, figures


def plot(figures: dict[str, Any], path: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for role, own in figures.items():
        hours, values = np.array(own["pss_mib"]).T
        axes.plot(60 * hours, values, label=role, linewidth=1)
    axes.set(xlabel="minutes", ylabel="PSS, MiB", ylim=(0, None))
    axes.legend(fontsize=7, ncol=2)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    os.environ |= {**RECOVERY, "RAY_AUTH_MODE": "disabled", "RAY_TRAIN_METRICS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    os.environ |= {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
    folder = arguments.folder
    shutil.rmtree(folder, ignore_errors=True)
    shape = {"rows_per_file": 8000, "rows_per_group": 800, "users": 300, "items": 200}
    generate_log(
        GeneratedLog(world="aligned", rows=24_000, seed=3, click_rate=0.2, conversion_rate=0.3, **shape), folder / "log"
    )
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
             object_store_memory=200 * 2**20)  # fmt: skip
    rng, chance = np.random.default_rng(arguments.seed), random.Random(arguments.seed)
    watch, loads, told = Watch(arguments.every_s), [os.getloadavg()[0]], defaultdict[str, int](int)
    while time.time() - watch.began < 60 * arguments.minutes:
        watch.cycle += 1
        for done in (train_once(folder, folder / "log", rng), evolve_once(folder, chance)):
            for name, value in done.items():
                told[name] += value
        loads.append(os.getloadavg()[0])
        print(f"cycle {watch.cycle}: {time.time() - watch.began:.0f} s, {dict(told)}", flush=True)
    watch.stop()
    ray.shutdown()
    rows, figures = summarise(watch)
    shm = [amount for _, _, amount in watch.shm]
    header = ["process", "PSS, MiB", "MiB per hour [95%]", "open files", "files per hour [95%]"]
    words = (
        f"\n{watch.cycle} cycles in {watch.samples[-1].seconds / 60:.0f} minutes: {told['kills']} kills, "
        f"{told['lost_steps']} steps made again, {told['lost_pairs']} pairs given to another worker. "
        f"/dev/shm {min(shm):.0f} to {max(shm):.0f} MiB, {shm[-1]:.0f} at the end. "
        f"Load average {min(loads):.1f} to {max(loads):.1f}. Options of the training: {' '.join(options(SETTINGS))}.\n"
    )
    path = write_result("soak", {"processes": figures, "told": dict(told), "loads": loads, "shm_mib": watch.shm},
                        markdown(header, rows) + words)  # fmt: skip
    plot(figures, path.with_suffix(".svg"))
    assert path.parent == RESULTS


if __name__ == "__main__":
    main()
