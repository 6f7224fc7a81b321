"""The gate on a log decides as a day does, and a candidate does not win by the money that it spends."""

from typing import Any

import numpy as np
import pytest

from funnel.incentives.aims import Limited
from funnel.incentives.cadence import CadenceSettings
from funnel.incentives.choice import Choice, Fit, aligned, grouped
from funnel.incentives.logged_gate import compared, decided_alone, price_of_money

USERS = 3000
DRAWS = np.random.default_rng(0)
X_NF = np.column_stack([DRAWS.normal(size=USERS), DRAWS.random(USERS) < 0.2]).astype(np.float32)
TENURE_N, SENSITIVE_N = np.full(USERS, 100.0), X_NF[:, 1] > 0.5
CAP = CadenceSettings(cap=1.0)


class Known:
    """Fitted effects that are given: slope * bill^.5 * exp(x0 / 2)."""

    def __init__(self, bills: list[float], slope: float, floor: float | None = None) -> None:
        self.bill_A, self.slope, self.floor = np.array(bills), slope, floor
        self.facts: dict[str, Any] = {"cost": {"kind": "claims", "bill": bills}}

    def effects(self, x_NF: np.ndarray) -> np.ndarray:
        return self.slope * np.sqrt(self.bill_A)[None] * np.exp(x_NF[:, :1] / 2)

    def standard_errors(self, x_NF: np.ndarray) -> None:
        return None

    def cost(self, x_NF: np.ndarray) -> np.ndarray:
        return np.tile(self.bill_A, (len(x_NF), 1))

    def limited(self, x_NF: np.ndarray) -> Limited | None:
        """Of an outcome that a reward lowers by its bill, from 10."""
        if self.floor is None:
            return None
        return Limited((f"floor y={self.floor:g}",), -(10 - self.cost(x_NF))[None], np.array([-self.floor]))


def fit(bills: list[float], slope: float = 1.0, floor: float | None = None, ids: list[int] | None = None) -> Fit:
    return Fit(Known(bills, slope, floor), np.arange(len(bills)) if ids is None else np.array(ids))  # type: ignore[arg-type]


def decide(own: Fit, by: str = "user", budget: float = 1.0) -> np.ndarray:
    return decided_alone(own, CAP, by, 20, 0, X_NF, TENURE_N, SENSITIVE_N, budget)


BILLS = [0.0, 1.0, 2.0, 4.0]


@pytest.mark.parametrize("by", ["user", "cluster"])
def test_both_decide_under_the_budget_the_caps_and_the_floors(by: str) -> None:
    arm_N = decide(fit(BILLS), by)
    bill_A = np.array(BILLS)
    assert 0.94 < bill_A[arm_N].mean() <= 1.0  # users of a cluster who may not have its strategy get less
    assert bill_A[arm_N[SENSITIVE_N]].max() <= 1.0
    assert bill_A[arm_N[~SENSITIVE_N]].max() > 1.0
    assert bill_A[decide(fit(BILLS, floor=9.4), by)].mean() <= 0.6 + 1e-9  # 10 less a mean bill of .6
    rich = decide(fit(BILLS, floor=9.4), by, budget=9.0)
    assert 0.55 < bill_A[rich].mean() <= 0.6 + 1e-9


def test_the_price_of_money_is_what_one_unit_more_brings() -> None:
    choice = Choice([fit(BILLS)])

    def gained(budget: float) -> float:
        arm_N = decide(fit(BILLS), budget=budget)
        return float(choice.values(X_NF, np.zeros(USERS, int))[np.arange(USERS), arm_N].mean())

    price = price_of_money(choice, CAP, X_NF, TENURE_N, SENSITIVE_N, 1.0)
    assert gained(1.01) - gained(0.99) == pytest.approx(0.02 * price, rel=0.1)
    assert price_of_money(choice, CAP, X_NF, TENURE_N, SENSITIVE_N, 99.0) == 0


def test_a_candidate_that_only_spends_more_does_not_win() -> None:
    """Rows with known outcomes: the candidate gives everybody 4, the standing effects 1. The differences are those of
    the formula; at the price that money has elsewhere the candidate loses what it seems to gain."""
    draws = np.random.default_rng(1)
    arm_R, bill_A = draws.integers(0, 4, 20_000), np.array(BILLS)
    outcome_R = 0.1 * np.sqrt(bill_A)[arm_R] + 0.05 * draws.normal(size=20_000)
    rows = {"arm": arm_R, "propensity": np.full(20_000, 0.25), "cost": bill_A[arm_R], "outcome.y": outcome_R,
            "user": np.arange(20_000)}  # fmt: skip
    arms = np.full(20_000, 3), np.full(20_000, 1)
    answers = {}
    for price in (0.0, 0.06):
        net, figures = compared(rows, arms, ("y=1",), price)
        answers[price] = net
        assert figures["gate.cost"] == pytest.approx(3.0)
        assert figures["gate.outcome"] == pytest.approx(outcome_R[arm_R == 3].mean() - outcome_R[arm_R == 1].mean())
        assert figures["gate.difference"] == pytest.approx(figures["gate.outcome"] - price * 3.0)
        assert figures["gate.outcome.low"] < 0.1 < figures["gate.outcome.high"]
    assert answers[0.0].low > 0.09
    assert answers[0.06].high < -0.07  # .1 - .06 * 3


def test_users_get_what_their_own_effects_know() -> None:
    """Numbers 0, 2, 5 stand, 7 is new to the candidate, 2 is gone; the cheapest first whatever their numbers are."""
    standing, candidate = fit([0.0, 2.0, 4.0], ids=[0, 5, 2]), fit([0.0, 1.0, 2.0], 3.0, ids=[0, 7, 5])
    choice = Choice([standing, candidate], gone_N=np.array([2]))
    assert choice.ids_A.tolist() == [0, 7, 5]
    assert choice.bill_A.tolist() == [0, 1, 2]
    mine_N = np.array([0, 1])
    assert choice.allowed(CadenceSettings(cap=-1), np.zeros(2, bool), mine_N).tolist() == [
        [True, False, True],
        [True] * 3,
    ]
    assert choice.allowed(CAP, np.ones(2, bool), mine_N).tolist() == [[True, False, False], [True, True, False]]
    value_NA = choice.values(np.zeros((2, 2)), mine_N)
    np.testing.assert_allclose(value_NA, [[0, 0, 2**0.5], [0, 3, 3 * 2**0.5]])
    assert choice.costs(X_NF[:1]).tolist() == [[0, 1, 2]]
    assert choice.columns(np.array([0, 5, 7, 2, -1, 99])).tolist() == [0, 2, 1, -1, -1, -1]
    assert choice.has(np.array([0, 0, 1, 0, 0]), np.array([5, 7, 7, 2, -1])).tolist() == [
        True,
        False,
        True,
        False,
        False,
    ]
    before, after, errors = aligned(standing, candidate, X_NF[:1])
    assert before.shape == after.shape == (1, 2)  # of 0 and 5
    assert errors is None
    floors = Choice([fit([0.0, 2.0], floor=9.0, ids=[0, 5]), fit([0.0, 1.0], floor=9.0, ids=[0, 7])]).limited(X_NF[:1])
    assert floors is not None
    assert floors.cost_KRA.tolist() == [[[-10, -9, -8]]]


def test_a_trials_clusters_are_its_own() -> None:
    mine_N = (np.arange(USERS) % 10 == 0).astype(np.int64)
    group_N = grouped(X_NF, X_NF, 8, 0, mine_N)
    assert len(set(group_N[mine_N == 1]) & set(group_N[mine_N == 0])) == 0
    assert set(group_N.tolist()) == set(range(group_N.max() + 1))
