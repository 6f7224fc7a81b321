"""What is done to a numeric feature before the model reads it: the 'transform' of an entry of schema.json.

    {"name": "price", "transform": [{"missing": [9999999]}, {"fill": "median"}, {"clip": [0, null]}, "log1p"]}

Steps, one after the other; x is a number, a missing one stays missing but for fill:

    log1p                       log(1 + x)
    {"clip": [a, b]}            min(max(x, a), b); null leaves an end open
    {"clip_quantiles": [p, q]}  the same with the p- and the q-quantile of the training part
    {"quantile": "uniform"}     the share of the training part that is smaller, 0 to 1, from KNOTS quantiles; between
                                them linear, values that are several quantiles in the middle of those (as scikit-learn's
                                QuantileTransformer)
    {"quantile": "normal"}      the normal deviate of that share, cut at +-5.2
    {"missing": [v, w]}         missing where x is one of these placeholders
    {"fill": v}                 v where x is missing; "mean", "median": of the training part

What is measured is of the training part alone, of the values as the steps before leave them, and becomes part of the
trained model's schema ('statistics'). Quantiles are numpy's, linear between two values. Shapes: R rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.errors import UserError
from data.nearest import correction
from data.sources import is_number

STEPS = ("log1p", "clip", "clip_quantiles", "quantile", "missing", "fill")
TO = ("uniform", "normal")
MEASURED_FILLS = ("mean", "median")
KNOTS = 256
DEVIATE = 5.199337582605575
"""Normal deviates are cut here, that of a share of 1e-7, as scikit-learn has it."""


@dataclass(frozen=True)
class Step:
    """One step: `values` are its numbers (of clip None for an open end) or its one word."""

    name: str
    values: tuple[float | str | None, ...] = ()

    @property
    def measured(self) -> bool:
        """Whether it needs statistics of the training part."""
        return self.name in ("clip_quantiles", "quantile") or (self.name == "fill" and self.values[0] in MEASURED_FILLS)

    def to_json(self) -> Any:
        if self.name == "log1p":
            return self.name
        return {self.name: list(self.values) if self.name not in ("quantile", "fill") else self.values[0]}


Chain = tuple[Step, ...]


def chain_of(value: object, name: str) -> Chain:
    """The checked 'transform' of the feature `name`. Raises UserError naming it, and the step."""
    entries = value if isinstance(value, list) else [value]
    if not entries:
        raise UserError(f"column {name!r}: 'transform' is an empty list; leave it out")
    return tuple(step_of(entry, f"column {name!r}: transform") for entry in entries)


def step_of(entry: object, what: str) -> Step:
    name, given = (entry, None) if isinstance(entry, str) else next(iter(entry.items())) if (
        isinstance(entry, dict) and len(entry) == 1) else (None, None)  # fmt: skip
    if name is None:
        raise UserError(f'{what}: a step is a name or an object of one key, such as "log1p" or {{"clip": [0, 1]}}')
    if name not in STEPS:
        raise UserError(f"{what}: unknown step {name!r}; {correction(str(name), STEPS, 'steps')}")
    what = f"{what} {name}"
    if name == "log1p":
        if given is not None:
            raise UserError(f"{what} takes nothing: write the name alone")
        return Step(name)
    if name == "clip":
        return Step(name, ends(given, what))
    if name == "clip_quantiles":
        low, high = ends(given, what)
        if low is None or high is None or not 0 <= low < high <= 1:
            raise UserError(f"{what}: want two shares in order, such as [0.001, 0.999], not {given!r}")
        return Step(name, (low, high))
    if name == "quantile":
        if given not in TO:
            raise UserError(f"{what}: want {' or '.join(TO)}, not {given!r}")
        return Step(name, (str(given),))
    if name == "fill":
        if given not in MEASURED_FILLS and not is_number(given):
            raise UserError(f"{what}: want a number, mean or median, not {given!r}")
        return Step(name, (str(given) if isinstance(given, str) else float(given or 0),))
    values = given if isinstance(given, list) else [given]
    if not values or not all(map(is_number, values)):
        raise UserError(f"{what}: want numbers that stand for missing ones, such as [-1], not {given!r}")
    return Step(str(name), tuple(map(float, values)))


def ends(given: object, what: str) -> tuple[float | None, float | None]:
    """Two numbers in order, of which one may be null."""
    pair = given if isinstance(given, list) and len(given) == 2 else [None, None]
    if pair == [None, None] or not all(one is None or is_number(one) for one in pair):
        raise UserError(f"{what}: want [low, high] (null for an open end), not {given!r}")
    low, high = (None if one is None else float(one) for one in pair)
    if low is not None and high is not None and low > high:
        raise UserError(f"{what}: low {low:g} is above high {high:g}")
    return low, high


def fit(chain: Chain, values_R: np.ndarray) -> tuple[tuple[float, ...], ...]:
    """What each step has to know of the training part's values, float64_R with NaN where missing; () of most.

    Raises UserError where a step has no value to measure, or log1p no number.
    """
    statistics: list[tuple[float, ...]] = []
    for step in chain:
        statistics.append(measure(step, values_R) if step.measured else ())
        values_R = apply_step(step, statistics[-1], values_R)
    return tuple(statistics)


def measure(step: Step, values_R: np.ndarray) -> tuple[float, ...]:
    known_R = values_R[~np.isnan(values_R)]
    if not len(known_R):
        raise UserError(f"{in_words(step)}: all values of train are missing; there is nothing to measure")
    if step.name == "fill":
        return (float(known_R.mean() if step.values[0] == "mean" else np.median(known_R)),)
    shares = np.linspace(0, 1, KNOTS) if step.name == "quantile" else np.array(step.values, float)
    return tuple(np.maximum.accumulate(np.quantile(known_R, shares)).tolist())


def apply(chain: Chain, statistics: Sequence[Sequence[float]], values_R: np.ndarray) -> np.ndarray:
    """float64_R after all steps. Raises UserError, with the row, where log1p meets a number of -1 or less."""
    for step, known in zip(chain, statistics, strict=True):
        values_R = apply_step(step, known, values_R)
    return values_R


def apply_step(step: Step, statistics: Sequence[float], values_R: np.ndarray) -> np.ndarray:
    name, values = step.name, step.values
    if name == "log1p":
        low_R = values_R <= -1
        if low_R.any():
            row = int(low_R.argmax())
            raise NoLogarithm(row, float(values_R[row]))
        return np.log1p(values_R)
    if name in ("clip", "clip_quantiles"):
        low, high = statistics if name == "clip_quantiles" else values
        return np.clip(values_R, low, high)
    if name == "quantile":
        return ranked(values_R, np.asarray(statistics), values[0] == "normal")
    if name == "missing":
        placeholders = np.array(values, float)  # as float32 has them, too: 0.1 of such a column is another number
        return np.where(np.isin(values_R, [*placeholders, *placeholders.astype(np.float32)]), np.nan, values_R)
    value = statistics[0] if step.measured else float(values[0] or 0)
    return np.where(np.isnan(values_R), value, values_R)


class NoLogarithm(UserError):
    """log1p of a number of -1 or less."""

    def __init__(self, row: int, value: float) -> None:
        super().__init__(
            f'log1p takes numbers above -1, row {row} has {value:g}: clip them first, {{"clip": [0, null]}}'
        )
        self.row, self.value = row, value


def ranked(values_R: np.ndarray, knot_Q: np.ndarray, normal: bool) -> np.ndarray:
    """Shares of the training part, whose quantiles at even distances are knot_Q; their normal deviates."""
    share_Q = np.linspace(0, 1, len(knot_Q))
    # From below and from above: values that are several quantiles come to the middle of those.
    share_R = 0.5 * (np.interp(values_R, knot_Q, share_Q) - np.interp(-values_R, -knot_Q[::-1], -share_Q[::-1]))
    if not normal:
        return share_R
    from scipy.special import ndtri  # takes its time to import, and few need it

    return np.clip(ndtri(share_R), -DEVIATE, DEVIATE)


def words(chain: Chain) -> str:
    """missing 9999999, clip 0 None, log1p"""
    return ", ".join(map(in_words, chain))


def in_words(step: Step) -> str:
    """clip 0 1, quantile normal"""
    shown = ("none" if one is None else one if isinstance(one, str) else f"{one:,.10g}" for one in step.values)
    return " ".join([step.name, *shown])
