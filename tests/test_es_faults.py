"""What may go wrong with workers while theta stays the same to the bit: kills, hangs, nodes that come and go."""

import dataclasses
import os
import random
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import ray
import ray.cloudpickle

from es.config import ESConfig
from es.contract import ObjectiveError
from es.engine import run
from es.objectives.toy import Sphere

# Workers cannot import this file: its objectives travel whole.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

NODE_WAIT_S = 100
CONFIG = ESConfig(seed=5, pairs=48, generations=24, batch_pairs=4)


@dataclasses.dataclass(frozen=True)
class Traced(Sphere):
    """The sphere plus noise of the evaluation seed, slowly; every process that evaluates leaves its id."""

    folder: str = ""
    seconds: float = 0.0

    def describe(self):
        return {"objective": "Traced"}

    def evaluate_batch(self, theta_PD, seeds_P):
        if self.folder:
            (Path(self.folder) / str(os.getpid())).touch()
            time.sleep(self.seconds)
        noise = np.array([np.random.default_rng(int(seed)).standard_normal() for seed in seeds_P])
        return super().evaluate_batch(theta_PD, seeds_P) + noise


def workers_alive(folder):
    """Processes that have evaluated and are workers still (an id may have been given to another process since)."""
    alive = []
    for path in Path(folder).iterdir():
        cmdline = Path(f"/proc/{path.name}/cmdline")
        if cmdline.exists() and cmdline.read_bytes().startswith(b"ray::Worker"):
            alive.append(int(path.name))
    return alive


@pytest.fixture(scope="module")
def expected():
    return run(Traced(6), CONFIG).theta


@pytest.mark.ray
@pytest.mark.slow
def test_same_bits_after_twenty_sigkills_at_random_moments(ray_cluster, expected, tmp_path):
    """In each of 20 generations a thread kills one worker, whichever, a random time after the one before ended."""
    chance, kills = random.Random(0), []

    def kill_one(delay):
        time.sleep(delay)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if alive := workers_alive(tmp_path):
                kills.append(chance.choice(sorted(alive)))
                os.kill(kills[-1], signal.SIGKILL)
                return
            time.sleep(0.01)

    threads = []

    def on_generation(metrics):
        if metrics["generation"] < 20:
            threads.append(threading.Thread(target=kill_one, args=(chance.uniform(0, 0.1),)))
            threads[-1].start()

    config = dataclasses.replace(CONFIG, workers=4, cpus_per_worker=0.25, min_workers=1, max_lost_workers=30)
    result = run(Traced(6, folder=str(tmp_path), seconds=0.02), config, on_generation=on_generation)
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(result.theta, expected)
    assert len(kills) == 20
    assert len(set(kills)) == 20
    assert result.lost_pairs > 0
    assert result.failed_evaluations == 0


@pytest.mark.ray
def test_a_worker_that_stands_still_holds_nobody_up(ray_cluster, expected, tmp_path):
    """SIGSTOP of one of two: after 0.3 s the other has its task as well, after a second it is ended and replaced."""
    stopped, times = [], []

    def on_generation(metrics):
        times.append((time.monotonic(), metrics["reissued_pairs"]))
        if metrics["generation"] == 3:
            stopped.append(workers_alive(tmp_path)[0])
            os.kill(stopped[0], signal.SIGSTOP)

    config = dataclasses.replace(CONFIG, workers=2, cpus_per_worker=0.25, reissue_after_s=0.3, timeout_s=1.0)
    result = run(Traced(6, folder=str(tmp_path), seconds=0.02), config, on_generation=on_generation)
    np.testing.assert_array_equal(result.theta, expected)
    assert result.reissued_pairs > 0
    assert max(now - before for (before, _), (now, _) in pairwise(times)) < 60  # 0.3 s and what a busy machine adds
    deadline = time.monotonic() + 60
    while Path(f"/proc/{stopped[0]}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert stopped[0] not in workers_alive(tmp_path)


@pytest.mark.ray
@pytest.mark.slow
def test_workers_come_with_nodes_and_go_with_them(ray_cluster, tmp_path):
    """Three are wanted, there is room for one: the run starts with it; a node brings two more and takes them away."""

    @ray.remote(num_cpus=3)
    class Holder:
        def ready(self):
            return True

    holder = Holder.remote()
    ray.get(holder.ready.remote())
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--address", address, "--num-cpus", "2", "--block"]
    node, seen, gone = list[subprocess.Popen](), list[int](), list[int]()

    def on_generation(metrics):
        seen.append(metrics["workers"])
        if metrics["workers"] == 3 and not gone:
            os.killpg(node[-1].pid, signal.SIGKILL)
            gone.append(node[-1].wait())
        elif not gone and 2 <= metrics["generation"] < 390:
            if not node or node[-1].poll() is not None:  # on a busy machine Ray gives a node up after 30 s
                output = (tmp_path / "node.log").open("w")
                node.append(subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True))
            time.sleep(NODE_WAIT_S / 390)
        elif gone and metrics["workers"] == 3 and metrics["generation"] < 390:  # not noticed yet
            time.sleep(NODE_WAIT_S / 390)

    config = dataclasses.replace(CONFIG, generations=400, workers=3, min_workers=1)
    try:
        result = run(Traced(6), config, on_generation=on_generation)
    finally:
        if node and node[-1].poll() is None:
            os.killpg(node[-1].pid, signal.SIGKILL)
            node[-1].wait()
        ray.kill(holder)
    np.testing.assert_array_equal(result.theta, run(Traced(6), dataclasses.replace(config, workers=0)).theta)
    assert seen[0] == 1
    assert max(seen) == 3
    assert seen[-1] < 3


@dataclasses.dataclass(frozen=True)
class SlowCalls(Traced):
    """Each call of the objective takes 0.4 s: less than the timeout, though two of them wait longer than that."""

    def evaluate_batch(self, theta_PD, seeds_P):
        time.sleep(0.4)
        return super().evaluate_batch(theta_PD, seeds_P)


@pytest.mark.ray
def test_a_call_that_waits_behind_another_is_not_overdue(ray_cluster):
    """One worker, six calls two deep: each is answered 0.8 s after it was sent, 0.4 s after it began."""
    config = dataclasses.replace(CONFIG, pairs=24, generations=1, centre_every=0, timeout_s=0.7)
    result = run(SlowCalls(6), dataclasses.replace(config, workers=1, calls_per_worker=6))
    assert result.lost_pairs == 0
    np.testing.assert_array_equal(result.theta, run(Traced(6), config).theta)


@dataclasses.dataclass(frozen=True)
class HangsOnHigh(Sphere):
    """Never answers for one of the first candidates."""

    def evaluate_batch(self, theta_PD, seeds_P):
        if (theta_PD[:, 0] > 1.15).any():
            time.sleep(1000)
        return super().evaluate_batch(theta_PD, seeds_P)


@pytest.mark.ray
def test_an_objective_that_always_hangs_stops_the_run(ray_cluster):
    config = dataclasses.replace(CONFIG, workers=2, timeout_s=0.3)
    with pytest.raises(ObjectiveError, match=r"the objective hangs: a task of generation 0 .* 0\.3 s .* by 3 workers"):
        run(HangsOnHigh(6), config)


@dataclasses.dataclass(frozen=True)
class Uneven(Sphere):
    """Candidates take 0 or 30 ms, by their seed."""

    batch_pairs = 1

    def evaluate_batch(self, theta_PD, seeds_P):
        time.sleep(0.03 * float((seeds_P % np.uint64(2)).sum()) / 2)
        return super().evaluate_batch(theta_PD, seeds_P)


@pytest.mark.ray
def test_uneven_evaluations_are_cut_into_several_calls(ray_cluster):
    config = dataclasses.replace(CONFIG, batch_pairs=None, generations=3, centre_every=0)
    result = run(Uneven(6), dataclasses.replace(config, workers=2))
    np.testing.assert_array_equal(result.theta, run(Sphere(6), dataclasses.replace(config, batch_pairs=1)).theta)
    calls = [round((metrics["bytes_out"]) / (32 + 24)) for metrics in result.history]  # a task and theta each
    assert calls[-1] >= 2 * 4  # 48 pairs of 15 ms: 0.36 s for each of two workers
    one = run(Sphere(6), dataclasses.replace(config, batch_pairs=1, workers=2))
    assert one.history[-1]["bytes_out"] == 2 * (32 + 24)
