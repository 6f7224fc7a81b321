"""Do inverse propensities make clicks stand for all exposures? For a function phi of the features and any slice of rows

    balance = sum_S o phi / q~  ÷  sum_S phi

is 1 in expectation where q~ is the true propensity, whatever phi is [the balancing property of Rosenbaum and Rubin
1983; checked by slices as in Imai and Ratkovic 2014]. With phi = 1 it counts rows; with phi = pCVR it says by how much
a mean of predicted conversions over weighed clicks misses that over exposures, which is the bias that weighing leaves.
The 95% interval is that of a ratio of means over users (rows, where there are none): balance -+ 1.96 standard errors;
none where all rows are of a single user, whose spread nothing tells.
Shapes: R rows, S slices.
"""

from collections.abc import Callable

import numpy as np
from scipy.special import expit

from funnel.ranking.scored_part import CLICK, ScoredPart

Z95 = 1.96
FUNCTIONS = ("rows", "pcvr")
Codes = Callable[[np.ndarray], np.ndarray]


def balance_of(part: ScoredPart, clip: float, codes: Codes, slices: int) -> list[dict[str, float]]:
    """Of every slice {"balance.rows": ., "balance.rows.low": ., ...}; empty where it has no rows.

    The propensities are those that weigh the clicks in training: the click model's, else the CTR tower's, not
    calibrated.
    """
    weighing = "click" if part.has_click_model else "ctr"
    sums = np.zeros((len(FUNCTIONS), 6, slices))  # A, B, A^2, AB, B^2, 1 over users
    for rows in part.read():
        if not len(rows):
            continue
        code_R = codes(rows).astype(np.int64)
        _, user_R = np.unique(rows["user"], return_inverse=True) if part.has_users else (None, np.arange(len(rows)))
        cell_C, place_R = np.unique(user_R * slices + code_R, return_inverse=True)
        weight_R = rows["weight"].astype(np.float64) if part.weighted else np.ones(len(rows))
        propensity_R = np.maximum(expit(rows[weighing].astype(np.float64)), max(clip, 1e-12))
        clicked_R = (rows["labels"] & CLICK > 0) / propensity_R
        for number, phi_R in enumerate((np.ones(len(rows)), expit(rows["cvr"].astype(np.float64)))):
            above_C = np.bincount(place_R, weight_R * clicked_R * phi_R)
            below_C = np.bincount(place_R, weight_R * phi_R)
            counted = (above_C, below_C, above_C**2, above_C * below_C, below_C**2, np.ones(len(cell_C)))
            for place, values_C in enumerate(counted):
                sums[number, place] += np.bincount(cell_C % slices, values_C, slices)
    return [figures(sums[:, :, index]) for index in range(slices)]


def figures(sums_F6: np.ndarray) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, (above, below, squares, products, others, users) in zip(FUNCTIONS, sums_F6.tolist(), strict=True):
        if below <= 0:
            continue
        ratio = above / below
        found |= {f"balance.{name}": ratio}
        if users < 2:
            continue
        error = max(squares - 2 * ratio * products + ratio**2 * others, 0.0) ** 0.5 / below
        found |= {f"balance.{name}.low": ratio - Z95 * error, f"balance.{name}.high": ratio + Z95 * error}
    return found
