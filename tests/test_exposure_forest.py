"""MDP2 Forest: preference curves and splits against sums by hand, the simplex, bits, what it finds and refuses."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

from data.errors import UserError
from funnel.exposure.additive import AdditiveSettings, allocate, basis, least_ridge, reach
from funnel.exposure.figures import treatment_error
from funnel.exposure.fitted import ExposureForest, ForestFitSettings
from funnel.exposure.forest import ForestSettings, MDP2Forest
from funnel.exposure.panels import sentence
from funnel.exposure.preference import ShareGrid, walk, whole
from funnel.exposure.shares import ShareRows
from funnel.exposure.simulation import best_shares, simulate, value
from funnel.exposure.tree import TreeSettings, grow
from funnel.fitted import here
from jobs.cluster.ray_map import RayMap


def by_hand(edges: list[float], share: np.ndarray, outcome: np.ndarray) -> list[float]:
    """D at the inner edges by the definition: F by intervals, its means by numeric integration over the share."""
    inner = edges[1:-1]
    place = np.searchsorted(inner, share, side="right")
    heights = [outcome[place == i].mean() if (place == i).any() else outcome.mean() for i in range(len(edges) - 1)]
    fine = np.linspace(edges[0], edges[-1], 200_001)
    middle = (fine[1:] + fine[:-1]) / 2
    height = np.array(heights)[np.searchsorted(inner, middle, side="right")]
    integral = np.concatenate([[0.0], np.cumsum(height * np.diff(fine))])
    mean = (integral[1:] + integral[:-1]) / 2
    return [float(mean[middle > m].mean() - mean[middle < m].mean()) for m in inner]


SHARE = np.array([0.05, 0.1, 0.15, 0.3, 0.35, 0.45, 0.5, 0.6, 0.8, 1.0])
OUTCOME = np.array([-1.0, 0.0, 2.0, 1.0, 3.0, 0.5, -0.5, -2.0, -1.0, -2.0])


def histogram(share: np.ndarray, outcome: np.ndarray, grid: ShareGrid) -> tuple[np.ndarray, np.ndarray]:
    place = grid.bins(share[:, None])[:, 0]
    return np.bincount(place, minlength=grid.intervals)[None], np.bincount(place, outcome, grid.intervals)[None]


def test_d_and_t_star_of_ten_rows() -> None:
    edges = [0.0, 0.2, 0.4, 0.7, 1.0]
    grid = ShareGrid(np.array([edges]))
    found = grid.difference(*histogram(SHARE, OUTCOME, grid))[0]
    # f = (1/3, 2, -2/3, -1.5), widths .2 .2 .3 .3: F at the edges 0, 1/15, 7/15, 4/15, -11/60
    area = np.array([1 / 30 * 0.2, 4 / 15 * 0.2, 11 / 30 * 0.3, 1 / 24 * 0.3])
    expected = [area[1:].sum() / 0.8 - area[0] / 0.2, area[2:].sum() / 0.6 - area[:2].sum() / 0.4,
                area[3] / 0.3 - area[:3].sum() / 0.7]  # fmt: skip
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(found, by_hand(edges, SHARE, OUTCOME), atol=1e-4)
    point, peak = grid.peak(found[None])
    assert point[0] == edges[1 + int(np.argmax(expected))]
    assert peak[0] == max(expected)


def test_the_soft_maximum_is_the_weighted_mean_of_the_edges() -> None:
    grid = ShareGrid(np.array([[0.0, 0.2, 0.4, 0.7, 1.0]]))
    difference = np.array([[0.1, 0.3, 0.2]])
    odds = np.exp((difference[0] - 0.3) / (0.1 * 0.2))
    point, peak = grid.peak(difference, 0.1)
    assert point[0] == pytest.approx(odds @ [0.2, 0.4, 0.7] / odds.sum(), rel=1e-12)
    assert peak[0] == 0.3


def test_an_interval_without_rows_has_the_groups_mean() -> None:
    edges = [0.0, 0.2, 0.4, 0.7, 1.0]
    grid, kept = ShareGrid(np.array([edges])), SHARE < 0.4
    found = grid.difference(*histogram(SHARE[kept], OUTCOME[kept], grid))[0]
    np.testing.assert_allclose(found, by_hand(edges, SHARE[kept], OUTCOME[kept]), atol=1e-4)


def test_edges_of_a_category_that_is_mostly_absent() -> None:
    rare = np.zeros((100, 2))
    rare[:3, 0] = [0.2, 0.3, 0.5]
    rare[:, 1] = 1 - rare[:, 0]
    grid = ShareGrid.of(rare, 20)
    points = grid.points_KM[0][(grid.points_KM[0] > 0) & (grid.points_KM[0] < 0.5)]
    assert len(points) >= 1
    two = np.repeat([[0.0, 1.0], [0.25, 0.75]], 5, axis=0)
    assert ShareGrid.of(two, 20).points_KM[0, 0] == 0.125


def test_the_walk_cuts_and_rescales() -> None:
    peak = np.array([0.5, 0.4, 0.3, 0.2])
    taken, visited = walk(peak, np.array([0, 1, 2, 3]))
    np.testing.assert_allclose(taken, [0.5, 0.4, 0.1, 0.0], atol=1e-15)
    assert visited.tolist() == [True, True, True, False]
    assert whole(taken).sum() == 1.0
    other, seen = walk(peak, np.array([3, 2, 1, 0]))
    np.testing.assert_allclose(other, [0.1, 0.4, 0.3, 0.2], atol=1e-15)
    assert seen.all()
    short, _ = walk(np.array([0.2, 0.1, 0.1]), np.array([0, 1, 2]))
    np.testing.assert_allclose(whole(short), [0.5, 0.25, 0.25], rtol=1e-15)
    assert whole(np.zeros(4)).tolist() == [0.25] * 4
    for seed in range(50):
        random = np.random.default_rng(seed)
        given = whole(walk(random.random(6), random.permutation(6))[0])
        assert given.sum() == pytest.approx(1.0, abs=3e-16)
        assert (given >= 0).all()


def small(rows: int = 240, seed: int = 3, noise: float = 0.1) -> ShareRows:
    random = np.random.default_rng(seed)
    features = random.integers(0, 4, (rows, 2)).astype(float)
    amount = random.random((rows, 3)) + 0.01
    shares = amount / amount.sum(axis=1, keepdims=True)
    best = np.where(features[:, :1] < 2, [[0.6, 0.2, 0.2]], [[0.2, 0.2, 0.6]])
    outcome = -np.abs(shares - best).sum(axis=1) + noise * random.standard_normal(rows)
    return ShareRows(features, shares, outcome, ("a", "b"), ("x", "y", "z"))


def worth_by_hand(
    grid: ShareGrid, shares: np.ndarray, outcome: np.ndarray, order: np.ndarray
) -> tuple[float, np.ndarray]:
    """|R| sum of D*^2 over visited categories, and D* with those of others as nan."""
    peaks, points = [], []
    for k in range(shares.shape[1]):
        edges = grid.edges_KQ1[k].tolist()
        difference = by_hand(edges, shares[:, k], outcome)
        peaks.append(max(difference))
        points.append(edges[1 + int(np.argmax(difference))])
    total, used, seen = 0.0, 0.0, np.full(shares.shape[1], np.nan)
    for k in order:
        if used >= 1:
            break
        seen[k] = peaks[k]
        total += peaks[k] ** 2
        used += points[k]
    return len(outcome) * total, seen


@pytest.mark.parametrize("penalty", [0.0, 0.7])
def test_the_best_split_is_that_of_an_exhaustive_search(penalty: float) -> None:
    rows = small()
    forest = MDP2Forest(ForestSettings(share_quantiles=5, feature_bins=8, leaf_rows=20, sample=1.0))
    binned = forest.begin(rows, 0)
    settings = TreeSettings(depth=1, least=20, tried=0, temperature=0.0, penalty=penalty, validation=0.25)
    tree = grow(binned.bins_RF, binned.share_bins_RK, binned.outcome_R, binned.grid, binned.bins_F, settings,
                np.random.default_rng(5))  # fmt: skip
    random = np.random.default_rng(5)
    order = random.permutation(3)
    fit = np.ones(len(rows), bool)
    if penalty:
        fit[random.permutation(len(rows))[:60]] = False

    def worth(member: np.ndarray) -> float:
        own, check = member & fit, member & ~fit
        score, peaks = worth_by_hand(binned.grid, rows.shares_RK[own], binned.outcome_R[own], order)
        if not penalty:
            return score
        full = np.array([max(by_hand(binned.grid.edges_KQ1[k].tolist(), rows.shares_RK[check, k],
                                     binned.outcome_R[check])) for k in range(3)])  # fmt: skip
        gap = np.nansum(np.where(np.isnan(peaks), np.nan, np.abs(full - peaks)))
        return score - penalty * unit * check.sum() * float(gap)

    root = [
        max(by_hand(binned.grid.edges_KQ1[k].tolist(), rows.shares_RK[fit, k], binned.outcome_R[fit])) for k in range(3)
    ]
    unit = float(np.abs(root).mean())
    tried = {
        (f, cut): worth(binned.bins_RF[:, f] <= cut) + worth(binned.bins_RF[:, f] > cut)
        for f in range(2)
        for cut in range(len(forest.edges[f]))
    }
    best = max(tried, key=lambda key: tried[key])
    assert (tree.feature_V[0], tree.cut_V[0]) == best
    assert tree.gain_V[0] == pytest.approx(tried[best] - worth(np.ones(len(rows), bool)), rel=2e-3)
    assert tree.rows_V[0] == fit.sum()


def test_without_a_penalty_the_penalised_form_is_the_plain_one() -> None:
    rows = small()
    plain = MDP2Forest(ForestSettings(leaves="points", leaf_rows=20)).fit(rows, 1)
    other = MDP2Forest(ForestSettings(leaves="points", leaf_rows=20, penalty=0.0, validation=0.4)).fit(rows, 1)
    np.testing.assert_array_equal(plain.shares(rows.features_RF), other.shares(rows.features_RF))
    penalised = MDP2Forest(ForestSettings(leaves="points", leaf_rows=20, penalty=50.0)).fit(rows, 1)
    assert sum(len(tree.feature_V) for tree in penalised.trees) < sum(len(tree.feature_V) for tree in plain.trees)


def backwards(function: Any, shared: Any, items: Any) -> list[Any]:
    """A map that does the last piece first, as workers may."""
    return [function(shared, item) for item in reversed(list(items))][::-1]


def arrays_of(rows: ShareRows) -> dict[str, np.ndarray]:
    """As funnel/exposure/fitted.py reads them."""
    names = {"features": np.array(rows.feature_names), "categories": np.array(rows.categories)}
    return {"x": rows.features_RF, "treatment": rows.shares_RK, "outcome.value": rows.outcome_R, **names}


@pytest.mark.parametrize("leaves", ["points", "additive"])
def test_the_forest_is_the_same_bits_however_it_is_mapped_and_stored(leaves: Any) -> None:
    rows = simulate(2000, 4)
    settings = ForestFitSettings(forest=ForestSettings(trees=4, features_tried=3, leaves=leaves))
    arrays = arrays_of(rows)
    one, two = (ExposureForest.fit(settings, arrays, 7, map) for map in (here, backwards))
    stored, facts = one.state()
    assert facts == two.state()[1]
    for key, values in two.state()[0].items():
        np.testing.assert_array_equal(stored[key], values)
    again = ExposureForest.restore(settings, stored, facts)
    np.testing.assert_array_equal(again.shares(rows.features_RF), one.shares(rows.features_RF))
    other = ExposureForest.fit(settings, arrays, 8, here)
    assert not np.array_equal(other.shares(rows.features_RF), one.shares(rows.features_RF))


@pytest.mark.ray
def test_on_ray_it_is_the_same_bits(ray_cluster: None) -> None:
    rows, settings = simulate(1500, 4), ForestFitSettings(forest=ForestSettings(trees=3, features_tried=3))
    plain, facts = ExposureForest.fit(settings, arrays_of(rows), 7, here).state()
    for workers in (1, 2):
        found, others = ExposureForest.fit(settings, arrays_of(rows), 7, RayMap(workers)).state()
        assert others == facts
        for key, values in found.items():
            np.testing.assert_array_equal(plain[key], values)


def test_shares_are_allocated_exactly() -> None:
    random = np.random.default_rng(1)
    curves, limits = random.standard_normal((5, 3, 11)), np.array([10, 4, 7])
    found = allocate(curves, limits)
    for user, own in enumerate(curves):
        choices = [(a, b, 10 - a - b) for a, b in itertools.product(range(11), range(5)) if 0 <= 10 - a - b <= 7]
        best = max(choices, key=lambda t: own[0, t[0]] + own[1, t[1]] + own[2, t[2]])
        np.testing.assert_allclose(found[user], np.array(best) / 10, atol=1e-15)


def test_the_basis_is_the_share_within_each_step() -> None:
    np.testing.assert_allclose(basis(np.array([0.0, 0.07, 0.25]), 20, 4),
                               [[0, 0, 0, 0], [1, 0.4, 0, 0], [1, 1, 1, 1]], atol=1e-12)  # fmt: skip
    shares = np.array([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]])
    assert reach(shares, 10).tolist() == [3, 9]
    # of the .5 that the best ridge predicts beyond the plain 1.5, .4 is enough; where nothing is predicted, the last
    assert least_ridge(np.array([1.2, 1.09, 1.0, 1.3, 1.5])) == 1
    assert least_ridge(np.array([1.8, 1.6, 1.52, 1.51, 1.5])) == 3


def regret(shares: np.ndarray, rows: ShareRows) -> float:
    assert rows.best_RK is not None
    return float(np.mean(value(rows.best_RK, rows.best_RK) - value(shares, rows.best_RK)))


def test_the_simulation_has_the_papers_figures() -> None:
    rows = simulate(20_000, 1)
    assert rows.best_RK is not None
    uniform = np.full((len(rows), 6), 1 / 6)
    assert regret(rows.best_RK, rows) == 0
    assert regret(uniform, rows) == pytest.approx(0.7, abs=1e-9)
    assert treatment_error(rows.best_RK, uniform) == pytest.approx(0.0883, abs=5e-5)
    user = np.array([[20, 0, 3, 0, 0.7, 0.1]])
    np.testing.assert_allclose(best_shares(user)[0], [0.25, 0.25, 0.35, 0.05, 0.05, 0.05])
    np.testing.assert_allclose(
        best_shares(np.array([[50, 0, 1, 0, 0.2, 0.1]]))[0], [0.05, 0.05, 0.05, 0.35, 0.25, 0.25]
    )
    own = rows.outcome_R - 2.0
    expected = (rows.best_RK**2).sum(axis=1) - np.abs(rows.shares_RK - rows.best_RK).sum(axis=1)
    np.testing.assert_allclose(own, expected, atol=1e-12)


def test_it_finds_the_groups_and_no_groups_where_there_are_none() -> None:
    rows = simulate(16_000, 100)
    train, test = rows.take(np.arange(12_000)), rows.take(np.arange(12_000, 16_000))
    points = MDP2Forest(ForestSettings(trees=8, leaves="points")).fit(train, 0)
    additive = MDP2Forest(ForestSettings(trees=8)).fit(train, 0)
    assert regret(points.shares(test.features_RF), test) < 0.25
    assert regret(additive.shares(test.features_RF), test) < 0.04
    mixed = dataclasses.replace(train, shares_RK=train.shares_RK[np.random.default_rng(0).permutation(len(train))])
    assert (
        regret(MDP2Forest(ForestSettings(trees=8, leaves="points")).fit(mixed, 0).shares(test.features_RF), test) > 0.6
    )


def test_a_missing_feature_counts_as_larger_than_any() -> None:
    rows = small()
    features = rows.features_RF.copy()
    features[features[:, 0] >= 2, 0] = np.nan
    torn = dataclasses.replace(rows, features_RF=features)
    forest = MDP2Forest(ForestSettings(leaf_rows=20, leaves="points")).fit(torn, 0)
    low, missing = forest.shares(np.array([[0.0, 1.0], [np.nan, 1.0]]))
    assert low[0] > low[2]
    assert missing[2] > missing[0]


def bad(**change: Any) -> ShareRows:
    rows = small(60)
    return dataclasses.replace(rows, **change)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda r: {"shares_RK": r.shares_RK * 1.01}, "the sum of the shares x, y, z is 1.01 in row 0"),
        (lambda r: {"shares_RK": r.shares_RK + np.array([-1.0, 1.0, 0.0])}, "share 'x' is -0."),
        (lambda r: {"shares_RK": np.tile([0.0, 0.4, 0.6], (60, 1))}, "category 'x' is never shown in 60 rows"),
        (lambda r: {"shares_RK": np.tile([0.2, 0.2, 0.6], (60, 1))}, "share 'x' is 0.2 in all 60 rows"),
        (lambda r: {"outcome_R": np.full(60, np.nan)}, "outcome is nan in row 0 (60 rows in all)"),
        (lambda r: {"features_RF": np.full((60, 2), np.inf)}, "feature 'a' is inf"),
    ],
)
def test_what_is_no_shares_is_refused(change: Any, told: str) -> None:
    with pytest.raises(UserError) as caught:
        bad(**change(small(60)))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fewer_rows_than_groups_are_refused() -> None:
    with pytest.raises(UserError, match="two groups of leaf_rows 50 need 100"):
        MDP2Forest().fit(small(60))
    with pytest.raises(UserError, match="features_tried is 3, but there are 2 features"):
        MDP2Forest(ForestSettings(features_tried=3)).fit(small(240))
    with pytest.raises(UserError, match="leaves is 'no'"):
        ForestSettings(leaves="no")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="steps is 1"):
        AdditiveSettings(steps=1)


def test_rounded_shares_are_within_the_tolerance() -> None:
    rows = small(60)
    rounded = dataclasses.replace(rows, shares_RK=rows.shares_RK.astype(np.float32).astype(float))
    assert len(rounded) == 60


@pytest.mark.parametrize("age_R", [np.full(400, 30.0), np.full(400, np.nan)])
def test_users_who_are_all_the_same_are_refused_in_one_line(age_R) -> None:
    random = np.random.default_rng(0)
    rows = ShareRows(
        age_R[:, None], random.dirichlet([2, 2, 2], 400), random.normal(size=400), ("age",), ("a", "b", "c")
    )
    with pytest.raises(UserError, match="age: the same in all 400 rows; groups are told apart by features"):
        MDP2Forest(ForestSettings(trees=1)).fit(rows, 0)


def test_a_correction_that_rests_on_few_rows_gives_no_verdict() -> None:
    gain = dict(zip(("", ".low", ".high"), (0.3, 0.1, 0.5), strict=True))
    figures = {f"policy.over.constant.doubly_robust{end}": value for end, value in gain.items()}
    figures |= {"users": 300, "policy.refused": 0.0, "constant.effective": 200.0}
    assert "beat the best constant ones: +0.3000" in sentence(figures | {"policy.effective": 60.0})
    told = sentence(figures | {"policy.effective": 3.0})
    assert "cannot be compared" in told
    assert "rests on 3 rows" in told
