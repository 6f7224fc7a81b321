"""DML over treatment vectors: sums against closed forms, effects in expectation, folds that leak nothing, econml."""

import numpy as np
import pytest

from data.errors import UserError
from funnel.effects.basis import TreatmentBasis, UserBasis, kronecker
from funnel.effects.dml import DMLSettings, Shared, VectorEffects, fit_dml, part_of
from funnel.effects.gram import BLOCK_NUMBERS, Sums, covariance, scores, sums
from funnel.effects.nuisances import NuisanceSettings, folds
from funnel.effects.rows import TreatedRows
from funnel.fitted import here
from jobs.cluster.ray_map import RayMap

LINEAR = NuisanceSettings(learner="linear")
ARMS = np.array([[a, b] for a in (0.0, 0.5, 1.0) for b in (0.0, 2.0)])


def effect(x_RF: np.ndarray, vectors_AT: np.ndarray) -> np.ndarray:
    """(1 + .5 x0) a - .3 a^2 + .2 a b, against nothing."""
    a, b = vectors_AT.T
    return (1 + 0.5 * x_RF[:, :1]) * a - 0.3 * a**2 + 0.2 * a * b


def world(rows: int, seed: int, confounded: float = 0.0) -> tuple[TreatedRows, np.ndarray]:
    """Rows of six arms and their true propensities."""
    draws = np.random.default_rng(seed)
    x_RF = draws.normal(size=(rows, 3))
    logit_RA = confounded * x_RF[:, :1] * np.linspace(-1, 1, len(ARMS))
    share_RA = np.exp(logit_RA) / np.exp(logit_RA).sum(1, keepdims=True)
    arm_R = (draws.random(rows)[:, None] > share_RA.cumsum(1)).sum(1).clip(0, len(ARMS) - 1)
    y_R = x_RF[:, 0] + x_RF[:, 1] + effect(x_RF, ARMS)[np.arange(rows), arm_R] + draws.normal(size=rows)
    return TreatedRows(x_RF, y_R, arm_R, ARMS), share_RA


def known(rows: TreatedRows, share_RA: np.ndarray) -> TreatedRows:
    return TreatedRows(rows.x_RF, rows.outcome_R, rows.arm_R, rows.arms_AT, propensity_RA=share_RA)


def test_sums_over_blocks_are_least_squares_with_whites_covariance() -> None:
    draws = np.random.default_rng(0)
    design_RQ, y_R = draws.normal(size=(900, 4)), draws.normal(size=900)

    def block(piece: slice) -> tuple[np.ndarray, np.ndarray]:
        return design_RQ[piece], y_R[piece]

    total = sums(900, 4, block)
    theta_Q = total.solve()
    np.testing.assert_allclose(theta_Q, np.linalg.lstsq(design_RQ, y_R)[0], rtol=1e-6)
    residual_R = y_R - design_RQ @ theta_Q
    assert total.loss(theta_Q) == pytest.approx((residual_R**2).mean())
    bread = np.linalg.inv(design_RQ.T @ design_RQ)
    expected = bread @ (design_RQ.T * residual_R**2 @ design_RQ) @ bread * 900 / 896
    found = covariance(total, scores(theta_Q, 900, block, np.empty(0)))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_clusters_of_rows_add_up_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(1)
    design_RQ, y_R, theta_Q = draws.normal(size=(1000, 2)), draws.normal(size=1000), np.array([0.1, -0.2])
    cluster_R = np.sort(draws.integers(0, 40, 1000))
    monkeypatch.setattr("funnel.effects.gram.BLOCK_NUMBERS", 1)  # blocks of 256 rows
    found = scores(theta_Q, 1000, lambda piece: (design_RQ[piece], y_R[piece]), cluster_R)
    score_RQ = design_RQ * (y_R - design_RQ @ theta_Q)[:, None]
    summed = np.stack([score_RQ[cluster_R == g].sum(0) for g in np.unique(cluster_R)])
    np.testing.assert_allclose(found, summed.T @ summed, rtol=1e-10)
    assert BLOCK_NUMBERS > 256


def test_parts_of_rows_add_up() -> None:
    draws = np.random.default_rng(2)
    design_RQ, y_R = draws.normal(size=(100, 3)), draws.normal(size=100)
    halves = [sums(50, 3, lambda piece, o=o: (design_RQ[o:][piece], y_R[o:][piece])) for o in (0, 50)]
    both, whole = Sums.over(halves), sums(100, 3, lambda piece: (design_RQ[piece], y_R[piece]))
    np.testing.assert_allclose(both.gram_QQ, whole.gram_QQ, rtol=1e-12)
    np.testing.assert_allclose(both.solve(3.0), whole.solve(3.0), rtol=1e-10)


def test_bases_are_prefixes_of_each_other() -> None:
    x_RF = np.random.default_rng(0).normal(size=(20, 4))
    richest = UserBasis.of(x_RF, "pairs")
    full_RP = richest(x_RF)
    for kind, size in richest.sizes().items():
        own = UserBasis(richest.mean_F, richest.std_F, kind)  # type: ignore[arg-type]
        np.testing.assert_array_equal(own(x_RF), full_RP[:, :size])
    assert full_RP.shape[1] == 1 + 4 + 4 + 6
    basis = TreatmentBasis.of(np.array([[2.0, 4.0], [1.0, 0.0]]), 2)
    np.testing.assert_allclose(basis(np.array([[1.0, 2.0]])), [[0.5, 0.5, 0.25, 0.25, 0.25]])
    np.testing.assert_array_equal(kronecker(np.array([[2.0, 3.0]]), np.array([[1.0, 5.0]])), [[2, 10, 3, 15]])


def test_effects_are_recovered_in_expectation_under_confounding() -> None:
    """Over 12 draws the mean error of every average effect is within 3.5 of its standard errors; raw means are not."""
    errors, covered, raw = [], [], []
    for seed in range(12):
        rows, _ = world(1500, seed, confounded=1.0)
        model = fit_dml(rows, DMLSettings(basis="linear", penalty=0.0, folds=3), LINEAR, seed)
        found_A2 = model.average(rows.x_RF, ARMS)
        true_A = effect(rows.x_RF, ARMS).mean(0)
        errors.append(found_A2[1:, 0] - true_A[1:])
        covered.append(np.abs(errors[-1]) < 1.96 * found_A2[1:, 1])
        means = [rows.outcome_R[rows.arm_R == a].mean() for a in range(len(ARMS))]
        raw.append(np.array(means[1:]) - means[0] - true_A[1:])
    mean_A, error_A = np.mean(errors, 0), np.std(errors, 0, ddof=1) / 12**0.5
    assert (np.abs(mean_A) < 3.5 * error_A).all()
    assert np.mean(covered) > 0.85
    assert abs(np.mean(raw, 0)[-1]) > 5 * error_A[-1]


def test_effects_of_a_user_and_their_errors() -> None:
    rows, share_RA = world(6000, 3)
    model = fit_dml(known(rows, share_RA), DMLSettings(basis="linear", penalty=0.0, folds=2), LINEAR)
    x_RF = np.random.default_rng(9).normal(size=(300, 3))
    found_RA, error_RA = model.effects(x_RF, ARMS), model.standard_errors(x_RF, ARMS)
    true_RA = effect(x_RF, ARMS)
    assert (found_RA[:, 0] == 0).all()
    assert (error_RA[:, 0] == 0).all()
    assert 0.85 < (np.abs(found_RA - true_RA) < 1.96 * error_RA)[:, 1:].mean() <= 1
    again = VectorEffects.restore(model.arrays(), model.facts)
    np.testing.assert_array_equal(again.effects(x_RF, ARMS), found_RA)


def test_the_held_out_loss_chooses_between_bases() -> None:
    """Effects that follow x0 want a basis with it; effects alike for all do not."""
    rows, share_RA = world(4000, 5)
    assert fit_dml(known(rows, share_RA), DMLSettings(folds=3), LINEAR).facts["basis"] != "constant"
    flat = rows.outcome_R - 0.5 * rows.x_RF[:, 0] * ARMS[rows.arm_R, 0]
    alike = TreatedRows(rows.x_RF, flat, rows.arm_R, ARMS, propensity_RA=share_RA)
    assert fit_dml(alike, DMLSettings(folds=3), LINEAR).facts["basis"] == "constant"


def test_a_row_is_predicted_by_models_that_did_not_see_its_fold() -> None:
    """Changing the outcomes of a fold changes its residuals by exactly that and no prediction; trees of one row, which
    would repeat what they saw, leave noise as large as it was."""
    rows, _ = world(400, 7)
    fold_R = folds(400, 4, 0)
    settings = NuisanceSettings(trees=20, leaves=64, smallest_leaf=1, learning_rate=0.5)
    basis = TreatmentBasis.of(ARMS), UserBasis.of(rows.x_RF)

    def residual(outcome_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        changed = TreatedRows(rows.x_RF, outcome_R, rows.arm_R, ARMS)
        part = part_of(Shared(changed, *basis, DMLSettings(), settings, fold_R, 0), 1)
        return part.residual_N, part.expected_NJ

    other_R = np.where(fold_R == 1, rows.outcome_R + 10, rows.outcome_R)
    (before, expected), (after, expected_after) = residual(rows.outcome_R), residual(other_R)
    np.testing.assert_allclose(after - before, 10, atol=1e-5)
    np.testing.assert_array_equal(expected, expected_after)
    noise = residual(np.random.default_rng(0).normal(size=400))[0]
    assert noise.std() > 0.9


def test_a_clusters_rows_share_a_fold_and_widen_the_interval() -> None:
    """Each row four times: with clusters the errors are those of the single rows, without they are halved."""
    rows, share_RA = world(1500, 8)
    repeated = known(rows, share_RA).take(np.repeat(np.arange(1500), 4))
    owner = TreatedRows(**{**vars(repeated), "cluster_R": np.repeat(np.arange(1500), 4)})
    fold_R = folds(6000, 5, 0, owner.cluster_R)
    assert (fold_R.reshape(1500, 4) == fold_R.reshape(1500, 4)[:, :1]).all()
    settings = DMLSettings(basis="constant", penalty=0.0, folds=2)
    errors = [fit_dml(each, settings, LINEAR).average(rows.x_RF, ARMS)[-1, 1]
              for each in (known(rows, share_RA), owner, repeated)]  # fmt: skip
    assert errors[1] == pytest.approx(errors[0], rel=0.15)
    assert errors[2] == pytest.approx(errors[0] / 2, rel=0.15)


def test_who_runs_the_folds_and_in_which_order_changes_no_bit() -> None:
    rows, _ = world(600, 4)

    def backwards(function: object, shared: object, items: object) -> list[object]:
        return here(function, shared, list(items)[::-1])[::-1]  # type: ignore[arg-type, call-overload]

    settings = NuisanceSettings(trees=10)
    one, two = (fit_dml(rows, DMLSettings(folds=3), settings, 5, each) for each in (here, backwards))
    for name, value in one.arrays().items():
        np.testing.assert_array_equal(value, two.arrays()[name])


@pytest.mark.ray
def test_folds_on_ray_are_the_same_to_the_bit(ray_cluster: None) -> None:
    rows, _ = world(600, 4)
    settings = NuisanceSettings(trees=10)
    one, two = (fit_dml(rows, DMLSettings(folds=3), settings, 5, each) for each in (here, RayMap(2)))
    for name, value in one.arrays().items():
        np.testing.assert_array_equal(value, two.arrays()[name])
    bad = TreatedRows(rows.x_RF[:10], rows.outcome_R[:10], rows.arm_R[:10], ARMS)
    with pytest.raises(UserError, match="too few to learn effects from"):
        fit_dml(bad, DMLSettings(), settings, 0, RayMap(2))


def test_a_vector_of_its_own_needs_no_arms() -> None:
    draws = np.random.default_rng(0)
    x_RF = draws.normal(size=(3000, 2))
    t_RT = draws.uniform(0, 1, (3000, 1)) + 0.2 * x_RF[:, :1]
    y_R = x_RF[:, 0] + 2 * t_RT[:, 0] + 0.3 * draws.normal(size=3000)
    settings = DMLSettings(degree=1, basis="constant", penalty=0.0, folds=2)
    model = fit_dml(TreatedRows(x_RF, y_R, treatment_RT=t_RT), settings, LINEAR)
    found = model.average(x_RF, np.array([[1.0]]), np.array([0.0]))
    assert found[0, 0] == pytest.approx(2, abs=4 * found[0, 1])


def test_effects_depend_on_the_named_features_alone() -> None:
    """On column 0 alone: users alike in it have the same effects, whose slope is the truth's; a column that is not
    there is named with how many there are, before anything is fitted."""
    rows, share_RA = world(6000, 4)
    settings = DMLSettings(basis="linear", penalty=0.0, folds=2, features=(0,))
    model = fit_dml(known(rows, share_RA), settings, LINEAR)
    assert model.theta_JP.shape[1] == 2  # the constant and column 0
    ask_RF = np.array([[0.5, -1.0, 2.0], [0.5, 3.0, 0.0], [1.5, 0.0, 0.0]])
    found_RA = model.effects(ask_RF, ARMS)
    np.testing.assert_array_equal(found_RA[0], found_RA[1])
    np.testing.assert_allclose(found_RA, effect(ask_RF, ARMS), atol=0.25)
    np.testing.assert_array_equal(VectorEffects.restore(model.arrays(), model.facts).effects(ask_RF, ARMS), found_RA)
    for column in (44, 3, -1):
        with pytest.raises(UserError, match=f"dml.features: column {column}, but there are 3 numeric features, from 0"):
            fit_dml(rows, DMLSettings(features=(0, column)), LINEAR)


def test_econml_finds_the_same_effects() -> None:
    """LinearDML on the same residual design: average effects within their standard errors, errors within 15%."""
    from econml import dml
    from sklearn.linear_model import LinearRegression
    from sklearn.preprocessing import PolynomialFeatures

    rows, _ = world(5000, 11, confounded=0.7)
    ours = fit_dml(rows, DMLSettings(basis="linear", penalty=0.0, folds=2), LINEAR, 0)
    theirs = dml.LinearDML(
        model_y=LinearRegression(), model_t=LinearRegression(), cv=2, random_state=0,
        treatment_featurizer=PolynomialFeatures(2, include_bias=False),
    )  # fmt: skip
    theirs.fit(rows.outcome_R, ARMS[rows.arm_R], X=rows.x_RF)
    found_A2 = ours.average(rows.x_RF, ARMS)
    for a in range(1, len(ARMS)):
        ends = {"T0": np.tile(ARMS[0], (5000, 1)), "T1": np.tile(ARMS[a], (5000, 1))}
        their = theirs.ate_inference(rows.x_RF, **ends)
        assert found_A2[a, 0] == pytest.approx(float(their.mean_point), abs=1.5 * found_A2[a, 1])
        assert found_A2[a, 1] == pytest.approx(float(their.stderr_mean), rel=0.15)


def test_bad_rows_are_refused_in_one_line() -> None:
    rows, share_RA = world(50, 0)
    outcome_R = rows.outcome_R.copy()
    outcome_R[7] = np.nan
    with pytest.raises(UserError, match="outcome of row 7 is nan, not a finite number"):
        TreatedRows(rows.x_RF, outcome_R, rows.arm_R, ARMS).check()
    zero_RA = share_RA.copy()
    zero_RA[3] = np.eye(len(ARMS))[(rows.arm_R[3] + 1) % len(ARMS)]
    with pytest.raises(UserError, match=r"row 3: propensity 0 of its own arm"):
        known(rows, zero_RA).check()
    zero_RA[3] = np.eye(len(ARMS))[rows.arm_R[3]]
    with pytest.raises(UserError, match=r"row 3: propensity 1 of its own arm .*nothing else could happen"):
        known(rows, zero_RA).check()
    with pytest.raises(UserError, match=r"row 0: its propensities sum to 0\.5"):
        known(rows, share_RA / 2).check()
    with pytest.raises(UserError, match="arm 9, but the arms are 0 to 5"):
        TreatedRows(rows.x_RF, rows.outcome_R, np.where(np.arange(50) == 2, 9, rows.arm_R), ARMS).check()
    with pytest.raises(UserError, match="too few to learn effects from"):
        fit_dml(rows.take(np.arange(10)), DMLSettings(), LINEAR)
