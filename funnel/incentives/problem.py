"""DragonNet and CFR as problems (funnel/problem.py: Problem): networks of outcomes under several arms.

    python -m jobs.train --problem dragonnet --data runs/rewards --out runs/dragon
    python -m jobs.train --problem cfr --data runs/rewards --out runs/cfr --balance 1

A row is a user who got an arm; the log's schema names 'treatment' (with an 'arm') and 'outcome'. The effect of arm a on
a user is the difference of two heads. Outcomes are standardised by the train part. Losses sum up over workers.
Shapes: B rows, N features, A arms, Z width.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from data.credentials import shown
from data.encode import numeric_moments, numeric_values
from data.errors import UserError
from data.log import Log, Part
from data.schema import Schema
from funnel.effects.reading import check_schema, known, outcome_of, parsed_weights, read_part
from funnel.incentives.treated_units import EffectCounts, TreatedBatch, TreatedUnits
from funnel.panels import Curve, Panel, Record, Series, Table
from funnel.problem import Given, Outputs
from funnel.spaces import LogUniform, Presets, Space, Spaces, named
from models.dragonnet import DragonNet, DragonNetConfig
from models.objectives.treatment import (
    distance_share,
    squared_errors,
    sums_by_arm,
    targeted,
    treatment_error,
)
from models.rows import EVERY_ROW, Share

AIMS = {"outcome.rmse": True, "auuc": False}
WATCHED = {"outcome.rmse": "error of the outcome", "auuc": "AUUC"}


@dataclass(frozen=True)
class TreatedSettings:
    outcomes: tuple[str, ...] = ()
    """Outcomes of the log with their weights, NAME=WEIGHT; none: the first one."""
    arms: int = 0
    """How many there are; 0: those of the train part."""

    def __post_init__(self) -> None:
        parsed_weights(self.outcomes, "outcomes")
        if self.arms < 0 or self.arms == 1:
            raise UserError(f"arms is {self.arms}, must be 0 or at least 2")


@dataclass(frozen=True)
class DragonNetSettings(TreatedSettings):
    alpha: float = 1.0
    """Weight of the cross-entropy of the propensities."""
    beta: float = 1.0
    """Weight of the targeted regularisation."""
    model: DragonNetConfig = field(default_factory=DragonNetConfig)


@dataclass(frozen=True)
class CFRSettings(TreatedSettings):
    balance: float = 1.0
    """Weight of the distance between the arms' representations; 0: TARNet."""
    model: DragonNetConfig = field(default_factory=lambda: DragonNetConfig(propensity=False, normalise=True))


class TreatedNetwork(nn.Module):
    """models/dragonnet.py applied to a batch."""

    def __init__(self, network: DragonNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: TreatedBatch) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self.network(batch.numeric_BN)
        return found


class DragonNetProblem:
    """models/objectives/treatment.py: dragonnet."""

    name: ClassVar[str] = "dragonnet"
    settings_type: ClassVar[type] = DragonNetSettings
    units: ClassVar[str] = "rows"
    roles: ClassVar[Mapping[str, str]] = {}
    watched: ClassVar[Mapping[str, str]] = WATCHED
    tools: ClassVar[Mapping[str, str]] = {}
    goal: str = "outcome.rmse"
    presets: ClassVar[Presets]
    spaces: ClassVar[Spaces]

    @classmethod
    def prepare(cls, settings: Any, log: Log, parts: Mapping[str, Part], roles: Collection[str] = ()) -> dict[str, Any]:
        """{"arms", "outcomes", "outcome_mean", "outcome_std", "numeric_mean", "numeric_std", "parts"}.

        Raises UserError: no treatment or outcome in the schema, an arm that nobody got, an outcome that never varies.
        """
        check_schema(log)
        where = shown(log.location)
        treatment = log.schema.treatment
        if treatment is None or not treatment.arm:
            raise UserError(f"{where}/schema.json: names no 'arm' under 'treatment'")
        weights = parsed_weights(settings.outcomes, "outcomes") or {next(iter(log.schema.outcome)): 1.0}
        counts: dict[str, Any] = {}
        mean = std = 0.0
        arms = settings.arms
        for name in parts:
            arrays = read_part(log, name)
            outcome_R = outcome_of(arrays, weights, f"{where}: ")
            if name == "train":
                arms = arms or int(arrays["arm"].max()) + 1
                got_A = np.bincount(arrays["arm"], minlength=arms)
                if arms < 2 or not got_A[:arms].all():
                    nobody = int(np.argmin(got_A[:arms])) if arms >= 2 else 1
                    raise UserError(f"{where}/train: arm {nobody}: nobody got it, so its effect cannot be learnt")
                mean, std = float(outcome_R.mean()), float(outcome_R.std())
                if not std > 0:
                    raise UserError(f"{where}/train: the outcome is {mean:g} in all rows")
            if arrays["arm"].max() >= arms:
                raise UserError(f"{where}/{name}: arm {arrays['arm'].max()}, but there are {arms} arms")
            counts[name] = {"rows": len(outcome_R), "arms": np.bincount(arrays["arm"], minlength=arms).tolist()}
        mean_N, std_N = numeric_moments(log, parts["train"])
        return {
            "arms": arms,
            "outcomes": weights,
            "outcome_mean": mean,
            "outcome_std": std,
            "numeric_mean": mean_N.tolist(),
            "numeric_std": std_N.tolist(),
            "parts": counts,
        }

    def __init__(
        self, settings: Any, schema: Schema, facts: Mapping[str, Any], given: Mapping[str, Given] | None = None
    ) -> None:
        assert schema.treatment is not None
        assert schema.treatment.arm is not None
        self.settings, self.schema, self.facts = settings, schema, facts
        self.arm, self.arms = schema.treatment.arm, int(facts["arms"])
        self.weights: Mapping[str, float] = facts["outcomes"]
        outcomes = [schema.outcome[name] for name in self.weights]
        self.columns = list(dict.fromkeys([*schema.numeric, self.arm, *outcomes]))

    def describe(self) -> str:
        return f"{self.name} of {self.arms} arms on {len(self.schema.numeric)} features"

    def empty(self) -> TreatedUnits:
        none_RN: np.ndarray = np.empty((0, len(self.schema.numeric)), np.float32)
        return TreatedUnits(none_RN, np.empty(0, np.int64), np.empty(0, np.float32))

    def sizes(self, log: Log, part: Part) -> tuple[int, ...]:
        return tuple(rows for file in part.files for rows in file.row_groups)

    def encode(self, table: pa.Table) -> TreatedUnits:
        y_R = sum(weight * known(table, self.schema.outcome[name], "log", 0) for name, weight in self.weights.items())
        scaled_R = (np.asarray(y_R) - self.facts["outcome_mean"]) / self.facts["outcome_std"]
        x_RN = numeric_values(table, self.schema.numeric, self.schema).astype(np.float32)
        arm_R = known(table, self.arm, "log", 0).astype(np.int64)
        return TreatedUnits(x_RN, arm_R, scaled_R.astype(np.float32))

    def network(self, share: Share = EVERY_ROW, seed: int = 0) -> TreatedNetwork:
        network = DragonNet(self.settings.model, len(self.schema.numeric), self.arms, seed)
        std_N = torch.tensor(self.facts["numeric_std"])
        network.mean_N.copy_(torch.tensor(self.facts["numeric_mean"]))
        network.std_N.copy_(torch.where(std_N > 0, std_N, torch.ones_like(std_N)))
        return TreatedNetwork(network)

    def complete(self, batch: TreatedBatch) -> TreatedBatch:
        return batch

    def totals(self, outputs: Outputs, batch: TreatedBatch) -> Tensor:
        """(1,): rows."""
        return torch.tensor([float(len(batch))], dtype=torch.float64, device=batch.arm_B.device)

    def loss(
        self, outputs: Outputs, batch: TreatedBatch, totals: Tensor, step: int, epoch: int = 0
    ) -> dict[str, Tensor]:
        settings, rows = self.settings, totals[0].clamp(min=1e-12)
        outcome_BA, arm_B, y_B = outputs["outcome"], batch.arm_B, batch.outcome_B
        found = {"factual": squared_errors(outcome_BA, arm_B, y_B).sum() / rows}
        loss = found["factual"]
        if "propensity" in outputs:
            logit_BA = outputs["propensity"]
            found["treatment"] = treatment_error(logit_BA, arm_B).sum() / rows
            found["targeted"] = targeted(outcome_BA, logit_BA, outputs["epsilon"], arm_B, y_B).sum() / rows
            loss = loss + settings.alpha * found["treatment"] + settings.beta * found["targeted"]
        return {"loss": loss + 0.0 * outcome_BA.sum() + 0.0 * outputs["epsilon"].sum(), **found}

    def counts(self, log: Log, part: Part, truth: bool = False) -> EffectCounts:
        return EffectCounts(self.arms, self.facts["outcome_std"])

    def effects(self, network: nn.Module, x_RN: np.ndarray) -> np.ndarray:
        """What each arm brings against arm 0 in units of the outcome, (R, A)."""
        units = TreatedUnits(x_RN.astype(np.float32), np.zeros(len(x_RN), np.int64), np.zeros(len(x_RN), np.float32))
        with torch.inference_mode():
            outcome_RA = network(units.batch())["outcome"].double().numpy() * self.facts["outcome_std"]
        return np.asarray(outcome_RA - outcome_RA[:, :1])

    def representation(self, network: nn.Module, x_RN: np.ndarray) -> np.ndarray:
        """What the network sees in users, (R, Z): funnel/incentives/deep_clusters.py groups them by it."""
        units = TreatedUnits(x_RN.astype(np.float32), np.zeros(len(x_RN), np.int64), np.zeros(len(x_RN), np.float32))
        with torch.inference_mode():
            return np.asarray(network(units.batch())["representation"].numpy())

    def smaller_is_better(self, figure: str) -> bool:
        if figure not in AIMS:
            raise UserError(f"stop_metric {figure!r}: want one of {', '.join(AIMS)}")
        return AIMS[figure]

    @classmethod
    def results(cls, summary: Mapping[str, Any]) -> Table:
        names = {"outcome.rmse": "error of the outcome", "outcome.ece": "calibration error over arms", "auuc": "AUUC"}
        rows = tuple((name, summary[key]) for key, name in names.items() if key in summary)
        return Table(f"{summary.get('part', 'test')} part", ("figure", "value"), rows)

    @classmethod
    def panels(cls, record: Record) -> list[Panel]:
        valid = [event for event in record.events if event.get("event") == "valid"]
        found: list[Panel] = [cls.results(record.summary)] if record.summary else []
        for key, name in WATCHED.items():
            seen = [event for event in valid if key in event]
            line = Series(record.name, [event["epoch"] for event in seen], [event[key] for event in seen])
            found.append(Curve(f"{name} by epoch, validation part", "epoch", name, (line,)))
        return found


class CFRProblem(DragonNetProblem):
    """models/objectives/treatment.py: cfr."""

    name: ClassVar[str] = "cfr"
    settings_type: ClassVar[type] = CFRSettings

    def totals(self, outputs: Outputs, batch: TreatedBatch) -> Tensor:
        """(A + A * Z,): rows and sums of the representations by arm."""
        return sums_by_arm(outputs["representation"], batch.arm_B, self.arms)

    def loss(
        self, outputs: Outputs, batch: TreatedBatch, totals: Tensor, step: int, epoch: int = 0
    ) -> dict[str, Tensor]:
        z_BZ, arm_B = outputs["representation"], batch.arm_B
        count_A = totals[: self.arms]
        # Each arm counts alike: a row of arm t has the weight 1 / (A n_t), which is n / (A n_t) over n.
        there = (count_A > 0).sum().clamp(min=1)
        weight_B = (1 / (there * count_A.clamp(min=1)))[arm_B].to(z_BZ.dtype)
        factual = (weight_B * squared_errors(outputs["outcome"], arm_B, batch.outcome_B)).sum()
        share, distance = distance_share(z_BZ, arm_B, totals, self.arms)
        loss = factual + self.settings.balance * share
        # `share` has the gradient of the distance; the distance itself is shown.
        return {"loss": loss + 0.0 * outputs["outcome"].sum(), "factual": factual, "distance": distance.to(z_BZ.dtype)}


def default() -> dict[str, Any]:
    """The defaults of every setting."""
    return {}


def rates() -> Space:
    """Learning rate of the network."""
    return {"optimizer.learning_rate": LogUniform(1e-4, 1e-2)}


DragonNetProblem.presets, DragonNetProblem.spaces = named(default), named(rates)
