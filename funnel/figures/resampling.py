"""Percentile bootstrap of ratios of sums: the interval of a mean over users, of a self-normalised estimate, of gains.

S figures, U units that are drawn with replacement (users, or rounds), B resamples.
"""

import numpy as np

LEVEL = 0.95


def bootstrap_ratios(sums_SU: np.ndarray, totals_SU: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """sum(sums)/sum(totals) of each resample, (S, B), NaN where the total is 0; totals may be (U,), shared by all S.

    Resample b is drawn from (seed, b), the same for every figure, so that differences of two are paired.
    """
    units = sums_SU.shape[1]
    ratios_SB = np.full((len(sums_SU), resamples), np.nan)
    for b in range(resamples):
        drawn = np.random.default_rng([seed, b]).integers(units, size=units)
        times_U = np.bincount(drawn, minlength=units)
        # Not a matrix product: its bits would depend on the number of BLAS threads.
        top_S, bottom = (sums_SU * times_U).sum(axis=1), (totals_SU * times_U).sum(axis=-1)
        np.divide(top_S, bottom, out=ratios_SB[:, b], where=bottom > 0)
    return ratios_SB


def percentiles(key: str, value: float, resampled_B: np.ndarray) -> dict[str, float]:
    """{key: value, key.low: ..., key.high: ...}, the ends those of the 95% percentile interval."""
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.nanpercentile(resampled_B, [tail, 100 - tail])
    return {key: float(value), f"{key}.low": float(low), f"{key}.high": float(high)}
