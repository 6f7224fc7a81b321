"""Effects to assignments: who gets which strategy under a budget, user by user, by cluster, or one for all.

Shapes: R rows (users), A arms, G groups.
"""

from dataclasses import dataclass

import numpy as np

from funnel.incentives.allocation import Allocation, LocalShards, allocate, cut


@dataclass(frozen=True)
class Plan:
    """Arms of users, and the allocation that chose them."""

    arm_R: np.ndarray
    allocation: Allocation


def per_user(value_RA: np.ndarray, cost_RA: np.ndarray, budget: float, allowed_RA: np.ndarray | None = None) -> Plan:
    """Each user's own effects and costs count. `budget`: per user on average; `allowed_RA`: what a user may get."""
    value_RA = value_RA if allowed_RA is None else np.where(allowed_RA, value_RA, -np.inf)
    found = allocate(LocalShards(cut(value_RA, cost_RA[None])), budget * len(value_RA))
    return Plan(found.option_U.astype(np.int64), found)


def per_group(
    value_RA: np.ndarray,
    cost_RA: np.ndarray,
    group_R: np.ndarray,
    budget: float,
    allowed_RA: np.ndarray | None = None,
) -> Plan:
    """All users of a group get one strategy, by the sums of their effects and costs. A user who may not have it gets
    the dearest one that is allowed to him below."""
    groups = int(group_R.max()) + 1
    value_GA = np.stack([np.bincount(group_R, value_R, groups) for value_R in value_RA.T], 1)
    cost_GA = np.stack([np.bincount(group_R, cost_R, groups) for cost_R in cost_RA.T], 1)
    found = allocate(LocalShards(cut(value_GA, cost_GA[None])), budget * len(value_RA))
    arm_R = found.option_U.astype(np.int64)[group_R]
    if allowed_RA is not None:
        arm_R = np.where(allowed_RA[np.arange(len(arm_R)), arm_R], arm_R, below(arm_R, allowed_RA))
    return Plan(arm_R, found)


def below(arm_R: np.ndarray, allowed_RA: np.ndarray) -> np.ndarray:
    """Of each user the largest allowed arm that is not above his own; the first allowed one if there is none."""
    arms = np.arange(allowed_RA.shape[1])
    fits_RA = allowed_RA & (arms[None] <= arm_R[:, None])
    last_R = allowed_RA.shape[1] - 1 - np.argmax(fits_RA[:, ::-1], 1)
    return np.where(fits_RA.any(1), last_R, np.argmax(allowed_RA, 1))


def one_for_all(value_RA: np.ndarray, cost_RA: np.ndarray, budget: float) -> np.ndarray:
    """The single arm with the largest mean value whose mean cost keeps the budget; the cheapest if none does."""
    cost_A = cost_RA.mean(0)
    mean_A = np.where(cost_A <= budget, value_RA.mean(0), -np.inf)
    arm = int(np.argmax(mean_A)) if np.isfinite(mean_A).any() else int(np.argmin(cost_A))
    return np.full(len(value_RA), arm, np.int64)


def mix_for_all(value_RA: np.ndarray, cost_RA: np.ndarray, budget: float) -> np.ndarray:
    """Everybody alike, as far as a budget lets it: the best mix of arms by their means, dealt out by chance."""
    rows = len(value_RA)
    alike_RA, cost_alike_RA = (np.tile(each.mean(0), (rows, 1)) for each in (value_RA, cost_RA))
    arm_R = per_user(alike_RA, cost_alike_RA, budget).arm_R
    return np.asarray(np.random.default_rng(rows).permutation(arm_R))
