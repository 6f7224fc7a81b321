"""Routes of matching with a quota each, what pre-ranking keeps, and the tuning of these numbers under a cost limit."""

from typing import Any

import numpy as np
import pytest

from data.errors import UserError
from funnel.platform.episodes import EpisodeSettings
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policies
from funnel.platform.view import NOBODY, Requests, View
from funnel.platform.world import new_world
from funnel.prerank.quotas import QuotaEpisodes, QuotaObjective, QuotaTuning, QuotaTuningSettings, tree_of
from funnel.prerank.routes import ROUTES, Routes, RouteSettings, without_doubles

WORLD = PlatformSettings(users=120, items=300, uploads=12, kept=30)
EPISODE = EpisodeSettings(first=1, days=2, settle=0)
QUOTAS = {"taste": 25, "intent": 12, "popular": 7, "fresh": 5}


def blocks(tree: dict[str, Any]) -> list[tuple[View, Requests, Any]]:
    """What passes the stages of a second day."""
    seen: list[tuple[View, Requests, Any]] = []
    world = new_world(WORLD, 3, [Policies.of(tree, WORLD, 3)])
    world.run(1)
    world.watch = lambda arm, view, requests, passed, walked: seen.append((view, requests, passed))
    world.run(1)
    return seen


def test_an_item_is_a_candidate_once() -> None:
    found = without_doubles(np.array([[5, 3, 5, NOBODY, 3], [1, 1, 1, 2, NOBODY]]))
    assert found.tolist() == [[5, 3, NOBODY, NOBODY, NOBODY], [1, NOBODY, NOBODY, 2, NOBODY]]


def test_each_route_brings_what_it_is_for() -> None:
    for name in ROUTES:
        quotas = {**dict.fromkeys(ROUTES, 0), name: 15}
        for view, requests, passed in blocks({"matching": {"kind": "routes", **quotas}}):
            item_RC, there_RC = passed.matched_RC, passed.matched_RC != NOBODY
            assert there_RC.sum(1).max() <= 15
            if name == "intent":
                intent_RC = np.broadcast_to(requests.intent_R[:, None], item_RC.shape)
                assert (view.items.category_I[item_RC[there_RC]] == intent_RC[there_RC]).all()
            if name == "fresh":
                assert (view.now - view.items.upload_I[item_RC[there_RC]] < WORLD.fresh_days + 1).all()
            if name == "popular":
                best = np.sort(view.popularity_I)[::-1][:15]
                assert np.sort(view.popularity_I[item_RC[0]])[::-1] == pytest.approx(best)
            if name == "taste":
                fit = (view.learnt_ID[item_RC[0][there_RC[0]]] @ view.users.taste_UD[requests.user_R[0]]).mean()
                assert fit > (view.learnt_ID @ view.users.taste_UD[requests.user_R[0]]).mean()


def test_quotas_are_kept_and_the_cost_is_counted() -> None:
    for keep in (0, 12, 40):
        tree = {"matching": {"kind": "routes", **QUOTAS}, "preranking": {"keep": keep}}
        for _, _, passed in blocks(tree):
            there_RC = passed.matched_RC != NOBODY
            assert there_RC.sum(1).max() <= sum(QUOTAS.values())
            assert passed.kept_RK.shape[1] == (keep or WORLD.kept)
            for row in passed.matched_RC:
                known = row[row != NOBODY]
                assert len(set(known.tolist())) == len(known)
    episodes = QuotaEpisodes(WORLD, EPISODE, tree_of({**QUOTAS, "keep": 20}, ""), rank_cost=10.0)
    figures = episodes.run(episodes.control, 1)
    assert 200 + 25 <= figures["cost"] <= 200 + sum(QUOTAS.values())
    again = episodes.changes(episodes.control, 1)
    assert {name: value for name, value in again.items() if name != "cost"} == pytest.approx(
        dict.fromkeys(set(again) - {"cost"}, 0.0)
    )


def test_no_candidate_costs_more_than_the_limit() -> None:
    base = QuotaTuningSettings(world=WORLD, episode=EPISODE, start=RouteSettings(**QUOTAS), keep=20, limit=300.0)
    objective = QuotaObjective(base)
    assert objective.quotas(objective.initial()) == {**QUOTAS, "keep": 20}
    rng = np.random.default_rng(0)
    seen = set()
    for theta_D in rng.normal(0, 3, (300, 5)).astype(np.float32):
        quotas = objective.quotas(theta_D)
        candidates = sum(quotas[name] for name in ROUTES)
        assert candidates + 10 * quotas["keep"] <= 300, quotas
        assert candidates >= quotas["keep"] >= WORLD.slots
        assert min(quotas.values()) >= 0
        seen.add(tuple(quotas.values()))
    assert len(seen) > 200
    wide = objective.quotas(np.full(5, 0.7, np.float32))
    assert wide["taste"] / wide["intent"] == pytest.approx(25 / 12, rel=0.1), "scaled alike"
    change = {"positives": 3.0, "purchases": 4.0, "cost": 270.0}
    assert objective.worth(change) == pytest.approx(3 + 0.25 * 4)


def test_returns_are_changes_of_the_same_world() -> None:
    base = QuotaTuningSettings(world=WORLD, episode=EPISODE, start=RouteSettings(**QUOTAS), keep=20, limit=300.0)
    objective = QuotaObjective(base)
    theta_PD = np.stack([objective.initial(), np.full(5, -9, np.float32)])
    returns = objective.evaluate_batch(theta_PD, np.array([2, 2], np.uint64))
    assert returns[0] == 0.0, "the start against itself"
    assert returns[1] < 0, "a ranker that is handed a page alone, of what matching finds first"
    assert (returns == objective.evaluate_batch(theta_PD, np.array([2, 2], np.uint64))).all()


def test_tuning_judges_in_worlds_never_tuned_on() -> None:
    settings = QuotaTuningSettings(
        world=WORLD, episode=EPISODE, start=RouteSettings(**QUOTAS), keep=20, held_out=2, worlds=2, limit=300.0
    )
    tunable = QuotaTuning.open(settings, 0)
    theta = tunable.objective.initial()
    found = tunable.judge(theta, 0, 0)
    assert found["quotas.gain.return"] == 0.0
    assert not found["quotas.significant"]
    assert set(tunable.objective.episodes.known) == {2_000_000, 2_000_001}
    policy = tunable.policy(theta)
    assert Policies.of(policy, WORLD, 0).preranking.keep == 20
    assert tunable.results(found) is not None
    assert "not told from" in found["message"]


def test_quotas_that_cannot_be_are_refused() -> None:
    for settings, words in (({"taste": -1}, "taste is -1"), ({"fresh": 9_999}, "fresh is 9999")):
        with pytest.raises(UserError, match=words):
            RouteSettings(**settings)
    with pytest.raises(UserError, match="cannot fill a page"):
        Routes(RouteSettings(taste=3, intent=2, popular=2, fresh=1), WORLD, 0)
    with pytest.raises(UserError, match="keep is 4"):
        Policies.of({"preranking": {"keep": 4}}, WORLD, 0)
    with pytest.raises(UserError, match="limit is 100: a page of 10 items alone costs 110"):
        QuotaTuningSettings(limit=100.0)
    with pytest.raises(UserError, match="want one of"):
        QuotaTuning.smaller_is_better("asph")
