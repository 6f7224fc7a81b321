"""Names -> systems: the one place that lists them. A class is imported when it is asked for, not before."""

import importlib
from collections.abc import Mapping
from typing import Any

PROBLEMS: Mapping[str, str] = {
    "entire_space": "funnel.ranking.problem:EntireSpace",
    "listwise": "funnel.lists.problem:ListWise",
}
"""What jobs.train --problem NAME trains."""
TUNABLES: Mapping[str, str] = {
    "fusion": "funnel.fusion.tuning:FusionTuning",
    "off_policy": "funnel.off_policy.tuning:OffPolicyTuning",
}
"""What jobs.evolve --objective NAME tunes, beside the plain objectives of es/objectives/registry.py."""
DEFAULT_PROBLEM, DEFAULT_TUNABLE = "entire_space", "fusion"


def find_problem(name: str) -> Any:
    """The problem of that name, or the class that "package.module:Class" names. Raises ValueError for what is none."""
    return find(name, PROBLEMS, "problem")


def find_tunable(name: str) -> Any:
    """The tunable of that name, or the class that "package.module:Class" names. Raises ValueError for what is none."""
    return find(name, TUNABLES, "objective")


def find(name: str, known: Mapping[str, str], what: str) -> Any:
    place = known.get(name, name)
    module, colon, attribute = place.partition(":")
    if not colon:
        raise ValueError(f"no {what} {name!r}: choose {', '.join(known)}, or name yours package.module:Class")
    try:
        return getattr(importlib.import_module(module.removesuffix(".py").replace("/", ".")), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{what} {name!r}: {error}") from error
