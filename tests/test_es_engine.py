"""theta to the bit: for any number of workers, after a SIGKILL, after stop and resume; and what failures do."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import ray.cloudpickle

from data.errors import UserError
from es.config import ESConfig
from es.contract import ObjectiveError
from es.engine import run
from es.hashing import hash64
from es.objectives.base import FunctionObjective
from es.objectives.toy import Rosenbrock, Sphere
from es.record import RunRecord
from es.replay import replay

# Workers cannot import this file: its objectives travel whole.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

CONFIG = ESConfig(seed=3, pairs=40, generations=12, sigma=0.1, learning_rate=0.05, weight_decay=0.01)


@dataclasses.dataclass(frozen=True)
class Noisy(Rosenbrock):
    """Depends on the evaluation seed, and (through BLAS, on purpose) possibly on the batch it is evaluated in."""

    def evaluate_batch(self, theta_PD, seeds_P):
        noise = np.array([np.random.default_rng(int(seed)).standard_normal() for seed in seeds_P])
        mixing = np.random.default_rng(0).standard_normal((self.dimension, self.dimension)).astype(np.float32)
        return super().evaluate_batch(theta_PD @ mixing, seeds_P) + noise


@dataclasses.dataclass(frozen=True)
class DiesOnce(Noisy):
    """Its process is killed, with no chance to tidy up, the first times generation `generation` or later is scored."""

    marker: str = ""
    deaths: int = 1
    calls_before: int = 6

    def evaluate_batch(self, theta_PD, seeds_P):
        log = Path(self.marker)
        with log.open("a") as file:
            file.write(".")
        calls = log.stat().st_size
        if calls > self.calls_before and calls <= self.calls_before + self.deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().evaluate_batch(theta_PD, seeds_P)


@dataclasses.dataclass(frozen=True)
class HangsOnce(Noisy):
    """One call, in whichever process comes first, takes `seconds`."""

    marker: str = ""
    seconds: float = 60.0

    def evaluate_batch(self, theta_PD, seeds_P):
        try:
            os.close(os.open(self.marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return super().evaluate_batch(theta_PD, seeds_P)
        time.sleep(self.seconds)
        return super().evaluate_batch(theta_PD, seeds_P)


def with_(**changes):
    return dataclasses.replace(CONFIG, **changes)


@pytest.fixture(scope="module")
def expected():
    """theta of an undisturbed run in this process."""
    return run(Noisy(6), CONFIG).theta


@pytest.mark.ray
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_same_bits_for_any_number_of_workers(ray_cluster, expected, workers):
    result = run(Noisy(6), with_(workers=workers, calls_per_worker=1 + workers % 2))
    np.testing.assert_array_equal(result.theta, expected)
    assert (result.lost_pairs, result.reissued_pairs, result.failed_evaluations) == (0, 0, 0)


@pytest.mark.ray
def test_same_bits_from_a_shared_table(ray_cluster):
    config = ESConfig(pairs=70, generations=3, noise="table", table_floats=2**20)  # 70 x 5000: offsets per run
    here = run(Sphere(5000), config)
    there = run(Sphere(5000), dataclasses.replace(config, workers=2))
    np.testing.assert_array_equal(here.theta, there.theta)
    large = ESConfig(pairs=6, generations=2, noise="table", table_floats=2**20)  # theta too large to travel inline
    here, there = run(Sphere(40_000), large), run(Sphere(40_000), dataclasses.replace(large, workers=2))
    np.testing.assert_array_equal(here.theta, there.theta)
    assert there.history[0]["bytes_out"] == 40_000 * 4 + 4 * 32  # theta once, and four tasks
    assert there.history[0]["bytes_in"] == 6 * 2 * 8


@pytest.mark.ray
def test_same_bits_after_sigkill(ray_cluster, expected, tmp_path):
    objective = DiesOnce(6, marker=str(tmp_path / "calls"), deaths=2)
    result = run(objective, with_(workers=2))
    np.testing.assert_array_equal(result.theta, expected)
    assert result.lost_pairs > 0


@dataclasses.dataclass(frozen=True)
class DiesAtTheFifth(Sphere):
    """Its process is killed at the fifth call of all: in generation 2."""

    marker: str = ""

    def evaluate_batch(self, theta_PD, seeds_P):
        with open(self.marker, "a") as file:
            file.write(".")
        if os.stat(self.marker).st_size == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().evaluate_batch(theta_PD, seeds_P)


@pytest.mark.ray
@pytest.mark.parametrize("algorithm", ["openai_es", "pgpe"])
def test_a_large_theta_reaches_the_worker_that_replaces_a_killed_one(ray_cluster, algorithm, tmp_path):
    """40,000 parameters go through Ray's store (pgpe: and as many sigmas); a replacement fetches them from there."""
    config = with_(algorithm=algorithm, pairs=20, generations=8, batch_pairs=16, centre_every=0)
    there = dataclasses.replace(config, workers=2)
    result = run(DiesAtTheFifth(40_000, marker=str(tmp_path / "calls")), there)
    np.testing.assert_array_equal(result.theta, run(Sphere(40_000), config).theta)
    assert result.lost_pairs > 0


@pytest.mark.ray
def test_a_straggler_is_not_waited_for(ray_cluster, expected, tmp_path):
    began = time.monotonic()
    result = run(HangsOnce(6, marker=str(tmp_path / "hung")), with_(workers=2, reissue_after_s=0.3))
    assert time.monotonic() - began < HangsOnce.seconds - 5
    np.testing.assert_array_equal(result.theta, expected)
    assert result.reissued_pairs > 0


@pytest.mark.ray
def test_a_hung_worker_is_replaced(ray_cluster, expected, tmp_path):
    """One worker only: nobody else could take over."""
    result = run(HangsOnce(6, marker=str(tmp_path / "hung")), with_(workers=1, timeout_s=0.5))
    np.testing.assert_array_equal(result.theta, expected)
    assert result.lost_pairs > 0


@pytest.mark.ray
def test_workers_that_always_die_stop_the_run(ray_cluster, tmp_path):
    objective = DiesOnce(6, marker=str(tmp_path / "calls"), deaths=1000)
    with pytest.raises(UserError, match="2 workers were lost"):
        run(objective, with_(workers=1, max_lost_workers=1))


@pytest.mark.ray
def test_too_few_cpus_is_said(ray_cluster):
    with pytest.raises(UserError, match=r"did not start in 1 s: Ray has 4 CPUs"):
        run(Sphere(3), with_(workers=9, start_timeout_s=1.0))


@pytest.mark.parametrize("stop", [1, 5, 11])
def test_same_bits_after_stop_and_resume(expected, tmp_path, stop):
    run(Noisy(6), with_(generations=stop), out=tmp_path)
    resumed = run(Noisy(6), CONFIG, out=tmp_path)
    np.testing.assert_array_equal(resumed.theta, expected)
    assert resumed.resumed_at == stop
    assert resumed.evaluations == 12 * (80 + 1)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["generation"] for line in lines] == list(range(12))


def test_a_crash_between_checkpoints_goes_back_to_the_last(expected, tmp_path):
    def crash(metrics):
        if metrics["generation"] == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Noisy(6), with_(checkpoint_every=4), out=tmp_path, on_generation=crash)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "generation", "gener')  # cut short
    resumed = run(Noisy(6), CONFIG, out=tmp_path)
    assert resumed.resumed_at == 4
    np.testing.assert_array_equal(resumed.theta, expected)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 12
    returns = RunRecord(tmp_path, {}, CONFIG.pairs).returns()
    run(Noisy(6), CONFIG, out=tmp_path / "straight")
    np.testing.assert_array_equal(returns, RunRecord(tmp_path / "straight", {}, CONFIG.pairs).returns())


def test_replay_from_the_returns(expected, tmp_path):
    run(Noisy(6), CONFIG, out=tmp_path)
    returns = RunRecord(tmp_path, {}, CONFIG.pairs).returns()
    assert returns.shape == (12, 40, 2)
    np.testing.assert_array_equal(replay(CONFIG, Noisy(6).initial(), returns), expected)


def test_pairs_share_their_evaluation_seed():
    seen = []

    def remember(theta, seed):
        seen.append(seed)
        return 0.0

    run(FunctionObjective(remember, np.zeros(2)), with_(pairs=3, generations=1, centre_every=0))
    assert seen[0:6:2] == seen[1:6:2]
    assert len(set(seen[:6])) == 3


@pytest.mark.parametrize("evaluation_seeds", ["pair", "generation"])
def test_the_objective_is_given_the_seeds_of_seed_generation_and_pair(evaluation_seeds):
    """A batch of each pair, and the centre, whose seed is the generation's own."""

    class Remembers(Sphere):
        def evaluate_batch(self, theta_PD, seeds_P):
            seen.append(seeds_P.tolist())
            return super().evaluate_batch(theta_PD, seeds_P)

    for seed in (3, 4):
        seen = []
        config = with_(seed=seed, pairs=2, generations=2, batch_pairs=1, evaluation_seeds=evaluation_seeds)
        run(Remembers(2), config)
        for generation in (0, 1):
            per_pair = hash64((seed, 1, generation), np.arange(2, dtype=np.uint64)).tolist()
            first, second = per_pair if evaluation_seeds == "pair" else per_pair[:1] * 2
            expected = [[first] * 2, [second] * 2, [per_pair[0]]]
            assert sorted(seen[3 * generation : 3 * generation + 3]) == sorted(expected)


def test_a_finished_run_is_not_run_again(tmp_path):
    first = run(Noisy(6), CONFIG, out=tmp_path)
    again = run(Noisy(6), CONFIG, out=tmp_path)
    assert again.history == []
    assert again.final_return == first.final_return


def fails_where(bad):
    def function(theta, seed):
        if bad(theta):
            raise ZeroDivisionError("theta is out of bounds")
        return -float(theta @ theta)

    return FunctionObjective(function, np.ones(4))


def test_failures_are_counted_and_rank_worst():
    config = with_(max_failures=10_000, generations=30, weight_decay=0.0)
    result = run(fails_where(lambda theta: theta[0] > 1.05), config)
    assert 0 < result.failed_evaluations < 30 * 40
    assert result.history[0]["failed_evaluations"] > 0
    assert result.final_return > -0.5  # started at -4


@pytest.mark.ray
@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_failures_raise_the_objectives_error(ray_cluster, workers):
    with pytest.raises(ObjectiveError, match="ZeroDivisionError: theta is out of bounds") as caught:
        run(fails_where(lambda theta: theta[0] > 1.05), with_(max_failures=20, workers=workers))
    line = fails_where.__code__.co_firstlineno + 3
    assert re.search(rf"\({__file__}:{line}\); generation \d: \d\d evaluations have failed so far$", str(caught.value))
    assert 'raise ZeroDivisionError("theta is out of bounds")' in caught.value.trace


def test_nan_everywhere_stops_at_once():
    with pytest.raises(ObjectiveError, match=r"returned nan .* generation 0: 80 evaluations have failed"):
        run(FunctionObjective(lambda theta, seed: float("nan"), np.ones(2)), CONFIG)


def test_a_wrong_shape_is_said():
    class Wrong(Sphere):
        def evaluate_batch(self, theta_PD, seeds_P):
            return np.zeros((len(theta_PD), 1))

    with pytest.raises(ObjectiveError, match=r"Wrong.evaluate_batch returned shape \(\d+, 1\)"):
        run(Wrong(3), CONFIG)


@pytest.mark.ray
def test_a_worker_has_one_thread_and_shares_the_table(ray_cluster, tmp_path):
    """Both workers and this process map one inode; nobody holds a copy. Ray gives a one-CPU actor one BLAS thread."""

    class Spy(Sphere):
        def evaluate_batch(self, theta_PD, seeds_P):
            maps = {line.split()[4] for line in Path("/proc/self/maps").read_text().splitlines() if "noise-v" in line}
            facts = {"inodes": sorted(maps), "threads": os.environ.get("OMP_NUM_THREADS"), "pid": os.getpid()}
            (tmp_path / f"{os.getpid()}.json").write_text(json.dumps(facts))
            return super().evaluate_batch(theta_PD, seeds_P)

    run(Spy(3000), ESConfig(pairs=64, generations=2, noise="table", table_floats=2**20, workers=2))
    facts = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert len(facts) == 2
    assert os.getpid() not in {fact["pid"] for fact in facts}
    assert {fact["threads"] for fact in facts} == {"1"}
    assert len({inode for fact in facts for inode in fact["inodes"]}) == 1


@pytest.mark.ray
def test_an_objective_that_workers_cannot_load_is_an_error_and_not_a_dead_worker(ray_cluster):
    class Unloadable(Sphere):
        def __reduce__(self):
            return (int, ("not a number",))

    with pytest.raises(ObjectiveError, match=r"a worker cannot load the objective: .*not a number"):
        run(Unloadable(3), with_(workers=1))


@pytest.mark.ray
@pytest.mark.slow
def test_without_a_cluster_a_quiet_local_one_is_started_and_stopped(tmp_path):
    program = """
import numpy as np, ray
from data.errors import UserError
from es.config import ESConfig
from es.contract import ObjectiveError
from es.engine import run
from es.objectives.toy import Sphere
here, there = (run(Sphere(4), ESConfig(pairs=4, generations=2, workers=workers)) for workers in (0, 1))
assert (here.theta == there.theta).all() and not ray.is_initialized()
"""
    root = Path(__file__).resolve().parent.parent
    clean = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, env=clean, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
