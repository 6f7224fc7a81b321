"""All shares at once as a problem: jobs.train --problem joint_shares (funnel/problem.py: Problem).

    python -m jobs.make_data --world shares --out runs/shares
    python -m jobs.train --problem joint_shares --data runs/shares --preset thorough --out runs/joint

One network answers what a user's outcome is under a whole vector of shares; beside it a policy on the simplex is learnt
that raises this and pays for every user whose shares are less likely than the floor of what users alike were shown
[Schweisthal et al., NeurIPS 2023; models/joint_shares.py]. Per row

    (y - mu(x, t))^2  -  mu*(x, pi(x))  +  price max(0, e_g - f(pi(x) | x))

mu* with weights that the policy cannot move. The paper gives each user a Lagrange multiplier that rises while the floor
is broken; one price for all is the exact penalty, whose optimum is theirs once it is above the largest of them, and
needs no memory of users. The density is of kernels (overlap.py) in place of a normalising flow.
Shapes: B rows, N features, K categories.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from data.credentials import shown
from data.encode import numeric_values
from data.errors import UserError
from data.log import Log, Part
from data.schema import Schema
from funnel.effects.reading import known, parsed_weights
from funnel.exposure.dose_units import DoseBatch, DoseUnits
from funnel.exposure.joint_counts import AIMS, WATCHED, JointCounts
from funnel.exposure.overlap import Overlap, OverlapSettings
from funnel.exposure.policy import SMALLEST
from funnel.exposure.reading import read_shares, rows_of
from funnel.exposure.row_problem import RowProblem
from funnel.panels import Panel, Record, Table
from funnel.problem import Given, Outputs
from funnel.spaces import LogUniform, Space, named
from models.joint_dose import JointDoseConfig
from models.joint_shares import NONE, JointShares, PolicyConfig
from models.rows import EVERY_ROW, Share

LEAST_ROWS, TYPICAL_ROWS = 50, 2000
SEED = 0
"""Of what is drawn in the driver: kernels and groups of the density."""


def within_a_twentieth() -> OverlapSettings:
    return OverlapSettings(floor=0.05)


@dataclass(frozen=True)
class JointSettings:
    outcomes: tuple[str, ...] = ()
    """What is to be raised, NAME=WEIGHT; left out, the log's only outcome."""
    price: float = 5.0
    """What a policy pays for a unit of log density below the floor, in standard deviations of the outcome."""
    model: JointDoseConfig = field(default_factory=JointDoseConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    overlap: OverlapSettings = field(default_factory=within_a_twentieth)

    def __post_init__(self) -> None:
        if not 0 <= self.price < np.inf:
            raise UserError(f"price is {self.price}, must be a finite number of at least 0")


class JointModule(nn.Module):
    """models/joint_shares.py applied to a batch."""

    def __init__(self, network: JointShares) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: DoseBatch) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self.network(batch.numeric_BN, batch.dose_B)
        return found


class JointProblem(RowProblem):
    """The response to all shares, and the policy that is held to what was seen."""

    name: ClassVar[str] = "joint_shares"
    settings_type: ClassVar[type] = JointSettings
    watched: ClassVar[Mapping[str, str]] = WATCHED
    aims: ClassVar[Mapping[str, bool]] = AIMS

    @classmethod
    def prepare(
        cls, settings: JointSettings, log: Log, parts: Mapping[str, Part], roles: Collection[str] = ()
    ) -> dict[str, Any]:
        """Names, moments, knots and the density of what was shown, and "parts".

        Raises UserError: no shares, shares that do not sum to 1, one that is never shown, too few rows.
        """
        schema, where = log.schema, shown(log.location)
        counts = {}
        for name in parts:
            arrays = read_shares(log, name)
            vector = schema.treatment.vector if schema.treatment else ()
            rows = rows_of(arrays, schema.numeric, vector, settings.outcomes, f"{where}/{name}")
            counts[name] = {"rows": len(rows), "best": rows.best_RK is not None}
            if name == "train":
                train = rows
        if len(train) < LEAST_ROWS:
            raise UserError(f"{where}/train: {len(train)} rows; a network of shares needs at least {LEAST_ROWS}")
        overlap = Overlap.fit(train, settings.overlap, SEED)
        mean_K, scale_K = train.shares_RK.mean(axis=0), np.maximum(train.shares_RK.std(axis=0), 1e-9)
        some = train.take(np.arange(min(len(train), TYPICAL_ROWS)))
        density_R = overlap.log_density(overlap.group(some.features_RF), some.shares_RK)
        start_K = np.maximum(mean_K, SMALLEST)  # a category nobody saw could never be raised from 0
        return {
            "outcomes": parsed_weights(settings.outcomes) or {next(iter(schema.outcome)): 1.0},
            "mean": float(train.outcome_R.mean()),
            "std": float(train.outcome_R.std()) or 1.0,
            "share_mean": mean_K.tolist(),
            "share_std": scale_K.tolist(),
            "share_start": (start_K / start_K.sum()).tolist(),
            "knots": np.quantile((train.shares_RK - mean_K) / scale_K, [1 / 3, 2 / 3], axis=0).T.tolist(),
            "numeric_mean": overlap.mean_F.tolist(),
            "numeric_std": overlap.scale_F.tolist(),
            "centres": overlap.centre_GF.tolist(),
            "kernels": [kernels_MK.tolist() for kernels_MK in overlap.kernels],
            "width": overlap.width,
            "floor": np.nan_to_num(overlap.floor_G, neginf=NONE).tolist(),
            "density": float(np.median(density_R)),
            "parts": counts,
        }

    def __init__(
        self,
        settings: JointSettings,
        schema: Schema,
        facts: Mapping[str, Any],
        given: Mapping[str, Given] | None = None,
    ) -> None:
        assert schema.treatment is not None
        self.settings, self.schema, self.facts = settings, schema, facts
        self.categories = tuple(schema.treatment.vector)
        self.weights: Mapping[str, float] = facts["outcomes"]
        outcomes = [schema.outcome[name] for name in self.weights]
        self.columns = list(dict.fromkeys([*schema.numeric, *self.categories, *outcomes]))

    def describe(self) -> str:
        return (
            f"the response of {', '.join(self.weights)} to the shares of {len(self.categories)} categories at once, "
            "and a policy that keeps to what was seen"
        )

    def empty(self) -> DoseUnits:
        none_RN: np.ndarray = np.empty((0, len(self.schema.numeric)), np.float32)
        return DoseUnits(none_RN, np.empty((0, len(self.categories)), np.float32), np.empty(0, np.float32))

    def encode(self, table: pa.Table) -> DoseUnits:
        outcome_R = sum(weight * known(table, self.schema.outcome[name], "log", 0)
                        for name, weight in self.weights.items())  # fmt: skip
        scaled_R = (np.asarray(outcome_R) - self.facts["mean"]) / self.facts["std"]
        share_RK = np.stack([known(table, name, "log", 0) for name in self.categories], axis=1)
        numeric_RN = numeric_values(table, self.schema.numeric, self.schema).astype(np.float32)
        return DoseUnits(numeric_RN, share_RK.astype(np.float32), scaled_R.astype(np.float32))

    def network(self, share: Share = EVERY_ROW, seed: int = 0) -> JointModule:
        facts = self.facts
        kernels = [torch.tensor(each, dtype=torch.float64) for each in facts["kernels"]]
        sizes = len(kernels), max(len(kernel_MK) for kernel_MK in kernels)
        start_K, knot_KN = torch.tensor(facts["share_start"]), torch.tensor(facts["knots"])
        network = JointShares(len(self.schema.numeric), start_K, knot_KN, self.settings.model, self.settings.policy,
                              sizes, seed)  # fmt: skip
        for buffer, name in (
            (network.standardise.mean, "numeric_mean"),
            (network.standardise.std, "numeric_std"),
            (network.centre_K, "share_mean"),
            (network.scale_K, "share_std"),
            (network.seen.centre_GN, "centres"),
            (network.seen.floor_G, "floor"),
            (network.seen.width, "width"),
        ):
            buffer.copy_(torch.tensor(facts[name], dtype=torch.float64))
        network.seen.there_GM.zero_()
        for group, kernel_MK in enumerate(kernels):
            network.seen.kernel_GMK[group, : len(kernel_MK)] = kernel_MK / facts["width"]
            network.seen.there_GM[group, : len(kernel_MK)] = True
        return JointModule(network)

    def loss(self, outputs: Outputs, batch: DoseBatch, totals: Tensor, step: int, epoch: int = 0) -> dict[str, Tensor]:
        rows = totals[0].clamp(min=1.0).to(outputs["mu"].dtype)
        terms = {
            "outcome": (batch.outcome_B - outputs["mu"]).square().sum() / rows,
            "promised": -outputs["promised"].sum() / rows,
            "lack": self.settings.price * outputs["lack"].sum() / rows,
        }
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}

    def counts(self, log: Log, part: Part, truth: bool = False) -> JointCounts:
        facts = self.facts
        best = bool(facts["parts"].get(part.name, {}).get("best")) and truth
        return JointCounts(facts["mean"], facts["std"], facts["width"], facts["density"],
                           torch.tensor(facts["share_start"]), self.categories, best)  # fmt: skip

    def shares(self, network: JointModule, features_UF: np.ndarray) -> np.ndarray:
        """What each user is given, (U, K) float64 that sums to 1."""
        numeric_UN = torch.from_numpy(features_UF.astype(np.float32))
        with torch.inference_mode():
            share_UK = torch.cat([network.network.shares(piece) for piece in numeric_UN.split(8192)]).double().numpy()
        return np.asarray(share_UK / share_UK.sum(axis=1, keepdims=True))

    @classmethod
    def results(cls, summary: Mapping[str, Any]) -> Table:
        names = {
            "rows": "rows",
            "mse": "squared error of the outcome",
            "r2": "part of the outcome's variance that is predicted",
            "policy.model": "outcome under the policy, by the network",
            "policy.value": "the same, doubly robust",
            "mean.value": "outcome under the log's mean shares, doubly robust",
            "policy.effective": "rows that the policy's correction comes to",
            "policy.drawn_in": "part of the users whose shares are drawn in",
            "policy.l1": "L1 distance from the best shares",
            "policy.mtse": "squared distance from the best shares (MTSE)",
            "mean.mtse": "MTSE of the log's mean shares",
        }
        rows = [(name, summary[key]) for key, name in names.items() if key in summary]
        if "gain" in summary:
            told = "{:+.4f} ({:+.4f} to {:+.4f})".format(*(summary[f"gain{end}"] for end in ("", ".low", ".high")))
            rows.append(("gain over the log's mean shares, doubly robust, 95% interval", told))
        return Table(f"{summary.get('part', 'test')} part", ("figure", "value"), tuple(rows))

    @classmethod
    def panels(cls, record: Record) -> list[Panel]:
        found: list[Panel] = [cls.results(record.summary)] if record.summary else []
        curves = record.files.get("evaluation") or {}
        curves = curves.get("curves") or curves
        if curves.get("given"):
            rows = tuple((name, f"{given:.3f}", f"{mean:.3f}") for name, given, mean in
                         zip(curves["categories"], curves["given"], curves["mean"], strict=True))  # fmt: skip
            found.append(Table("Mean shares", ("category", "policy", "log"), rows))
        return [*found, *cls.course(record)]


def default() -> dict[str, Any]:
    """The defaults of every setting."""
    return {}


def thorough() -> dict[str, Any]:
    """Twenty passes in small batches, as far as the network goes on 40,000 rows."""
    return {
        "optimizer.learning_rate": 4e-3,
        "optimizer.weight_decay": 1e-3,
        "batch_size": 512,
        "epochs": 20,
        "patience": 0,
    }


def rates() -> Space:
    """The learning rate, and what a policy pays below the floor."""
    return {"optimizer.learning_rate": LogUniform(3e-4, 3e-2), "price": LogUniform(0.1, 10.0)}


JointProblem.presets, JointProblem.spaces = named(default, thorough), named(rates)
