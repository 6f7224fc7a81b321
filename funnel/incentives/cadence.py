"""Who is decided for today, and within which bounds: cadence, caps, the start of new users.

Shapes: N users who are there, A arms.
"""

from dataclasses import dataclass

import numpy as np

from data.errors import UserError


@dataclass(frozen=True)
class CadenceSettings:
    """How often whom."""

    every: int = 7
    """Days between two decisions about a frequent user; new and rare ones are decided for whenever they come. 1: all
    daily."""
    frequent: float = 0.5
    """Activity from which a user is a frequent one."""
    new_days: int = 14
    """For so long a user is new."""
    start: float = 0.5
    """How much more a new user's effects count on his first day: a strong start."""
    start_decay: float = 5.0
    """Days in which that falls by a factor of e."""
    cap: float = 2.0
    """The largest bill, amount * number, that a sensitive user may get; below 0: no cap."""

    def __post_init__(self) -> None:
        for name, least in (("every", 1), ("new_days", 0)):
            if getattr(self, name) < least:
                raise UserError(f"cadence.{name} is {getattr(self, name)}, must be at least {least}")
        if not self.start_decay > 0:
            raise UserError(f"cadence.start_decay is {self.start_decay}, must be above 0")
        if not 0 <= self.start < np.inf:
            raise UserError(f"cadence.start is {self.start}, must be a finite number of at least 0")
        for name in ("frequent", "cap"):
            if np.isnan(getattr(self, name)):
                raise UserError(f"cadence.{name} is nan, must be a number")


def due(
    settings: CadenceSettings, day: int, user_N: np.ndarray, activity_N: np.ndarray, tenure_N: np.ndarray,
    arm_N: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """bool_N: who is decided for today. Frequent users have their turn every so many days, an equal share a day; who
    has no strategy yet (arm -1) is always due."""
    turn_N = user_N % settings.every == day % settings.every
    steady_N = (activity_N >= settings.frequent) & (tenure_N >= settings.new_days)
    return np.asarray(~steady_N | turn_N | (arm_N < 0))


def start_weight(settings: CadenceSettings, tenure_N: np.ndarray) -> np.ndarray:
    """What a user's effects are multiplied with: 1 + start on the first day, falling to 1; exactly 1 when not new."""
    weight_N = 1 + settings.start * np.exp(-np.maximum(tenure_N, 0) / settings.start_decay)
    return np.where(tenure_N < settings.new_days, weight_N, 1.0)


def allowed(settings: CadenceSettings, sensitive_N: np.ndarray, bill_A: np.ndarray) -> np.ndarray:
    """bool (N, A): arms within the cap of sensitive users. Raises UserError if no arm is."""
    found_NA = np.ones((len(sensitive_N), len(bill_A)), bool)
    if settings.cap < 0:
        return found_NA
    within_A = bill_A <= settings.cap
    if not within_A.any():
        raise UserError(f"cadence.cap is {settings.cap:g}, below the cheapest strategy's bill of {bill_A.min():g}")
    found_NA[sensitive_N] = within_A
    return found_NA
