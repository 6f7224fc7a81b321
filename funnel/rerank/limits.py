"""Shares of exposure by category as whole numbers of places: what a page (or a session) may and must hold.

    of n places a category with shares least..most gets at least ceil(least n) and at most floor(most n) of them

The bounds of a session are those of all its places up to the end of this page, less what was watched already. A search
that keeps them chooses an item only if its category has room and if what other categories still need fits behind it; of
a category that has fewer candidates than it needs, all are wanted. `most` is never broken: where nothing may be shown
any more the page ends. Shapes: R requests, M candidates, G categories with limits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from data.errors import UserError

FREE = -1
"""In an array of groups: no limits."""


@dataclass(frozen=True)
class CategoryLimit:
    category: int
    """Which one; -1: every category that is not named."""
    least: float = 0.0
    """Share of all places that it must get."""
    most: float = 1.0
    """Share of all places that it may get."""

    def __post_init__(self) -> None:
        if self.category < -1:
            raise UserError(f"limits: category is {self.category}, must be one of them, or -1 for all others")
        if not 0 <= self.least <= self.most <= 1:
            raise UserError(
                f"limits: category {self.category} has least {self.least} and most {self.most}: want 0 <= least <= "
                "most <= 1"
            )
        if self.category == -1 and self.least > 0:
            raise UserError("limits: category -1 (every other one) can have a most, not a least")


@dataclass(frozen=True)
class Bounds:
    """What the places that are left may and must hold; what a search keeps to."""

    group_RM: np.ndarray
    """int: the limited category of each candidate, FREE: none."""
    low_RG: np.ndarray
    """int: places that a category still needs; no more than it has candidates."""
    high_RG: np.ndarray
    """int: places that it still may have."""


@dataclass(frozen=True)
class CategoryLimits:
    """Limits of categories 0 .. count - 1 on pages of so many slots."""

    limits: tuple[CategoryLimit, ...]
    count: int
    slots: int
    scope: Literal["page", "session"] = "page"

    def __post_init__(self) -> None:
        named = [one.category for one in self.limits]
        if twice := [category for category in named if named.count(category) > 1]:
            raise UserError(f"limits: category {twice[0]} is named twice")
        if strange := [category for category in named if category >= self.count]:
            raise UserError(f"limits: category {strange[0]}, but there are {self.count}, numbered from 0")
        need = sum(ceil_of(one.least, self.slots) for one in self.limits)
        if need > self.slots:
            raise UserError(
                f"limits: the least shares need {need} places, but a page has {self.slots}: they cannot all be kept"
            )
        for one in self.limits:
            if floor_of(one.most, self.slots) < ceil_of(one.least, self.slots):
                raise UserError(
                    f"limits: category {one.category} must have {ceil_of(one.least, self.slots)} and may have "
                    f"{floor_of(one.most, self.slots)} of {self.slots} places: no whole number lies between"
                )
        most_G = self.shares()[1]
        if sum(floor_of(most, self.slots) for most in most_G.tolist()) < self.slots and len(most_G) == self.count:
            raise UserError(
                f"limits: the most shares of all {self.count} categories leave places of a page of {self.slots} empty"
            )

    def shares(self) -> tuple[np.ndarray, np.ndarray]:
        """(least_G, most_G) of the groups: all categories if -1 is named, else those that are named, in order."""
        by = {one.category: one for one in self.limits}
        rest = by.pop(-1, None)
        chosen = [by.get(c, rest) for c in (range(self.count) if rest else sorted(by))]
        least = np.array([one.least for one in chosen if one], np.float64)
        return least, np.array([one.most for one in chosen if one], np.float64)

    def groups(self) -> np.ndarray:
        """int (count,): the group of each category."""
        group = np.full(self.count, FREE)
        named = sorted(one.category for one in self.limits if one.category >= 0)
        if any(one.category == -1 for one in self.limits):
            return np.arange(self.count)
        group[named] = np.arange(len(named))
        return group

    def bounds(self, category_RM: np.ndarray, left_RM: np.ndarray, had_RC: np.ndarray, here_RC: np.ndarray) -> Bounds:
        """What is left to keep. had_RC: items of each category watched on earlier pages of the session; here_RC: on
        this page. All pages of a session are of `slots` places, as far as they are known."""
        group_C, (least_G, most_G) = self.groups(), self.shares()
        group_RM = np.where(left_RM, group_C[category_RM], FREE)
        order_G = np.argsort(np.where(group_C == FREE, len(group_C), group_C), kind="stable")[: len(least_G)]
        used_RG, places_R1 = here_RC[:, order_G].copy(), np.full((len(left_RM), 1), self.slots)
        if self.scope == "session":
            used_RG += had_RC[:, order_G]
            places_R1 = places_R1 + had_RC.sum(1, keepdims=True)
        low_RG = np.maximum(ceil_of_array(least_G * places_R1) - used_RG, 0)
        high_RG = np.maximum(floor_of_array(most_G * places_R1) - used_RG, 0)
        there_RG = counts(group_RM, len(least_G))
        return Bounds(group_RM, np.minimum(low_RG, there_RG), high_RG)


def counts(group_RM: np.ndarray, groups: int) -> np.ndarray:
    """int (R, G): how many candidates of each group there are."""
    row_R1 = np.arange(len(group_RM))[:, None] * (groups + 1)
    flat = np.bincount((row_R1 + group_RM + 1).reshape(-1), minlength=len(group_RM) * (groups + 1))
    return flat.reshape(len(group_RM), groups + 1)[:, 1:]


NEAR = 1e-9
"""0.3 of 10 places is 3 of them, though 0.3 * 10 may be a hair above."""


def ceil_of(share: float, places: int) -> int:
    return math.ceil(share * places - NEAR)


def floor_of(share: float, places: int) -> int:
    return math.floor(share * places + NEAR)


def ceil_of_array(x: np.ndarray) -> np.ndarray:
    return np.ceil(x - NEAR).astype(np.int64)


def floor_of_array(x: np.ndarray) -> np.ndarray:
    return np.floor(x + NEAR).astype(np.int64)


def parsed(texts: Sequence[str], count: int, slots: int, scope: str, check: bool = True) -> CategoryLimits | None:
    """Limits written as "CATEGORY:LEAST:MOST"; None where there are none. Raises UserError for a text that says no
    limit, and (`check`) for limits that cannot be kept together."""
    found = []
    for text in texts:
        parts = text.split(":")
        try:
            category = -1 if parts[0].strip() == "*" else int(parts[0])
            least, most = (float(part) for part in parts[1:])
        except ValueError:
            raise UserError(
                f'limits: {text!r} is not "CATEGORY:LEAST:MOST", such as "3:0.1:0.3" or "*:0:0.3"'
            ) from None
        found.append(CategoryLimit(category, least, most))
    if not found or not check:
        return None
    return CategoryLimits(tuple(found), count, slots, "session" if scope == "session" else "page")
