"""Calibration: the formulas, against scikit-learn, increasing and finite everywhere, whole on disk."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from funnel.ranking.calibration import CALIBRATION, Calibration, Calibrator, checksum
from funnel.ranking.calibration_fit import FEWEST, FitData, fit, fit_calibration

EVERYWHERE = torch.cat([torch.tensor([0.0, 1e-300, 1e-30]), torch.linspace(1e-6, 1 - 1e-6, 4001), torch.ones(1)])
POLYLINE = Calibrator("isotonic", knots=((-4.0, -3.0), (-2.0, -2.5), (1.0, 0.5)))
MAPS = {
    "none": Calibrator(),
    "platt": Calibrator("platt", 0.7, -0.4),
    "isotonic": POLYLINE,
    "sampled": POLYLINE.scaled(0.1),
}


def rows(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels whose true logit is 0.6 logit - 0.5."""
    rng = np.random.default_rng(seed)
    logit_R = rng.normal(-1, 1.5, count)
    return logit_R, (rng.random(count) < 1 / (1 + np.exp(0.5 - 0.6 * logit_R))).astype(float)


@pytest.mark.parametrize("name", sorted(MAPS))
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_maps_increase_and_are_finite_from_0_to_1(name: str, kind: torch.dtype) -> None:
    before = EVERYWHERE.to(kind)
    after = MAPS[name].apply(before)
    assert after.dtype == kind
    assert ((after >= 0) & (after <= 1)).all()
    assert after[0] == 0
    assert after[-1] == 1
    assert (after.diff() >= 0).all()
    assert torch.equal(Calibrator.from_dict(json.loads(json.dumps(MAPS[name].to_dict()))).apply(before), after)


def test_maps_are_their_formulas() -> None:
    q = torch.linspace(0.001, 0.999, 500, dtype=torch.float64)
    assert torch.allclose(Calibrator().scaled(0.05).apply(q), q / (q + (1 - q) / 0.05), rtol=1e-12)
    assert torch.allclose(MAPS["platt"].apply(q), (0.7 * q.logit() - 0.4).sigmoid(), rtol=1e-12)
    x = np.linspace(-4, 1, 300)
    expected = np.interp(x, [-4, -2, 1], [-3, -2.5, 0.5])
    assert np.allclose(POLYLINE.apply_logit(torch.from_numpy(x)).numpy(), expected, atol=1e-12)
    assert POLYLINE.apply_logit(torch.tensor([-9.0, 3.0])).tolist() == pytest.approx([-8.0, 2.5])


def test_maps_that_do_not_increase_are_refused() -> None:
    for wrong in ({"slope": 0.0}, {"slope": float("nan")}, {"knots": ((0.0, 1.0), (1.0, 1.0))}):
        with pytest.raises(ValueError, match="calibration"):
            Calibrator("platt", **wrong)  # type: ignore[arg-type]


def test_platt_is_a_logistic_regression_on_the_logit() -> None:
    logit_R, label_R = rows(20_000)
    ones_R = np.ones(20_000)
    found = fit("ctr", "platt", logit_R, label_R, ones_R, ones_R)
    expected = LogisticRegression(C=np.inf, tol=1e-9).fit(logit_R[:, None], label_R)
    assert found.slope == pytest.approx(expected.coef_[0, 0], abs=2e-3)
    assert found.intercept == pytest.approx(expected.intercept_[0], abs=2e-3)
    assert (found.slope, found.intercept) == (pytest.approx(0.6, abs=0.04), pytest.approx(-0.5, abs=0.05))


def test_platt_of_an_inverted_ranking_keeps_the_order_and_mends_the_level() -> None:
    logit_R, label_R = rows(5000)
    ones_R = np.ones(5000)
    found = fit("cvr", "platt", -logit_R, label_R, ones_R, ones_R)
    assert found.slope == 1
    after = found.apply_logit(torch.from_numpy(-logit_R)).sigmoid()
    assert after.mean().item() == pytest.approx(label_R.mean(), abs=1e-3)


def test_platt_of_separable_labels_is_finite() -> None:
    logit_R = np.array([-2.0, -1.0, 1.0, 2.0])
    found = fit("cvr", "platt", logit_R, (logit_R > 0).astype(float), np.ones(4), np.ones(4))
    assert 0 < found.slope < 10


def test_isotonic_steps_are_those_of_scikit_learn() -> None:
    logit_R, label_R = rows(30_000, 1)
    ones_R = np.ones(30_000)
    found = fit("ctr", "isotonic", logit_R, label_R, ones_R, ones_R)
    after_R = found.apply_logit(torch.from_numpy(logit_R)).sigmoid().numpy()
    steps_R = IsotonicRegression(out_of_bounds="clip").fit(logit_R, label_R).predict(logit_R)
    assert np.abs(after_R - steps_R).mean() < 0.02  # knots stand in the middle of the steps
    assert after_R.mean() == pytest.approx(label_R.mean(), abs=3e-3)
    assert len(found.knots) > 8
    few = fit("cvr", "isotonic", logit_R[:200], label_R[:200], ones_R[:200], ones_R[:200])
    assert 1 <= len(few.knots) <= 200 // FEWEST


def fit_data(count: int = 60_000) -> tuple[FitData, torch.Tensor, torch.Tensor, np.ndarray]:
    """A part whose propensity is known: CVR is 0.3 lower in logit among the unclicked, and predictions are too high."""
    rng = np.random.default_rng(5)
    q_logit, p_logit = rng.normal(-1.0, 1.2, count), rng.normal(-1, 0.5, count)
    p_logit += 0.8 * q_logit
    click = rng.random(count) < 1 / (1 + np.exp(-q_logit))
    potential = rng.random(count) < 1 / (1 + np.exp(-p_logit))
    # A model that extrapolates badly: right at the clicked end, too high at the other.
    predicted = torch.from_numpy(np.maximum(p_logit, -1.5) + 0.4)
    found = FitData()
    logits = {"ctr": torch.from_numpy(q_logit), "cvr": predicted}
    found.add(logits, torch.from_numpy(click).float(), torch.from_numpy(click & potential).float())
    return found, logits["ctr"], predicted, potential


def test_weighted_clicks_calibrate_all_exposures_and_plain_ones_calibrate_clicks() -> None:
    found, ctr, predicted, potential = fit_data()
    click_fit = fit_calibration(found, "platt", "click").apply({"ctr": ctr, "cvr": predicted})
    entire_fit = fit_calibration(found, "platt", "entire").apply({"ctr": ctr, "cvr": predicted})
    q = click_fit["ctr"].sigmoid()
    truth = potential.mean()
    assert entire_fit["cvr"].sigmoid().mean().item() == pytest.approx(truth, rel=0.03)
    assert abs(click_fit["cvr"].sigmoid().mean().item() / truth - 1) > 0.05
    converted = sum(part[:, 2].sum() for part in found.clicked) / len(potential)
    assert (q * click_fit["cvr"].sigmoid()).mean().item() == pytest.approx(converted, rel=0.02)


@pytest.mark.parametrize("clip", [0.0, 0.3])
def test_clicks_weigh_one_over_the_calibrated_propensity_that_is_at_least_the_clip(clip: float) -> None:
    """Against scikit-learn on the clicked rows; the clip is of the model's own propensity, as in its objective."""
    found, *_ = fit_data(20_000)
    tasks = fit_calibration(found, "platt", "entire", clip=clip).tasks
    click_logit_R, logit_R, label_R = np.concatenate(found.clicked).astype(np.float64).T[:3]
    raised_R = np.maximum(1 / (1 + np.exp(-click_logit_R)), clip)
    q_R = 1 / (1 + np.exp(-(tasks["ctr"].intercept + tasks["ctr"].slope * np.log(raised_R / (1 - raised_R)))))
    assert (q_R.min() > 0.25) == (clip == 0.3)  # many a click has less
    positives = label_R.sum()
    target_R = np.where(label_R == 1, (positives + 1) / (positives + 2), 1 / (len(label_R) - positives + 2))
    twice_R = np.concatenate([logit_R, logit_R])[:, None]
    weight_R = np.concatenate([target_R / q_R, (1 - target_R) / q_R])
    expected = LogisticRegression(C=np.inf, tol=1e-9, max_iter=1000)
    expected.fit(twice_R, np.repeat([1, 0], len(logit_R)), sample_weight=weight_R)
    assert tasks["cvr"].slope == pytest.approx(expected.coef_[0, 0], abs=2e-3)
    assert tasks["cvr"].intercept == pytest.approx(expected.intercept_[0], abs=2e-3)


def test_the_correction_for_sampled_negatives_comes_last() -> None:
    found, ctr, _, _ = fit_data(5000)
    plain = fit_calibration(found, "platt").tasks["ctr"].apply(ctr.sigmoid())
    corrected = fit_calibration(found, "platt", negative_rate=0.2).tasks["ctr"].apply(ctr.sigmoid())
    assert torch.allclose(corrected, plain / (plain + (1 - plain) / 0.2))
    alone = fit_calibration(found, "none", negative_rate=0.2)
    assert alone.tasks == {"ctr": Calibrator().scaled(0.2)}


def test_what_cannot_be_fitted_says_why() -> None:
    found, *_ = fit_data(2000)
    for given, message in (
        ({"method": "magic"}, "unknown calibration 'magic'"),
        ({"method": "platt", "space": "moon"}, "unknown space 'moon'"),
        ({"method": "platt", "negative_rate": 0.0}, r"must be in \(0, 1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_calibration(found, **given)  # type: ignore[arg-type]
    found.clicked = [part[part[:, 2] == 0] for part in found.clicked]
    with pytest.raises(ValueError, match="cvr cannot be calibrated: no positives"):
        fit_calibration(found, "platt")


def test_a_calibration_is_whole_on_disk(tmp_path: Path) -> None:
    assert Calibration.load(tmp_path, "m1") is None
    written = Calibration({"ctr": MAPS["platt"], "cvr": POLYLINE}, {"method": "platt", "model": "m1"})
    written.save(tmp_path)
    assert Calibration.load(tmp_path, "m1") == written
    with pytest.raises(ValueError, match="fitted on another model than the one it lies beside"):
        Calibration.load(tmp_path, "m2")
    assert [path.name for path in tmp_path.iterdir()] == [CALIBRATION]
    text = (tmp_path / CALIBRATION).read_text()
    for broken, message in (
        (text[:-20], "not readable as JSON"),
        (text.replace('"version": 2', '"version": 9'), "version 9"),
        (text.replace('"version": 2', '"version": 1'), "version 1; .*: run jobs.calibrate again"),
        (text.replace('"slope": 0.7', '"slope": 50'), "damaged or edited"),
        (sealed(text.replace('"slope": 0.7', '"slope": -1')), "positive slope"),
        (sealed(text.replace('"cvr"', '"read_time"')), "holds a map of a task 'read_time'; a ranker has ctr and cvr"),
        (sealed('{"format": "counterpoint.calibration", "version": 2, "tasks": {}}'), "holds a map of no task"),
        ("{}", "not a Counterpoint calibration"),
    ):
        (tmp_path / CALIBRATION).write_text(broken)
        with pytest.raises(ValueError, match=message):
            Calibration.load(tmp_path, "m1")


def sealed(text: str) -> str:
    """With the checksum of what it says now."""
    value = json.loads(text)
    return json.dumps({**value, "checksum": checksum(value)})
