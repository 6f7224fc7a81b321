"""The rewarded world: its truth is what happens on average, luck is addressed; strategies in three spellings."""

import itertools

import numpy as np
import pytest

from data.errors import UserError
from funnel.effects.nuisances import softmax
from funnel.incentives import cadence
from funnel.incentives.clusters import Clusters
from funnel.incentives.gate import GateSettings, Trial
from funnel.incentives.monitors import MonitorSettings, alerts, drift, stability
from funnel.incentives.plan import below, mix_for_all, one_for_all, per_group, per_user
from funnel.incentives.proposals import PruneRules, banditnet, batches, lanes, pruned, rotation, snips, weak
from funnel.incentives.strategies import (
    DayCurve,
    DayCurves,
    arm_of,
    bill,
    check_strategies,
    constant_curves,
    grid_arms,
    one_hot,
    six_arms,
)
from funnel.incentives.world import LIKES, LoggingPolicy, World, WorldSettings, claims, strength

LADDER = six_arms()


def test_what_happens_is_the_truth_on_average() -> None:
    """One day of 30,000 users: means of outcomes within 4 standard errors of the expected ones, costs exactly."""
    world = World(WorldSettings(users=40_000), 1)
    user_N = world.present()
    arm_N = np.arange(len(user_N)) % len(LADDER)
    truth, rows = world.truth(user_N, LADDER), np.arange(len(user_N))
    outcome = world.play(user_N, arm_N, LADDER)
    expected_N = truth.retention_NA[rows, arm_N]
    error = np.sqrt((expected_N * (1 - expected_N)).sum()) / len(user_N)
    assert abs(outcome.retained_N.mean() - expected_N.mean()) < 4 * error
    assert abs(outcome.minutes_N.mean() - truth.minutes_NA[rows, arm_N].mean()) < 4 * 12 / len(user_N) ** 0.5 + 0.15
    np.testing.assert_array_equal(outcome.cost_N, truth.cost_NA[rows, arm_N])
    np.testing.assert_allclose(truth.cost_NA[0], bill(LADDER) * claims(world.activity_U[user_N[:1]])[0])


def test_two_policies_meet_the_same_luck() -> None:
    """Who is retained without a reward is retained with one, where it does not harm; and who comes is the same."""
    worlds = [World(WorldSettings(users=3000, sensitive_share=0.0), 2) for _ in range(2)]
    there = [world.present() for world in worlds]
    np.testing.assert_array_equal(*there)
    given = [world.play(user_N, np.full(len(user_N), arm), LADDER)
             for world, user_N, arm in zip(worlds, there, (0, 5), strict=True)]  # fmt: skip
    assert (given[1].retained_N >= given[0].retained_N).all()
    assert given[1].retained_N.sum() > given[0].retained_N.sum()
    again = World(WorldSettings(users=3000, sensitive_share=0.0), 2)
    np.testing.assert_array_equal(again.play(again.present(), np.full(len(there[0]), 5), LADDER).minutes_N,
                                  given[1].minutes_N)  # fmt: skip


def test_rewards_are_concave_tire_and_drive_the_sensitive_away() -> None:
    world = World(WorldSettings(users=5000), 0)
    user_N = world.present()
    calm_N = ~world.sensitive_U[user_N]
    gain_NA = world.truth(user_N, LADDER).retention_NA
    gain_NA = gain_NA - gain_NA[:, :1]
    steps_A = np.diff(gain_NA[calm_N].mean(0)) / np.diff(strength(LADDER))
    assert (np.diff(steps_A) < 1e-12).all()
    over_A = bill(LADDER) > LIKES
    assert gain_NA[~calm_N][:, over_A].mean() < gain_NA[calm_N][:, over_A].mean()
    world.tired_U[:] = 5.0
    tired_NA = world.truth(user_N, LADDER).retention_NA
    assert ((tired_NA - tired_NA[:, :1])[calm_N][:, 1:] <= gain_NA[calm_N][:, 1:] + 1e-12).all()
    nothing = World(WorldSettings(users=500, response=0.0), 0)
    assert np.ptp(nothing.truth(np.arange(500), LADDER).retention_NA, 1).max() == 0


def test_new_users_join_and_grow_old() -> None:
    world = World(WorldSettings(users=4000), 3)
    first_N = world.present()
    assert (world.tenure(first_N) >= 0).all()
    joining = np.flatnonzero(world.joined_U == 2)
    assert len(joining) > 0
    assert not np.isin(joining, first_N).any()
    for _ in range(2):
        world.play(world.present(), np.zeros(len(world.present()), int), LADDER)
    assert np.isin(joining, world.present()).all()
    assert (world.tenure(joining) == 0).all()


def test_the_logging_policys_propensities_are_those_it_draws_by() -> None:
    world = World(WorldSettings(users=60_000), 4)
    user_N = world.present()
    policy = LoggingPolicy(confounding=1.5, randomised=0.25)
    arm_N, share_N, slice_N = policy.draw(world, user_N, 6)
    assert slice_N.mean() == pytest.approx(0.25, abs=0.01)
    assert (share_N[slice_N] == 1 / 6).all()
    assert share_N.min() >= policy.floor / 6
    # The mean of 1 / p over rows of an arm counts all users.
    weight_A = np.bincount(arm_N, 1 / share_N, 6) / len(user_N)
    np.testing.assert_allclose(weight_A, 1, atol=0.12)
    x_NF = world.features(user_N)
    dear = arm_N[~slice_N] == 5
    assert x_NF[~slice_N][dear, 0].mean() > x_NF[~slice_N, 0].mean() + 0.3
    hidden = LoggingPolicy(hidden=2.0, randomised=0.0).draw(world, user_N, 6)
    assert world.hidden_U[user_N][hidden[0] == 5].mean() > 0.4
    assert abs(world.hidden_U[user_N][arm_N == 5].mean()) < 0.1


def test_constant_curves_are_the_vector_and_sinusoids_average_out() -> None:
    vector_3 = np.array([1.5, 2.0, 4.0])
    found, cost = constant_curves(vector_3).aggregated()
    np.testing.assert_allclose(found, vector_3)
    assert cost == pytest.approx(6.0)
    swinging = DayCurves(DayCurve(2.0), DayCurve(1.0), DayCurve(3.0, amplitude=2.0))
    found, cost = swinging.aggregated()
    np.testing.assert_allclose(found, [2.0, 1.0, 3.0], rtol=1e-12)
    # amount and number that swing together: the mean of (2 + sin)(3 + sin) is 6.5
    together = DayCurves(DayCurve(2.0, 1.0), DayCurve(1.0), DayCurve(3.0, 1.0))
    assert together.aggregated()[1] == pytest.approx(6.5)
    opposed = DayCurves(DayCurve(2.0, 1.0, phase=np.pi), DayCurve(1.0), DayCurve(3.0, 1.0))
    assert opposed.aggregated()[1] == pytest.approx(5.5)
    evening_H = np.where(np.arange(24) >= 18, 4.0, 0.0)
    hours_H = np.arange(18, 24) + 0.5
    assert together.aggregated(evening_H)[0][2] == pytest.approx(DayCurve(3.0, 1.0).at(hours_H).mean())
    assert DayCurves(DayCurve(1.0), DayCurve(1.0), DayCurve(0.0)).aggregated()[1] == 0


def test_arms_vectors_and_one_hot_go_back_and_forth() -> None:
    arms_A3 = grid_arms()
    assert len(arms_A3) == 27
    assert (np.diff(bill(arms_A3)) >= -1e-12).all()
    arm_R = np.random.default_rng(0).integers(0, 27, 50)
    np.testing.assert_array_equal(arm_of(arms_A3[arm_R], arms_A3), arm_R)
    np.testing.assert_array_equal(one_hot(arm_R, 27) @ arms_A3, arms_A3[arm_R])
    with pytest.raises(UserError, match=r"row 0: .* is none of the 27 strategies"):
        arm_of(np.array([[9.0, 9.0, 9.0]]), arms_A3)
    with pytest.raises(UserError, match="strategy 1: number is nan"):
        check_strategies(np.array([[0.0, 0.0, 0.0], [1.0, 1.0, np.nan]]))


def test_plans_keep_the_budget_and_clusters_lose_value() -> None:
    world = World(WorldSettings(users=6000), 5)
    user_N = world.present()
    truth = world.truth(user_N, LADDER)
    value_NA, cost_NA, rows = truth.value(0.01), truth.cost_NA, np.arange(len(user_N))
    x_NF = world.features(user_N)
    gains = {}
    for name, arm_N in {
        "user": per_user(value_NA, cost_NA, 1.0).arm_R,
        "many": per_group(value_NA, cost_NA, Clusters.fit(x_NF, 100).of(x_NF), 1.0).arm_R,
        "few": per_group(value_NA, cost_NA, Clusters.fit(x_NF, 8).of(x_NF), 1.0).arm_R,
        "mix": mix_for_all(value_NA, cost_NA, 1.0),
        "one": one_for_all(value_NA, cost_NA, 1.0),
    }.items():
        if name != "mix":  # whose draws keep it on average
            assert cost_NA[rows, arm_N].mean() <= 1.0
        gains[name] = (value_NA[rows, arm_N] - value_NA[:, 0]).mean()
    assert gains["user"] > gains["many"] > gains["few"] > gains["one"]
    assert cost_NA[rows, mix_for_all(value_NA, cost_NA, 1.0)].mean() == pytest.approx(1.0, rel=0.05)
    allowed = np.ones((3, 6), bool)
    allowed[0, 3:] = False
    assert below(np.array([5, 5, 2]), allowed).tolist() == [2, 5, 2]


def test_the_sensitive_never_get_more_than_the_cap() -> None:
    world = World(WorldSettings(users=4000, sensitive_share=0.4), 6)
    user_N = world.present()
    truth = world.truth(user_N, LADDER)
    settings = cadence.CadenceSettings(cap=2.0)
    sensitive_N = world.sensitive_U[user_N]
    fits_NA = cadence.allowed(settings, sensitive_N, bill(LADDER))
    # Values that would give everybody the dearest arm, if they might have it.
    value_NA = np.tile(bill(LADDER), (len(user_N), 1))
    group_N = Clusters.fit(world.features(user_N), 5).of(world.features(user_N))
    for arm_N in (per_user(value_NA, truth.cost_NA, 9.0, fits_NA).arm_R,
                  per_group(value_NA, truth.cost_NA, group_N, 9.0, fits_NA).arm_R):  # fmt: skip
        assert bill(LADDER)[arm_N[sensitive_N]].max() <= 2.0
        assert (arm_N[~sensitive_N] == 5).all()
    with pytest.raises(UserError, match=r"cap is 0.1, below the cheapest strategy's bill of 0.3"):
        cadence.allowed(cadence.CadenceSettings(cap=0.1), sensitive_N, bill(grid_arms()))


def test_frequent_users_have_their_turn_once_a_week_and_others_daily() -> None:
    settings, user_N = cadence.CadenceSettings(every=7), np.arange(700)
    activity_N = np.where(user_N < 350, 0.9, 0.1)
    old_N, has_N = np.full(700, 100), np.zeros(700, int)
    turns = np.array([cadence.due(settings, day, user_N, activity_N, old_N, has_N) for day in range(7)])
    assert (turns[:, :350].sum(0) == 1).all()
    assert turns[:, 350:].all()
    assert cadence.due(settings, 3, user_N, activity_N, np.full(700, 2), has_N).all()
    assert cadence.due(settings, 3, user_N, activity_N, old_N, np.full(700, -1)).all()
    weight = cadence.start_weight(settings, np.array([0, 5, 13, 14, 200]))
    np.testing.assert_allclose(weight, [1.5, 1 + 0.5 / np.e, 1 + 0.5 * np.exp(-13 / 5), 1, 1])


def test_a_trial_replaces_when_it_is_steady_and_drops_what_harms() -> None:
    settings, draws = GateSettings(days=3, tolerance=0.05), np.random.default_rng(0)
    for shift, expected in ((0.1, "replace"), (-0.5, "drop")):
        trial, answers = Trial(), []
        for _ in range(4):
            side = np.arange(4000) % 10 == 0
            trial.add(draws.normal(size=4000) * 0.3 + shift * side, np.ones(4000), side)
            answers.append(trial.answer(settings))
        assert expected in answers
        assert answers[0] == ("wait" if shift > 0 else "drop")
    value, error = trial.difference()
    assert value == pytest.approx(-0.5, abs=4 * error)
    assert Trial().answer(settings) == "wait"


def test_a_trial_does_not_win_by_the_money_that_it_spends() -> None:
    """The trial's users cost 1 more and bring .1 more: at a price of .2 a unit that is a loss, told as such beside what
    was gained and spent; the formula of a difference of two means and of its error."""
    draws, side = np.random.default_rng(1), np.arange(4000) % 10 == 0
    outcome_N = draws.normal(size=4000) * 0.2 + 0.1 * side
    cost_N = 1.0 + side
    answers = {}
    for price in (0.0, 0.2):
        trial = Trial(price)
        for _ in range(4):
            trial.add(outcome_N, cost_N, side)
        answers[price] = trial.answer(GateSettings(days=3))
        figures = trial.figures()
        net_N = outcome_N - price * cost_N
        assert figures["gate.difference"] == pytest.approx(net_N[side].mean() - net_N[~side].mean())
        error = np.sqrt(net_N[side].var() / (4 * side.sum() - 1) + net_N[~side].var() / (4 * (~side).sum() - 1))
        assert figures["gate.difference.high"] == pytest.approx(figures["gate.difference"] + 1.96 * error)
        assert figures["gate.cost"] == pytest.approx(1.0)
        assert figures["gate.outcome"] == pytest.approx(0.1, abs=0.03)
    assert answers == {0.0: "replace", 0.2: "drop"}
    assert Trial().figures()["gate.cost"] is None


def test_monitors_measure_what_moved_and_call_a_person() -> None:
    figures = drift(np.array([-1, 0, 1, 5]), np.array([3, 0, 2, 5]), LADDER, bill(LADDER))
    assert figures["moved"] == pytest.approx(1 / 3)
    assert figures["bill.before"] == pytest.approx((0 + 1 + 8) / 3)
    assert figures["bill"] == pytest.approx((0 + 2 + 8) / 3)
    assert figures["number.change"] == pytest.approx(1 / 3)
    effect_NA = np.random.default_rng(0).normal(size=(500, 6))
    same = stability(effect_NA, effect_NA, np.ones((500, 6)))
    assert (same["effects.correlation"], same["effects.change"]) == (pytest.approx(1.0), 0.0)
    assert stability(effect_NA, -effect_NA, None)["effects.correlation"] == pytest.approx(-1.0)
    told = alerts(MonitorSettings(), {"effects.correlation": 0.1, "bill": 3.0, "bill.before": 1.0, "moved": 0.9})
    assert len(told) == 3
    assert "from 1 to 3" in told[1]
    assert not alerts(MonitorSettings(), {"effects.correlation": 0.9, "bill": 1.1, "bill.before": 1.0, "moved": 0.1})


def test_time_slices_rotate_so_that_all_strategies_cover_all_slices() -> None:
    plans = np.array([rotation(4, 6, day) for day in range(4)])  # (days, lanes, slices)
    for day in plans:
        for column in day.T:
            assert sorted(column) == [0, 1, 2, 3]  # equal traffic of every slice
    for lane in range(4):
        for place in range(6):
            assert sorted(plans[:, lane, place]) == [0, 1, 2, 3]
    for strategies in (4, 6, 5):  # each follows each other one equally often
        days = strategies if strategies % 2 == 0 else 2 * strategies
        plans = np.array([rotation(strategies, 3, day) for day in range(days)])
        follows = np.zeros((strategies, strategies), int)
        for first, second in itertools.pairwise(plans):
            np.add.at(follows, (first[:, 0], second[:, 0]), 1)
        assert not np.diag(follows).any()
        often = follows[~np.eye(strategies, dtype=bool)]
        if strategies % 2 == 0:
            assert (often == 1).all()
        else:  # twice; and once more from the last day of a square to the first of its mirror image
            assert (np.sort(often)[:-strategies] == 2).all()
            assert (np.sort(often)[-strategies:] == 3).all()
    order_N, slice_N = np.random.default_rng(0).random(1003), np.arange(1003) % 4
    lane_N = lanes(order_N, slice_N, 5)
    for part in range(4):
        counts = np.bincount(lane_N[slice_N == part], minlength=5)
        assert counts.max() - counts.min() <= 1
        own = order_N[slice_N == part][np.argsort(lane_N[slice_N == part], kind="stable")]
        ends = np.cumsum(counts)[:-1]
        assert all(left.max() < right.min() for left, right in itertools.pairwise(np.split(own, ends)))
    parts = batches(10, 4)
    assert all(part[0] == 0 and len(part) <= 4 for part in parts)
    assert sorted(np.concatenate([part[1:] for part in parts]).tolist()) == list(range(1, 10))


def test_strategies_are_pruned_and_weak_ones_found() -> None:
    kept = pruned(np.array([[0, 0, 0], [1, 1, 2], [1.001, 1, 2], [5, 1, 9], [2, 1, 3]]), PruneRules())
    assert kept.tolist() == [[0, 0, 0], [1, 1, 2], [2, 1, 3]]
    with pytest.raises(UserError, match="no strategy keeps the pruning rules"):
        pruned(np.array([[50.0, 1, 9]]), PruneRules())
    found = weak(np.array([0.0, 1.0, 0.2, 0.3]), np.full(4, 0.1), np.array([0.0, 1.0, 2.0, 0.5]))
    assert found.tolist() == [False, False, True, False]
    # Of means that were not estimated apart the difference counts, with its own error, here a small one.
    apart_AA = np.full((4, 4), 0.02)
    found = weak(np.array([0.0, 1.0, 0.2, 0.3]), apart_AA, np.array([0.0, 1.0, 2.0, 0.5]))
    assert found.tolist() == [False, False, True, False]
    assert not weak(np.array([0.0, 0.3, 0.25]), np.full((3, 3), 0.02), np.array([0.0, 1.0, 1.0])).any()
    assert weak(np.array([0.0, 0.3, 0.24]), np.full((3, 3), 0.02), np.array([0.0, 1.0, 1.0])).tolist()[2]


def test_banditnet_learns_who_wants_what() -> None:
    """The best arm is the sign of x0; rewards with a large offset, which plain IPS would chase."""
    draws = np.random.default_rng(0)
    x_RF, arm_R = draws.normal(size=(4000, 2)), draws.integers(0, 2, 4000)
    reward_R = 5 + (arm_R == (x_RF[:, 0] > 0)) + draws.normal(0, 0.5, 4000)
    weights_GA = banditnet(x_RF, arm_R, reward_R, np.full(4000, 0.5), 2)
    new_RF = draws.normal(size=(1000, 2))
    chosen = (np.column_stack([np.ones(1000), new_RF]) @ weights_GA).argmax(1)
    assert (chosen == (new_RF[:, 0] > 0)).mean() > 0.93
    even = softmax(np.zeros((4000, 2)))
    assert snips(even, arm_R, reward_R, np.full(4000, 0.5)) == pytest.approx(reward_R.mean())
