"""Effects to assignments: who gets which strategy under a budget, user by user, by cluster, or one for all.

Floors and ceilings of other outcomes (aims.py) are limits beside the budget: held by prices for users, by a mixed
integer program for groups and by a linear one for the mix. Shapes: R rows (users), A arms, G groups, M limits.
"""

from dataclasses import dataclass

import numpy as np

from data.errors import UserError
from funnel.incentives.aims import Limited
from funnel.incentives.allocation import Allocation, LocalShards, allocate, cut
from funnel.incentives.few import few_choices, shares
from funnel.incentives.held import hold


@dataclass(frozen=True)
class Plan:
    """Arms of users, and the allocation that chose them."""

    arm_R: np.ndarray
    allocation: Allocation


def per_user(
    value_RA: np.ndarray,
    cost_RA: np.ndarray,
    budget: float,
    allowed_RA: np.ndarray | None = None,
    limited: Limited | None = None,
) -> Plan:
    """Each user's own effects and costs count. `budget`: per user on average; `allowed_RA`: what a user may get.

    Raises UserError for a budget below the cheapest plan, and for a floor or ceiling that no plan under it keeps.
    """
    value_RA = value_RA if allowed_RA is None else np.where(allowed_RA, value_RA, -np.inf)
    if limited is None:
        found = allocate(LocalShards(cut(value_RA, cost_RA[None])), budget * len(value_RA))
    else:
        reached_K = reachable(cost_RA, budget, allowed_RA, limited)
        for k in np.flatnonzero(reached_K > limited.limit_K):
            text = limited.texts[k]
            raise UserError(f"{text}: no plan under the budget of {budget:.6g} a user keeps it; "
                            f"{limited.levels(reached_K)[text]:.6g} a user is as far as it goes")  # fmt: skip
        rows = len(value_RA)
        try:
            found = hold(value_RA, cost_RA, budget * rows, limited.cost_KRA, rows * limited.limit_K)
        except UserError:
            raise UserError(f"no plan was found that keeps the budget of {budget:.6g} a user together with "
                            f"{' and '.join(limited.texts)}") from None  # fmt: skip
    return Plan(found.option_U.astype(np.int64), found)


def reachable(cost_RA: np.ndarray, budget: float, allowed_RA: np.ndarray | None, limited: Limited) -> np.ndarray:
    """The least that each limit can be made to cost a user under the budget, (K,)."""
    rows = np.arange(len(cost_RA))
    return np.array([
        own_RA[rows, per_user(-own_RA, cost_RA, budget, allowed_RA).arm_R].mean() for own_RA in limited.cost_KRA
    ])  # fmt: skip


def per_group(
    value_RA: np.ndarray,
    cost_RA: np.ndarray,
    group_R: np.ndarray,
    budget: float,
    allowed_RA: np.ndarray | None = None,
    limited: Limited | None = None,
) -> Plan:
    """All users of a group get one strategy, by the sums of their effects and costs. A user who may not have it gets
    the dearest one that is allowed to him below."""
    groups = int(group_R.max()) + 1
    value_GA = np.stack([np.bincount(group_R, value_R, groups) for value_R in value_RA.T], 1)
    cost_GA = np.stack([np.bincount(group_R, cost_R, groups) for cost_R in cost_RA.T], 1)
    if limited is None:
        found = allocate(LocalShards(cut(value_GA, cost_GA[None])), budget * len(value_RA))
    else:
        own_KRA = limited.cost_KRA
        if allowed_RA is not None:
            given_RA = np.stack([given(a, allowed_RA) for a in range(value_RA.shape[1])], 1)
            own_KRA = np.take_along_axis(own_KRA, given_RA[None], 2)
        more_KGA = np.stack([[np.bincount(group_R, own_R, groups) for own_R in own_RA.T] for own_RA in own_KRA])
        limit_M = len(value_RA) * np.array([budget, *limited.limit_K])
        found = few_choices(value_GA, np.stack([cost_GA, *more_KGA.transpose(0, 2, 1)]), limit_M, limited.texts)
    arm_R = found.option_U.astype(np.int64)[group_R]
    if allowed_RA is not None:
        arm_R = given(arm_R, allowed_RA)
    return Plan(arm_R, found)


def given(arm_R: np.ndarray | int, allowed_RA: np.ndarray) -> np.ndarray:
    """What users get whose group has these arms (or one arm): it, or the dearest below it that is allowed."""
    arm_R = np.broadcast_to(arm_R, len(allowed_RA))
    return np.where(allowed_RA[np.arange(len(arm_R)), arm_R], arm_R, below(arm_R, allowed_RA))


def below(arm_R: np.ndarray, allowed_RA: np.ndarray) -> np.ndarray:
    """Of each user the largest allowed arm that is not above his own; the first allowed one if there is none."""
    arms = np.arange(allowed_RA.shape[1])
    fits_RA = allowed_RA & (arms[None] <= arm_R[:, None])
    last_R = allowed_RA.shape[1] - 1 - np.argmax(fits_RA[:, ::-1], 1)
    return np.where(fits_RA.any(1), last_R, np.argmax(allowed_RA, 1))


def one_for_all(value_RA: np.ndarray, cost_RA: np.ndarray, budget: float, limited: Limited | None = None) -> np.ndarray:
    """The single arm with the largest mean value whose mean cost keeps the budget, and the floors and ceilings; the
    cheapest if none does."""
    cost_A = cost_RA.mean(0)
    kept_A = cost_A <= budget
    if limited is not None:
        kept_A &= (limited.cost_KRA.mean(1) <= limited.limit_K[:, None]).all(0)
    mean_A = np.where(kept_A, value_RA.mean(0), -np.inf)
    arm = int(np.argmax(mean_A)) if np.isfinite(mean_A).any() else int(np.argmin(cost_A))
    return np.full(len(value_RA), arm, np.int64)


def mix_for_all(value_RA: np.ndarray, cost_RA: np.ndarray, budget: float, limited: Limited | None = None) -> np.ndarray:
    """Everybody alike, as far as a budget lets it: the best mix of arms by their means, dealt out by chance. Other
    limits are kept as far as such a mix can."""
    rows = len(value_RA)
    if limited is not None:
        cost_MA = np.stack([cost_RA.mean(0), *limited.cost_KRA.mean(1)])
        share_A = shares(value_RA.mean(0), cost_MA, np.array([budget, *limited.limit_K]))
        ends_A = np.rint(rows * share_A.cumsum()).astype(int)
        return np.asarray(np.random.default_rng(rows).permutation(np.searchsorted(ends_A, np.arange(rows), "right")))
    alike_RA, cost_alike_RA = (np.tile(each.mean(0), (rows, 1)) for each in (value_RA, cost_RA))
    arm_R = per_user(alike_RA, cost_alike_RA, budget).arm_R
    return np.asarray(np.random.default_rng(rows).permutation(arm_R))
