"""Worlds: what stays the same bits, what is counted, and what a closed loop does."""

import dataclasses
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from funnel.platform.behaviour import Potential, walk
from funnel.platform.cascade import Passed, pass_stages
from funnel.platform.corpus import pushed
from funnel.platform.figures import DAILY, Ledger
from funnel.platform.numbers import LEVELS
from funnel.platform.population import draw_population
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policies
from funnel.platform.view import NOBODY, Feedback, Requests, View
from funnel.platform.world import World, new_world

ROOT = Path(__file__).resolve().parent.parent
SMALL = PlatformSettings(users=200, items=150, providers=30, uploads=10.0)
SLOT = {"slot": {"kind": "random", "rate": 0.5}}


def made(tree: dict[str, Any], settings: PlatformSettings = SMALL, seed: int = 3) -> Policies:
    return Policies.of(tree, settings, seed)


def run(tree: dict[str, Any], days: int = 2, seed: int = 3, settings: PlatformSettings = SMALL, **more: Any) -> World:
    world = World(draw_population(settings, seed), [made(tree, settings, seed)], **more)
    world.run(days)
    return world


def day(world: World, name: str, which: int = -1, arm: int = 0) -> float:
    return float(world.ledger.days[which][DAILY.index(name), arm])


@pytest.mark.parametrize("tree", [{}, SLOT, {"matching": {"lists": 4}}])
def test_blocks_of_any_size_give_the_same_bits(tree: dict[str, Any]) -> None:
    one, other = run(tree, block=512), run(tree, block=7)
    assert np.array_equal(one.ledger.table(), other.ledger.table())
    assert np.array_equal(one.corpus.live, other.corpus.live)
    assert np.array_equal(one.corpus.history.item_UN, other.corpus.history.item_UN)
    assert np.array_equal(one.corpus.shown_UN, other.corpus.shown_UN)


def test_a_seed_decides_a_world() -> None:
    assert np.array_equal(run({}).ledger.table(), run({}).ledger.table())
    assert not np.array_equal(run({}).ledger.table(), run({}, seed=4).ledger.table())


KNOWN = [237.0, 1439.0, 390.0, 193.0, 7124.8125, 69.0]


def test_known_bits() -> None:
    """Of another machine or version these figures must come out as well: all arithmetic is exact or by table."""
    world = run(SLOT)
    names = ("requests", "exposures", "clicks", "positives", "dwell", "slot_exposures")
    assert [day(world, name) for name in names] == KNOWN


PROGRAM = """
import sys; sys.path[:0] = ["tests"]
import test_platform_world as tests
world = tests.run(tests.SLOT)
sys.stdout.write(world.ledger.table().tobytes().hex() + world.corpus.live.tobytes().hex())
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names instructions of x86")
def test_bits_do_not_depend_on_instructions_or_threads() -> None:
    """An old processor: no AVX2 and no AVX-512 in numpy, another kernel of BLAS, two threads."""
    old = {"NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4", "OPENBLAS_CORETYPE": "Prescott", "OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env={**os.environ, **old}, capture_output=True, text=True, check=True
    )
    world = run(SLOT)
    assert done.stdout == world.ledger.table().tobytes().hex() + world.corpus.live.tobytes().hex()


def test_copies_go_their_own_way() -> None:
    world = run({}, days=1)
    twin = world.copy()
    world.run(1)
    before = twin.ledger.table().copy()
    assert len(before) == 1
    twin.run(1)
    assert np.array_equal(twin.ledger.table(), world.ledger.table())


def test_the_same_item_in_the_same_request_has_the_same_outcome() -> None:
    """Common random numbers: with another slot, most of what was shown in both worlds went the same way."""
    seen: list[dict[tuple[int, int, int], tuple[Any, ...]]] = []
    for tree in ({}, {"fusion": {"noise": 0.0}}):
        told: dict[tuple[int, int, int], tuple[Any, ...]] = {}

        def watch(arm: int, view: View, requests: Requests, passed: Passed, done: Any, told: Any = told) -> None:
            feedback = done.feedback
            for row, place in zip(*np.nonzero(feedback.seen_RS), strict=True):
                if done.same_RS[row, place] == 0:
                    at = (int(requests.visit_R[row]), requests.page, int(feedback.item_RS[row, place]))
                    told[at] = (bool(feedback.click_RS[row, place]), float(feedback.dwell_RS[row, place]))

        run(tree, days=1, watch=watch)
        seen.append(told)
    both = seen[0].keys() & seen[1].keys()
    assert len(both) > 50
    assert all(seen[0][at] == seen[1][at] for at in both)


def test_counts_add_up() -> None:
    total = np.zeros(5)

    def watch(arm: int, view: View, requests: Requests, passed: Passed, done: Any) -> None:
        feedback: Feedback = done.feedback
        total[:] += [len(requests), feedback.seen_RS.sum(), feedback.click_RS.sum(), feedback.good_RS.sum(),
                     feedback.dwell_RS.sum()]  # fmt: skip
        # Nobody clicks, likes or buys what was not looked at; a good click is one of 10 s or more.
        assert not (feedback.click_RS & ~feedback.seen_RS).any()
        assert not ((feedback.like_RS | feedback.purchase_RS) & ~feedback.click_RS).any()
        assert np.array_equal(feedback.good_RS, feedback.dwell_RS >= 10)
        # Looked at from the top down, without a gap and without an item twice.
        assert (np.diff(feedback.seen_RS.astype(int), axis=1) <= 0).all()
        for row, seen in zip(feedback.item_RS, feedback.seen_RS, strict=True):
            assert len(set(row[seen])) == seen.sum()
            assert NOBODY not in row[seen]
        # Nothing that was shown lately.
        again = (feedback.item_RS[:, :, None] == requests.shown_RN[:, None, :]).any(2)
        assert not (again & feedback.seen_RS).any()

    world = run(SLOT, days=2, watch=watch)
    names = ("requests", "exposures", "clicks", "positives", "dwell")
    assert [world.ledger.table()[:, DAILY.index(name), 0].sum() for name in names] == list(total)
    assert world.corpus.live[0].sum() == total[1]
    assert world.corpus.live[1].sum() == total[3]
    assert np.array_equal(world.ledger.impressions_AI[0], world.corpus.live[0])
    assert world.corpus.live[2].sum() == world.ledger.table()[:, DAILY.index("slot_exposures")].sum() > 0
    assert (world.corpus.live[2] <= world.corpus.live[0]).all()


@pytest.mark.slow
def test_popularity_feeds_itself() -> None:
    """The main system learns from what it showed: the more popularity weighs, the fewer items have the exposures."""
    settings = dataclasses.replace(SMALL, users=600)

    def largest(weight: float) -> float:
        shares = []
        for seed in (1, 2):
            world = run({"fusion": {"popularity": weight}}, days=5, seed=seed, settings=settings)
            exposures = np.sort(world.corpus.live[0])[::-1]
            shares.append(exposures[:15].sum() / exposures.sum())
        return float(np.mean(shares))

    assert largest(0.0) < largest(1.0) < largest(3.0)


@pytest.mark.slow
def test_uploads_answer_to_exposure() -> None:
    """Under a policy that shows fresh items, providers upload more than where fresh items are hidden."""
    shown = {"fusion": {"freshness": 3.0}, "preranking": {"freshness": 3.0}, "matching": {"freshness": 3.0}}
    hidden = {stage: {"freshness": -5.0} for stage in shown}
    settings = dataclasses.replace(SMALL, users=600, response=1.0)
    more, less = (run(tree, days=6, settings=settings) for tree in (shown, hidden))
    assert len(more.corpus.items) > 1.1 * len(less.corpus.items)
    none = dataclasses.replace(settings, response=0.0)
    same = [len(run(tree, days=6, settings=none).corpus.items) for tree in (shown, hidden)]
    assert same[0] == same[1]


def test_behaviour_by_hand() -> None:
    """The chances behind one page are the equations' own, computed here in float64."""
    world = new_world(SMALL, 5, [made({})])
    world.run(1)
    corpus, view = world.corpus, world.corpus.view(1, 0, 1.0)
    visits = world.visits(0)
    requests = Requests(1, 0, 0, 1.0, visits.user_R, visits.intent_R, visits.visit_R,
                        np.arange(len(visits), dtype=np.uint64), corpus.shown_UN[visits.user_R])  # fmt: skip
    passed = pass_stages(SMALL, world.arms[0], requests, view)
    done = walk(SMALL, requests, passed.page, visits.recent_RN, world.arms[0].reranking, corpus, view)
    items, users = corpus.items, world.population.users
    row, place = 3, 0
    item, user = done.feedback.item_RS[row, place], visits.user_R[row]
    taste, vector = users.taste_UD[user].astype(float), (items.content_ID + items.hidden_ID)[item].astype(float)
    fit = np.clip(
        2 * items.content_ID[item].astype(float) @ corpus.centre_KD[visits.intent_R[row]].astype(float), -1, 1
    )
    worth = SMALL.affinity * taste @ vector + items.quality_I[item] + SMALL.intent * fit
    click = 1 / (1 + np.exp(-(-2.4 + worth)))
    assert done.click_chance_RS[row, place] / LEVELS == pytest.approx(click, abs=1e-3)
    off = items.log_price_I[item] - users.budget_U[user]
    buy = 1 / (1 + np.exp(-(-4.0 + 0.7 * worth - 0.35 * off**2)))
    assert done.purchase_chance_RS[row, place] / LEVELS == pytest.approx(buy, abs=1e-3)
    # Over many pages what happened agrees with the chances.
    seen = done.feedback.seen_RS
    chance_R = done.click_chance_RS[seen] / LEVELS
    error = np.sqrt((chance_R * (1 - chance_R)).sum())
    assert abs(done.feedback.click_RS[seen].sum() - chance_R.sum()) < 4 * error
    ahead = Potential.of(SMALL, requests, passed.page.item_RM, corpus)
    assert (done.feedback.dwell_RS[:, 0] <= ahead.most_RM[:, 0]).all()


def test_lists_of_what_came_last() -> None:
    new = np.array([[5, 4, NOBODY], [NOBODY, NOBODY, NOBODY]])
    old = np.array([[1, 2], [1, 2]])
    (found,) = pushed(new, new != NOBODY, old)
    assert found.tolist() == [[5, 4], [1, 2]]
    one, two = pushed(
        new[:, :1], np.array([[True], [False]]), old, (np.float32([[9], [9]]), np.float32([[7, 8], [7, 8]]))
    )
    assert one.tolist() == [[5, 1], [1, 2]]
    assert two.tolist() == [[9, 7], [7, 8]]


def test_metrics_of_a_ledger_by_hand() -> None:
    """DUIC and the discoverable corpus of three days, two arms and four items, of which two were there at first."""
    ledger = Ledger(SMALL, 2)
    for today, outside in (
        ([[5, 4, 20, 0], [0, 0, 0, 60]], [[0, 0, 3, 0], [0, 0, 0, 9]]),
        ([[0, 0, 5, 5], [5, 0, 0, 0]], [[0, 0, 2, 4], [0, 0, 0, 1]]),
    ):
        ledger.begin(4)
        ledger.today_AI[:] = today
        ledger.outside_AI[:] = outside
        ledger.end(7, 2)
    row = {name: ledger.table()[:, place].tolist() for place, name in enumerate(DAILY)}
    assert row["duic_5"] == [[2, 1], [2, 1]]
    assert row["duic_20"] == [[1, 1], [0, 0]]
    assert row["duic_50"] == [[0, 1], [0, 0]]
    assert row["discoverable_5_7d"] == [[0, 1], [1, 1]]
    assert row["discoverable_10_7d"] == [[0, 0], [0, 1]]
    assert row["uploads"] == [[7, 7], [7, 7]]


def test_arms_of_one_corpus_split_the_users() -> None:
    arms: dict[int, int] = {}

    def watch(arm: int, view: View, requests: Requests, passed: Passed, done: Any) -> None:
        for user in requests.user_R:
            assert arms.setdefault(int(user), arm) == arm
        if arm == 0:
            assert not passed.page.slot_RM.any()

    world = World(draw_population(SMALL, 3), [made({}), made(SLOT)], watch)
    world.run(2)
    assert set(arms.values()) == {0, 1}
    assert 60 < (world.arm_U == 0).sum() < 140
    assert day(world, "slot_exposures", arm=0) == 0 < day(world, "slot_exposures", arm=1)
    # One corpus: both arms show the same items.
    assert ((world.ledger.impressions_AI > 0).all(0)).sum() > 20
    assert np.array_equal(world.ledger.impressions_AI.sum(0), world.corpus.live[0])


def test_parts_split_users_and_providers() -> None:
    whole = draw_population(SMALL, 3)
    parts = [whole.part(arm, 2) for arm in (0, 1)]
    for kind in ("users", "providers"):
        number = "number_U" if kind == "users" else "number_P"
        numbers = [getattr(getattr(part, kind), number) for part in parts]
        assert sorted(np.concatenate(numbers)) == list(getattr(getattr(whole, kind), number))
    worlds = [World(part, [made({})]) for part in parts]
    of_whole = set(World(whole, [made({})]).corpus.items.key_I.tolist())
    for world in worlds:
        world.run(2)
    found = [set(world.corpus.items.key_I[: world.first].tolist()) for world in worlds]
    assert not found[0] & found[1]
    assert found[0] | found[1] == of_whole
    later = [set(world.corpus.items.key_I[world.first :].tolist()) for world in worlds]
    assert later[0]
    assert not later[0] & later[1]


def test_arms_that_do_not_interfere_are_the_same_alone() -> None:
    """With the same policy in both arms, a world with arms is the world without."""
    one, two = run({}), World(draw_population(SMALL, 3), [made({}), made({})])
    two.run(2)
    sums = slice(0, DAILY.index("duic_5"))
    assert np.array_equal(two.ledger.table()[:, sums].sum(2), one.ledger.table()[:, sums, 0])
