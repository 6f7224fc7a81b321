"""Responses to one dose as problems: jobs.train --problem vcnet, --problem drnet (funnel/problem.py: Problem).

    python -m jobs.make_data --world dose --out runs/dose
    python -m jobs.train --problem vcnet --data runs/dose --out runs/vcnet
    python -m jobs.train --problem drnet --data runs/dose --out runs/drnet --targeted 1
    python -m jobs.train --problem vcnet --data runs/shares --dose game --group age --out runs/game

The dose is a column that the schema names under 'treatment', one of several shares if need be. Doses and outcomes are
scaled by what training saw: of a dose outside that range nothing is known, so such rows of the other parts are refused,
or left out of all figures with --beyond leave-out.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from data.credentials import shown
from data.encode import numeric_moments
from data.errors import UserError
from data.kinds import number
from data.log import Log, Part, open_parquet
from data.schema import Schema
from funnel.exposure.dose_counts import AIMS, DOSES, WATCHED, DoseCounts
from funnel.exposure.dose_units import BEYOND, DoseBatch, DoseUnits
from funnel.exposure.logs import AVERAGE
from funnel.exposure.row_problem import RowProblem
from funnel.panels import Curve as CurvePanel
from funnel.panels import Panel, Record, Series, Table
from funnel.problem import Given, Outputs
from funnel.spaces import LogUniform, Space, named
from models.dose_response import dose_response
from models.objectives.dose_response import dose_terms
from models.rows import EVERY_ROW, Share
from models.varying_coefficient import DoseConfig, DoseNetwork, varying_coefficient


@dataclass(frozen=True)
class DoseSettings:
    dose: str = ""
    """Column of the dose, one of those under 'treatment'; left out, the only one."""
    outcome: str = ""
    """Which of the schema's outcomes; left out, the only one."""
    alpha: float = 0.5
    """Weight of the log density of the dose."""
    targeted: float = 0.0
    """Weight of targeted regularisation; 0: without."""
    scale_outcome: bool = True
    """Learn the outcome in standard deviations from its mean; without, as it is."""
    beyond: Literal["refuse", "leave-out"] = "refuse"
    """What is done with rows of the other parts whose dose the train part has not seen."""
    group: str = ""
    """Numeric feature by whose terciles curves are shown for users apart; left out, for everybody."""
    model: DoseConfig = field(default_factory=DoseConfig)

    def __post_init__(self) -> None:
        if self.beyond not in ("refuse", "leave-out"):
            raise UserError(f"beyond is {self.beyond!r}, must be refuse or leave-out")
        for name in ("alpha", "targeted"):
            if not 0 <= getattr(self, name) < np.inf:
                raise UserError(f"{name} is {getattr(self, name)}, must be a finite number of at least 0")


class DoseModule(nn.Module):
    """A dose network applied to a batch; in evaluation it also gives each row's curve, (B, D)."""

    def __init__(self, network: DoseNetwork, targeted: bool) -> None:
        super().__init__()
        self.network, self.targeted = network, targeted

    def forward(self, batch: DoseBatch) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self.network(batch.numeric_BN, batch.dose_B.clamp(0, 1))
        if self.training:
            return found
        grid_D = torch.linspace(0, 1, DOSES, device=batch.dose_B.device)
        pieces = [self.network.curve(rows, grid_D, self.targeted) for rows in batch.numeric_BN.split(512)]
        curve_BD = torch.cat(pieces) if pieces else batch.numeric_BN.new_zeros(0, DOSES)
        return {**found, "curve": curve_BD}


class VCNet(RowProblem):
    """The varying-coefficient network."""

    name: ClassVar[str] = "vcnet"
    settings_type: ClassVar[type] = DoseSettings
    watched: ClassVar[Mapping[str, str]] = WATCHED
    aims: ClassVar[Mapping[str, bool]] = AIMS
    make = staticmethod(varying_coefficient)

    @classmethod
    def prepare(
        cls, settings: DoseSettings, log: Log, parts: Mapping[str, Part], roles: Collection[str] = ()
    ) -> dict[str, Any]:
        """Columns, their ranges and moments, edges of the groups, and "parts".

        Raises UserError: no such columns, a dose that never varies, one outside the range that training saw.
        """
        schema, where = log.schema, shown(log.location)
        dose, outcome = columns_of(settings, schema, f"{where}/schema.json")
        found: dict[str, np.ndarray] = {}
        for name, part in parts.items():
            tables = [log.read_row_group(file, index, [dose, outcome]) for file, index in part.row_groups()]
            for column in (dose, outcome):
                value_R = np.concatenate([number(table, column).astype(np.float64) for table in tables])
                if (bad := ~np.isfinite(value_R)).any():
                    row = int(np.argmax(bad))
                    raise UserError(f"{where}/{name}: column {column!r} is {value_R[row]} in row {row}; want a number")
                found[f"{name}.{column}"] = value_R
        dose_R, outcome_R = found[f"train.{dose}"], found[f"train.{outcome}"]
        low, high = float(dose_R.min()), float(dose_R.max())
        if low == high:
            raise UserError(f"{where}/train: dose {dose!r} is {low:g} in all rows: it has no effect to learn")
        left_out = {}
        for name in parts:
            other_R, slack = found[f"{name}.{dose}"], BEYOND * (high - low)
            beyond = (other_R < low - slack) | (other_R > high + slack)
            left_out[name] = int(beyond.sum())
            if beyond.all():
                raise UserError(f"{where}/{name}: no dose {dose!r} is within the {low:g} to {high:g} of the train part")
            if beyond.any() and settings.beyond == "refuse":
                row = int(np.argmax(beyond))
                raise UserError(
                    f"{where}/{name}: dose {dose!r} is {other_R[row]:g} in row {row} ({int(beyond.sum())} in all), "
                    f"outside the {low:g} to {high:g} that the train part has seen; --beyond leave-out "
                    "goes on without such rows"
                )
        mean_N, std_N = numeric_moments(log, parts["train"])
        with open_parquet(log.filesystem, parts["train"].files[0].path) as file:
            known = AVERAGE in file.schema_arrow.names and AVERAGE not in schema.all_columns
        return {
            "dose": dose,
            "outcome": outcome,
            "low": low,
            "high": high,
            "mean": float(outcome_R.mean()) if settings.scale_outcome else 0.0,
            "std": (float(outcome_R.std()) or 1.0) if settings.scale_outcome else 1.0,
            "average": AVERAGE if known else "",
            "edges": group_edges(settings, log, parts["train"], where),
            "numeric_mean": mean_N.tolist(),
            "numeric_std": std_N.tolist(),
            "parts": {name: {"rows": len(found[f"{name}.{dose}"]), "left_out": left_out[name]} for name in parts},
        }

    def __init__(
        self,
        settings: DoseSettings,
        schema: Schema,
        facts: Mapping[str, Any],
        given: Mapping[str, Given] | None = None,
    ) -> None:
        self.settings, self.schema, self.facts = settings, schema, facts
        self.dose, self.outcome = str(facts["dose"]), str(facts["outcome"])
        self.columns = [*schema.numeric, self.dose, self.outcome]

    def describe(self) -> str:
        targeted = " with targeted regularisation" if self.settings.targeted else ""
        left_out = sum(part.get("left_out", 0) for part in self.facts["parts"].values())
        without = f", without {left_out} rows whose dose the train part has not seen" if left_out else ""
        return f"{self.name}{targeted}: the response of {self.outcome!r} to {self.dose!r}{without}"

    def empty(self) -> DoseUnits:
        none: np.ndarray = np.empty(0, np.float32)
        return DoseUnits(np.empty((0, len(self.schema.numeric)), np.float32), none, none)

    def encode(self, table: pa.Table) -> DoseUnits:
        facts = self.facts
        numeric = [number(table, name).astype(np.float32) for name in self.schema.numeric]
        dose_R = (number(table, self.dose).astype(np.float64) - facts["low"]) / (facts["high"] - facts["low"])
        outcome_R = (number(table, self.outcome).astype(np.float64) - facts["mean"]) / facts["std"]
        numeric_RN = np.ascontiguousarray(np.stack(numeric, axis=1))
        return DoseUnits(numeric_RN, dose_R.astype(np.float32), outcome_R.astype(np.float32))

    def network(self, share: Share = EVERY_ROW, seed: int = 0) -> DoseModule:
        network = type(self).make(len(self.schema.numeric), self.settings.model, seed)
        if self.settings.model.standardise:
            network.standardise.mean.copy_(torch.tensor(self.facts["numeric_mean"], dtype=torch.float64))
            network.standardise.std.copy_(torch.tensor(self.facts["numeric_std"], dtype=torch.float64))
        network.targeted.requires_grad_(self.settings.targeted > 0)
        return DoseModule(network, self.settings.targeted > 0)

    def loss(self, outputs: Outputs, batch: DoseBatch, totals: Tensor, step: int, epoch: int = 0) -> dict[str, Tensor]:
        rows = totals[0].clamp(min=1.0).to(outputs["mu"].dtype)
        terms = dose_terms(outputs, batch.outcome_B, self.settings.alpha, self.settings.targeted)
        means = {name: term_B.sum() / rows for name, term_B in terms.items()}
        return {"loss": torch.stack(list(means.values())).sum(), **means}

    def counts(self, log: Log, part: Part, truth: bool = False) -> DoseCounts:
        facts = self.facts
        group = self.settings.group
        return DoseCounts(
            facts["std"], facts["mean"], facts["low"], facts["high"], facts["average"], group, facts["edges"]
        )

    @classmethod
    def results(cls, summary: Mapping[str, Any]) -> Table:
        names = {
            "rows": "rows",
            "left_out": "rows left out, whose dose training has not seen",
            "mse": "squared error of the outcome",
            "log_density": "mean log density of the dose",
            "amse": "AMSE, the average curve's squared error",
        }
        rows = tuple((name, summary[key]) for key, name in names.items() if key in summary)
        return Table(f"{summary.get('part', 'test')} part", ("figure", "value"), rows)

    @classmethod
    def panels(cls, record: Record) -> list[Panel]:
        found: list[Panel] = [cls.results(record.summary)] if record.summary else []
        curves = record.files.get("evaluation") or {}
        curves = curves.get("curves") or curves
        lines = []
        for each in curves.get("groups") or []:
            kept = [k for k, low in enumerate(each["low"]) if low is not None]
            x, y, low, high = (
                [values[k] for k in kept] for values in (curves["dose"], each["y"], each["low"], each["high"])
            )
            lines.append(Series(f"{each['name']} ({each['rows']:,} rows)", x, y, low, high))
        if lines:
            note = "If all of the group had the dose; 95% intervals. Doses that nobody of it had are left out."
            found.append(CurvePanel("Average response by dose", "dose", "outcome", tuple(lines), note))
        return [*found, *cls.course(record)]


class DRNet(VCNet):
    """The network with a head for each block of doses."""

    name: ClassVar[str] = "drnet"
    make = staticmethod(dose_response)


def columns_of(settings: DoseSettings, schema: Schema, where: str) -> tuple[str, str]:
    """(dose, outcome) columns. Raises UserError where they are not clear."""
    vector = schema.treatment.vector if schema.treatment else ()
    if not vector:
        raise UserError(f"{where}: names no dose; it stands under 'treatment' as \"vector\": [column]")
    dose = settings.dose or (vector[0] if len(vector) == 1 else "")
    if dose not in vector:
        raise UserError(f"--dose {settings.dose or 'COLUMN'}: want one of {', '.join(vector)}")
    outcome = settings.outcome or (next(iter(schema.outcome)) if len(schema.outcome) == 1 else "")
    if outcome not in schema.outcome:
        raise UserError(f"--outcome {settings.outcome or 'NAME'}: want one of {', '.join(schema.outcome) or 'none'}")
    if not schema.numeric:
        raise UserError(f"{where}: has no numeric features, by which responses could differ")
    return dose, schema.outcome[outcome]


def group_edges(settings: DoseSettings, log: Log, part: Part, where: str) -> list[float]:
    """Terciles of the feature that makes the groups."""
    if not settings.group:
        return []
    if settings.group not in log.schema.numeric:
        raise UserError(f"--group {settings.group}: {where} has the numeric features {', '.join(log.schema.numeric)}")
    tables = [log.read_row_group(file, index, [settings.group]) for file, index in part.row_groups()]
    value_R = np.concatenate([number(table, settings.group).astype(np.float64) for table in tables])
    edges = np.unique(np.nanquantile(value_R, [1 / 3, 2 / 3]))
    return [float(edge) for edge in edges if edge < np.nanmax(value_R)]


def default() -> dict[str, Any]:
    """The defaults of every setting."""
    return {}


def published() -> dict[str, Any]:
    """VCNet's published settings for its simulation: raw features and outcomes, SGD with momentum, whole batches. (Of
    IHDP its rate is 0.001.)"""
    return {
        "optimizer.dense": "sgd",
        "optimizer.learning_rate": 1e-4,
        "optimizer.weight_decay": 5e-3,
        "optimizer.schedule": "constant",
        "batch_size": 500,
        "epochs": 40,
        "patience": 0,
        "scale_outcome": False,
        "model.standardise": False,
    }


def published_drnet() -> dict[str, Any]:
    """DRNet's, as published beside VCNet. (Of IHDP its rate is 0.02; alpha is 0.5 with targeted regularisation.)"""
    return {**published(), "optimizer.learning_rate": 0.05, "alpha": 1.0, "model.targeted_rate": 0.002}


def rates() -> Space:
    """The learning rate and the weight of the density."""
    return {"optimizer.learning_rate": LogUniform(3e-4, 3e-2), "alpha": LogUniform(0.05, 2.0)}


VCNet.presets, VCNet.spaces = named(default, published), named(rates)
DRNet.presets = {**named(default), "published": published_drnet}
