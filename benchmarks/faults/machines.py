"""Processes of a run found, killed, stopped; nodes of a cluster on this machine. For survive.py and soak.py.

Only descendants of this process are ever touched: other clusters may run beside it.
"""

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

TUNED = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}
"""What cluster.yaml's head is started with."""
TRAIN_WORKER, ACTOR = b"ray::RayTrainWorker", b"ray::Worker"


def parents() -> dict[int, int]:
    """The parent of every process."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError):
                found[int(entry)] = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
    return found


def descendants(root: int) -> list[int]:
    tree = parents()
    found, frontier = list[int](), {root}
    while frontier:
        frontier = {pid for pid, parent in tree.items() if parent in frontier}
        found += sorted(frontier)
    return found


def title(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").strip()
    except OSError:
        return b""


def processes(name: bytes, root: int | None = None) -> list[int]:
    """Descendants of `root` (this process) whose title begins so."""
    return [pid for pid in descendants(root or os.getpid()) if title(pid).startswith(name)]


def send(number: int, pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class Machines:
    """A cluster on this machine: a head without CPUs, and nodes of one CPU each."""

    def __init__(self, nodes: int, system_config: dict[str, Any]) -> None:
        from ray.cluster_utils import Cluster

        quiet = {"include_dashboard": False, "_system_config": system_config}
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **quiet})
        self.nodes: list[Any] = []
        for _ in range(nodes):
            self.add()
        self.cluster.connect()

    def raylet(self, node: Any) -> int:
        return int(node.all_processes["raylet"][0].process.pid)

    def with_worker(self, name: bytes) -> list[Any]:
        """Nodes on which such a process runs."""
        return [node for node in self.nodes if processes(name, self.raylet(node))]

    def kill(self, node: Any) -> None:
        """Everything of the node at once, as a power cut would."""
        pids = [self.raylet(node), *descendants(self.raylet(node))]
        send(signal.SIGKILL, pids)
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def add(self) -> None:
        for tries in range(4):  # on a busy machine a node may not come up in the time that Ray gives it
            try:
                self.nodes.append(self.cluster.add_node(num_cpus=1))
                return
            except Exception as error:
                print(f"a node did not start ({error}); try {tries + 1}", flush=True)
        raise RuntimeError("no node has started in four tries")

    def close(self) -> None:
        import ray

        ray.shutdown()
        self.cluster.shutdown()


class Trouble:
    """Strikes a training at random moments, from the main thread, whenever the run asks whether it is to stop.

    Each strike comes a random number of steps after the start before it. `strike()` does it; what it returns is the
    moment. `moments` has them.
    """

    def __init__(self, run: Path, strike: Any, strikes: int, rng: np.random.Generator, steps: tuple[int, int]) -> None:
        self.run, self.strike, self.left, self.rng, self.steps = run, strike, strikes, rng, steps
        self.moments: list[float] = []
        self._starts, self._target = 0, 0

    def __call__(self) -> int:
        """The signal that this process has received: none."""
        if self.left and self._due():
            time.sleep(self.rng.uniform(0, 0.1))
            moment = self.strike()
            if moment is not None:
                self.moments.append(moment)
                self.left -= 1
                self._starts += 1
                self._target = 0
        return 0

    def _due(self) -> bool:
        starts = [event for event in events(self.run) if event["event"] == "start"]
        if len(starts) <= self._starts:
            return False
        self._target = self._target or starts[-1]["step"] + int(self.rng.integers(*self.steps))
        return last_step(self.run) >= self._target


def events(run: Path) -> list[dict[str, Any]]:
    path, found = run / "metrics.jsonl", []
    for line in path.read_text().splitlines(True) if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


def last_step(run: Path) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int((run / ".step").read_text().split()[0])
    return 0
