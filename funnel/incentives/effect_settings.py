"""Settings of effects: how they are learnt, wherever that is done, and what jobs.fit learns them from."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np

from data.errors import UserError
from funnel.effects.dml import DMLSettings
from funnel.effects.learners import ArmSettings
from funnel.effects.nuisances import NuisanceSettings
from funnel.effects.reading import parsed_weights

Learner = Literal["dml", "t", "s", "x", "dr"]


@dataclass(frozen=True, kw_only=True)
class Learning:
    """How effects are learnt."""

    learner: Learner = "dml"
    """dml: one model over treatment vectors; t, s, x, dr: a model an arm."""
    outcomes: tuple[str, ...] = ("retained=1", "minutes=0.01")
    """What is to be raised: outcomes of the log with their weights, NAME=WEIGHT."""
    floors: tuple[str, ...] = ()
    """Outcomes that may not fall below a level, on average over users, NAME=LEVEL."""
    ceilings: tuple[str, ...] = ()
    """Outcomes that may not rise above a level, on average over users, NAME=LEVEL."""
    clusters: int = 50
    """Into how many k-means divides the users, for the policy by cluster."""
    own_rows: int = 1000
    """Rows that a model of their own takes, at least: of the sensitive, or of whom `own` names."""
    dml: DMLSettings = field(default_factory=DMLSettings)
    arms: ArmSettings = field(default_factory=ArmSettings)
    nuisances: NuisanceSettings = field(default_factory=NuisanceSettings)

    def __post_init__(self) -> None:
        if self.clusters < 1:
            raise UserError(f"clusters is {self.clusters}, must be at least 1")
        if not self.outcomes:
            raise UserError("outcomes is empty: name at least one, NAME=WEIGHT")
        parsed_weights(self.outcomes, "outcomes")
        for name in ("floors", "ceilings"):
            for word in getattr(self, name):
                if "=" not in word:
                    raise UserError(f"{name} {word}: names no level; want NAME=LEVEL")
            if len(parsed_weights(getattr(self, name), name)) < len(getattr(self, name)):
                raise UserError(f"{name}: an outcome is named twice")


@dataclass(frozen=True, kw_only=True)
class EffectSettings(Learning):
    """What jobs.fit learns from and judges under."""

    fit_on: Literal["all", "randomised"] = "all"
    """Rows that effects are learnt from; randomised: only those whose arm was drawn evenly."""
    propensities: Literal["fitted", "logged"] = "fitted"
    """fitted: how likely each arm was is learnt by a model; logged: the log's column, which says it for arms that were
    drawn evenly (goes with --fit-on randomised)."""
    budget: float = 1.0
    """Cost a user, on average, under which the judged policy stays."""
    own: int = -1
    """Column of a 0/1 feature (its place among the numeric ones, from 0) whose users get a model of their own, where
    they have enough rows: the sensitive, say; below 0: none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.budget < np.inf:
            raise UserError(f"budget is {self.budget}, must be a finite number above 0")
        if self.propensities == "logged" and self.fit_on != "randomised":
            raise UserError("propensities logged goes with fit_on randomised: others have one arm's alone")

    @classmethod
    def on_random_rows(cls, learning: Learning, budget: float, own: int = -1) -> Self:
        """Learnt from rows whose arm was drawn evenly, by their logged propensities."""
        common: dict[str, Any] = {each.name: getattr(learning, each.name) for each in dataclasses.fields(Learning)}
        return cls(**common, fit_on="randomised", propensities="logged", budget=budget, own=own)
