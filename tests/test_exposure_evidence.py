"""A forest's splits by slopes, and whether the log has evidence for the direction of its shares."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from data.errors import UserError
from funnel.exposure.evidence import evidence
from funnel.exposure.explain import importance
from funnel.exposure.fitted import ExposureForest, ForestFitSettings
from funnel.exposure.forest import ForestSettings, MDP2Forest, interval_means
from funnel.exposure.outcome import OutcomeSettings
from funnel.exposure.preference import ShareGrid
from funnel.exposure.simulation import simulate
from funnel.exposure.tree import explained


def test_slopes_are_what_lines_through_interval_means_explain() -> None:
    rows = simulate(800, 2)
    grid = ShareGrid.of(rows.shares_RK, 5)
    bins, outcome = grid.bins(rows.shares_RK), rows.outcome_R - rows.outcome_R.mean()
    centre = interval_means(rows.shares_RK, bins, grid)
    expected = 0.0
    for k in range(6):
        x = centre[k, bins[:, k]]
        assert centre[k, 2] == pytest.approx(rows.shares_RK[bins[:, k] == 2, k].mean(), rel=1e-12)
        line = np.polyval(np.polyfit(x, outcome, 1), x)
        expected += ((line - outcome.mean()) ** 2).sum()
    count = np.stack([np.bincount(bins[:, k], minlength=5) for k in range(6)]).astype(float)
    total = np.stack([np.bincount(bins[:, k], outcome, 5) for k in range(6)])
    assert float(explained(centre, count, total)) == pytest.approx(expected, rel=1e-9)


def test_additive_leaves_split_by_slopes_of_a_third_of_the_features() -> None:
    """And points, or a penalty, as the paper has them; what is said counts."""
    own, paper = ForestSettings(), ForestSettings(leaves="points")
    assert own.by_slopes
    assert [own.tried(features) for features in (1, 6, 7, 20)] == [1, 2, 3, 7]
    assert not paper.by_slopes
    assert paper.tried(6) == 0
    assert not ForestSettings(penalty=0.1).by_slopes
    assert not ForestSettings(splits="points").by_slopes
    assert ForestSettings(leaves="points", splits="slopes").by_slopes
    assert ForestSettings(features_tried=4).tried(20) == 4


def test_splits_by_slopes_find_the_groups() -> None:
    rows, test = simulate(4000, 1), simulate(1000, 2)
    forest = MDP2Forest(ForestSettings(trees=4, features_tried=6)).fit(rows, 0)
    assert test.best_RK is not None
    assert np.abs(forest.shares(test.features_RF) - test.best_RK).sum(axis=1).mean() < 0.05
    told = {each["feature"]: each["gain"] for each in importance(forest)}
    assert told["age"] + told["education"] + told["x_alpha"] > 0.95
    with pytest.raises(UserError, match="penalty goes with splits by points"):
        ForestSettings(splits="slopes", penalty=0.1)


@pytest.mark.parametrize("leaves", ["additive", "points"])
def test_evidence_tells_a_response_from_noise(leaves: Any) -> None:
    rows, settings = simulate(2500, 1), ForestSettings(trees=6, leaves=leaves)
    assert evidence(MDP2Forest(settings).fit(rows, 0), rows, 0) > 20
    found = []
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(len(rows))
        mixed = dataclasses.replace(rows, shares_RK=rows.shares_RK[order])
        found.append(evidence(MDP2Forest(settings).fit(mixed, seed), mixed, seed))
    assert np.abs(found).max() < 3.5
    assert evidence(MDP2Forest(dataclasses.replace(settings, sample=1.0)).fit(rows, 0), rows, 0) == 0


def test_without_evidence_everybody_is_given_the_mean() -> None:
    rows = simulate(1200, 3)
    noise = np.random.default_rng(1).standard_normal(len(rows))
    arrays = {"x": rows.features_RF, "treatment": rows.shares_RK, "outcome.value": noise,
              "features": np.array(rows.feature_names), "categories": np.array(rows.categories)}  # fmt: skip
    settings = ForestFitSettings(evidence=3.0, forest=ForestSettings(trees=3), outcome_model=OutcomeSettings(steps=20))
    fitted = ExposureForest.fit(settings, arrays, 0)
    assert not fitted.told
    np.testing.assert_allclose(fitted.shares(rows.features_RF[:5]), np.tile(rows.shares_RK.mean(axis=0), (5, 1)))
    summary, _ = fitted.judge(arrays, 0, 0)
    assert "come to no more than others" in summary["message"]
    free = ExposureForest(dataclasses.replace(settings, evidence=0.0), fitted.forest, fitted.overlap, fitted.facts)
    assert np.abs(free.shares(rows.features_RF) - rows.shares_RK.mean(axis=0)).max() > 0.05
