"""Policies of the platform: the fresh slot on the page, and what is refused in one line."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from data.errors import UserError
from funnel.platform.cascade import Passed
from funnel.platform.population import draw_population
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policies, Policy, Step
from funnel.platform.view import NOBODY, Requests, View
from funnel.platform.world import World

SMALL = PlatformSettings(users=200, items=150, providers=30, uploads=10.0)


def made(tree: dict[str, Any], settings: PlatformSettings = SMALL) -> Policies:
    return Policies.of(tree, settings, 3)


def run(tree: dict[str, Any], days: int = 1, watch: Any = None) -> World:
    world = World(draw_population(SMALL, 3), [made(tree)], watch)
    world.run(days)
    return world


def test_the_fresh_slot_stands_where_it_should() -> None:
    tree = {"slot": {"kind": "random", "rate": 1.0, "place": 4}}
    places: list[int] = []

    def watch(arm: int, view: View, requests: Requests, passed: Passed, done: Any) -> None:
        page = passed.page
        assert (page.slot_RM.sum(1) <= 1).all()
        places.extend(np.nonzero(page.slot_RM)[1])
        for row in page.item_RM:
            assert len(set(row[row != NOBODY])) == (row != NOBODY).sum()
        young = view.items.upload_I[page.item_RM[page.slot_RM]] > view.now - SMALL.fresh_days
        assert young.all()

    run(tree, days=1, watch=watch)
    assert set(places) == {4}
    floating: set[int] = set()
    run(
        {"slot": {"kind": "random", "rate": 1.0}},
        days=1,
        watch=lambda arm, view, requests, passed, done: floating.update(np.nonzero(passed.page.slot_RM)[1]),
    )
    assert floating == set(range(10))


def test_a_graduated_item_is_not_nominated() -> None:
    def watch(arm: int, view: View, requests: Requests, passed: Passed, done: Any) -> None:
        shown = passed.page.item_RM[passed.page.slot_RM]
        assert (view.live.positives_I[shown] < 3).all()

    world = run({"slot": {"kind": "random", "rate": 1.0, "graduation": 3}}, days=2, watch=watch)
    assert (world.corpus.live[1] >= 3).any()


class Broken(Policy):
    settings_type = PlatformSettings

    def score(self, requests: Requests, item_RC: np.ndarray, view: View) -> np.ndarray:
        return np.zeros((1, 1), np.float32)


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"slot": {"kind": "random", "rate": 1.5}}, "p: slot: rate is 1.5, must lie in 0..1"),
        ({"slot": {"kind": "random", "place": 10}}, "place is 10, must lie in -1..9"),
        ({"slot": {"kind": "random", "rat": 1}}, "p: slot: unknown key 'rat'; did you mean rate?"),
        ({"slots": {}}, "p: unknown key 'slots'; did you mean slot?"),
        ({"slot": {"kind": "nosuch"}}, "no kind of slot 'nosuch'"),
        ({"matching": {"lists": 1, "length": 5}}, "cannot fill a page of 10 slots"),
        ({"fusion": {"noise": "loud"}}, "noise is 'loud'"),
        ({"fusion": 3}, "'fusion' must be an object"),
    ],
)
def test_policies_that_are_none_are_refused(tree: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        Policies.of(tree, SMALL, 0, "p")
    assert words in str(caught.value)


def test_impossible_worlds_are_refused() -> None:
    with pytest.raises(UserError, match="cannot be filled"):
        PlatformSettings(slots=61)
    with pytest.raises(UserError, match=r"core is 2, must lie in 0\.\.1"):
        PlatformSettings(core=2)
    one = dataclasses.replace(SMALL, users=1)
    with pytest.raises(UserError, match="1 users cannot be split into 2 arms"):
        World(draw_population(one, 0), [made({}, one), made({}, one)])
    policies = made({})
    policies.preranking = Broken(SMALL, SMALL, 0)
    with pytest.raises(UserError, match="preranking scored"):
        World(draw_population(SMALL, 0), [policies]).run(1)


class Backwards(Policy):
    """Shows the page from its end, and once it was asked to, the first item again and again."""

    settings_type = PlatformSettings
    candidates = 14
    again = False

    def choose(self, requests: Requests, step: Step, view: View) -> np.ndarray:
        assert step.seen_RP.shape == (len(requests), step.place)
        assert (step.left_RM.sum(1) <= step.item_RM.shape[1] - step.place).all()
        if self.again:
            return np.zeros(len(requests), np.int64)
        column_M = np.arange(step.item_RM.shape[1])
        return np.where(step.left_RM, column_M, -1).max(1)


def test_re_ranking_chooses_item_by_item() -> None:
    shown: list[np.ndarray] = []

    def watch(arm: int, view: View, requests: Requests, passed: Passed, done: Any) -> None:
        assert passed.page.item_RM.shape[1] == 14
        for row, full in enumerate((passed.page.item_RM != NOBODY).all(1)):
            if full:
                assert np.array_equal(done.feedback.item_RS[row], passed.page.item_RM[row, :3:-1])
                shown.append(done.feedback.item_RS[row])

    policies = made({})
    policies.reranking = Backwards(SMALL, SMALL, 0)
    World(draw_population(SMALL, 3), [policies], watch).run(1)
    assert len(shown) > 50
    policies.reranking.again = True
    with pytest.raises(UserError, match="shown already"):
        World(draw_population(SMALL, 3), [policies]).run(1)


@pytest.mark.parametrize(
    "settings", [{"items": 3}, {"items": 40, "slots": 30, "kept": 30}, {"providers": 1}, {"users": 1}]
)
def test_tiny_worlds_run(settings: dict[str, int]) -> None:
    """Pages that cannot be filled, one provider, one user."""
    tiny = dataclasses.replace(SMALL, **settings, uploads=0.5)
    for tree in ({}, {"slot": {"kind": "random", "rate": 1.0}}, {"matching": {"lists": 10, "length": 3}}):
        world = World(draw_population(tiny, 1), [made(tree, tiny)])
        world.run(3)
        assert world.corpus.live[0].sum() > 0


def test_an_arm_without_anybody_is_refused() -> None:
    two = draw_population(dataclasses.replace(SMALL, providers=2), 1)
    with pytest.raises(UserError, match="leave one of 8 arms without any"):
        [two.part(arm, 8) for arm in range(8)]
