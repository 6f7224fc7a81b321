"""Evolution of a menu and of the decision: returns by hand, two-stage at 0, judged on others."""

from pathlib import Path

import numpy as np
import pytest

from data.errors import UserError
from funnel.incentives.decision import DecisionObjective, softened
from funnel.incentives.effect_settings import Learning
from funnel.incentives.menu import MenuObjective
from funnel.incentives.plan import per_user
from funnel.incentives.strategies import bill
from funnel.incentives.tuning import IncentiveTuning, IncentiveTuningSettings
from funnel.incentives.world import World, WorldSettings

SMALL = WorldSettings(users=1500)


def tuning(**more: object) -> IncentiveTuning:
    return IncentiveTuning.open(IncentiveTuningSettings(users=200, world=SMALL, **more), 0)  # type: ignore[arg-type]


def test_a_menus_return_is_what_its_best_allocation_brings() -> None:
    world = World(SMALL, 0)
    objective = MenuObjective(world, world.present()[:300], 3, 0.8)
    theta_D = np.random.default_rng(0).normal(0, 0.3, len(objective.initial())).astype(np.float32)
    vectors_A3, curves = objective.menu(theta_D)
    assert (vectors_A3[0] == 0).all()
    np.testing.assert_allclose(vectors_A3[1], curves[0].aggregated(np.roll(np.ones(24), 1))[0], rtol=0.3)
    truth = world.truth(objective.user_N, vectors_A3)
    np.testing.assert_allclose(objective.costs(vectors_A3), truth.cost_NA, rtol=1e-9)
    gain_NA = truth.value(0.01) - truth.value(0.01)[:, :1]
    arm_N = per_user(gain_NA, truth.cost_NA, 0.8).arm_R
    rows = np.arange(300)
    assert objective.worth(theta_D) == pytest.approx(gain_NA[rows, arm_N].mean())
    assert truth.cost_NA[rows, arm_N].mean() <= 0.8
    found = objective.evaluate_batch(np.stack([theta_D, objective.initial()]), np.zeros(2, np.uint64))
    assert found[0] == pytest.approx(objective.worth(theta_D))


def test_a_new_menu_is_judged_on_other_users() -> None:
    tunable = tuning()
    theta_D = tunable.objective.initial()
    figures = tunable.judge(theta_D, 0, 0)
    assert figures["menu.over_start"] == 0
    assert "not significant" in figures["message"]
    assert set(tunable.judges["test"].user_N).isdisjoint(tunable.objective.user_N)  # type: ignore[union-attr]
    assert tunable.measure(theta_D)["gain"] > 0
    policy = tunable.policy(theta_D)
    assert len(policy["strategies"]) == 6
    with pytest.raises(UserError, match="no figure 'value' of incentives: want one of gain"):
        IncentiveTuning.smaller_is_better("value")


def test_strategies_beyond_those_tried_bring_nothing_by_estimates() -> None:
    tunable = tuning(by="estimate", rows=1200)
    objective = tunable.objective
    assert isinstance(objective, MenuObjective)
    far_D = objective.initial()
    far_D[0] = 3.0  # an amount twenty times as large
    assert bill(objective.menu(far_D)[0]).max() > 10
    assert objective.worth(far_D) == 0.0
    assert objective.worth(objective.initial()) > 0


def decision(rows: int = 1500) -> DecisionObjective:
    draws = np.random.default_rng(0)
    x_RF = draws.normal(size=(rows, 2))
    psi_RG = np.column_stack([np.ones(rows), x_RF])
    true_RA = np.column_stack([np.zeros(rows), 1 + x_RF[:, 0], 1 - x_RF[:, 0]])
    wrong_RA = np.tile([0.0, 1.0, 1.01], (rows, 1)) + draws.normal(0, 0.1, (rows, 3))
    robust_RA = true_RA + draws.normal(0, 1, (rows, 3))
    cost_RA = np.tile([0.0, 1.0, 1.0], (rows, 1))
    return DecisionObjective(psi_RG, wrong_RA - wrong_RA[:, :1], cost_RA, robust_RA, 0.5)


def test_the_decision_at_zero_is_two_stage_and_can_be_better() -> None:
    objective = decision()
    zero_D = objective.initial()
    two_stage = per_user(objective.effect_RA, objective.cost_RA, 0.5).arm_R
    np.testing.assert_array_equal(objective.arms(zero_D), two_stage)
    rows = np.arange(len(two_stage))
    (value,) = objective.evaluate_batch(zero_D[None], np.zeros(1, np.uint64))
    assert value == pytest.approx(objective.robust_RA[rows, two_stage].mean())
    theta_D = zero_D.copy().reshape(objective.shape)
    theta_D[1] = (10, -10)  # who wants what, which the estimates do not know
    (right,) = objective.evaluate_batch(theta_D.reshape(1, -1), np.zeros(1, np.uint64))
    assert right > value + 0.3
    soft_D = softened(objective)
    (surrogate,) = objective.evaluate_batch(soft_D[None], np.zeros(1, np.uint64))
    assert value + 0.2 < surrogate
    assert objective.cost_RA[rows, objective.arms(soft_D)].mean() <= 0.5


def test_what_cannot_be_tuned_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--data LOG is needed to tune the decision"):
        IncentiveTuningSettings(tune="decision")
    for more, message in (
        ({"data": tmp_path}, "data has no effect with tune menu"),
        ({"effects": Learning(outcomes=("retained=1",))}, "effects has no effect with tune menu"),
        ({"rows": 5000}, "rows has no effect with by truth"),
        ({"rows": 5, "by": "estimate"}, "rows is 5, must be at least 100"),
        ({"tune": "decision", "data": tmp_path, "by": "estimate"}, "by has no effect with tune decision"),
        ({"tune": "decision", "data": tmp_path, "world": SMALL}, "world has no effect with tune decision"),
    ):
        with pytest.raises(UserError, match=message):
            IncentiveTuningSettings(**more)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="has too few for three such groups"):
        IncentiveTuningSettings(users=900, world=SMALL)
    with pytest.raises(UserError, match="no such directory"):
        IncentiveTuning.open(IncentiveTuningSettings(tune="decision", data=tmp_path / "none"), 0)
