"""The fresh slot: its prior, its draws, what it nominates, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta, betabinom

from data.errors import UserError
from funnel.fresh.nominators import weighed
from funnel.fresh.prescorer import (
    Prior,
    chance_of_beating,
    closed_mean,
    draws,
    dynamic_prior,
    likelihood_prior,
)
from funnel.fresh.retrieval import EXACT_ITEMS, Approximate, exact_top, overlap, within
from funnel.fresh.slot import FreshFunnel, FreshSettings
from funnel.platform.designs import metrics
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policies
from funnel.platform.view import NOBODY, Requests, View
from funnel.platform.world import World, new_world
from funnel.settings import read

WORLD = PlatformSettings(users=200, items=120, providers=20, uploads=15)
rng = np.random.default_rng


def slot_world(seed: int = 0, watch: object = None, **slot: object) -> World:
    policies = Policies.of({"slot": {"kind": "fresh", **slot}}, WORLD, seed)
    return new_world(WORLD, seed, [policies], watch)


@pytest.mark.parametrize(("a", "b"), [(3.0, 7.0), (0.8, 12.0), (20.0, 20.0)])
def test_the_prior_by_maximum_likelihood_recovers_what_made_the_clicks(a: float, b: float) -> None:
    shown_I = rng(0).integers(20, 1000, 3000)
    good_I = rng(1).binomial(shown_I, rng(2).beta(a, b, 3000))
    found = likelihood_prior(good_I, shown_I, many=100)
    assert found is not None
    assert found.a == pytest.approx(a, rel=0.1)
    assert found.b == pytest.approx(b, rel=0.1)
    # No other pair is likelier: scipy's own likelihood, in every direction.
    enough = shown_I >= 100

    def likelihood(prior: Prior) -> float:
        return float(betabinom.logpmf(good_I[enough], shown_I[enough], prior.a, prior.b).sum())

    for factor_a, factor_b in ((1.02, 1), (0.98, 1), (1, 1.02), (1, 0.98), (1.02, 1.02), (0.98, 0.98)):
        assert likelihood(Prior(found.a * factor_a, found.b * factor_b)) < likelihood(found)


def test_too_few_items_give_no_prior() -> None:
    assert likelihood_prior(np.array([50, 60, 1]), np.array([100, 100, 5])) is None
    equal = likelihood_prior(np.full(50, 100), np.full(50, 200))  # less spread than chance: held below the bound
    assert equal is not None
    assert equal.mean == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("chance", [0.02, 0.1, 0.5, 0.8])
def test_a_new_item_beats_the_winner_as_often_as_was_asked(chance: float) -> None:
    winner = Prior(60.0, 40.0)
    prior = dynamic_prior(8.0, winner, chance)
    assert prior.strength == pytest.approx(8.0)
    assert chance_of_beating(prior, winner) == pytest.approx(chance, abs=1e-5)
    drawn = rng(0).beta(prior.a, prior.b, 200_000) > rng(1).beta(winner.a, winner.b, 200_000)
    assert drawn.mean() == pytest.approx(chance, abs=0.004)
    # The closed form is that of normals: it solves its own equation, and comes near.
    mean = closed_mean(8.0, winner, chance)
    assert mean == pytest.approx(prior.mean, abs=0.06)


def test_draws_follow_the_posterior_and_the_address() -> None:
    word = rng(3).integers(0, 2**64, (1, 200_000), dtype=np.uint64)
    share = np.linspace(0.01, 0.99, 99)
    for good, shown in ((0, 0), (3, 20), (70, 200)):
        drawn = draws(word, np.full((1, 1), good), np.full((1, 1), shown), Prior(1.5, 3.0))[0]
        exact = beta.ppf(share, 1.5 + good, 3.0 + shown - good)
        assert np.abs(np.quantile(drawn, share) - exact).max() < 0.02
    half = draws(word[:, :5], np.zeros((1, 5)), np.zeros((1, 5)), Prior(1.5, 3.0), temperature=0.5)
    whole = draws(word[:, :5], np.zeros((1, 5)), np.zeros((1, 5)), Prior(1.5, 3.0))
    np.testing.assert_allclose(half - 1 / 3, 0.5 * (whole - 1 / 3))


def test_weights_of_categories_by_hand() -> None:
    """Three categories with 4, 1 and no items of 5: log(5/4), log 5; the mean over those that occur is 1."""
    weight = weighed(np.array([4, 1, 0]), 5, 1.0)
    raw = np.log([5 / 4, 5.0])
    np.testing.assert_allclose(weight[:2], raw / raw.mean(), rtol=1e-6)
    np.testing.assert_array_equal(weighed(np.array([4, 1, 0]), 5, 0.0), 1)


def test_nothing_graduated_or_old_is_ever_nominated() -> None:
    """Every nomination of twelve days: below graduation at that moment; fresh, or long-tail when the tick began; each
    keeps to its part of the funnel."""
    asked = []

    class Watched(FreshFunnel):
        def tick(self, view: View) -> None:
            super().tick(view)
            self.before_I = view.live.positives_I.copy()

        def nominate(self, requests: Requests, view: View) -> np.ndarray:
            found_RN = super().nominate(requests, view)
            asked.append((found_RN, self.asks_real_time(requests, view), view, self.before_I))
            return found_RN

    policies = Policies.of({}, WORLD, 0)
    settings = FreshSettings(rate=0.5, p=0.5, n_low=3, n_grad=12, max_age=5, few=2, nominees=20, kept=6)
    policies.slot = Watched(settings, WORLD, 0)
    world = new_world(WORLD, 0, [policies])
    world.run(12)
    seen = 0
    for found_RN, real_time_R, view, before_I in asked:
        positives_I = view.live.positives_I
        for row, real_time in zip(found_RN, real_time_R, strict=True):
            item = row[row != NOBODY]
            seen += len(item)
            assert len(set(item.tolist())) == len(item) <= 6
            assert (positives_I[item] < 12).all()
            assert ((positives_I[item] >= 3) == real_time).all()
            assert ((view.now - view.items.upload_I[item] <= 5) | (before_I[item] < 2)).all()
    assert seen > 1000
    assert (world.corpus.live[1] > 12).any()  # the rest of the platform goes on with what has graduated


def test_query_division_and_context() -> None:
    """Shares of requests that ask the real-time nominator: 1 - p of casual users, 1 - p (1 - q) of core users."""
    slot = FreshFunnel(FreshSettings(p=0.7, q=0.4), WORLD, 0)
    world = new_world(WORLD, 0, [Policies.of({}, WORLD, 0)])
    view = world.corpus.view(0, 0, 0.0)
    user_R = np.arange(40_000) % WORLD.users
    zero = np.zeros(len(user_R), np.int64)
    keys = rng(0).integers(0, 2**64, len(user_R), np.uint64)
    requests = Requests(0, 0, 0, 0.0, user_R, zero, zero, keys, zero[:, None])
    asks_R = slot.asks_real_time(requests, view)
    core_R = view.users.core_U[user_R]
    assert asks_R[~core_R].mean() == pytest.approx(0.3, abs=0.01)
    assert asks_R[core_R].mean() == pytest.approx(1 - 0.7 * 0.6, abs=0.015)
    place_R = FreshFunnel(FreshSettings(first=6), WORLD, 0).place(requests, view)
    assert set(place_R.tolist()) == {6, 7, 8, 9}
    eight_R = FreshFunnel(FreshSettings(first=2), WORLD, 0).place(requests, view)
    np.testing.assert_allclose(np.bincount(eight_R) / len(eight_R), [0] * 2 + [1 / 8] * 8, atol=0.01)
    assert set(FreshFunnel(FreshSettings(place=2), WORLD, 0).place(requests, view).tolist()) == {2}


def test_same_bits_whatever_the_block() -> None:
    """What the slot does follows from the request alone: blocks of 37 requests give the ledger that 512 give."""
    tables = []
    for block in (512, 37):
        world = slot_world(prior="dynamic", q=0.3)
        world.block = block
        world.run(3)
        tables.append(world.ledger.table())
    np.testing.assert_array_equal(tables[0], tables[1])


def test_a_slot_brings_fresh_items_to_users() -> None:
    """Where the main system shows few fresh items, a slot on half of the pages shows more."""
    few = PlatformSettings(users=200, items=300, providers=20, uploads=4)
    plain, with_slot = (
        new_world(few, 1, [Policies.of(tree, few, 1)]) for tree in ({}, {"slot": {"kind": "fresh", "rate": 0.5}})
    )
    for world in (plain, with_slot):
        world.run(8)
    base, fresh = (metrics(world.ledger.table()[2:, :, 0]) for world in (plain, with_slot))
    assert fresh["fresh.exposures"] > 1.05 * base["fresh.exposures"]
    assert with_slot.corpus.live[2].sum() > 0 == plain.corpus.live[2].sum()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"q": 1.5}, "q is 1.5, must lie in 0..1"),
        ({"p": -0.1}, "p is -0.1, must lie in 0..1"),
        ({"rate": 2.0}, "rate is 2.0, must lie in 0..1"),
        ({"n_low": 300.0, "n_grad": 200.0}, "n_low 300 is above n_grad 200"),
        ({"kept": 60}, "kept 60 is more than nominees 50"),
        ({"win_chance": 0.0}, "win_chance is 0.0, must lie between 0 and 1"),
        ({"prior": "flat"}, "prior is 'flat', must be likelihood, dynamic, uniform"),
        ({"nominators": "both"}, "nominators is 'both'"),
        ({"max_age": 0.0}, "max_age is 0.0, must be a finite number above 0"),
        ({"first": 10}, "first is 10, but a page has 10 slots"),
        ({"place": 10}, "place is 10, must lie in -1..9"),
        ({"nlow": 4}, "unknown key 'nlow'"),
    ],
)
def test_impossible_settings_are_one_line(settings: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        Policies.of({"slot": {"kind": "fresh", **settings}}, WORLD, 0, "policy.json")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_travel_through_json() -> None:
    settings = FreshSettings(p=0.3, prior="dynamic")
    assert read(FreshSettings, json.loads(json.dumps(vars(settings)))) == settings


def test_exact_retrieval_is_exact_and_in_order() -> None:
    query, item = (rng(k).normal(size=(size, 8)).astype(np.float32) for k, size in ((0, 40), (1, 700)))
    item[100:130] = item[3]  # equal scores, in the order of the items
    place, score = exact_top(query, item, 60)
    full = query @ item.T
    np.testing.assert_array_equal(place, np.argsort(-full, axis=1, kind="stable")[:, :60])
    np.testing.assert_allclose(score, np.take_along_axis(full, place, 1), rtol=1e-5)
    assert overlap(place, place) == 1
    assert overlap(place[:, :30], place) == 0.5
    found = np.array([[9, 4, 7, 2], [1, 3, 5, -1], [2, 9, 8, 7]])
    np.testing.assert_array_equal(within(found, np.array([2, 4, 8]), 2), [[1, 0], [0, 0], [0, 2]])
    with pytest.raises(UserError, match="the top 701 of 700 items"):
        exact_top(query, item, 701)


def test_an_approximate_index_says_its_recall_or_what_to_install() -> None:
    item = rng(1).normal(size=(2000, 8)).astype(np.float32)
    try:
        import faiss  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match=f"more than {EXACT_ITEMS:,} items need an approximate index"):
            Approximate(item)
        return
    index = Approximate(item, lists=20, probes=20)
    assert index.recall(item[:50], 10) == 1.0
    assert 0.3 < Approximate(item, lists=20, probes=3).recall(item[:50], 10) < 1.0


def test_a_policy_file_with_an_unknown_key(tmp_path: Path) -> None:
    tree = json.loads('{"slot": {"kind": "fresh", "n_lov": 3}}')
    with pytest.raises(UserError, match=r"unknown key 'n_lov'; .*n_low"):
        Policies.of(tree, WORLD, 0, str(tmp_path / "policy.json"))
