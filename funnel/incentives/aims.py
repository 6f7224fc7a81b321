"""Aims as limits: outcomes that may not fall below a floor, or rise above a ceiling, on average over users.

    --outcomes retained=1 --floors minutes=27

What is raised is a weighted sum of outcomes; a limit holds another one. Its effects tau_k are learnt as those of the
sum, and what it would be without a reward is linear in the features, fitted on what the effects leave:

    level_k(x, a) = base_k(x) + tau_k(x, a),   base_k(x) = E[y_k - tau_k(x, A) | x]

In the allocation a floor is a limit of costs -level_k, a ceiling one of level_k (plan.py, limits.py). Levels are
estimates: what is held is their mean, not the outcome itself. Shapes: R rows, A arms, K limits, F features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from funnel.effects.dml import VectorEffects
from funnel.effects.gram import sums
from funnel.effects.learners import ArmEffects
from funnel.effects.reading import parsed_weights
from funnel.effects.rows import TreatedRows
from funnel.incentives.effect_settings import Learning


@dataclass(frozen=True)
class Limit:
    """A level of an outcome that holds on average."""

    outcome: str
    level: float
    sign: int
    """-1: a floor; 1: a ceiling."""

    @property
    def text(self) -> str:
        return f"{'floor' if self.sign < 0 else 'ceiling'} {self.outcome}={self.level:g}"


def limits_of(settings: Learning) -> list[Limit]:
    """The limits that the settings name, floors first."""
    floors, ceilings = parsed_weights(settings.floors, "floors"), parsed_weights(settings.ceilings, "ceilings")
    return [Limit(name, level, -1) for name, level in floors.items()] + [
        Limit(name, level, 1) for name, level in ceilings.items()
    ]


@dataclass(frozen=True)
class Limited:
    """What each strategy of each user costs of every limit, and how much of it there is a user."""

    texts: tuple[str, ...]
    cost_KRA: np.ndarray
    limit_K: np.ndarray

    def levels(self, cost_K: np.ndarray) -> dict[str, float]:
        """Mean costs as levels of the outcomes, by limit."""
        return {text: float(-cost if text.startswith("floor") else cost)
                for text, cost in zip(self.texts, cost_K, strict=True)}  # fmt: skip

    def of(self, rows_N: np.ndarray, limit_K: np.ndarray | None = None) -> "Limited":
        """Of these users alone, with limits of their own."""
        return Limited(self.texts, self.cost_KRA[:, rows_N], self.limit_K if limit_K is None else limit_K)


@dataclass(frozen=True)
class OutcomeLevels:
    """What an outcome comes to under each arm."""

    model: VectorEffects | ArmEffects
    arms_AT: np.ndarray
    mean_F: np.ndarray
    slope_G: np.ndarray
    """Of (1, features less their means)."""

    @classmethod
    def fit(cls, model: VectorEffects | ArmEffects, rows: TreatedRows) -> "OutcomeLevels":
        """The base level, from the rows that the effects were learnt from."""
        effect_RA = effects_of(model, rows.x_RF, rows.arms_AT)
        left_R = rows.outcome_R - effect_RA[np.arange(len(rows)), rows.arm_R]
        mean_F = np.nanmean(rows.x_RF.astype(np.float64), 0)
        found = sums(len(rows), 1 + len(mean_F), lambda piece: (design(rows.x_RF[piece], mean_F), left_R[piece]))
        return cls(model, rows.arms_AT, mean_F, found.solve(1e-6))

    def __call__(self, x_RF: np.ndarray) -> np.ndarray:
        """(R, A)"""
        base_R = design(x_RF, self.mean_F) @ self.slope_G
        return np.asarray(base_R[:, None] + effects_of(self.model, x_RF, self.arms_AT))

    def facts(self) -> dict[str, Any]:
        return {"mean": self.mean_F.tolist(), "slope": self.slope_G.tolist(), "model": dict(self.model.facts)}

    @classmethod
    def restore(
        cls, kind: Any, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any], arms_AT: np.ndarray
    ) -> "OutcomeLevels":
        model = kind.restore(arrays, facts["model"])
        return cls(model, arms_AT, np.array(facts["mean"]), np.array(facts["slope"]))


def design(x_RF: np.ndarray, mean_F: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(x_RF)), np.nan_to_num(x_RF.astype(np.float64) - mean_F)])


def effects_of(model: VectorEffects | ArmEffects, x_RF: np.ndarray, arms_AT: np.ndarray) -> np.ndarray:
    return model.effects(x_RF, arms_AT) if isinstance(model, VectorEffects) else model.effects(x_RF)


def limited(limits: Sequence[Limit], levels: Mapping[str, OutcomeLevels], x_RF: np.ndarray) -> Limited | None:
    """The limits for these users; None without limits."""
    if not limits:
        return None
    found = {name: levels[name](x_RF) for name in dict.fromkeys(one.outcome for one in limits)}
    return Limited(
        tuple(one.text for one in limits),
        np.stack([one.sign * found[one.outcome] for one in limits]),
        np.array([one.sign * one.level for one in limits]),
    )
