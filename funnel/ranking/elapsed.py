"""Which share of conversions is known so many days after the exposure, measured of conversions that are known.

A conversion of an exposure that is e days old is known only if its delay is at most e: delays are truncated on the
right, and a plain share would count the short ones of young exposures. With conversions i of delay d_i and age e_i

    n(s) = |{i: d_i <= s <= e_i}|        F(t) = product over delays s > t of (1 - 1 / n(s))

is the product-limit estimate of F, the share of delays of at most t among those of at most the largest age [Lynden-Bell
1971; Woodroofe, Annals of Statistics 1985]. 1 / F(e) is what a known conversion of that age counts for: the importance
of its elapsed time. Delays are taken not to depend on the age. Shapes: C conversions, G points of the curve, R rows.
"""

from collections.abc import Mapping

import numpy as np

POINTS = 64
Curve = dict[str, list[float]]


def known_share(delay_C: np.ndarray, age_C: np.ndarray) -> Curve:
    """{"days": ., "share": F}, growing, from 0 days to the largest age, where it is 1."""
    order_C = np.argsort(delay_C, kind="stable")
    delay_C, sorted_age_C = delay_C[order_C].astype(np.float64), np.sort(age_C.astype(np.float64))
    at_risk_C = np.searchsorted(delay_C, delay_C, "right") - np.searchsorted(sorted_age_C, delay_C, "left")
    # Ties share their number at risk: k of them together leave 1 - k/n, here by n, n - 1, ... one after the other.
    rank_C = np.searchsorted(delay_C, delay_C, "right") - 1 - np.arange(len(delay_C))
    factor_C = 1 - 1 / np.maximum(at_risk_C - rank_C, 1)
    share_C = np.append(np.cumprod(factor_C[::-1])[::-1], 1.0)[1:]  # F at each delay: of what lies above it
    day_G = np.unique(np.quantile(delay_C, np.linspace(0, 1, POINTS - 2), method="inverted_cdf"))
    last_G = np.searchsorted(delay_C, day_G, "right") - 1
    days, shares = [0.0, *day_G.tolist()], [0.0, *share_C[last_G].tolist()]
    if sorted_age_C[-1] > days[-1]:
        days, shares = [*days, float(sorted_age_C[-1])], [*shares, 1.0]
    return {"days": days, "share": shares}


def share_at(curve: Mapping[str, list[float]], age_R: np.ndarray) -> np.ndarray:
    """F at these ages, float32."""
    return np.interp(age_R, curve["days"], curve["share"]).astype(np.float32)
