"""What is done to numbers before they are drawn: calibration bins merged, noise smoothed, long curves thinned."""

from collections.abc import Mapping, Sequence

import numpy as np

from funnel.figures.sampling_error import wilson
from funnel.panels import finite

SMALL_RATE = 0.15
"""Calibration of rates below this is drawn on logarithmic axes."""
FEWEST = 10
"""Positives in a calibration bin."""
PLACES, MOST = 120, 400
"""Points of a running mean, and of any curve."""


def merged_bins(bins: Sequence[Mapping[str, object]]) -> np.ndarray:
    """(prediction, label, count, and the label's 95% interval) of each bin as an array [n, 5].

    Neighbours are merged until each bin holds FEWEST positives: emptier ones would show chance, not calibration.
    """
    found = [[finite(row.get(part)) for part in ("mean_prediction", "mean_label", "count")] for row in bins]
    table = np.array([row for row in found if None not in row and row[2]], dtype=float).reshape(-1, 3)
    kept: list[np.ndarray] = []
    for row in table:
        if kept and kept[-1][1] * kept[-1][2] < FEWEST - 0.5:
            row = both(kept.pop(), row)
        kept.append(row)
    if len(kept) > 1 and kept[-1][1] * kept[-1][2] < FEWEST - 0.5:
        last = kept.pop()
        kept.append(both(kept.pop(), last))
    merged = np.array(kept).reshape(-1, 3)
    return np.column_stack([merged, *wilson(merged[:, 1], merged[:, 2])])


def both(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The bin that holds the rows of both: means weighted by count."""
    total = one[2] + other[2]
    return np.append((one[:2] * one[2] + other[:2] * other[2]) / total, total)


def smooth(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    """Centred running mean over a twentieth of the curve, at no more than PLACES places."""
    reach = max(1, len(y) // 40)
    total = np.concatenate([[0.0], np.cumsum(y)])
    at = np.unique(np.linspace(0, len(y) - 1, min(len(y), PLACES)).round().astype(int))
    first, last = np.maximum(at - reach, 0), np.minimum(at + reach + 1, len(y))
    return np.asarray(x)[at].tolist(), ((total[last] - total[first]) / (last - first)).tolist()


def thin(length: int) -> slice:
    """Every n-th point, so that no more than MOST are drawn."""
    return slice(None, None, max(1, -(-length // MOST)))
