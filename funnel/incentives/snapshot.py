"""A day's decisions as arrays from which they follow again: values, costs, what was allowed, the budget.

Shapes: N users decided for, A arms.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from data.errors import UserError
from funnel.incentives.plan import per_group, per_user

FORMAT, VERSION = "counterpoint.incentives", 1


@dataclass(frozen=True)
class Snapshot:
    user_N: np.ndarray
    value_NA: np.ndarray
    """Expected gain of each arm, as it was allocated on."""
    cost_NA: np.ndarray
    allowed_NA: np.ndarray
    group_N: np.ndarray
    """The cluster of each user; empty: users are decided for one by one."""
    arm_N: np.ndarray
    """What was decided."""

    def arrays(self) -> dict[str, np.ndarray]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def facts_of(budget: float, **more: Any) -> dict[str, Any]:
    return {"format": FORMAT, "version": VERSION, "budget": budget, **more}


def decide(
    value_NA: np.ndarray, cost_NA: np.ndarray, allowed_NA: np.ndarray, group_N: np.ndarray, budget: float
) -> np.ndarray:
    """The arms of these users. `budget`: for all of them together."""
    if not len(value_NA):
        return np.empty(0, np.int64)
    each = budget / len(value_NA)
    if len(group_N):
        return per_group(value_NA, cost_NA, group_N, each, allowed_NA).arm_R
    return per_user(value_NA, cost_NA, each, allowed_NA).arm_R


def replay(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any], where: str) -> str:
    """Decide again. Raises UserError: another version's snapshot, arrays that are not there, another result."""
    if facts.get("format") != FORMAT or facts.get("version") != VERSION:
        found = f"format {facts.get('format')!r} version {facts.get('version')!r}"
        raise UserError(f"{where}: {found}; this reads {FORMAT!r} version {VERSION}")
    lacking = [field.name for field in fields(Snapshot) if field.name not in arrays]
    if lacking:
        raise UserError(f"{where}: has no array {lacking[0]!r}")
    own = Snapshot(**{field.name: arrays[field.name] for field in fields(Snapshot)})
    arm_N = decide(own.value_NA, own.cost_NA, own.allowed_NA.astype(bool), own.group_N, float(facts["budget"]))
    wrong = int((arm_N != own.arm_N).sum())
    if wrong:
        raise UserError(f"{where}: {wrong} of {len(arm_N)} users get another strategy than the snapshot says")
    return f"{where}: the same strategies for all {len(arm_N):,} users"
