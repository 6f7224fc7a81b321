"""The two experiments of the ESCM2 paper: inherent estimation bias (IEB) and potential independence priority (PIP).

IEB: mean pCVR over all exposures against the true mean, where the truth is known; also by clicked and unclicked.
PIP: does pCVR respond to the click beyond what the propensity says? Clicked and unclicked exposures are matched on q in
strata of equal width of logit q. Risk ratio = mean pCVR of the clicked over that of the unclicked, strata weighing as
many clicks as they hold (the effect on the clicked); strata that lack one side are left out, and their clicks counted.
The same ratio of the true potential conversions says what is right: 1 where q explains all that clicks and conversions
share.
Shapes: R rows, K score groups, S strata, B replicates. Labels count click + 2 potential.
"""

from typing import Any

import numpy as np

from funnel.figures.bootstrap import Replicates, ScoreGroups, fine_bins, interval

WIDTH = 0.1
"""Of a stratum, in logit q: a caliper of a tenth of a logit, within which a clicked row's q is the unclicked one's."""
LOWEST, STRATA = -12.0, 200
PIP_GROUPS = 32


def strata(ctr_logit_R: np.ndarray) -> np.ndarray:
    return np.clip((ctr_logit_R - LOWEST) / WIDTH, 0, STRATA - 1).astype(np.int64)


class Bias:
    """Counts of (click + 2 potential) by score group; built on the fine counts of pCVR over D."""

    def __init__(self, counts_4N: np.ndarray, replicates: int, weighted: bool = False) -> None:
        self.groups = ScoreGroups(counts_4N)
        self.replicates = Replicates(4 * self.groups.size, replicates, weighted)

    def cells(self, cvr_logit_R: np.ndarray, label_R: np.ndarray) -> np.ndarray:
        return label_R * self.groups.size + self.groups.of_N[fine_bins(cvr_logit_R)]

    def figures(self, truth: bool) -> dict[str, float]:
        """mean_prediction of D, of the clicked and the unclicked; where known, true means, bias, ratio; intervals."""
        prediction_V = 1 / (1 + np.exp(-self.groups.logit_V))
        mean_4K = np.stack([self.groups.means(label, prediction_V) for label in range(4)])
        counts_4KB = self.replicates.counts_CB.reshape(4, self.groups.size, -1)
        exact_4K1 = self.groups.counts_LK[:, :, None]
        found: dict[str, float] = {}
        for name, labels in (("", (0, 1, 2, 3)), ("clicked.", (1, 3)), ("unclicked.", (0, 2))):
            points, spreads = (self._means(counts, mean_4K, labels) for counts in (exact_4K1, counts_4KB))
            if not np.isfinite(points[0][0]):
                continue
            known = truth or name == "clicked."
            keys = ("mean_prediction", "mean_truth", "bias", "ratio") if known else ("mean_prediction",)
            for key, point, replicates_B in zip(keys, points, spreads, strict=False):
                if np.isfinite(point[0]):
                    found |= with_interval(f"{name}{key}", float(point[0]), replicates_B)
        return found

    @staticmethod
    def _means(counts_4KB: np.ndarray, mean_4K: np.ndarray, labels: tuple[int, ...]) -> list[np.ndarray]:
        rows_B = sum(counts_4KB[label].sum(0, dtype=np.float64) for label in labels)
        predicted_B = sum(mean_4K[label] @ counts_4KB[label] for label in labels)
        converted_B = sum(counts_4KB[label].sum(0, dtype=np.float64) for label in labels if label >= 2)
        with np.errstate(invalid="ignore", divide="ignore"):
            prediction_B, truth_B = predicted_B / rows_B, converted_B / rows_B
            return [prediction_B, truth_B, prediction_B - truth_B, prediction_B / truth_B]


class Matching:
    """Counts by stratum of q, label and score group."""

    def __init__(self, counts_4N: np.ndarray, replicates: int, weighted: bool = False) -> None:
        self.groups = ScoreGroups(counts_4N, PIP_GROUPS)
        cells = STRATA * 4 * PIP_GROUPS
        self.counts_C, self.sums_C = np.zeros(cells, np.float64 if weighted else np.int64), np.zeros(cells)
        self.replicates = Replicates(cells, replicates, weighted)

    def cells(self, ctr_logit_R: np.ndarray, cvr_logit_R: np.ndarray, label_R: np.ndarray) -> np.ndarray:
        return (strata(ctr_logit_R) * 4 + label_R) * PIP_GROUPS + self.groups.of_N[fine_bins(cvr_logit_R)]

    def add(self, cell_R: np.ndarray, cvr_logit_R: np.ndarray, weight_R: np.ndarray | None = None) -> None:
        self.counts_C += np.bincount(cell_R, weight_R, len(self.counts_C)).astype(self.counts_C.dtype)
        prediction_R = 1 / (1 + np.exp(-cvr_logit_R.astype(np.float64)))
        prediction_R = prediction_R if weight_R is None else weight_R * prediction_R
        self.sums_C += np.bincount(cell_R, prediction_R, len(self.counts_C))

    def figures(self, truth: bool) -> tuple[dict[str, float], list[dict[str, Any]], str]:
        """(figures, strata for a plot, reason where there is no ratio)."""
        shape = (STRATA, 4, PIP_GROUPS)
        mean_C = self.sums_C / np.where(self.counts_C > 0, self.counts_C, 1)
        exact = self._tables(self.counts_C[:, None], mean_C, shape)
        rows_S2, predicted_S2, converted_S2 = (table[..., 0] for table in exact)
        both_S = (rows_S2 > 0).all(1)
        clicks = float(rows_S2[:, 1].sum())
        if not both_S.any():
            return {}, [], "no stratum of q holds clicked and unclicked exposures"
        replicates = self._tables(self.replicates.counts_CB, mean_C, shape)
        found: dict[str, float] = {"clicks": clicks, "matched_clicks": float(rows_S2[both_S, 1].sum())}
        found["strata"] = int(both_S.sum())
        found |= with_interval("risk_ratio", float(ratio(*exact[:2])[0]), ratio(*replicates[:2]))
        if truth and converted_S2[both_S].sum():
            point = float(ratio(exact[0], exact[2])[0])
            if np.isfinite(point):
                found |= with_interval("true_risk_ratio", point, ratio(replicates[0], replicates[2]))
        curve = []
        for stratum in np.flatnonzero(both_S):
            entry = {"q": 1 / (1 + np.exp(-(LOWEST + (stratum + 0.5) * WIDTH)))}
            for side, name in enumerate(("unclicked", "clicked")):
                rows = rows_S2[stratum, side]
                entry |= {name: int(rows), f"{name}.prediction": predicted_S2[stratum, side] / rows}
                if truth:
                    entry[f"{name}.truth"] = converted_S2[stratum, side] / rows
            curve.append({key: float(value) for key, value in entry.items()})
        return found, curve, ""

    @staticmethod
    def _tables(counts_CB: np.ndarray, mean_C: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
        """By stratum and (unclicked, clicked): rows, sum of predictions, conversions; each (S, 2, B)."""
        counts = counts_CB.reshape(*shape, -1)
        rows_S4B = counts.sum(2, dtype=np.float64)
        predicted_S4B = np.einsum("slkb,slk->slb", counts, mean_C.reshape(shape))

        def sides(table: np.ndarray) -> np.ndarray:
            return np.stack([table[:, 0] + table[:, 2], table[:, 1] + table[:, 3]], axis=1)

        return sides(rows_S4B), sides(predicted_S4B), rows_S4B[:, 2:]


def ratio(rows_S2B: np.ndarray, sums_S2B: np.ndarray) -> np.ndarray:
    """Sum over strata of clicks x mean of the clicked, over the same with the mean of the unclicked."""
    both_SB = (rows_S2B > 0).all(1)
    weight_SB = np.where(both_SB, rows_S2B[:, 1], 0.0)
    means_S2B = sums_S2B / np.where(rows_S2B > 0, rows_S2B, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weight_SB * means_S2B[:, 1]).sum(0) / (weight_SB * means_S2B[:, 0]).sum(0)


def with_interval(name: str, value: float, replicates_B: np.ndarray) -> dict[str, float]:
    bounds = interval(value, value, replicates_B) if len(replicates_B) else None
    return {name: value} | ({f"{name}.low": bounds[0], f"{name}.high": bounds[1]} if bounds else {})
