"""How far a figure may be off because the sample it was taken on is finite."""

import math

import numpy as np


def half_width(metric: str, value: float, rows: float | None, positives: float | None) -> float | None:
    """Half of the 95% interval that the finite sample alone allows.

    AUC: Hanley and McNeil (Radiology 143, 1982). PCOC: the number of positives is Poisson, predictions count as fixed.
    """
    if not rows or not positives or positives >= rows:
        return None
    if metric == "pcoc":
        return 1.96 * value / math.sqrt(positives)
    if metric == "auc":
        negatives = rows - positives
        two_positives, two_negatives = value / (2 - value), 2 * value**2 / (1 + value)
        variance = value * (1 - value)
        variance += (positives - 1) * (two_positives - value**2) + (negatives - 1) * (two_negatives - value**2)
        return 1.96 * math.sqrt(max(variance, 0.0) / (positives * negatives))
    return None


def wilson(rate: np.ndarray, rows: np.ndarray, z: float = 1.96) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's 95% interval of a rate observed on this many rows."""
    centre = (rate + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * np.sqrt(rate * (1 - rate) / rows + z * z / (4 * rows * rows))
    return centre - half, centre + half
