"""T-, S-, X-, DR-learners of several arms against their formulas, trees against scikit-learn, overlap's refusals."""

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor

from data.errors import UserError
from funnel.effects.basis import TreatmentBasis
from funnel.effects.learners import ArmEffects, LearnerSettings, fit_learner
from funnel.effects.nuisances import NuisanceSettings, propensities, propensity_model, regression
from funnel.effects.overlap import overlap, possible, refuse_beyond
from funnel.effects.rows import TreatedRows
from funnel.effects.trees import Trees
from funnel.fitted import here

ARMS = np.array([[0.0], [1.0], [2.0]])
LINEAR = NuisanceSettings(learner="linear", basis="linear", penalty=0.0)


def world(rows: int, seed: int, confounded: float = 0.0) -> tuple[TreatedRows, np.ndarray, np.ndarray]:
    """(rows, true effects, true propensities); effects .5 + .5 x0 and 1 - .5 x1."""
    draws = np.random.default_rng(seed)
    x_RF = draws.normal(size=(rows, 3))
    logit_RA = np.stack([0 * x_RF[:, 0], confounded * x_RF[:, 0], -confounded * x_RF[:, 1]], 1)
    share_RA = np.exp(logit_RA) / np.exp(logit_RA).sum(1, keepdims=True)
    arm_R = (draws.random(rows)[:, None] > share_RA.cumsum(1)).sum(1).clip(0, 2)
    true_RA = np.stack([0 * x_RF[:, 0], 0.5 + 0.5 * x_RF[:, 0], 1 - 0.5 * x_RF[:, 1]], 1)
    y_R = x_RF[:, 0] + x_RF[:, 2] + true_RA[np.arange(rows), arm_R] + draws.normal(size=rows)
    return TreatedRows(x_RF, y_R, arm_R, ARMS), true_RA, share_RA


def least_squares(x_NF: np.ndarray, y_N: np.ndarray) -> np.ndarray:
    return np.linalg.lstsq(np.column_stack([np.ones(len(y_N)), x_NF]), y_N)[0]


def test_the_t_learner_is_the_difference_of_two_regressions() -> None:
    rows, _, _ = world(600, 0)
    found = fit_learner(rows, LearnerSettings("t"), LINEAR).effects(rows.x_RF)
    design = np.column_stack([np.ones(600), rows.x_RF])
    fits = [least_squares(rows.x_RF[rows.arm_R == a], rows.outcome_R[rows.arm_R == a]) for a in range(3)]
    for a in range(3):
        np.testing.assert_allclose(found[:, a], design @ (fits[a] - fits[0]), rtol=1e-5, atol=1e-6)


def test_the_x_learner_is_its_formula() -> None:
    """tau = e tau0 + (1 - e) tau1 with e = p_a / (p_a + p_0), written out for linear regressions."""
    rows, _, _ = world(900, 1)
    known = TreatedRows(rows.x_RF, rows.outcome_R, rows.arm_R, ARMS, propensity_RA=np.tile([0.5, 0.3, 0.2], (900, 1)))
    found = fit_learner(known, LearnerSettings("x", final="linear"), LINEAR).effects(rows.x_RF)
    design = np.column_stack([np.ones(900), rows.x_RF])
    own = [rows.arm_R == a for a in range(3)]
    mu = [least_squares(rows.x_RF[each], rows.outcome_R[each]) for each in own]
    for a, e in ((1, 0.3 / 0.8), (2, 0.2 / 0.7)):
        tau1 = least_squares(rows.x_RF[own[a]], rows.outcome_R[own[a]] - design[own[a]] @ mu[0])
        tau0 = least_squares(rows.x_RF[own[0]], design[own[0]] @ mu[a] - rows.outcome_R[own[0]])
        np.testing.assert_allclose(found[:, a], design @ (e * tau0 + (1 - e) * tau1), rtol=1e-5, atol=1e-6)


def test_the_s_learner_shares_what_arms_have_in_common() -> None:
    """One linear model with the arm's number as a feature: a dose twice as large brings exactly twice as much."""
    rows, _, _ = world(600, 2)
    found = fit_learner(rows, LearnerSettings("s"), LINEAR).effects(rows.x_RF)
    np.testing.assert_allclose(found[:, 2], 2 * found[:, 1], rtol=1e-6)
    assert np.ptp(found[:, 1]) < 1e-9


@pytest.mark.parametrize("name", ["t", "x", "dr"])
def test_effects_are_recovered_under_confounding(name: str) -> None:
    """Mean effects over 8 draws within 3.5 standard errors of their mean; differences of raw means are off."""
    errors, raw = [], []
    for seed in range(8):
        rows, true_RA, _ = world(1200, seed, confounded=1.0)
        settings = LearnerSettings(name, final="linear")  # type: ignore[arg-type]
        found_RA = fit_learner(rows, settings, LINEAR, seed).effects(rows.x_RF)
        errors.append((found_RA - true_RA).mean(0)[1:])
        means = [rows.outcome_R[rows.arm_R == a].mean() for a in range(3)]
        raw.append(means[1] - means[0] - true_RA[:, 1].mean())
    mean, error = np.mean(errors, 0), np.std(errors, 0, ddof=1) / 8**0.5
    assert (np.abs(mean) < 3.5 * error).all()
    assert abs(np.mean(raw)) > 0.3


def test_the_dr_learners_intervals_cover() -> None:
    covered = []
    for seed in range(6):
        rows, true_RA, share_RA = world(1500, 20 + seed, confounded=0.5)
        known = TreatedRows(rows.x_RF, rows.outcome_R, rows.arm_R, ARMS, propensity_RA=share_RA)
        model = fit_learner(known, LearnerSettings("dr", final="linear"), LINEAR, seed)
        error_RA = model.standard_errors(rows.x_RF)
        assert error_RA is not None
        covered.append((np.abs(model.effects(rows.x_RF) - true_RA) < 1.96 * error_RA)[:, 1:].mean())
    assert 0.85 < np.mean(covered) <= 1


def test_econml_finds_the_same_effects() -> None:
    """T and X with the same regressions and shares: the same numbers. DR: within the errors of other folds."""
    from econml import metalearners as learners
    from econml.dr import LinearDRLearner
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LinearRegression, LogisticRegression

    rows, _, _ = world(3000, 12)
    even_RA = np.tile(np.bincount(rows.arm_R) / 3000, (3000, 1))
    known = TreatedRows(rows.x_RF, rows.outcome_R, rows.arm_R, ARMS, propensity_RA=even_RA)
    theirs = {
        "t": learners.TLearner(models=LinearRegression()),
        "x": learners.XLearner(models=LinearRegression(), propensity_model=DummyClassifier(strategy="prior")),
    }
    for name, model in theirs.items():
        model.fit(rows.outcome_R, rows.arm_R, X=rows.x_RF)
        ours_RA = fit_learner(known, LearnerSettings(name, final="linear"), LINEAR).effects(rows.x_RF)  # type: ignore[arg-type]
        for a in (1, 2):
            np.testing.assert_allclose(ours_RA[:, a], model.effect(rows.x_RF, T0=0, T1=a), rtol=1e-4, atol=1e-5)
    robust = LinearDRLearner(model_propensity=LogisticRegression(C=1e6), model_regression=LinearRegression(), cv=2)
    robust.fit(rows.outcome_R, rows.arm_R, X=rows.x_RF)
    ours = fit_learner(rows, LearnerSettings("dr", final="linear"), LINEAR, 1)
    error_RA = ours.standard_errors(rows.x_RF)
    assert error_RA is not None
    for a in (1, 2):
        apart_R = ours.effects(rows.x_RF)[:, a] - robust.effect(rows.x_RF, T0=0, T1=a)
        assert np.abs(apart_R / error_RA[:, a]).mean() < 1
        their_R = robust.effect_inference(rows.x_RF, T0=0, T1=a).stderr
        np.testing.assert_allclose(error_RA[:, a].mean(), their_R.mean(), rtol=0.15)


def test_trees_predict_as_scikit_learn_does() -> None:
    draws = np.random.default_rng(0)
    x_RF = draws.normal(size=(800, 4))
    x_RF[::7, 2] = np.nan
    y_R = np.nan_to_num(x_RF[:, 2]) + x_RF[:, 0] * x_RF[:, 1]
    model = HistGradientBoostingRegressor(max_iter=15, max_leaf_nodes=9).fit(x_RF[::2], y_R[::2])
    trees = Trees.of(model)
    np.testing.assert_allclose(trees.predict(x_RF), model.predict(x_RF), rtol=1e-12)
    np.testing.assert_array_equal(Trees.restore(trees.arrays()).predict(x_RF), trees.predict(x_RF))


@pytest.mark.parametrize("name", ["t", "s", "x", "dr"])
def test_a_learner_comes_back_from_its_arrays(name: str) -> None:
    rows, _, _ = world(300, 3)
    settings, nuisances = LearnerSettings(name), NuisanceSettings(trees=5)  # type: ignore[arg-type]
    model = fit_learner(rows, settings, nuisances)
    again = ArmEffects.restore(model.arrays(), model.facts)
    np.testing.assert_allclose(again.effects(rows.x_RF), model.effects(rows.x_RF), rtol=1e-12, atol=1e-12)


def test_the_order_of_the_pieces_changes_no_bit() -> None:
    rows, _, _ = world(300, 4)

    def backwards(function: object, shared: object, items: object) -> list[object]:
        return here(function, shared, list(items)[::-1])[::-1]  # type: ignore[arg-type, call-overload]

    for name in ("t", "x", "dr"):
        settings, nuisances = LearnerSettings(name), NuisanceSettings(trees=5)  # type: ignore[arg-type]
        one, two = (fit_learner(rows, settings, nuisances, 0, each) for each in (here, backwards))
        np.testing.assert_array_equal(one.effects(rows.x_RF), two.effects(rows.x_RF))


def test_propensities_are_learnt_and_balance_the_arms() -> None:
    rows, _, share_RA = world(4000, 5, confounded=1.0)
    model = propensity_model(NuisanceSettings(basis="linear"), rows.x_RF, rows.arm_R, 3, 0)
    found_RA = propensities(model, rows.x_RF)
    assert np.abs(found_RA - share_RA).mean() < 0.03
    report = overlap(rows, found_RA)
    assert report.worst_before > 0.4
    assert report.worst_after < 0.12
    assert (report.effective_A < report.rows_A).all()
    lacking = propensity_model(NuisanceSettings(basis="linear"), rows.x_RF, np.where(rows.arm_R == 1, 0, 2), 3, 0)
    assert (propensities(lacking, rows.x_RF)[:, 1] == 0).all()


def test_what_nobody_got_is_refused() -> None:
    rows, _, _ = world(300, 6)
    four = TreatedRows(rows.x_RF, rows.outcome_R, rows.arm_R, np.arange(4.0)[:, None])
    with pytest.raises(UserError, match="arm 3: nobody got it, so its effect cannot be learnt"):
        fit_learner(four, LearnerSettings("t"), LINEAR)
    few = np.where(np.arange(300) < 5, 2, np.minimum(rows.arm_R, 1))
    with pytest.raises(UserError, match=r"arm 2: 5 rows got it; at least 30 are needed"):
        fit_learner(TreatedRows(rows.x_RF, rows.outcome_R, few, ARMS), LearnerSettings("t"), LINEAR)
    assert possible(np.array([[0.5, 0.005]])).tolist() == [[True, False]]


def test_vectors_beyond_those_tried_are_refused() -> None:
    tried = np.array([[a, b] for a in (0.0, 1.0, 2.0) for b in (0.0, 1.0)])
    basis = TreatmentBasis.of(tried, 2)
    refuse_beyond(basis, tried, np.array([[1.0, 0.5], [0.5, 0.5]])[:0], [])
    refuse_beyond(basis, tried, tried, [str(n) for n in range(6)])
    with pytest.raises(UserError, match=r"strategy 1 .*outside of the treatments that were tried"):
        refuse_beyond(basis, tried, np.array([[1.0, 1.0], [4.0, 1.0]]), ["strategy 0", "strategy 1"])
    line = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])  # the second number was never tried alone
    with pytest.raises(UserError, match="outside"):
        refuse_beyond(TreatmentBasis.of(line, 1), line, np.array([[0.0, 1.0]]), ["strategy"])


def test_a_regression_with_weights_counts_rows_so_often() -> None:
    draws = np.random.default_rng(0)
    x_RF, y_R, weight_R = draws.normal(size=(60, 2)), draws.normal(size=60), draws.integers(1, 4, 60).astype(float)
    repeated = np.repeat(np.arange(60), weight_R.astype(int))
    one = regression(LINEAR, x_RF, y_R, 0, weight_R).predict(x_RF)
    two = regression(LINEAR, x_RF[repeated], y_R[repeated], 0).predict(x_RF)
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-7)
