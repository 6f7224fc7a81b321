"""How well effects are ordered: uplift, Qini and cost curves on rows whose propensities are known, with intervals.

Rows in the order of a score, the largest first; w_r = 1 / p_r, p_r the propensity of what the row got.

    uplift   U(k) = (1/R) sum over the first k R rows of [t w y - (1 - t) w y]: the gain of treating that share of
             users; AUUC is its mean over k, for a random order U(1)/2
    qini     [Radcliffe 2007] Y_t(k) - Y_c(k) N_t(k) / N_c(k), a share of the treated rows; its area less that of the
             straight line is the Qini coefficient
    cost     a policy at each price lambda takes argmax_a tau_a - lambda c_a; its gain against its cost, both by SNIPS
             on the rows whose arm it would have chosen; AUCC is the mean height over the costs between none and all,
             as a share of the largest gain [as in Du et al. 2019; DFCL, KDD 2024]

Intervals: multipliers, each row (or cluster) counts Poisson(1) times in a replicate; 2.5% and 97.5% quantiles.
Shapes: R rows, A arms, K points of a curve, B replicates.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from funnel.panels import Curve, Series

POINTS = 51
PRICES = 33


@dataclass(frozen=True)
class Area:
    """A curve, the area that sums it up, and their 95% intervals."""

    x_K: np.ndarray
    y_K: np.ndarray
    low_K: np.ndarray
    high_K: np.ndarray
    area: float
    low: float
    high: float

    def figures(self, key: str) -> dict[str, float]:
        return {key: self.area, f"{key}.low": self.low, f"{key}.high": self.high}

    def plain(self) -> dict[str, Any]:
        """As evaluation.json keeps it."""
        return {name: getattr(self, f"{name}_K").round(9).tolist() for name in ("x", "y", "low", "high")}


def multipliers(rows: int, resamples: int, seed: int, cluster_R: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Weights (R,) of the rows in one replicate after the other; a cluster's rows have one."""
    draws = np.random.default_rng([seed, 0xB007])
    own_R, units = np.arange(rows), rows
    if cluster_R is not None and len(cluster_R):
        _, own_R = np.unique(cluster_R, return_inverse=True)
        units = int(own_R.max()) + 1
    for _ in range(resamples):
        yield draws.poisson(1.0, units)[own_R].astype(np.float64)


def with_intervals(
    curve: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, float]],
    rows: int,
    resamples: int,
    seed: int,
    cluster_R: np.ndarray | None = None,
) -> Area:
    """The curve at equal weights, and its spread over replicates. `curve` gives (x_K, y_K, area) of weights."""
    x_K, y_K, area = curve(np.ones(rows))
    drawn = [curve(weight_R) for weight_R in multipliers(rows, resamples, seed, cluster_R)]
    if not drawn:
        return Area(x_K, y_K, y_K, y_K, area, area, area)
    low_K, high_K = np.quantile([y for _, y, _ in drawn], (0.025, 0.975), axis=0)
    low, high = np.quantile([area for _, _, area in drawn], (0.025, 0.975))
    return Area(x_K, y_K, low_K, high_K, area, float(low), float(high))


def order_of(score_R: np.ndarray, seed: int = 0) -> np.ndarray:
    """Rows by score, the largest first; equal ones in a random order, so that a constant score is a random order."""
    random_R = np.random.default_rng([seed, 0x71E5]).permutation(len(score_R))
    return np.lexsort((random_R, -score_R))


def uplift(
    score_R: np.ndarray,
    treated_R: np.ndarray,
    outcome_R: np.ndarray,
    propensity_R: np.ndarray,
    resamples: int = 200,
    seed: int = 0,
    cluster_R: np.ndarray | None = None,
) -> Area:
    """The uplift curve; its area is AUUC less that of a random order (0: the score orders nothing).

    `treated_R`: 1, 0 for the baseline, -1 for a row that got something else and counts as one of the population alone.
    `propensity_R`: of what the row got.
    """
    order_R = order_of(score_R, seed)
    # The mean outcome is taken off: it changes no expectation and takes most of the noise away.
    centred_R = outcome_R - outcome_R.mean()
    sign_R = np.where(treated_R > 0, 1.0, np.where(treated_R == 0, -1.0, 0.0))
    part_R = (sign_R * centred_R / propensity_R)[order_R]
    grid_K = np.linspace(0, 1, POINTS)

    def curve(weight_R: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        own_R = weight_R[order_R]
        share_R = np.cumsum(own_R) / own_R.sum()
        gain_R = np.cumsum(own_R * part_R) / own_R.sum()
        y_K = np.interp(grid_K, np.append(0.0, share_R), np.append(0.0, gain_R))
        return grid_K, y_K, float(np.trapezoid(y_K, grid_K) - y_K[-1] / 2)

    return with_intervals(curve, len(score_R), resamples, seed, cluster_R)


def qini(
    score_R: np.ndarray,
    treated_R: np.ndarray,
    outcome_R: np.ndarray,
    resamples: int = 200,
    seed: int = 0,
    cluster_R: np.ndarray | None = None,
) -> Area:
    """Radcliffe's curve for randomised rows, a share of the treated; its area less the straight line's."""
    order_R = order_of(score_R, seed)
    treated_sorted_R, outcome_sorted_R = treated_R[order_R].astype(np.float64), outcome_R[order_R]
    grid_K = np.linspace(0, 1, POINTS)

    def curve(weight_R: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        own_R = weight_R[order_R]
        one_R, none_R = own_R * treated_sorted_R, own_R * (1 - treated_sorted_R)
        share_R = np.cumsum(own_R) / own_R.sum()
        treated, control = np.cumsum(one_R), np.cumsum(none_R)
        ratio_R = treated / np.maximum(control, 1e-300)
        gain_R = np.cumsum(one_R * outcome_sorted_R) - np.where(
            control > 0, np.cumsum(none_R * outcome_sorted_R) * ratio_R, 0.0
        )
        y_K = np.interp(grid_K, np.append(0.0, share_R), np.append(0.0, gain_R / max(treated[-1], 1e-300)))
        return grid_K, y_K, float(np.trapezoid(y_K, grid_K) - y_K[-1] / 2)

    return with_intervals(curve, len(score_R), resamples, seed, cluster_R)


def cost_curve(
    effect_RA: np.ndarray,
    cost_RA: np.ndarray,
    arm_R: np.ndarray,
    outcome_R: np.ndarray,
    propensity_R: np.ndarray,
    resamples: int = 200,
    seed: int = 0,
    cluster_R: np.ndarray | None = None,
) -> Area:
    """Gain per user against cost per user of the policies at every price; the area is AUCC: its mean height over the
    costs, as a share of the gain at the largest cost (1/2: no better than mixing nobody with everybody)."""
    gain_RA, rows = effect_RA - effect_RA[:, :1], np.arange(len(arm_R))
    extra_RA = cost_RA - cost_RA[:, :1]
    chosen_KR = choices(gain_RA, extra_RA)
    weight_R, base_R = 1 / propensity_R, arm_R == 0
    matched_KR = [chosen_R == arm_R for chosen_R in chosen_KR]
    spent_KR = [extra_RA[rows, chosen_R] for chosen_R in chosen_KR]

    def curve(count_R: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        own_R, total = count_R * weight_R, max(float(count_R.sum()), 1e-300)
        none = ratio(own_R * base_R, outcome_R)
        x_K = np.array([float((count_R * spent_R).sum()) / total for spent_R in spent_KR])
        y_K = np.array([ratio(own_R * matched_R, outcome_R) - none for matched_R in matched_KR])
        order_K = np.argsort(x_K, kind="stable")
        x_K, y_K = x_K[order_K], y_K[order_K]
        width, height = x_K[-1] - x_K[0], y_K[-1]
        area = float(np.trapezoid(y_K, x_K) / width / height) if width > 0 and height > 0 else 0.0
        grid_K = np.linspace(x_K[0], x_K[-1], POINTS)
        return grid_K, np.interp(grid_K, x_K, y_K), area

    return with_intervals(curve, len(arm_R), resamples, seed, cluster_R)


def ratio(weight_R: np.ndarray, outcome_R: np.ndarray) -> float:
    total = float(weight_R.sum())
    return float((weight_R * outcome_R).sum()) / total if total > 0 else 0.0


def choices(gain_RA: np.ndarray, extra_RA: np.ndarray) -> list[np.ndarray]:
    """What each row gets at prices from one at which hardly anybody gets anything down to 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        rate_RA = np.where(extra_RA > 0, gain_RA / extra_RA, 0.0)
    best_R = rate_RA.max(1)
    prices = np.append(np.quantile(best_R, np.linspace(1, 0, PRICES - 1)), 0.0)
    return [np.argmax(gain_RA - max(price, 0.0) * extra_RA, 1) for price in prices]


def panel(title: str, areas: dict[str, dict[str, Any]], x: str, y: str, section: str, note: str = "") -> Curve:
    """A plot of curves by name, as `Area.plain` has them."""
    lines = tuple(Series(name, one["x"], one["y"], one["low"], one["high"]) for name, one in areas.items())
    return Curve(title, x, y, lines, note, section=section)
