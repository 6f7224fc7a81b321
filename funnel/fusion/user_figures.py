"""Means over users' requests and their differences, with intervals over users: a user's requests go together.

S scorings, R requests, U users.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from funnel.figures.intervals import effective_size, interval, ratio_parts, tail_index

FEWEST_USERS = 20
"""Effective users that an interval rests on, at least."""
FEWEST_REWARDED = 20
"""Rewarded requests, at least: rewards are of several sizes, and with fewer the size of those not seen is a guess."""


@dataclass
class UserFigures:
    """Flat figures KEY, KEY.low, KEY.high, and by key why an interval is absent."""

    figures: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def add(self, key: str, value: float, part_U: np.ndarray, most: float, tail: float, why: str) -> None:
        self.figures[key] = value
        if why:
            self.absent[key] = why
        else:
            self.figures[f"{key}.low"], self.figures[f"{key}.high"] = interval(value, part_U, most, most, tail)

    def ratio(self, key: str, numerator_U: np.ndarray, denominator_U: np.ndarray) -> None:
        """A ratio of sums of the same users."""
        value, part_U = ratio_parts(numerator_U, denominator_U)
        most, tail = float(np.abs(part_U).max()), tail_index(numerator_U)
        self.add(key, value, part_U, most, tail, too_few(denominator_U))


def means(
    prefix: str,
    names: Sequence[str],
    per_SR: np.ndarray,
    counted_R: np.ndarray,
    user_R: np.ndarray,
    largest: float,
    why: str = "",
    alike: Sequence[str] = (),
) -> UserFigures:
    """PREFIX.NAME of each scoring, and PREFIX.gain_over_NAME: the first scoring less each of the others.

    `largest`: what one more candidate may add to a request at most, as far as the log shows; `why`: why there can be no
    interval, if so; `alike`: those of the names that are the first scoring itself, gains of 0.
    """
    users = int(user_R.max()) + 1
    sums_SU = np.stack([np.bincount(user_R, weights=row, minlength=users) for row in per_SR])
    counts_U = np.bincount(user_R, weights=counted_R, minlength=users)
    total = float(counts_U.sum())
    assert total, "a log without any reward"
    why, found = why or too_few(counts_U), UserFigures()
    # What one more request in another order may add: what those that have any reward have on average.
    usual = float(per_SR[per_SR > 0].mean()) / total if per_SR.any() else 0.0
    tails_S = [tail_index(sums_U) for sums_U in sums_SU]
    first, first_U = ratio_parts(sums_SU[0], counts_U)
    for index, name in enumerate(names):
        value, part_U = ratio_parts(sums_SU[index], counts_U)
        found.add(f"{prefix}.{name}", value, part_U, largest / total, tails_S[index], why)
        if index:
            gain_U = first_U - part_U
            most = 0.0 if name in alike else max(usual, float(np.abs(gain_U).max()))
            found.add(f"{prefix}.gain_over_{name}", first - value, gain_U, most, max(tails_S[0], tails_S[index]), why)
    return found


def too_few_rewards(rewarded: int) -> str:
    """Why so many rewarded requests allow no interval; empty: they do."""
    few = rewarded < FEWEST_REWARDED
    return f"{rewarded} rewarded requests held out: too few for an interval" if few else ""


def too_few(counts_U: np.ndarray) -> str:
    """Why users with so many requests each allow no interval; empty: they do."""
    size, users = effective_size(counts_U), int(np.count_nonzero(counts_U))
    return "" if size >= FEWEST_USERS else f"{users} users held out, worth {size:.0f} alike: too few for an interval"
