"""A day's decisions as arrays from which they follow again: values, costs, what was allowed, the budget.

Shapes: N users decided for, A arms, K floors and ceilings. A snapshot without these is of version 1, with them of 2.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from data.errors import UserError
from funnel.incentives.aims import Limited
from funnel.incentives.plan import per_group, per_user

FORMAT, VERSIONS = "counterpoint.incentives", (1, 2)
LEEWAY = 1e-3
"""Share of the best level of an outcome that is left for the choice among plans."""


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

    limited: Limited | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        own = {name: getattr(self, name) for name in ARRAYS}
        return own if self.limited is None else own | {"limit_KNA": self.limited.cost_KRA}


ARRAYS = tuple(each.name for each in fields(Snapshot) if each.name != "limited")


def facts_of(budget: float, limited: Limited | None, **more: Any) -> dict[str, Any]:
    facts = {"format": FORMAT, "version": 1, "budget": budget, **more}
    if limited is None:
        return facts
    return facts | {"version": 2, "limits": dict(zip(limited.texts, limited.limit_K.tolist(), strict=True))}


def decide(
    value_NA: np.ndarray,
    cost_NA: np.ndarray,
    allowed_NA: np.ndarray,
    group_N: np.ndarray,
    budget: float,
    limited: Limited | None = None,
) -> np.ndarray:
    """The arms of these users. `budget`: for all of them together; floors and ceilings: a user."""
    if not len(value_NA):
        return np.empty(0, np.int64)
    each = budget / len(value_NA)
    if len(group_N):
        return per_group(value_NA, cost_NA, group_N, each, allowed_NA, limited).arm_R
    return per_user(value_NA, cost_NA, each, allowed_NA, limited).arm_R


def decide_as_far(
    value_NA: np.ndarray, cost_NA: np.ndarray, allowed_NA: np.ndarray, group_N: np.ndarray, budget: float,
    limited: Limited | None,
) -> tuple[np.ndarray, Limited | None, list[str]]:  # fmt: skip
    """(arms, the floors and ceilings that they keep, what a person should know). A day is decided in any case: a limit
    that cannot be kept gives way to the best that can be reached, all of them where these do not go together."""
    common = (cost_NA, allowed_NA, group_N, budget)
    if limited is None or not len(value_NA):
        return decide(value_NA, *common), limited, []
    try:
        return decide(value_NA, *common, limited), limited, []
    except UserError as error:
        told = f"{error}; held as far as it goes"
    rows = np.arange(len(value_NA))
    reached_K = np.array([own_NA[rows, decide(-own_NA, *common)].mean() for own_NA in limited.cost_KRA])
    limited = replace(limited, limit_K=np.maximum(limited.limit_K, reached_K + LEEWAY * np.abs(reached_K)))
    try:
        return decide(value_NA, *common, limited), limited, [told]
    except UserError as error:
        return decide(value_NA, *common), None, [f"{error}; decided without"]


def replay(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any], where: str) -> str:
    """Decide again. Raises UserError: another version's snapshot, arrays that are not there, another result."""
    version = facts.get("version")
    if facts.get("format") != FORMAT or version not in VERSIONS:
        found = f"format {facts.get('format')!r} version {version!r}"
        raise UserError(f"{where}: {found}; this reads {FORMAT!r} versions {VERSIONS[0]} and {VERSIONS[1]}")
    lacking = [name for name in (*ARRAYS, *(["limit_KNA"] if version == 2 else [])) if name not in arrays]
    if lacking:
        raise UserError(f"{where}: has no array {lacking[0]!r}")
    users, options = arrays["value_NA"].shape if arrays["value_NA"].ndim == 2 else (-1, -1)
    for name in ("user_N", "arm_N", "cost_NA", "allowed_NA"):
        if arrays[name].shape != ((users,) if name.endswith("_N") else (users, options)):
            raise UserError(f"{where}: {name} is {arrays[name].shape}, but value_NA {arrays['value_NA'].shape}")
    if len(arrays["group_N"]) not in (0, users) or (arrays["group_N"] < 0).any():
        raise UserError(
            f"{where}: group_N is {arrays['group_N'].shape}, must be a number from 0 for each of {users} users"
        )
    budget = facts.get("budget")
    if isinstance(budget, bool) or not isinstance(budget, int | float):
        raise UserError(f"{where}: budget is {budget!r}, must be a number")
    limits = dict(facts.get("limits", {}))
    if version == 2 and arrays["limit_KNA"].shape != (len(limits), users, options):
        raise UserError(f"{where}: limit_KNA is {arrays['limit_KNA'].shape}, but there are {len(limits)} limits, "
                        f"{users} users and {options} strategies")  # fmt: skip
    limited = Limited(tuple(limits), arrays["limit_KNA"], np.array([*limits.values()])) if version == 2 else None
    own = Snapshot(**{name: arrays[name] for name in ARRAYS}, limited=limited)
    try:
        arm_N = decide(own.value_NA, own.cost_NA, own.allowed_NA.astype(bool), own.group_N, float(budget), limited)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    wrong = int((arm_N != own.arm_N).sum())
    if wrong:
        raise UserError(f"{where}: {wrong} of {len(arm_N)} users get another strategy than the snapshot says")
    return f"{where}: the same strategies for all {len(arm_N):,} users"
