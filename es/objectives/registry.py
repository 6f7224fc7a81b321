"""Objectives by name: what `jobs.evolve --objective NAME` offers, and how one of your own joins them.

Each has a dataclass of settings (field docstrings are the help of the options) and is built from it alone, or from it
and data. Your own objective needs no entry here: name it "package.module:Class", Class being a dataclass of settings
that is an objective itself (as those of es/objectives/toy.py) or whose `build()` returns one.
"""

import dataclasses
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from es.objectives import toy
from es.objectives.base import Objective
from es.objectives.control import Control
from funnel.fusion.forms import ScoredLog
from funnel.fusion.objective import FusionSettings, score_fusion
from funnel.off_policy.objective import LoggedActions, OffPolicy, OffPolicySettings


@dataclass(frozen=True)
class Entry:
    """`build(settings)` makes the objective; with `data`, `build(settings, data)`: that class's instance, which the
    caller reads (es/ reads no files)."""

    settings: type
    build: Callable[..., Objective]
    summary: str
    data: type | None = None


def _itself(settings: Any) -> Any:
    return settings.build() if hasattr(settings, "build") else settings


def _toy(kind: type) -> Entry:
    return Entry(kind, _itself, (kind.__doc__ or "").splitlines()[0])


OBJECTIVES: dict[str, Entry] = {
    "sphere": _toy(toy.Sphere),
    "rosenbrock": _toy(toy.Rosenbrock),
    "rastrigin": _toy(toy.Rastrigin),
    "sleep": _toy(toy.Sleep),
    "nothing": _toy(toy.Nothing),
    "control": Entry(Control, _itself, "A control task of Gymnasium, played by a linear or tanh network."),
    "score_fusion": Entry(
        FusionSettings, score_fusion, "How a funnel's scores are fused, by what became of logged requests.", ScoredLog
    ),
    "off_policy": Entry(
        OffPolicySettings,
        OffPolicy,
        "Which action for whom, by its estimated value on another policy's log.",
        LoggedActions,
    ),
}


def find(name: str) -> Entry:
    """The entry of a name, or of "package.module:Class". ValueError, one line, for what is neither."""
    if name in OBJECTIVES:
        return OBJECTIVES[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(f"no objective {name!r}: choose {', '.join(OBJECTIVES)}, or name yours package.module:Class")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"objective {name!r}: {error}") from error
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise ValueError(f"objective {name!r}: {attribute} must be a dataclass of settings")
    return Entry(found, _itself, (found.__doc__ or "").splitlines()[0] if found.__doc__ else "")


def build(name: str, data: Any = None, **settings: Any) -> Objective:
    """`build("sphere", dimension=100)`. ValueError for an unknown name or setting, or for data missing or too many."""
    entry = find(name)
    known = [field.name for field in dataclasses.fields(entry.settings)]
    for key in settings:
        if key not in known:
            raise ValueError(f"objective {name!r} has no setting {key!r}: it has {', '.join(known)}")
    if (data is None) != (entry.data is None):
        wanted = "no data" if entry.data is None else f"a {entry.data.__name__}"
        raise ValueError(f"objective {name!r} takes {wanted}")
    made = entry.settings(**settings)
    return entry.build(made) if entry.data is None else entry.build(made, data)
