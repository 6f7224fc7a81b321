"""The tuned slot: its numbers, its return, what is judged; and networks trained in a small world."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from benchmarks.fresh.rounds import Rounds
from data.errors import UserError
from es import engine
from es.config import ESConfig
from funnel.fresh.slot import FreshSettings
from funnel.fresh.trained import Recorder, TrainedFunnel
from funnel.fresh.tuning import (
    CORPUS,
    DUIC,
    DWELL,
    FreshObjective,
    FreshTuning,
    FreshTuningSettings,
    decoded,
    knobs,
)
from funnel.platform.episodes import Episodes, EpisodeSettings, changes, interval
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policies
from funnel.platform.world import new_world
from funnel.settings import read
from jobs import evolve

WORLD = PlatformSettings(users=120, items=80, providers=12, uploads=8, categories=6)
EPISODE = EpisodeSettings(first=2, days=2, settle=1)
SMALL = FreshTuningSettings(world=WORLD, episode=EPISODE, worlds=2, held_out=2)


def test_theta_0_is_the_start_and_every_theta_is_a_policy() -> None:
    start = FreshSettings(q=0.4)
    policy = knobs(start, WORLD)
    assert policy.dimension == 12
    own = decoded(policy.values(np.zeros(12, np.float32)), start, WORLD)
    for name, value in vars(start).items():
        assert own[name] == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value), name
    for theta in np.random.default_rng(0).normal(0, 4, (300, 12)).astype(np.float32):
        tree = decoded(policy.values(theta), start, WORLD)
        Policies.of({"slot": tree}, WORLD, 0)  # raises for what the slot does not take


def test_the_return_by_hand() -> None:
    objective = FreshObjective(FreshTuningSettings(discoverable=2.0, duic=0.5, limit=0.2, penalty=10.0))
    change = {CORPUS: 3.0, DUIC: 4.0, DWELL: -0.5}
    assert objective.worth(change) == pytest.approx(2 * 3 + 0.5 * 4 - 10 * 0.3)
    assert objective.worth(change | {DWELL: -0.1}) == pytest.approx(8.0)
    assert changes({"a": 3.0, "b": 2.0}, {"a": 2.0, "b": 0.0}) == {"a": 50.0, "b": 200.0}
    found = interval([1.0, 2.0, 3.0])
    assert (found.mean, found.sign) == (2.0, 0)
    assert found.high - found.mean == pytest.approx(4.302653 / np.sqrt(3), rel=1e-6)


def test_a_pair_lives_in_one_world_and_bits_do_not_depend_on_who_asks() -> None:
    objective = FreshObjective(SMALL)
    theta_PD = np.stack([np.zeros(12), np.ones(12)]).astype(np.float32)
    seeds_P = np.array([7, 7], np.uint64)
    together = objective.evaluate_batch(theta_PD, seeds_P)
    assert set(objective.episodes.known) == {1}  # 7 of 2 worlds
    again = FreshObjective(SMALL)
    assert together[0] != together[1]
    assert again.evaluate_batch(theta_PD[1:], seeds_P[1:])[0] == together[1]
    assert again.evaluate_batch(theta_PD[:1], seeds_P[:1])[0] == together[0]


def test_no_change_is_no_effect_and_a_slot_is_one() -> None:
    episodes = Episodes(WORLD, EPISODE)
    assert episodes.base(0)["dwell"] > 100
    assert episodes.changes({"slot": {"kind": "fresh", "rate": 0.5}}, 0)["dwell"] != 0
    assert set(episodes.changes({}, 0).values()) == {0.0}


@pytest.mark.ray
def test_same_theta_for_any_number_of_workers(ray_cluster: object) -> None:
    found = [
        engine.run(FreshObjective(SMALL), ESConfig(generations=2, pairs=2, centre_every=0, workers=workers)).theta
        for workers in (0, 2)
    ]
    np.testing.assert_array_equal(*found)


def test_the_command_writes_a_policy_that_an_experiment_takes(tmp_path: Path) -> None:
    words = ("--objective", "fresh", "--out", str(tmp_path / "run"), "--generations", "1", "--pairs", "1")
    sizes = ("--world.users", "120", "--world.items", "80", "--world.providers", "12", "--world.uploads", "8")
    days = ("--episode.first", "2", "--episode.days", "2", "--episode.settle", "1", "--worlds", "1", "--held-out", "2")
    summary = evolve.run(evolve.arguments_of(*words, *sizes, *days, "--workers", "0", "--centre-every", "0"))
    assert summary["fresh.worlds"] == 2
    assert summary["fresh.tuned.dwell"] != 0
    assert summary["fresh.gain.return.low"] <= summary["fresh.gain.return"] <= summary["fresh.gain.return.high"]
    tree = json.loads((tmp_path / "run" / "policy.json").read_text())
    Policies.of({"slot": tree["slot"]}, WORLD, 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"held_out": 1}, "held_out is 1, must be at least 2"),
        ({"per_evaluation": 40}, "per_evaluation is 40, but there are 16 worlds"),
        ({"penalty": -1.0}, "penalty is -1.0"),
        ({"episode": {"days": 3, "settle": 3}}, "settle is 3, must lie in 0..2"),
        ({"start": {"q": 1.2}}, "q is 1.2, must lie in 0..1"),
        ({"start": {"m_low": 1}}, "unknown key 'start.m_low'"),
    ],
)
def test_impossible_settings_are_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        read(FreshTuningSettings, values)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_judging_uses_worlds_of_its_own() -> None:
    tuning = FreshTuning(SMALL, seed=3)
    parts = [set(tuning.numbers(part)) for part in ("test", "valid")]
    assert not parts[0] & parts[1]
    assert min(parts[0] | parts[1]) >= SMALL.worlds
    with pytest.raises(UserError, match="no figure 'speed' of fresh"):
        tuning.smaller_is_better("speed")


@pytest.mark.slow
def test_networks_are_trained_in_the_loop(tmp_path: Path) -> None:
    """Two days: a round of the two-tower a day, one of the sequence nominator every other tick, each from the last
    one's weights; the slot's items are theirs. Another run of it gives the same ledger."""
    tables = []
    for run in range(2):
        recorder = Recorder()
        world = new_world(WORLD, 0, [Policies.of({}, WORLD, 0)], watch=recorder)
        world.run(2)
        place = tmp_path / str(run)
        trains = [Rounds(place / kind, 0) for kind in ("two_tower", "sequence")]
        policies = Policies.of({}, WORLD, 0)
        policies.slot = TrainedFunnel(FreshSettings(rate=0.5), WORLD, 0, recorder, trains, every=2)
        twin = world.copy([policies])
        twin.watch = recorder
        twin.run(2)
        assert trains[0].number == 2
        assert trains[1].number >= 2
        assert isinstance(policies.slot.real_time.network, nn.Module)
        tables.append(twin.ledger.table())
    np.testing.assert_array_equal(*tables)
    assert twin.corpus.live[2].sum() > 0


def test_the_recorder_sees_histories_before_the_page() -> None:
    """No row's history holds the item that was taken, unless the user had clicked it on an earlier page."""
    recorder = Recorder()
    world = new_world(WORLD, 0, [Policies.of({}, WORLD, 0)], watch=recorder)
    world.run(1)
    taken = recorder.since(0.0)
    assert taken is not None
    length_R = np.diff(taken.history.offset_R1)
    row_S = np.repeat(np.arange(len(taken)), length_R)
    assert not (taken.history.item_S == taken.item_R[row_S]).any()  # items shown lately are not shown again
    assert length_R.max() > 2
    assert (taken.history.day_S <= taken.day_R[row_S]).all()
