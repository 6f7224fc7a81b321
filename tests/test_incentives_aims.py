"""Floors and ceilings of outcomes beside a budget: against a linear program, every choice, and by command."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from data.errors import UserError
from data.log import open_log
from funnel.incentives import held
from funnel.incentives.aims import Limit, Limited, limits_of
from funnel.incentives.effect_settings import EffectSettings, Learning
from funnel.incentives.few import few_choices, shares
from funnel.incentives.held import hold
from funnel.incentives.plan import mix_for_all, one_for_all, per_group, per_user, reachable
from funnel.incentives.snapshot import decide_as_far
from jobs import fit, make_data, operate
from jobs.command.cli import parse
from tests.test_incentives_allocation import options, relaxed

SMALL = ("--effects.nuisances.trees", "10", "--effects.dml.folds", "2", "--effects.dml.richest", "linear")


def minutes(cost_UA: np.ndarray, seed: int) -> np.ndarray:
    """Minutes that rise with what is spent, for some users more than for others."""
    draws = np.random.default_rng(50 + seed)
    users = len(cost_UA)
    return np.asarray(20 + draws.normal(0, 3, (users, 1)) + draws.gamma(1, 1, (users, 1)) * np.log1p(cost_UA))


def floor_at(share: float, value_UA: np.ndarray, cost_UA: np.ndarray, time_UA: np.ndarray, budget: float) -> float:
    """A level between what the budget alone gives and the most that can be reached."""
    given = time_UA[np.arange(len(time_UA)), per_user(value_UA, cost_UA, budget).arm_R].mean()
    most = -reachable(cost_UA, budget, None, Limited(("floor t=0",), -time_UA[None], np.zeros(1)))[0]
    return float(given + share * (most - given))


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_floor_is_kept_beside_a_tight_budget_at_the_linear_programs_value(share: float) -> None:
    value_UA, cost_UA = options(400, 3)
    time_UA, budget = minutes(cost_UA, 3), 0.4
    floor = floor_at(share, value_UA, cost_UA, time_UA, budget)
    found = hold(value_UA, cost_UA, 400 * budget, -time_UA[None], np.array([-400 * floor]))
    rows = np.arange(400)
    assert cost_UA[rows, found.option_U].sum() <= 400 * budget
    assert time_UA[rows, found.option_U].mean() >= floor
    best = relaxed(value_UA, np.stack([cost_UA, -time_UA]), np.array([400 * budget, -400 * floor]))
    assert found.bound == pytest.approx(best, rel=1e-3)
    assert best <= found.bound * (1 + 1e-9)
    assert found.value >= 0.98 * best
    # A floor that binds takes value; one that the budget alone keeps takes none.
    free = per_user(value_UA, cost_UA, budget).allocation.value
    assert found.value < free
    loose = hold(value_UA, cost_UA, 400 * budget, -time_UA[None], np.array([-400 * 1.0]))
    assert loose.value == pytest.approx(free, rel=1e-9)


def test_two_floors_and_a_ceiling_are_kept_together() -> None:
    value_UA, cost_UA = options(600, 5)
    draws = np.random.default_rng(1)
    time_UA, load_UA = minutes(cost_UA, 5), draws.uniform(0, 1, cost_UA.shape)
    limited = Limited(
        ("floor time=1", "ceiling load=0.45"),
        np.stack([-time_UA, load_UA]),
        np.array([-floor_at(0.4, value_UA, cost_UA, time_UA, 0.5), 0.45]),
    )
    found, rows = per_user(value_UA, cost_UA, 0.5, None, limited), np.arange(600)
    assert (limited.cost_KRA[:, rows, found.arm_R].mean(1) <= limited.limit_K).all()
    assert cost_UA[rows, found.arm_R].mean() <= 0.5
    assert found.allocation.gap < 0.02


def test_prices_that_start_from_a_samples_lead_to_as_good_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """A floor of 1,200 users: kept, near the bound, and near what the search without a sample finds; a
    sample of 60 is far off (its prices are lowered until no limit is kept). In float32 too."""
    value_UA, cost_UA = options(1200, 7)
    time_UA = minutes(cost_UA, 7)
    limit_K = 1200 * np.array([-floor_at(0.4, value_UA, cost_UA, time_UA, 0.5)])
    found = {}
    for rows, kind in ((10**6, np.float64), (60, np.float64), (60, np.float32)):
        monkeypatch.setattr(held, "SAMPLE", rows)
        limits_KUA = -time_UA[None].astype(kind)
        plan = hold(value_UA, cost_UA, 1200 * 0.5, limits_KUA, limit_K)
        spent_K = limits_KUA[:, np.arange(1200), plan.option_U].sum(1, dtype=np.float64)
        assert (spent_K <= limit_K + 1e-9 * np.abs(limit_K)).all()
        assert cost_UA[np.arange(1200), plan.option_U].sum() <= 1200 * 0.5
        found[rows, kind] = plan
    whole = found[10**6, np.float64]
    for plan in found.values():
        assert plan.value >= 0.999 * whole.value
        assert plan.bound >= whole.value * (1 - 1e-9)
        assert plan.gap < 3e-3


def test_groups_are_the_best_of_all_choices() -> None:
    for seed in range(5):
        value_GA, cost_GA = options(5, seed, kinds=3)
        time_GA, limit_M = minutes(cost_GA, seed), np.array([2.5, -100.3])
        cost_MGA = np.stack([cost_GA, -time_GA])
        ways = np.array(list(itertools.product(range(3), repeat=5)))
        sums_WM = np.array([cost_MGA[:, np.arange(5), way].sum(1) for way in ways])
        kept_W = (sums_WM <= limit_M).all(1)
        if not kept_W.any():
            with pytest.raises(UserError, match="no choice for the 5 groups keeps the budget together with floor"):
                few_choices(value_GA, cost_MGA, limit_M, ["floor t=1"])
            continue
        best = max(value_GA[np.arange(5), way].sum() for way in ways[kept_W])
        found = few_choices(value_GA, cost_MGA, limit_M, ["floor t=1"])
        assert found.value == pytest.approx(best, rel=1e-4)
        assert (found.cost_M <= limit_M).all()


def test_groups_count_what_capped_users_really_get() -> None:
    """Two users of one group, one of whom may not have the dear arm: the floor counts his cheaper one."""
    value_RA, cost_RA = np.array([[0.0, 1.0]] * 2), np.array([[0.0, 1.0]] * 2)
    time_RA, allowed = np.array([[1.0, 3.0]] * 2), np.array([[True, False], [True, True]])
    limited = Limited(("floor t=2",), -time_RA[None], np.array([-2.0]))
    found = per_group(value_RA, cost_RA, np.zeros(2, int), 1.0, allowed, limited)
    assert found.arm_R.tolist() == [0, 1]
    with pytest.raises(UserError, match="no choice for the 1 groups"):
        per_group(value_RA, cost_RA, np.zeros(2, int), 1.0, allowed, Limited(("floor t=2.1",), -time_RA[None],
                                                                             np.array([-2.1])))  # fmt: skip


def test_shares_of_a_mix_keep_limits_as_far_as_they_go() -> None:
    value_A, cost_A, time_A = np.array([0.0, 1.0, 1.2]), np.array([0.0, 1.0, 2.0]), np.array([5.0, 5.0, 9.0])
    np.testing.assert_allclose(shares(value_A, cost_A[None], np.array([0.5])), [0.5, 0.5, 0], atol=1e-9)
    # A floor of 6 needs a quarter of the third arm, which takes the whole budget.
    both_MA = np.stack([cost_A, -time_A])
    np.testing.assert_allclose(shares(value_A, both_MA, np.array([0.5, -6.0])), [0.75, 0, 0.25], atol=1e-9)
    np.testing.assert_allclose(shares(value_A, both_MA, np.array([0.5, -8.0])), [0.75, 0, 0.25], atol=1e-9)
    np.testing.assert_allclose(shares(value_A, 1 + both_MA, np.array([0.5, -8.0])), [1, 0, 0])
    value_RA, cost_RA = np.tile(value_A, (4000, 1)), np.tile(cost_A, (4000, 1))
    limited = Limited(("floor t=6",), -np.tile(time_A, (4000, 1))[None], np.array([-6.0]))
    assert np.bincount(mix_for_all(value_RA, cost_RA, 0.5, limited)).tolist() == [3000, 0, 1000]
    assert (one_for_all(value_RA, cost_RA, 1.5) == 1).all()
    assert (one_for_all(value_RA, cost_RA, 2.5, limited) == 2).all()


@pytest.mark.slow
def test_a_floor_out_of_reach_is_named_with_how_far_it_goes() -> None:
    value_UA, cost_UA = options(200, 7)
    time_UA = minutes(cost_UA, 7)
    limited = Limited(("floor minutes=99",), -time_UA[None], np.array([-99.0]))
    most = -reachable(cost_UA, 0.5, None, limited)[0]
    with pytest.raises(
        UserError, match=f"floor minutes=99: no plan under the budget of 0.5 a user .* {most:.6g} a user"
    ):
        per_user(value_UA, cost_UA, 0.5, None, limited)
    everything, nobody = np.ones_like(cost_UA, bool), np.empty(0, np.int64)
    arm_U, kept, told = decide_as_far(value_UA, cost_UA, everything, nobody, 100.0, limited)
    assert "held as far as it goes" in told[0]
    assert kept is not None
    assert time_UA[np.arange(200), arm_U].mean() == pytest.approx(most, rel=2e-3)
    against = Limited(("floor minutes=99", "ceiling minutes=1"), np.stack([-time_UA, time_UA]), np.array([-99.0, 1.0]))
    arm_U, kept, told = decide_as_far(value_UA, cost_UA, everything, nobody, 100.0, against)
    assert kept is None
    assert "decided without" in told[0]
    assert cost_UA[np.arange(200), arm_U].sum() <= 100


def test_settings_name_limits() -> None:
    found = limits_of(Learning(floors=("minutes=26",), ceilings=("complaints=0.1",)))
    assert found == [Limit("minutes", 26, -1), Limit("complaints", 0.1, 1)]
    assert [one.text for one in found] == ["floor minutes=26", "ceiling complaints=0.1"]
    for words, message in ((("minutes",), "want NAME=LEVEL"), (("minutes=x",), "'x' is no number"),
                           (("minutes=1", "minutes=2"), "named twice")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            EffectSettings(floors=words)


@pytest.fixture(scope="module")
def reward_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rewards") / "log"
    words = ["--world", "incentives", "--rows", "9000", "--users", "4000", "--logging.randomised", "0.6"]
    make_data.run(parse(make_data.options_for, [*words, "--out", str(out)]))
    return out


@pytest.mark.slow
def test_a_floor_is_held_on_rows_that_taught_nothing(reward_log: Path, tmp_path: Path) -> None:
    """Raised is who comes back, minutes are held: more of them than without the floor, at the same cost."""
    words = ("--data", reward_log, "--resamples", "0", "--outcomes", "retained=1", "--nuisances.trees", "20",
             "--dml.folds", "2", "--dml.basis", "linear")  # fmt: skip
    free = fit.run(fit.arguments_of(*words, "--out", tmp_path / "free"))
    held = fit.run(fit.arguments_of(*words, "--out", tmp_path / "held", "--floors", "minutes=28.2"))
    assert "limits" not in free
    assert held["limits"] == {"floor minutes=28.2": "minutes"}
    assert held["user.held.minutes.high"] > 28.2
    assert held["cheapest.held.minutes"] < held["user.held.minutes"]
    model = fit.read_model(tmp_path / "held")
    arrays = model.read(model.settings, open_log(reward_log), "test")
    limited, rows = model.limited(arrays["x"]), np.arange(len(arrays["arm"]))
    # What the levels say of the arms that were given is what came, on average.
    error = arrays["outcome.minutes"].std() / len(rows) ** 0.5
    assert -limited.cost_KRA[0, rows, arrays["arm"]].mean() == pytest.approx(arrays["outcome.minutes"].mean(),
                                                                             abs=4 * error)  # fmt: skip
    plan = per_user(model.effects(arrays["x"]), model.cost(arrays["x"]), 1.0, None, limited)
    assert -limited.cost_KRA[0, rows, plan.arm_R].mean() >= 28.2
    assert "floor minutes=28.2" in (tmp_path / "held" / "report.html").read_text()


def test_floors_that_cannot_be_are_one_line(reward_log: Path, tmp_path: Path) -> None:
    words = ("--data", reward_log, "--resamples", "0", "--nuisances.learner", "linear", "--dml.folds", "2",
             "--out", tmp_path / "run")  # fmt: skip
    with pytest.raises(UserError, match="floor joy=1: no outcome 'joy'; the log has retained, minutes"):
        fit.run(fit.arguments_of(*words, "--floors", "joy=1"))
    with pytest.raises(UserError, match=r"floor minutes=99: no plan under the budget of 1 a user keeps it; 2\d"):
        fit.run(fit.arguments_of(*words, "--floors", "minutes=99"))


@pytest.mark.slow
def test_days_are_decided_with_a_floor_and_replayed(tmp_path: Path) -> None:
    """Kept by the snapshot's levels each day, with earlier decisions counted; beyond reach it is held as far as it
    goes, and a person is told."""
    words = ("--days", "6", "--world.users", "1200", "--warmup", "3", "--refit", "9", "--gate.share", "0",
             "--effects.outcomes", "retained=1", *SMALL)  # fmt: skip
    for name, floor in (("run", "27.5"), ("beyond", "60")):
        operate.run(operate.arguments_of("--out", tmp_path / name, *words, "--effects.floors", f"minutes={floor}"))
    for day in (3, 5):
        place = tmp_path / "run" / "days" / f"{day:05d}"
        facts = json.loads((place / "snapshot" / "facts.json").read_text())
        arrays, figures = (
            load_file(place / "snapshot" / "arrays.safetensors"),
            json.loads((place / "day.json").read_text()),
        )
        rows = np.arange(len(arrays["arm_N"]))
        own = arrays["limit_KNA"][0, rows, arrays["arm_N"]].mean()
        assert own <= facts["limits"]["floor minutes=27.5"] + 1e-9
        assert facts["version"] == 2
        if not figures["alerts"]:
            assert figures["held.floor minutes=27.5"] >= 27.5 - 1e-9
        assert "the same strategies" in operate.run(operate.arguments_of("--replay", place))["message"]
    told = [json.loads(line) for line in (tmp_path / "beyond" / "days.jsonl").read_text().splitlines()]
    assert all("held as far as it goes" in " ".join(one["alerts"]) for one in told[3:])
    assert told[4]["held.floor minutes=60"] < 60
