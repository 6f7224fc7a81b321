"""What the next day of an operation builds on, as arrays and plain JSON, and back (funnel/operation.py)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from data.errors import UserError
from funnel.incentives.choice import Fit
from funnel.incentives.fitted import IncentiveEffects
from funnel.incentives.gate import Trial

FITS = ("standing", "candidate")
COUNTS = ("fitted_on", "reviewed_on", "fresh")
VERSION = 2
"""Of the state; without a number: before strategies came and went."""


def state_of(operation: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Of funnel/incentives/operation.py: IncentiveOperation."""
    arrays: dict[str, np.ndarray] = {}
    facts: dict[str, Any] = {"version": VERSION}
    facts |= {name: getattr(operation, name) for name in COUNTS}
    facts["history"] = len(operation.history)
    for name in FITS:
        fit: Fit | None = getattr(operation, name)
        if fit is not None:
            own, facts[name] = fit.effects.state()
            arrays |= {f"{name}:{field}": value for field, value in own.items()} | {f"{name}-ids:numbers": fit.ids_A}
    for number, each in enumerate(operation.history):
        arrays |= {f"history.{number}:{field}": value for field, value in each.items()}
    if operation.trial is not None:
        arrays["trial:sums"] = operation.trial.sums_323
        facts |= {"looks": operation.trial.looks, "price": operation.trial.price}
    if operation.roster is not None:
        own, facts["roster"] = operation.roster.state()
        arrays |= {f"roster:{field}": value for field, value in own.items()}
    users = sorted(operation.arm_of)
    arrays["arms:user"] = np.array(users, np.int64)
    arrays["arms:arm"] = np.array([operation.arm_of[user] for user in users], np.int64)
    return arrays | {f"source:{field}": value for field, value in operation.source.state().items()}, facts


def resume(operation: Any, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
    """Go on from such a state. Raises UserError for another version's."""
    if facts.get("version") != VERSION:
        raise UserError(f"a state of version {facts.get('version')}, this goes on from {VERSION}: what was decided can "
                        "be replayed; operate on in another --out")  # fmt: skip

    def under(name: str) -> dict[str, np.ndarray]:
        return {field.partition(":")[2]: value for field, value in arrays.items()
                if field.partition(":")[0] == name}  # fmt: skip

    for name in FITS:
        if name in facts:
            effects = IncentiveEffects.restore(operation.effects, under(name), facts[name])
            setattr(operation, name, Fit(effects, arrays[f"{name}-ids:numbers"].copy()))
    for name in COUNTS:
        setattr(operation, name, int(facts[name]))
    operation.history = [under(f"history.{number}") for number in range(int(facts["history"]))]
    if "trial:sums" in arrays:
        operation.trial = Trial(float(facts["price"]), arrays["trial:sums"].copy(), list(facts["looks"]))
    if operation.roster is not None:
        operation.roster.resume(under("roster"), facts["roster"])
    operation.arm_of = dict(zip(arrays["arms:user"].tolist(), arrays["arms:arm"].tolist(), strict=True))
    operation.source.resume(under("source"))
