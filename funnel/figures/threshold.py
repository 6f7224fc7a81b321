"""Precision, recall and F1 of calling a row positive where its prediction reaches a threshold.

From the same counts by label and bin as the AUC: rows whose score lies in the threshold's own bin (1.5e-4 wide in the
logit) all count as reaching it. Row weights count as the counts hold them. Shapes: V bins in use.
"""

import math

import numpy as np

from data.errors import UserError

NAMES = ("precision", "recall", "f1")


def checked(threshold: float | str) -> float | None:
    """The setting as a number, None for "auto"; raises UserError unless it is "auto" or in (0, 1)."""
    if threshold == "auto":
        return None
    if isinstance(threshold, str) or not 0 < threshold < 1:
        raise UserError(f"threshold must be 'auto' or a probability between 0 and 1, got {threshold!r}")
    return float(threshold)


def first_bin(threshold: float, bins: int, limit: float) -> int:
    """The bin that logit(threshold) falls into, of `bins` over [-limit, limit]."""
    if not 0 < threshold < 1:
        return 0 if threshold <= 0 else bins - 1
    place = (math.log(threshold) - math.log1p(-threshold) + limit) * (bins / (2 * limit))
    return min(max(int(place), 0), bins - 1)


def at_threshold(
    reached_V: np.ndarray, negative_V: np.ndarray, positive_V: np.ndarray
) -> tuple[dict[str, float], dict[str, str]]:
    """(precision, recall and F1, reasons for those that do not exist); reached_V: bins at or above the threshold's.

    precision = TP/(TP + FP), recall = TP/(TP + FN), F1 = 2 TP/(2 TP + FP + FN).
    """
    positives = float(positive_V.sum())
    if positives == 0:
        return {}, dict.fromkeys(NAMES, "no positives")
    hits, false_alarms = float(positive_V[reached_V].sum()), float(negative_V[reached_V].sum())
    figures = {"recall": hits / positives, "f1": 2 * hits / (hits + false_alarms + positives)}
    if hits + false_alarms == 0:
        return figures, {"precision": "no prediction reaches the threshold"}
    return {"precision": hits / (hits + false_alarms), **figures}, {}
