"""Searches for the best list: against brute force, by hand, numpy against torch, limits that are never broken."""

import dataclasses
import itertools
import math
from typing import Any, Literal

import numpy as np
import pytest
import torch

from data.errors import UserError
from funnel.rerank import search_torch
from funnel.rerank.limits import Bounds, CategoryLimit, CategoryLimits
from funnel.rerank.list_value import METHODS, Chances, SearchSettings, list_value
from funnel.rerank.rivals import LeavingByPlace, Weibull, drawn, fit_weibull
from funnel.rerank.search import NOTHING, Found, search, stable
from funnel.rerank.world import ListWorld, ListWorldSettings, play


def world(requests: int, candidates: int, seed: int = 0, **settings: object) -> ListWorld:
    return ListWorld.draw(ListWorldSettings(**settings), requests, candidates, seed)  # type: ignore[arg-type]


def found(of: ListWorld, places: int, bounds: Bounds | None = None, **settings: object) -> Found:
    rows, candidates = of.category_RM.shape
    none_RP = np.zeros((rows, 0), np.int64)
    left_RM = np.ones((rows, candidates), bool)
    return search(of.scorer(none_RP), left_RM, SearchSettings(**settings), places, bounds)  # type: ignore[arg-type]


def brute_force(of: ListWorld, length: int, settings: SearchSettings) -> tuple[np.ndarray, np.ndarray]:
    """(largest value, its list) of every request over all orders of all candidates."""
    rows, candidates = of.category_RM.shape
    best_R, best_RL = np.full(rows, -np.inf), np.zeros((rows, length), np.int64)
    for order in itertools.permutations(range(candidates), length):
        value_R = list_value(of.of_list(np.tile(order, (rows, 1))), settings.alpha, settings.beta)
        better_R = value_R > best_R
        best_R[better_R], best_RL[better_R] = value_R[better_R], order
    return best_R, best_RL


def test_a_list_value_by_hand() -> None:
    one = Chances(np.array([[0.5, 0.4]]), np.array([[0.1, 0.2]]), np.array([[0.9, 0.3]]))
    assert list_value(one, 1.0, 2.0)[0] == pytest.approx(0.5 + 0.2 + 0.9 * (0.4 + 0.4))


def test_a_wide_beam_finds_what_brute_force_finds() -> None:
    of, settings = world(12, 6), SearchSettings(method="beam", k=1)
    value_R, list_RL = brute_force(of, 4, settings)
    wide = found(of, 4, method="beam", k=6 * 5 * 4)
    np.testing.assert_array_equal(wide.list_RL, list_RL)
    np.testing.assert_allclose(wide.value_R, value_R, rtol=1e-5)
    # 6 candidates behind nothing, 5 behind each of 6 lists, 4 behind 30, 3 behind 120.
    assert wide.evaluations_R.tolist() == [6 + 6 * 5 + 30 * 4 + 120 * 3] * 12
    narrow = found(of, 4, method="beam", k=4)
    assert (narrow.value_R <= value_R * (1 + 1e-6)).all()
    assert narrow.value_R.mean() > 0.97 * value_R.mean()
    assert narrow.evaluations_R.tolist() == [6 + 4 * 5 + 4 * 4 + 4 * 3] * 12


def test_greedy_is_a_beam_of_one_step_and_pointwise_sees_no_context() -> None:
    of = world(20, 8)
    greedy, single = found(of, 5, method="greedy"), found(of, 5, method="beam", k=1, horizon=1)
    np.testing.assert_array_equal(greedy.first_R, single.first_R)
    played = play(of, SearchSettings(method="pointwise"), 5)
    alone = of.scorer(np.zeros((20, 0), np.int64)).alone(np.arange(20))
    np.testing.assert_array_equal(played.list_RL, np.argsort(-(alone.view + 4 * alone.like), 1, kind="stable")[:, :5])


class Told:
    """A scorer with the same chances whatever stands before."""

    def __init__(self, view: list[float], stay: float = 1.0, like: float = 0.0) -> None:
        self.view_M, self.stay, self.like = np.array(view, np.float32), stay, like

    def __call__(self, row_R: np.ndarray, prefix_RKL: np.ndarray) -> Chances:
        view_RKM = np.broadcast_to(self.view_M, (*prefix_RKL.shape[:2], len(self.view_M)))
        return Chances(view_RKM, np.full_like(view_RKM, self.like), np.full_like(view_RKM, self.stay))

    def alone(self, row_R: np.ndarray) -> Chances:
        return Chances(*(value[:, 0] for value in self(row_R, np.zeros((len(row_R), 1, 0), np.int64))))


def stops(t: float, view: list[float] | None = None, **more: Any) -> tuple[int, int]:
    scorer = Told(view or [0.6, 0.3, 0.2, 0.1], stay=more.pop("stay", 1.0))
    settings = SearchSettings(stability=t, beta=0.0, **{"k": 2, "stop": "alike", **more})
    one = search(scorer, np.ones((1, len(scorer.view_M)), bool), settings, 4)
    return int(one.steps_R[0]), int(one.evaluations_R[0])


def test_adaptive_stops_where_the_values_kept_have_become_alike() -> None:
    # Step 1 keeps .6 and .3 (share .5); step 2 .6+.3 and .3+.6 (share 1): it stops there, unless t is met before.
    assert stops(0.49) == (1, 4)
    assert stops(0.5) == (2, 4 + 2 * 3)
    assert stops(0.95) == (2, 4 + 2 * 3)
    assert stops(1.0) == (4, 4 + 2 * 3 + 2 * 2 + 2 * 1)  # a share is never above 1: the full beam
    assert stable(np.array([[2.0, 1.9]]), 0.95).tolist() == [False]
    assert stable(np.array([[2.0, 1.91], [2.0, -np.inf]]), 0.95).tolist() == [True, True]


def test_decided_stops_where_what_comes_later_cannot_change_the_next_item() -> None:
    # Users seldom look on: step 1 keeps .6 and .3, step 2 .6 + .2 x .3 and .6 + .2 x .2, which both begin with .6.
    assert stops(0.99, stay=0.2, stop="decided", lead=0.0) == (2, 4 + 2 * 3)
    # At .5 it keeps .6 + .15 and .6 + .1, so too; at .8 .6 + .24 and .3 + .48, which are not alike.
    assert stops(0.99, stay=0.5, stop="decided", lead=0.0)[0] == 2
    assert stops(0.99, stay=0.8, stop="decided", lead=0.0)[0] == 4
    # .78 is less than .95 of .84: .6 has led for two steps, clearly enough.
    assert stops(0.99, stay=0.8, stop="decided", lead=0.95) == (2, 4 + 2 * 3)
    # Values alike at the first step end a search by values alone; decided waits for a second one.
    assert stops(0.9, view=[0.6, 0.59, 0.1, 0.1], stop="alike")[0] == 1
    assert stops(0.9, view=[0.6, 0.59, 0.1, 0.1], stop="decided")[0] == 2


def test_without_a_lead_and_at_t_1_decided_shows_what_the_full_beam_shows() -> None:
    of = world(60, 20)
    full, own = found(of, 10, method="beam"), found(of, 10, stability=1.0, lead=0.0)
    np.testing.assert_array_equal(own.first_R, full.first_R)
    assert (own.evaluations_R <= full.evaluations_R).all()
    assert own.evaluations_R.sum() < 0.8 * full.evaluations_R.sum()


def test_decided_loses_less_than_values_alone_at_the_same_cost() -> None:
    of = world(150, 50, seed=2)
    full, decided, alike = (
        play(of, SearchSettings(**more), 10)  # type: ignore[arg-type]
        for more in ({"method": "beam"}, {}, {"stop": "alike"})
    )
    loss = [1 - one.value_R.mean() / full.value_R.mean() for one in (decided, alike)]
    most, *cost = (np.mean([each.evaluations_R for each in one.found]) for one in (full, decided, alike))
    assert loss[0] < 0.9 * loss[1]
    assert loss[0] <= 0.011
    assert most / cost[0] >= 2.2
    assert cost[0] < 1.1 * cost[1]


@pytest.mark.parametrize("stop", ["alike", "decided"])
def test_adaptive_stops_later_and_comes_closer_as_t_rises(stop: Literal["alike", "decided"]) -> None:
    of = world(60, 20)
    full = play(of, SearchSettings(method="beam"), 10)
    played = [play(of, SearchSettings(stability=t, stop=stop), 10) for t in (0.7, 0.8, 0.9, 0.95, 0.99)]
    loss = [1 - one.value_R.mean() / full.value_R.mean() for one in played]
    cost = [np.mean([each.evaluations_R for each in one.found]) for one in played]
    assert loss == sorted(loss, reverse=True)
    assert cost == sorted(cost)
    most = np.mean([each.evaluations_R for each in full.found])
    assert loss[3] <= 0.011
    assert most / cost[3] >= 2.2
    for one in played:
        for place, each in enumerate(one.found):
            assert (each.evaluations_R <= 4 * each.steps_R * (20 - place)).all()
    behind = [play(of, SearchSettings(method=name), 10).value_R.mean() for name in ("pointwise", "greedy")]
    assert behind[0] < behind[1] < played[3].value_R.mean()


def bounds_of(of: ListWorld, limits: CategoryLimits) -> Bounds:
    rows, candidates = of.category_RM.shape
    none_RC = np.zeros((rows, limits.count), np.int64)
    return limits.bounds(of.category_RM, np.ones((rows, candidates), bool), none_RC, none_RC)


LIMITS = (CategoryLimit(0, least=0.2, most=0.3), CategoryLimit(3, most=0.1), CategoryLimit(5, least=0.1))


def torch_bounds(bounds: Bounds | None) -> search_torch.TorchBounds | None:
    if bounds is None:
        return None
    return search_torch.TorchBounds(*(torch.from_numpy(np.asarray(value)) for value in vars(bounds).values()))


@pytest.mark.parametrize(("method", "stop"), [*((method, "decided") for method in METHODS), ("adaptive", "alike")])
@pytest.mark.parametrize("limited", [False, True])
def test_torch_finds_what_numpy_finds(method: str, stop: str, limited: bool) -> None:
    of = world(40, 20, seed=3)
    bounds = bounds_of(of, CategoryLimits(LIMITS, 8, 10)) if limited else None
    settings, shown_RP = SearchSettings(method=method, stop=stop), np.zeros((40, 0), np.int64)  # type: ignore[arg-type]
    left_RM = np.random.default_rng(1).random((40, 20)) < 0.8
    left_RM[0] = False
    scorer = of.scorer(shown_RP)
    one = search(scorer, left_RM, settings, 6, bounds)

    class InTorch:
        def __call__(self, row_R: torch.Tensor, prefix_RKL: torch.Tensor) -> Chances:
            return Chances(*map(torch.from_numpy, scorer(row_R.numpy(), prefix_RKL.numpy())))

        def alone(self, row_R: torch.Tensor) -> Chances:
            return Chances(*map(torch.from_numpy, scorer.alone(row_R.numpy())))

    other = search_torch.search(InTorch(), torch.from_numpy(left_RM), settings, 6, torch_bounds(bounds))
    for name, value in vars(one).items():
        np.testing.assert_array_equal(value, getattr(other, name).numpy(), err_msg=name)
    assert one.first_R[0] == NOTHING
    assert (one.first_R[1:] >= 0).all() or limited


# ---- limits


@pytest.mark.parametrize("method", METHODS)
def test_limits_are_never_broken(method: str) -> None:
    of, limits = world(200, 24, seed=5), CategoryLimits(LIMITS, 8, 10)
    bounds = bounds_of(of, limits)
    played = play(of, SearchSettings(method=method), 10, bounds)  # type: ignore[arg-type]
    free = play(of, SearchSettings(method=method), 10)  # type: ignore[arg-type]
    there_RL = played.list_RL != NOTHING
    shown_RL = np.where(there_RL, of.category_RM[np.arange(200)[:, None], played.list_RL], -1)
    assert there_RL.all()
    assert ((shown_RL == 0).sum(1) <= 3).all()
    assert ((shown_RL == 3).sum(1) <= 1).all()
    for category, least in ((0, 2), (5, 1)):
        there_R = (of.category_RM == category).sum(1)
        assert ((shown_RL == category).sum(1) >= np.minimum(least, there_R)).all()
    broken_R = (of.category_RM[np.arange(200)[:, None], free.list_RL] == 3).sum(1) > 1
    assert broken_R.any()  # without limits they would be
    assert played.value_R.mean() < free.value_R.mean()


def test_limits_against_brute_force() -> None:
    of = world(10, 6, seed=2, categories=3)
    limits = CategoryLimits((CategoryLimit(0, most=0.25), CategoryLimit(1, least=0.25)), 3, 4)
    wide = found(of, 4, bounds_of(of, limits), method="beam", k=360)
    for row in range(10):
        best = -np.inf
        for order in itertools.permutations(range(6), 4):
            shown = of.category_RM[row, list(order)]
            if (shown == 0).sum() > 1 or (shown == 1).sum() < min(1, (of.category_RM[row] == 1).sum()):
                continue
            one = dataclasses.replace(
                of,
                category_RM=of.category_RM[row : row + 1],
                base_3RM=of.base_3RM[:, row : row + 1],
                act_RGG=of.act_RGG[row : row + 1],
                keep_RG=of.keep_RG[row : row + 1],
            )
            best = max(best, float(list_value(one.of_list(np.array([order])), 1.0, 4.0)[0]))
        if best > -np.inf:
            assert wide.value_R[row] == pytest.approx(best, rel=1e-5)
        else:
            assert wide.steps_R[row] < 4  # no list of four keeps them: it ends before


def test_bounds_of_a_session_go_on_from_what_was_watched() -> None:
    limits = CategoryLimits((CategoryLimit(1, least=0.2, most=0.4),), 3, 5, "session")
    category_RM = np.array([[0, 1, 1, 1, 2, 2, 0, 0]])
    had_RC, here_RC = np.array([[4, 1, 0]]), np.array([[0, 0, 0]])
    now = limits.bounds(category_RM, np.ones((1, 8), bool), had_RC, here_RC)
    # 10 places at this page's end: 2 to 4 of category 1, one of which was watched.
    assert (now.low_RG[0, 0], now.high_RG[0, 0]) == (1, 3)
    later = limits.bounds(category_RM, np.ones((1, 8), bool), had_RC, np.array([[0, 2, 0]]))
    assert (later.low_RG[0, 0], later.high_RG[0, 0]) == (0, 1)
    few = limits.bounds(category_RM, category_RM != 1, np.array([[5, 0, 0]]), here_RC)
    assert few.low_RG[0, 0] == 0  # there is none to show
    every = CategoryLimits((CategoryLimit(-1, most=0.4), CategoryLimit(2, most=0.2)), 3, 5)
    assert every.shares()[1].tolist() == [0.4, 0.4, 0.2]
    assert every.groups().tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("limits", "slots", "message"),
    [
        ([(0, 0.5, 1.0), (1, 0.6, 1.0)], 10, "the least shares need 11 places, but a page has 10"),
        ([(0, 0.25, 0.28)], 10, "must have 3 and may have 2 of 10 places"),
        ([(0, 0.0, 0.5), (0, 0.1, 0.5)], 10, "category 0 is named twice"),
        ([(4, 0.0, 0.5)], 10, "category 4, but there are 4, numbered from 0"),
        ([(-1, 0.0, 0.2)], 10, "leave places of a page of 10 empty"),
    ],
)
def test_limits_that_cannot_be_kept_are_refused(
    limits: list[tuple[int, float, float]], slots: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        CategoryLimits(tuple(CategoryLimit(*one) for one in limits), 4, slots)
    with pytest.raises(UserError, match="want 0 <= least <= most <= 1"):
        CategoryLimit(0, 0.5, 0.2)


# ---- what is refused


def test_numbers_that_cannot_be_searched_by_are_refused() -> None:
    for settings, message in (
        ({"k": 0}, "k is 0, must be at least 1"),
        ({"alpha": -1.0}, r"alpha is -1\.0, must be a finite number of at least 0: a list value"),
        ({"alpha": 0.0, "beta": 0.0}, "alpha and beta are both 0"),
        ({"lead": 1.2}, r"lead is 1\.2, must lie in 0..1"),
        ({"stability": 1.2}, r"stability is 1\.2, must lie above 0"),
        ({"beta": math.nan}, "beta is nan"),
    ):
        with pytest.raises(UserError, match=message):
            SearchSettings(**settings)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="k is 30, but there are 20 candidates"):
        play(world(2, 20), SearchSettings(k=30), 3)
    left_RM, settings = np.ones((1, 3), bool), SearchSettings(k=2)
    for method in METHODS:
        with pytest.raises(UserError, match="the chance of 'view' is nan: a list scorer must give numbers"):
            search(Told([0.1, math.nan, 0.2]), left_RM, SearchSettings(method=method), 2)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"a list has the value -0\.2: adaptive search stops by the share"):
        search(Told([0.1, -0.2, -0.3]), left_RM, settings, 2)


# ---- rivals


def test_a_weibull_law_is_found_again() -> None:
    law, rng = Weibull(7.0, 0.8), np.random.default_rng(0)
    stay_N = law.stays(np.arange(1, 60))
    draws_VN = rng.random((20_000, 59)) < stay_N
    length_V = np.where(draws_VN.all(1), 60, 1 + draws_VN.argmin(1))
    again = fit_weibull(np.minimum(length_V, 20), length_V <= 20)
    assert again.scale == pytest.approx(7.0, rel=0.05)
    assert again.shape == pytest.approx(0.8, rel=0.05)
    with pytest.raises(UserError, match="when users leave cannot be learnt"):
        fit_weibull(np.array([3, 4]), np.array([False, False]))


def test_leaving_by_place_replaces_the_chance_of_looking_on() -> None:
    of, law = world(3, 6), Weibull(5.0, 1.5)
    scorer = LeavingByPlace(of.scorer(np.zeros((3, 0), np.int64)), law, np.array([0, 2, 4]))
    chances = scorer(np.arange(3), np.zeros((3, 1, 1), np.int64))
    np.testing.assert_allclose(chances.next[:, 0, 0], law.stays(np.array([2, 4, 6])), rtol=1e-6)


def test_drawn_lists_are_valued_whole() -> None:
    of = world(30, 8)
    scorer, left_RM = of.scorer(np.zeros((30, 0), np.int64)), np.ones((30, 8), bool)
    many = drawn(scorer, left_RM, SearchSettings(), 4, lists=64, seed=0)
    np.testing.assert_allclose(many.value_R, list_value(of.of_list(many.list_RL), 1.0, 4.0), rtol=1e-5)
    one = drawn(scorer, left_RM, SearchSettings(), 4, lists=1, seed=0)
    np.testing.assert_array_equal(one.list_RL, play(of, SearchSettings(method="pointwise"), 4).list_RL)
    assert many.value_R.mean() > one.value_R.mean()
    assert many.evaluations_R.tolist() == [8 + 64 * 4] * 30
