"""Allocation under budgets: against a linear program, against every assignment, and with itself in other shards."""

import itertools

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.sparse import csr_array

from funnel.incentives import shard
from funnel.incentives.allocation import LocalShards, allocate, cut, upgrades
from funnel.incentives.limits import allocate_within
from jobs.cluster.shards import RayShards


def options(users: int, seed: int = 0, kinds: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Concave values of rewards that cost 0 to 2, with noise; the first option is free."""
    draws = np.random.default_rng(seed)
    cost_UA = np.sort(draws.uniform(0, 2, (users, kinds)), 1)
    cost_UA[:, 0] = 0
    value_UA = np.sqrt(cost_UA) * draws.gamma(2, 1, (users, 1)) + draws.normal(0, 0.1, (users, kinds))
    return value_UA, cost_UA


def relaxed(value_UA: np.ndarray, cost_MUA: np.ndarray, limit_M: np.ndarray) -> float:
    """The best value if users may be split, by HiGHS."""
    users, kinds = value_UA.shape
    rows = np.repeat(np.arange(users), kinds)
    one_each = csr_array((np.ones(users * kinds), (rows, np.arange(users * kinds))))
    found = linprog(
        -value_UA.ravel(),
        A_ub=cost_MUA.reshape(len(cost_MUA), -1),
        b_ub=limit_M,
        A_eq=one_each,
        b_eq=np.ones(users),
        method="highs",
    )
    assert found.status == 0
    return float(-found.fun)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.8, 1.1])
def test_the_value_is_the_linear_programs_within_the_gap(share: float) -> None:
    value_UA, cost_UA = options(400)
    budget = share * 400
    found = allocate(LocalShards(cut(value_UA, cost_UA[None])), budget)
    users = np.arange(400)
    assert found.value == pytest.approx(value_UA[users, found.option_U].sum())
    assert found.cost_M[0] == pytest.approx(cost_UA[users, found.option_U].sum())
    assert found.cost_M[0] <= budget
    best = relaxed(value_UA, cost_UA[None], np.array([budget]))
    assert found.bound == pytest.approx(best, rel=1e-9)
    assert 0 <= found.gap < 2e-3


def test_of_few_users_it_is_near_the_best_of_all_assignments() -> None:
    """Each of 50 small tables: within what one user's step is worth of the best of all 4^5 assignments."""
    for seed in range(50):
        value_UA, cost_UA = options(5, seed, kinds=4)
        budget = 2.5
        every = [
            (value_UA[np.arange(5), list(way)].sum(), cost_UA[np.arange(5), list(way)].sum())
            for way in itertools.product(range(4), repeat=5)
        ]
        best = max(value for value, cost in every if cost <= budget)
        found = allocate(LocalShards(cut(value_UA, cost_UA[None])), budget)
        assert found.cost_M[0] <= budget
        assert found.value <= best + 1e-12 <= found.bound + 1e-9
        assert found.bound - found.value <= (value_UA.max(1) - value_UA.min(1)).max() + 1e-9


def test_a_budget_for_everything_gives_everybody_the_best_and_cheapest() -> None:
    value_UA = np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 0.0]])
    cost_UA = np.array([[0.0, 2.0, 1.0], [1.0, 0.0, 0.0]])
    found = allocate(LocalShards(cut(value_UA, cost_UA[None])), 10.0)
    assert found.option_U.tolist() == [2, 1]
    assert (found.gap, found.price_M.tolist()) == (0.0, [0.0])


def test_what_is_not_allowed_is_given_to_nobody() -> None:
    value_UA, cost_UA = options(300, 4)
    value_UA[::2, 3:] = -np.inf
    found = allocate(LocalShards(cut(value_UA, cost_UA[None])), 150.0)
    assert found.option_U[::2].max() < 3
    assert found.option_U[1::2].max() >= 3
    assert found.cost_M[0] <= 150


def test_any_number_of_shards_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard, "BLOCK", 64)
    monkeypatch.setattr("funnel.incentives.allocation.BLOCK", 64)
    value_UA, cost_UA = options(1000, 2)
    second_UA = np.random.default_rng(5).uniform(0, 1, cost_UA.shape)
    both = np.stack([cost_UA, second_UA])
    one = allocate(LocalShards(cut(value_UA, cost_UA[None])), 400.0, narrowest=10)
    many = allocate_within(LocalShards(cut(value_UA, both)), np.array([400.0, 450.0]))
    for shards in (2, 5, 16, 40):
        again = allocate(LocalShards(cut(value_UA, cost_UA[None], shards)), 400.0, narrowest=10)
        assert np.array_equal(one.option_U, again.option_U)
        assert (one.value, one.bound, one.price_M) == (again.value, again.bound, again.price_M)
        again = allocate_within(LocalShards(cut(value_UA, both, shards)), np.array([400.0, 450.0]))
        assert np.array_equal(many.option_U, again.option_U)
        assert (many.value, many.bound, *many.price_M) == (again.value, again.bound, *again.price_M)


@pytest.mark.parametrize("seed", range(4))
def test_several_limits_are_all_kept_and_the_bound_is_the_linear_programs(seed: int) -> None:
    """A budget, a limit on something else, and an aim: the third outcome not below a level."""
    users = 500
    value_UA, cost_UA = options(users, seed)
    draws = np.random.default_rng(10 + seed)
    load_UA, time_UA = draws.uniform(0, 1, (2, users, 6))
    time_UA += 0.2 * value_UA
    cost_MUA = np.stack([cost_UA, load_UA, -time_UA])
    limit_M = np.array([0.5 * users, 0.45 * users, -0.75 * users])
    found = allocate_within(LocalShards(cut(value_UA, cost_MUA)), limit_M)
    taken = np.take_along_axis(cost_MUA, found.option_U[None, :, None].astype(int), 2).sum((1, 2))
    np.testing.assert_allclose(found.cost_M, taken)
    assert (taken <= limit_M).all()
    best = relaxed(value_UA, cost_MUA, limit_M)
    assert best <= found.bound * (1 + 1e-9)
    assert found.bound <= best * 1.002  # coordinate descent may stop at a kink of the dual
    assert found.value >= best * 0.985


def test_one_limit_is_the_same_problem_for_both() -> None:
    value_UA, cost_UA = options(800, 9)
    shards = LocalShards(cut(value_UA, cost_UA[None]))
    one, several = allocate(shards, 300.0), allocate_within(shards, np.array([300.0]))
    assert several.bound == pytest.approx(one.bound, rel=1e-6)
    assert several.value == pytest.approx(one.value, rel=1e-3)


def test_steps_follow_the_upper_hull() -> None:
    """Costs 0, 1, 2, 3 and values 0, 3, 3.5, 5: the third option lies below the line from the second to the fourth."""
    steps = upgrades(np.array([[0.0, 3.0, 3.5, 5.0]]), np.array([[0.0, 1.0, 2.0, 3.0]]), np.array([0]), np.array([3]))
    assert steps == [(3.0, 0, 1, 1.0), (1.0, 0, 3, 2.0)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, c: (v, 0 * c + 5), "limit 0: the cheapest option of every user comes to 100"),
        (lambda v, c: (np.where(np.arange(6) == 2, np.nan, v), c), "user 0, option 2: value nan is no number"),
        (lambda v, c: (np.full_like(v, -np.inf), c), "user 0: no option is allowed"),
        (lambda v, c: (v, np.where(np.arange(6) == 1, np.inf, c)), "user 0, option 1: cost inf"),
        (lambda v, c: (v, c[:, :3]), "want (users, options)"),
    ],
)
def test_tables_that_are_none_are_named(change, message: str) -> None:
    value_UA, cost_UA = change(*options(20))
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        allocate(LocalShards(cut(value_UA, cost_UA[None])), 10.0)
    assert message in str(raised.value)


def test_limits_that_no_plan_keeps_are_named() -> None:
    value_UA, cost_UA = options(50)
    with pytest.raises(ValueError, match=r"limit [01]: no prices keep it together with the others"):
        allocate_within(LocalShards(cut(value_UA, np.stack([cost_UA, -cost_UA]))), np.array([10.0, -60.0]))


@pytest.mark.ray
def test_shards_on_the_cluster_give_the_same_answer(ray_cluster: None) -> None:
    value_UA, cost_UA = options(200_000, 3)
    here = allocate(LocalShards(cut(value_UA, cost_UA[None])), 90_000.0)
    there = RayShards(cut(value_UA, cost_UA[None], 3), cpus=0)
    try:
        found = allocate(there, 90_000.0)
    finally:
        there.close()
    assert np.array_equal(here.option_U, found.option_U)
    assert (here.value, here.bound, here.cost_M) == (found.value, found.bound, found.cost_M)
