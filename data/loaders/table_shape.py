"""What numbers are like, and what to do about it before a model reads them: placeholders, long tails, lone outliers.

a placeholder      one far value that many rows have (9999999, -1): {"missing": [9999999]}
a long tail        numbers from 0 on whose logarithms are far less skewed: {"clip": [0, null]}, "log1p"
outliers           a few far values, each another: {"clip_quantiles": [0.001, 0.999]}
"""

from dataclasses import dataclass

import numpy as np

from data.loaders.table_profile import Numbers
from data.transforms import Chain, chain_of

FAR = 10.0
"""A value so many times the width of the middle 98% away from it is an outlier or a placeholder."""
OFTEN = 5
"""Rows that must have the same far value for it to be a placeholder."""
SKEWED, HALVED = 1.5, 0.5
"""A tail is long if the skewness of the middle 99.8% is above the first, and that of their logarithms below the second
times it."""
FEWEST = 100
"""Of so few numbers nothing is said."""


@dataclass(frozen=True)
class Shape:
    """What is proposed, and why."""

    chain: Chain = ()
    why: str = ""


def shape_of(name: str, numbers: Numbers) -> Shape:
    """The transform that a numeric feature of these numbers ought to have, if any."""
    sample_R = numbers.sample
    counts = numbers.ends[True] | numbers.ends[False]
    often = [value for value, times in counts.items() if times >= OFTEN]
    core_R = sample_R[~np.isin(sample_R, often)]  # so that a placeholder of many rows does not hide itself
    if len(core_R) < FEWEST:
        return Shape()
    low, middle, high = np.quantile(core_R, [0.01, 0.5, 0.99])
    far = {value for value in counts if not low - FAR * (high - low) <= value <= high + FAR * (high - low)}
    below = [value for value in numbers.ends[False] if value < 0]
    if len(below) == 1 and len(numbers.ends[False]) > 1 and counts[below[0]] >= OFTEN and below[0].is_integer():
        far.add(below[0])  # -1 among numbers that are never negative
    far.discard(0.0)  # which is a number like any other
    placeholders = sorted(value for value in far if counts[value] >= OFTEN)
    outliers = sorted(far.difference(placeholders))
    steps: list[object] = []
    why: list[str] = []
    if placeholders:
        steps.append({"missing": placeholders})
        shown = " and ".join(f"{value:,.10g} ({counts[value]:,} rows)" for value in placeholders)
        why.append(f"{shown} taken for a placeholder, made missing")
    least = min((value for value in numbers.ends[False] if value not in placeholders), default=low)
    inner_R = sample_R[~np.isin(sample_R, placeholders)]
    inner_R = inner_R[inner_R <= np.quantile(inner_R, 0.998)]
    if least >= 0 and inner_R.std() > 0:
        before, after = skew(inner_R), skew(np.log1p(inner_R))
        if before > SKEWED and abs(after) < HALVED * before:
            steps += [{"clip": [0, None]}, "log1p"]
            why.append(f"a long tail (skewness {before:.1f}, of the logarithms {after:.1f})")
            outliers = []
    if outliers:
        steps.append({"clip_quantiles": [0.001, 0.999]})
        why.append(f"a few values as far as {max(outliers, key=lambda value: abs(value - middle)):,.10g}")
    return Shape(chain_of(steps, name) if steps else (), "; ".join(why))


def skew(values_R: np.ndarray) -> float:
    """The third standardised moment."""
    away_R = values_R - values_R.mean()
    return float((away_R**3).mean() / (away_R**2).mean() ** 1.5)
