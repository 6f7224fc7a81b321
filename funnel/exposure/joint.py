"""Shares by a network of all categories at once and a policy that keeps to what was seen (funnel/fitted.py: Fitted).

    python -m jobs.make_data --world shares --out runs/shares
    python -m jobs.fit --system joint_shares --data runs/shares --out runs/joint

In the three steps of Schweisthal et al. [NeurIPS 2023]: the response to the whole vector of shares
(models/joint_dose.py), the density of logged shares among users that are alike (overlap.py), and a policy by gradient
that is fined for going below its floor (constrained.py). Judged as the forest is. Shapes: R rows, U users, F features,
K categories.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from data.errors import UserError
from data.log import Log
from funnel.exposure.constrained import ConstrainedSettings, learn
from funnel.exposure.fitted import checked, read_arrays
from funnel.exposure.judged import judged, seen_range
from funnel.exposure.outcome import OutcomeSettings, one_thread
from funnel.exposure.overlap import Overlap, OverlapSettings
from funnel.exposure.panels import policy_results, shown
from funnel.exposure.policy import SharePolicy
from funnel.exposure.shares import ShareRows
from funnel.fitted import Arrays, Map, here
from funnel.panels import Panel, Record, Table
from models.joint_dose import JointDose, JointDoseConfig

HELD_OUT, CHECKS, PIECE = 7, 25, 4096
LEAST_ROWS = 50


def within_a_twentieth() -> OverlapSettings:
    return OverlapSettings(floor=0.05)


@dataclass(frozen=True)
class JointSettings:
    outcomes: tuple[str, ...] = ()
    """What is to be raised, NAME=WEIGHT; left out, the log's only outcome."""
    network: JointDoseConfig = field(default_factory=JointDoseConfig)
    steps: int = 1500
    """Steps of AdamW, at most; the best of 25 checks on rows set apart is kept."""
    batch: int = 512
    """Rows of a step."""
    learning_rate: float = 4e-3
    """At the first step; it falls to 0 as a cosine."""
    policy: ConstrainedSettings = field(default_factory=ConstrainedSettings)
    outcome_model: OutcomeSettings = field(default_factory=OutcomeSettings)
    """Of the model that judges."""
    overlap: OverlapSettings = field(default_factory=within_a_twentieth)

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least 1")
        if not 0 < self.learning_rate < 1:
            raise UserError(f"learning_rate is {self.learning_rate}, must lie between 0 and 1")


class JointShares:
    """A network of the whole vector of shares, and the policy that was learnt on it."""

    name: ClassVar[str] = "joint_shares"
    settings_type: ClassVar[type] = JointSettings

    def __init__(
        self, settings: JointSettings, overlap: Overlap, arrays: dict[str, np.ndarray], facts: Mapping[str, Any]
    ) -> None:
        self.settings, self.overlap, self.arrays, self.facts = settings, overlap, arrays, facts
        names, start_K = tuple(facts["categories"]), np.array(facts["mean"])
        self.policy = SharePolicy.of(len(facts["features"]), names, start_K, settings.policy.hidden)
        knot_KN = torch.from_numpy(arrays["knots"]).float()
        self.network = JointDose(len(facts["features"]), knot_KN, settings.network, 0)
        if "theta" in arrays:
            kept = {key.removeprefix("network."): torch.tensor(value) for key, value in arrays.items()
                    if key.startswith("network.")}  # fmt: skip
            self.network.load_state_dict(kept)

    @classmethod
    def read(cls, settings: JointSettings, log: Log, part: str) -> dict[str, np.ndarray]:
        return read_arrays(settings.outcomes, log, part)

    @classmethod
    def check(cls, settings: JointSettings, train: Arrays, judging: Arrays, where: str) -> None:
        """Whether there are rows for a network."""
        rows = checked(settings, train, f"{where}/train")
        if len(rows) < LEAST_ROWS:
            raise UserError(f"{where}/train: {len(rows)} rows; a network of shares needs at least {LEAST_ROWS}")

    @classmethod
    def fit(cls, settings: JointSettings, arrays: Arrays, seed: int, map: Map = here) -> Self:
        rows = checked(settings, arrays)
        overlap = Overlap.fit(rows, settings.overlap, seed)
        centre_K, scale_K = rows.shares_RK.mean(axis=0), np.maximum(rows.shares_RK.std(axis=0), 1e-9)
        dose_RK = (rows.shares_RK - centre_K) / scale_K
        knots = np.quantile(dose_RK, [1 / 3, 2 / 3], axis=0).T
        facts = {**seen_range(rows), "features": list(rows.feature_names), "categories": list(rows.categories),
                 "level": float(rows.outcome_R.mean()), "spread": float(rows.outcome_R.std()) or 1.0}  # fmt: skip
        own = cls(settings, overlap, {"knots": knots, "centre": centre_K, "scale": scale_K}, facts)
        r2 = own.train(rows, seed)
        standard_RF = own.standard(rows.features_RF)
        for parameter in own.network.parameters():
            parameter.requires_grad_(False)
        theta_P = learn(own.predict, own.policy, standard_RF, overlap, overlap.group(rows.features_RF), settings.policy,
                        seed)  # fmt: skip
        trained = {f"network.{key}": value.numpy() for key, value in own.network.state_dict().items()}
        return cls(settings, overlap, {**own.arrays, **trained, "theta": theta_P}, {**facts, "r2": r2})

    def train(self, rows: ShareRows, seed: int) -> float:
        """R2 on the rows set apart, by which the best of the network's checks is kept."""
        settings, generator = self.settings, torch.Generator().manual_seed(seed)
        numeric_RF, share_RK = self.standard(rows.features_RF), torch.from_numpy(rows.shares_RK).float()
        target_R = torch.from_numpy((rows.outcome_R - self.facts["level"]) / self.facts["spread"]).float()
        order_R = torch.randperm(len(target_R), generator=generator)
        valid, fit = order_R[: len(order_R) // HELD_OUT], order_R[len(order_R) // HELD_OUT :]
        self.network = JointDose(numeric_RF.shape[1], torch.from_numpy(self.arrays["knots"]).float(), settings.network,
                                 seed)  # fmt: skip
        optimizer = torch.optim.AdamW(self.network.parameters(), settings.learning_rate, weight_decay=1e-3)
        best, kept, every = math.inf, self.network.state_dict(), max(1, settings.steps // CHECKS)
        with one_thread():
            for step in range(settings.steps):
                optimizer.param_groups[0]["lr"] = (
                    settings.learning_rate * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
                )
                some = fit[torch.randint(len(fit), (min(settings.batch, len(fit)),), generator=generator)]
                loss = functional.mse_loss(self.predict(numeric_RF[some], share_RK[some]), target_R[some])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if (step + 1) % every == 0:
                    with torch.no_grad():
                        found = torch.cat([self.predict(numeric_RF[piece], share_RK[piece])
                                           for piece in valid.split(PIECE)])  # fmt: skip
                    error = float(functional.mse_loss(found, target_R[valid]))
                    if error < best:
                        best, kept = error, {key: each.clone() for key, each in self.network.state_dict().items()}
        self.network.load_state_dict(kept)
        return 1 - best / (float(target_R[valid].var(unbiased=False)) or 1.0)

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(self.facts["categories"])

    def standard(self, features_RF: np.ndarray) -> Tensor:
        """Standardised features, missing ones at the mean."""
        value_RF = (features_RF - self.overlap.mean_F) / self.overlap.scale_F
        return torch.from_numpy(np.nan_to_num(value_RF).clip(-10, 10)).float()

    def predict(self, numeric_RF: Tensor, shares_RK: Tensor) -> Tensor:
        """(R,) outcomes in standard deviations; gradients pass."""
        centre_K, scale_K = (torch.from_numpy(self.arrays[name]).float() for name in ("centre", "scale"))
        found: Tensor = self.network(numeric_RF, (shares_RK - centre_K) / scale_K)
        return found

    def wanted(self, features_UF: np.ndarray) -> np.ndarray:
        """What the policy gives each user, (U, K)."""
        return self.policy.shares(self.arrays["theta"], self.standard(features_UF).numpy())

    def shares(self, features_UF: np.ndarray) -> np.ndarray:
        """The same as far as the log has seen it."""
        return self.overlap.drawn_in(features_UF, self.wanted(features_UF), np.array(self.facts["mean"]))

    def describe(self) -> str:
        return (
            f"shares of {len(self.facts['categories'])} categories by a network of them all (R2 "
            f"{self.facts['r2']:.3f}) and a policy that keeps to what was seen, on {self.facts['rows']:,} rows"
        )

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        overlap = {f"overlap.{key}": value for key, value in self.overlap.arrays().items()}
        return {**self.arrays, **overlap}, dict(self.facts)

    @classmethod
    def restore(cls, settings: JointSettings, arrays: Arrays, facts: Mapping[str, Any]) -> Self:
        seen = {key.removeprefix("overlap."): value for key, value in arrays.items() if key.startswith("overlap.")}
        kept = {key: value for key, value in arrays.items() if not key.startswith("overlap.")}
        return cls(settings, Overlap.restore(seen), kept, facts)

    def judge(self, arrays: Arrays, resamples: int, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Against the log's mean shares, the best constant and the log's own. Nothing is resampled."""
        rows, settings = checked(self.settings, arrays), self.settings
        models = settings.outcome_model, settings.overlap
        summary, _, _ = judged(rows, self.shares, self.wanted, self.facts, *models, 0.0, seed)
        return summary, {}

    @classmethod
    def results(cls, summary: Mapping[str, Any]) -> Table | None:
        return policy_results(summary)

    @classmethod
    def panels(cls, record: Record) -> list[Panel]:
        return shown(record)
