"""What the engine decides by itself (where to evaluate, in how many calls, when to save), stopping, replay, Tune."""

import dataclasses
import itertools
import json
import runpy
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import ray.cloudpickle

from data.errors import Stopped
from es.algorithms.base import Proposal
from es.config import ESConfig
from es.engine import run
from es.objectives.toy import Rosenbrock, Sphere
from es.record import RunRecord
from es.replay import replay_run
from es.tasks import CALL_S, ROUND_TRIP_S, calls_per_worker, choose, split
from es.wire import pack_proposal, pack_reply, unpack_proposal, unpack_reply
from es.worker import Reply

# Workers cannot import this file: its objectives travel whole.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

CONFIG = ESConfig(seed=2, pairs=20, generations=10, weight_decay=0.01)


@dataclasses.dataclass(frozen=True)
class Slow(Sphere):
    """The sphere, two milliseconds a candidate."""

    batch_pairs = 1

    def describe(self):
        return {"objective": "Sphere"}

    def evaluate_batch(self, theta_PD, seeds_P):
        time.sleep(0.002 * len(theta_PD))
        return super().evaluate_batch(theta_PD, seeds_P)


@pytest.mark.parametrize(("pairs", "batch", "tasks"), [(1, 1, 3), (40, 16, 2), (40, 4, 3), (100, 8, 50), (0, 4, 2)])
def test_tasks_are_whole_batches_that_cover_the_generation(pairs, batch, tasks):
    cut = split(pairs, True, batch, tasks)
    assert [task.start for task in cut] == [0, *(task.stop for task in cut[:-1])]
    assert cut[-1].stop == pairs
    assert all(task.stop % batch == 0 for task in cut[:-1])
    assert len(cut) <= tasks
    assert [task.centre for task in cut] == [True] + [False] * (len(cut) - 1)
    sizes = [-(-(task.stop - task.start) // batch) for task in cut]
    assert max(sizes) - min(sizes) <= 1


def test_calls_per_worker_follow_the_cost_of_a_generation():
    assert calls_per_worker(generation_s=0.001, workers=2) == 1
    assert calls_per_worker(generation_s=0.1, workers=2) == 2  # 20 ms each
    assert calls_per_worker(generation_s=100.0, workers=2) == 64
    # 64 workers, 1 s each: 0.3 s of the driver buy 300 calls of a millisecond
    assert calls_per_worker(generation_s=64.0, workers=64) == int(0.3 * 1.0 / (CALL_S * 64)) == 4


def test_the_choice_weighs_ray_against_this_process():
    assert choose(ROUND_TRIP_S / 2, 10**9, 8, True).workers == 0  # never worth it
    assert "less than Ray's round trip" in choose(ROUND_TRIP_S / 2, 10**9, 8, True).reason
    assert choose(0.1, 10**4, 2, False).workers == 2
    assert choose(0.1, 10, 2, False).workers == 0  # half a second saved, eight to start Ray
    assert choose(10.0, 100, 1, True).workers == 0


def test_auto_stays_in_this_process_for_what_is_cheap(tmp_path):
    """And starts no Ray for it, and says why."""
    expected = run(Sphere(4), CONFIG)
    result = run(Sphere(4), dataclasses.replace(CONFIG, workers="auto"))
    np.testing.assert_array_equal(result.theta, expected.theta)
    assert result.choice is not None
    assert (result.workers, result.choice.workers) == (0, 0)


@pytest.mark.ray
def test_auto_takes_workers_for_what_is_dear(ray_cluster, monkeypatch):
    monkeypatch.setattr("es.tasks.ACTORS_START_S", 0.01)
    config = dataclasses.replace(CONFIG, workers="auto", cpus_per_worker=2.0)  # of 4 CPUs: two workers
    result = run(Slow(4), config)
    assert [metrics["workers"] for metrics in result.history] == [0, 0] + [2] * 8
    assert result.choice.workers == 2
    np.testing.assert_array_equal(result.theta, run(Sphere(4), dataclasses.replace(CONFIG, batch_pairs=1)).theta)


@pytest.mark.ray
def test_same_bits_for_seven_workers(ray_cluster):
    config = dataclasses.replace(CONFIG, batch_pairs=2)
    seven = run(Rosenbrock(5), dataclasses.replace(config, workers=7, cpus_per_worker=0.25))
    np.testing.assert_array_equal(seven.theta, run(Rosenbrock(5), config).theta)
    assert seven.history[-1]["workers"] == 7
    assert 0 <= seven.history[-1]["idle_share"] <= 1


@pytest.mark.ray
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_is_asked_to_stop_saves_and_continues_to_the_same_bits(ray_cluster, tmp_path, workers):
    """Asked in the middle of a generation: that one is given up, the ones before it are kept."""
    began = time.monotonic()

    def late():
        return time.monotonic() > began + 1.2 and (tmp_path / "returns.f64").exists()

    config = dataclasses.replace(CONFIG, generations=500, checkpoint_every=10**6, workers=workers, batch_pairs=1)
    with pytest.raises(Stopped, match=r"stopped after generation \d+ of 500"):
        run(Slow(4), config, tmp_path, stopping=late)
    found = replay_run(tmp_path)
    assert found.difference is None
    short = dataclasses.replace(config, generations=found.generations + 3, workers=0)
    resumed = run(Slow(4), short, tmp_path)
    assert resumed.resumed_at == found.generations
    np.testing.assert_array_equal(resumed.theta, run(Sphere(4), short).theta)


@pytest.mark.parametrize("sigma", [0.25, np.linspace(0, 1, 5, dtype=np.float32), np.linspace(0, 1, 5)])
def test_what_is_packed_is_unpacked(sigma):
    proposal = Proposal(7, np.arange(5, dtype=np.float32), sigma, mirrored=False)
    found = unpack_proposal(pack_proposal(proposal))
    assert (found.generation, found.mirrored) == (7, False)
    np.testing.assert_array_equal(found.theta_D, proposal.theta_D)
    np.testing.assert_array_equal(found.sigma, sigma)
    assert np.asarray(found.sigma).dtype == np.asarray(sigma).dtype
    reply = Reply(np.arange(6.0).reshape(3, 2), centre=2.5, seconds=0.5)
    back = unpack_reply(pack_reply(reply))
    np.testing.assert_array_equal(back.returns_k2, reply.returns_k2)
    assert (back.centre, back.seconds) == (2.5, 0.5)
    failed = Reply(np.zeros((1, 2)), error=ValueError("no"))
    assert unpack_reply(pack_reply(failed)) is failed


@pytest.mark.slow
def test_checkpoints_take_their_share_of_the_time_and_no_more(tmp_path, monkeypatch):
    """Saving made to take 20 ms: with generations of a millisecond, one in some hundred generations is saved."""
    saved, original = [], RunRecord.checkpoint

    def slow(self, checkpoint):
        saved.append(time.monotonic())
        monkeypatch.setattr("es.record.save_checkpoint", lambda *arguments: time.sleep(0.02))
        original(self, checkpoint)

    monkeypatch.setattr(RunRecord, "checkpoint", slow)
    run(Sphere(4), dataclasses.replace(CONFIG, generations=5000), tmp_path)
    assert 3 <= len(saved) < 100
    assert min(b - a for a, b in itertools.pairwise(saved[:-1])) >= 0.4  # the last is always saved


def test_a_replay_proves_theta_or_names_the_first_difference(tmp_path):
    for optimizer in ("adam", "clipup"):
        out = tmp_path / optimizer
        result = run(Rosenbrock(5), dataclasses.replace(CONFIG, optimizer=optimizer), out)
        found = replay_run(out)
        assert (found.difference, found.generations) == (None, 10)
        np.testing.assert_array_equal(found.theta, result.theta)
    returns = np.fromfile(out / "returns.f64")
    returns[4 * 40 + 7] += 100.0
    returns.tofile(out / "returns.f64")
    assert replay_run(out).difference == "theta differs from generation 4 on"
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["theta_crc32"]
    (out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert replay_run(out).difference.startswith("theta[0] is ")


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "start.f32", "returns.f64"])
def test_a_replay_says_what_it_lacks(tmp_path, name):
    run(Sphere(3), CONFIG, tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=f"has no {name}"):
        replay_run(tmp_path)


@pytest.mark.ray
@pytest.mark.slow
def test_the_recipe_for_tune_in_the_docs(ray_cluster, tmp_path, monkeypatch):
    """Four trials of 12 generations; the best is the run that the engine makes with its settings."""
    text = (Path(__file__).parent.parent / "docs/evolve.md").read_text()
    (tmp_path / "rates.py").write_text(text.split("## Tune", 1)[1].split("```python", 1)[1].split("```")[0])
    monkeypatch.chdir(tmp_path)
    best = runpy.run_path("rates.py", run_name="__main__")["best"]
    assert len(best.metrics_dataframe) == 12
    direct = run(Sphere(5), ESConfig(pairs=16, generations=12, learning_rate=best.config["rate"]))
    assert best.metrics["return.centre"] == direct.history[-1]["return.centre"]
    finals = [json.loads(path.read_text().splitlines()[-1]) for path in tmp_path.glob("tuned/*/trial_*/result.json")]
    assert len(finals) == 4
    assert best.metrics["return.centre"] == max(final["return.centre"] for final in finals)
