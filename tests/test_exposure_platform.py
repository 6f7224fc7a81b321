"""Shares on the platform: the re-ranking keeps them, a log of drawn mixes, and up or down of a category."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.spatial import cKDTree

from data.errors import UserError
from data.log import open_log
from distributed.finished_run import load_run
from funnel.effects.nuisances import NuisanceSettings
from funnel.exposure.fitted import ExposureForest, ForestFitSettings
from funnel.exposure.forest import ForestSettings
from funnel.exposure.joint import JointModule, JointProblem
from funnel.exposure.learnt import read_learnt
from funnel.exposure.platform_log import DayBook, MixLog, MixLogs
from funnel.exposure.reading import read_shares, rows_of
from funnel.exposure.shares import limits
from funnel.exposure.simulation import simulate
from funnel.exposure.stage import (
    ShareReRanking,
    ShareReRankingSettings,
    feature_names,
    random_shares,
    user_features,
)
from funnel.exposure.up_down import UpDown, UpDownSettings
from funnel.fitted import here
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policies, Step
from funnel.platform.view import NOBODY
from funnel.platform.world import new_world
from funnel.rerank.limits import parsed
from jobs import train

SMALL = PlatformSettings(users=120, items=300, uploads=10.0, categories=4, slots=8, kept=60, visits=2.0)


def seen(policy: dict[str, Any], days: int = 2) -> np.ndarray:
    """What users saw of each category on the last day, (U, K)."""
    world = new_world(SMALL, 3, [Policies.of(policy, SMALL, 3)])
    book = DayBook(SMALL.users, SMALL.categories)
    world.run(days - 1)
    world.watch = book
    world.run_day()
    return book.seen_UK


def test_the_next_item_is_of_the_category_that_lags_most() -> None:
    settings = ShareReRankingSettings(shares=(0.1, 0.5, 0.3, 0.1))
    stage = ShareReRanking(settings, SMALL, 0)
    view: Any = SimpleNamespace(items=SimpleNamespace(category_I=np.array([0, 0, 1, 1, 2, 3])))
    requests: Any = Gone(user_R=np.array([7, 8]))
    items = np.array([[0, 1, 2, 3, 4, 5], [0, 1, 4, 5, NOBODY, NOBODY]])
    left, shown = items != NOBODY, []
    for place in range(4):
        seen_RP = np.array(shown, dtype=int).reshape(place, 2).T
        step = Step(place, items, np.zeros(items.shape, np.float32), left, np.ones(2, bool), seen_RP, {})
        chosen = stage.choose(requests, step, view)
        shown.append(chosen)
        left = left.copy()
        left[[0, 1], chosen] = False
    # lags are (.1 .5 .3 .1), (.2 0 .6 .2), (.3 .5 -.1 .3), (.4 0 .2 .4): of equal ones the better rank
    assert [int(chosen[0]) for chosen in shown] == [2, 4, 3, 0]
    # without category 1 (.1 . .3 .1), (.2 . -.4 .2), (-.7 . -.1 .3), then what is left
    assert [int(chosen[1]) for chosen in shown] == [2, 0, 3, 1]
    free, kept = (
        np.abs(own / own.sum(axis=1, keepdims=True).clip(1) - np.array(settings.shares))[own.sum(axis=1) >= 8].sum(
            axis=1
        )
        for own in (seen({}), seen({"reranking": {"kind": "shares", "shares": list(settings.shares)}}))
    )
    assert np.mean(kept) < np.mean(free) - 0.1


class Gone(SimpleNamespace):
    """Requests, as far as the stage looks at them."""

    def __len__(self) -> int:
        return len(self.user_R)


def test_random_shares_are_dirichlet_draws_of_user_and_day() -> None:
    found = random_shares(20_000, 4, 1.0, 5, 2)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(found.mean(axis=0), 0.25, atol=0.01)
    np.testing.assert_allclose(found.var(axis=0), 0.25 * 0.75 / 5, rtol=0.05)  # Dirichlet(1, 1, 1, 1)
    firm = random_shares(20_000, 4, 5.0, 5, 2)
    np.testing.assert_allclose(firm.var(axis=0), 0.25 * 0.75 / 21, rtol=0.05)
    np.testing.assert_array_equal(random_shares(10, 4, 1.0, 5, 2), found[:10])
    assert not np.array_equal(random_shares(10, 4, 1.0, 5, 3), found[:10])


def test_a_log_of_mixes(tmp_path: Path) -> None:
    MixLogs.write(SMALL, MixLog(rows=200, warmup=1), {}, "", tmp_path / "log")
    log = open_log(tmp_path / "log")
    assert log.schema.treatment is not None
    arrays = read_shares(log, "train")
    rows = rows_of(arrays, log.schema.numeric, log.schema.treatment.vector)
    assert len(rows) == 160
    assert rows.categories == ("category_0", "category_1", "category_2", "category_3")
    assert rows.shares_RK.std(axis=0).min() > 0.05
    drawn = np.concatenate([random_shares(SMALL.users, 4, 1.0, 0, day) for day in range(12)])
    assert cKDTree(drawn).query(rows.shares_RK)[0].max() < 1e-6  # what was asked for, of a user and a day
    MixLogs.write(SMALL, MixLog(rows=200, warmup=1, treatment="seen"), {}, "", tmp_path / "seen")
    other = read_shares(open_log(tmp_path / "seen"), "train")
    np.testing.assert_array_equal(other["outcome.watch"], arrays["outcome.watch"])
    assert np.abs(other["treatment"] - arrays["treatment"]).mean() > 0.05  # candidates hold few of some categories
    assert rows.outcome_R.min() >= 0
    with pytest.raises(UserError, match="re-ranks pages itself"):
        MixLogs.write(SMALL, MixLog(rows=200), {"reranking": {"kind": "none"}}, "mine", tmp_path / "x")


def test_a_fitted_forest_re_ranks(tmp_path: Path) -> None:
    from jobs.fit import write_model

    MixLogs.write(SMALL, MixLog(rows=400, warmup=1), {}, "", tmp_path / "log")
    settings = ForestFitSettings(forest=ForestSettings(trees=2, leaf_rows=40))
    fitted = ExposureForest.fit(settings, ExposureForest.read(settings, open_log(tmp_path / "log"), "train"), 0, here)
    write_model(tmp_path / "run" / "model", fitted, "exposure", settings)
    assert seen({"reranking": {"kind": "shares", "model": str(tmp_path / "run")}}, 1).sum() > 0
    with pytest.raises(UserError, match="holds no learnt shares"):
        Policies.of({"reranking": {"kind": "shares", "model": str(tmp_path)}}, SMALL, 0)
    other = PlatformSettings(users=50, categories=5)
    with pytest.raises(UserError, match="4 shares for 5 categories"):
        Policies.of({"reranking": {"kind": "shares", "model": str(tmp_path / "run")}}, other, 0)


def test_shares_by_taste_are_a_softmax_of_what_fits() -> None:
    stage = ShareReRanking(ShareReRankingSettings(taste=2.0), SMALL, 0)
    random = np.random.default_rng(0)
    taste, centre = random.standard_normal((SMALL.users, 8)), random.standard_normal((4, 8))
    view: Any = SimpleNamespace(users=SimpleNamespace(taste_UD=taste), centre_KD=centre, day=0)
    stage.refresh(view)
    odds = np.exp(2 * taste @ centre.T)
    np.testing.assert_allclose(stage.share_UK, odds / odds.sum(axis=1, keepdims=True), rtol=1e-9)
    with pytest.raises(UserError, match="exclude each other"):
        ShareReRankingSettings(taste=1.0, random=1.0)


def test_a_trained_policy_re_ranks_pages(tmp_path: Path) -> None:
    """From the run of jobs.train, to the numbers that the training's own reader gives."""
    log, run = tmp_path / "log", tmp_path / "run"
    MixLogs.write(SMALL, MixLog(rows=400, warmup=1), {}, "", log)
    words = ("--problem", "joint_shares", "--data", log, "--out", run, "--epochs", 2, "--batch-size", 64)
    train.run(train.arguments_of(*map(str, (*words, "--workers", 0, "--overlap.user-groups", 2))))
    learnt, whole = read_learnt(run), load_run(run)
    features = np.random.default_rng(0).standard_normal((30, 6))
    assert isinstance(whole.problem, JointProblem)
    assert isinstance(whole.network, JointModule)
    np.testing.assert_array_equal(learnt.shares(features), whole.problem.shares(whole.network, features))
    assert learnt.categories == ("category_0", "category_1", "category_2", "category_3")
    assert seen({"reranking": {"kind": "shares", "model": str(run)}}, 1).sum() > 0
    record = run / "model" / "checkpoint.json"
    record.write_text(record.read_text().replace('"joint_shares"', '"vcnet"'))
    with pytest.raises(UserError, match="a training of 'vcnet', not of joint_shares"):
        read_learnt(run)


def test_features_of_users_are_how_well_categories_fit() -> None:
    """And so mean the same in every world, whatever its dimensions of taste say."""
    random = np.random.default_rng(0)
    taste, centre = random.standard_normal((5, 8)), random.standard_normal((4, 8))
    core, active = np.arange(5) % 2, random.random(5)
    view: Any = SimpleNamespace(users=SimpleNamespace(taste_UD=taste, core_U=core, activity_U=active), centre_KD=centre)
    found, turn = user_features(view), np.linalg.qr(random.standard_normal((8, 8)))[0]
    np.testing.assert_allclose(found, np.column_stack([taste @ centre.T, core, active]), rtol=1e-9)
    view.users.taste_UD, view.centre_KD = taste @ turn, centre @ turn
    np.testing.assert_allclose(user_features(view), found, rtol=1e-9, atol=1e-12)
    assert feature_names(4) == ("fit_0", "fit_1", "fit_2", "fit_3", "core", "activity")


def test_shares_as_limits_of_the_list_re_ranking() -> None:
    found = limits(np.array([0.02, 0.38, 0.6]))
    assert found == ["0:0:0.07", "1:0.33:0.43", "2:0.55:0.65"]
    parsed(tuple(found), 3, 10, "page")


def test_wrong_shares_are_refused() -> None:
    with pytest.raises(UserError, match="exclude each other"):
        ShareReRankingSettings(shares=(0.5, 0.5), random=1.0)
    with pytest.raises(UserError, match=r"shares \[0.5, 0.6\] sum to 1.1"):
        ShareReRankingSettings(shares=(0.5, 0.6))
    with pytest.raises(UserError, match="2 shares for 4 categories"):
        Policies.of({"reranking": {"kind": "shares", "shares": [0.5, 0.5]}}, SMALL, 0)


@pytest.mark.slow
@pytest.mark.parametrize("learner", ["dml", "x"])
def test_up_or_down(learner: Any) -> None:
    """Of the simulation more game is right for those under 45, and more life for the others."""
    rows = simulate(6000, 2)
    arrays = {"x": rows.features_RF, "treatment": rows.shares_RK, "outcome.value": rows.outcome_R,
              "features": np.array(rows.feature_names), "categories": np.array(rows.categories)}  # fmt: skip
    settings = UpDownSettings(learner=learner, nuisances=NuisanceSettings(learner="linear"))
    fitted = UpDown.fit(settings, arrays, 0, here)
    effect = fitted.effects(rows.features_RF)
    young = rows.features_RF[:, 0] < 45
    assert effect[young, 2].mean() > effect[~young, 2].mean() + 0.1
    assert effect[~young, 3].mean() > effect[young, 3].mean() + 0.1
    stored, facts = fitted.state()
    again = UpDown.restore(settings, stored, facts)
    np.testing.assert_allclose(again.effects(rows.features_RF[:50]), effect[:50], rtol=1e-12)
    figures, _ = fitted.judge(arrays, 0, 0)
    assert figures["up_down.game.advised.low"] > 0
    assert UpDown.results(figures) is not None
