"""A policy on the simplex by evolution strategies: jobs.evolve --objective exposure (funnel/tunable.py: Tunable).

    python -m jobs.make_data --world shares --out runs/shares
    python -m jobs.evolve --objective exposure --data runs/shares --out runs/policy
    python -m jobs.evolve --objective exposure --data runs/shares --estimate doubly_robust --out runs/dr
    python -m jobs.evolve --objective exposure --estimate simulator --out runs/upper     # the paper's simulation itself

Half of the train part is tuned on: an outcome model is fitted on it, and the return of theta is what the model (or the
doubly robust estimate, or the simulator) says of softmax(g_theta(x)) over users drawn anew for each evaluation, the
same for both of a pair. The other half makes a second model, which judges on the users of another part: the search has
met neither. Evolution finds what is too high in a model; only another model on other rows tells.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np

from data.errors import UserError
from data.log import open_log
from funnel.exposure.figures import treatment_error
from funnel.exposure.objective import ShareObjective
from funnel.exposure.outcome import OutcomeModel, OutcomeSettings
from funnel.exposure.overlap import Overlap, OverlapSettings
from funnel.exposure.panels import policy_panels, policy_results, sentence
from funnel.exposure.policy import SharePolicy
from funnel.exposure.reading import read_shares, rows_of
from funnel.exposure.shares import ShareRows
from funnel.exposure.simulation import simulate, value
from funnel.exposure.value import Judge, compare
from funnel.panels import Panel, Record, Table
from funnel.spaces import LogUniform, Presets, Space, Spaces, named
from funnel.tunable import HeldOut

AIMS = ("model", "doubly_robust")
CANDIDATES = 512


@dataclass(frozen=True)
class ExposureTuningSettings:
    data: Path | None = None
    """The log: its schema names the shares under 'treatment' and what came of them under 'outcome'."""
    outcomes: tuple[str, ...] = ()
    """What is to be raised, NAME=WEIGHT; left out, the log's only outcome."""
    estimate: Literal["model", "doubly_robust", "simulator"] = "model"
    """What a policy is tuned on: a fitted outcome model, the same corrected by rows that were shown nearly such shares,
    or the paper's simulation itself, which no log gives (an upper bound for what can be learnt)."""
    hidden: int = 24
    """Units of the policy's network; 0: linear."""
    users: int = 1000
    """Users that an evaluation looks at."""
    smallest_size: float = 50.0
    """doubly_robust: rows that the correction should rest on; below, the policy is penalised in proportion."""
    correcting: int = 4000
    """doubly_robust: rows, at most, that correct the model; it was not fitted on them."""
    rows: int = 50_000
    """simulator: users of the simulation."""
    outcome_model: OutcomeSettings = field(default_factory=OutcomeSettings)
    overlap: OverlapSettings = field(default_factory=OverlapSettings)

    def __post_init__(self) -> None:
        for name, least in (("hidden", 0), ("users", 10), ("correcting", 10), ("rows", 1000)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least {least}")
        if self.estimate not in ("model", "doubly_robust", "simulator"):
            raise UserError(f"estimate is {self.estimate!r}, must be model, doubly_robust or simulator")
        if not 0 <= self.smallest_size < np.inf:
            raise UserError(f"smallest_size is {self.smallest_size}, must be a finite number of at least 0")


class ExposureTuning:
    """funnel/tunable.py: Tunable."""

    name: ClassVar[str] = "exposure"
    settings_type: ClassVar[type] = ExposureTuningSettings
    goal: ClassVar[str] = "model"
    presets: ClassVar[Presets]
    spaces: ClassVar[Spaces]

    def __init__(
        self, settings: ExposureTuningSettings, train: ShareRows, parts: dict[str, ShareRows], seed: int
    ) -> None:
        self.settings, self.parts, self.seed = settings, parts, seed
        order = np.random.default_rng([seed, 2]).permutation(len(train))
        tuned, second = train.take(order[: len(order) // 2]), train.take(order[len(order) // 2 :])
        self.train, self.second = train, second
        self.overlap = Overlap.fit(tuned, settings.overlap, seed)
        policy = SharePolicy.of(
            len(train.feature_names), train.categories, tuned.shares_RK.mean(axis=0), settings.hidden
        )
        on = tuned
        model = None
        if settings.estimate != "simulator":
            fitted = tuned
            if settings.estimate == "doubly_robust":  # residuals of rows that the model has not seen
                cut = 2 * len(tuned) // 3
                fitted, on = tuned.take(np.arange(cut)), tuned.take(np.arange(cut, len(tuned)))
            model = OutcomeModel.fit(fitted, settings.outcome_model, seed)
        self.objective = ShareObjective(settings.estimate, policy, on, model, self.overlap, settings.users,
                                        settings.smallest_size, seed, settings.correcting)  # fmt: skip
        self.judges: dict[str, Judge] = {}

    @classmethod
    def open(cls, settings: ExposureTuningSettings, seed: int, searching: bool = False) -> Self:
        if settings.estimate == "simulator":
            if settings.data is not None:
                raise UserError("--data goes with --estimate model or doubly_robust: the simulator makes its own users")
            rows = simulate(settings.rows, seed)
            cuts = np.split(np.arange(len(rows)), [8 * len(rows) // 10, 9 * len(rows) // 10])
            train, valid, test = (rows.take(cut) for cut in cuts)
            return cls(settings, train, {"valid": valid, "test": test}, seed)
        if settings.data is None:
            raise UserError("--data LOG is needed for exposure: shares and what came of them")
        log = open_log(settings.data)
        found = {}
        for part in ("train", "test", *(("valid",) if searching else ())):
            arrays = read_shares(log, part)
            assert log.schema.treatment is not None
            found[part] = rows_of(arrays, log.schema.numeric, log.schema.treatment.vector, settings.outcomes,
                                  f"{settings.data}/{part}")  # fmt: skip
        if len(found["train"]) < 200:
            raise UserError(f"{settings.data}/train: {len(found['train'])} rows; two outcome models need at least 200")
        return cls(settings, found.pop("train"), found, seed)

    def facts(self) -> dict[str, Any]:
        model = self.objective.model
        return {
            "rows": {"train": len(self.train)} | {name: len(rows) for name, rows in self.parts.items()},
            "categories": list(self.train.categories),
            "features": list(self.train.feature_names),
            **({"outcome_model_r2": model.r2} if model else {}),
        }

    def describe(self) -> str:
        objective = self.objective
        kind = f"a network of {self.settings.hidden} units" if self.settings.hidden else "a linear policy"
        by = {"model": "an outcome model", "doubly_robust": "doubly robust estimates", "simulator": "the simulator"}
        told = f" (R2 {objective.model.r2:.3f})" if objective.model else ""
        return (
            f"shares of {len(self.train.categories)} categories by {kind} ({objective.policy.dimension} numbers) on "
            f"{by[self.settings.estimate]}{told}, {len(objective.rows):,} users"
        )

    def policy(self, theta_D: np.ndarray) -> dict[str, Any]:
        """shares = softmax(log start + g(x)) of standardised features; refused where the log saw nothing like them."""
        objective = self.objective
        return {
            "categories": list(self.train.categories),
            "features": list(self.train.feature_names),
            "mean": objective.mean_F.tolist(),
            "scale": objective.scale_F.tolist(),
            "start": list(objective.policy.start_K),
            "activation": "tanh",
            "layers": [layer.astype(float).tolist() for layer in objective.policy.layers(theta_D)],
            "overlap": {
                "centres": self.overlap.centre_GF.tolist(),
                "width": self.overlap.width,
                "floors": [float(floor) if np.isfinite(floor) else None for floor in self.overlap.floor_G],
                "kernels": [kernels_MK.round(6).tolist() for kernels_MK in self.overlap.kernels],
            },
        }

    def judge_of(self, part: HeldOut) -> Judge:
        if part not in self.judges:
            rows, second = self.parts[part], self.second
            if self.settings.estimate == "simulator":
                self.judges[part] = Judge(rows, TrueValue(rows), self.overlap, second.shares_RK.mean(axis=0))
            else:
                model = OutcomeModel.fit(second, self.settings.outcome_model, self.seed + 1)
                overlap = Overlap.fit(second, self.settings.overlap, self.seed + 1)
                self.judges[part] = Judge(rows, model.predict, overlap, second.shares_RK.mean(axis=0))
        return self.judges[part]

    def given(self, theta_D: np.ndarray, part: HeldOut) -> np.ndarray:
        """The shares that the policy gives the users of a part: the log's mean ones where its own are refused."""
        return self.objective.given(theta_D, self.parts[part].features_RF)

    def measure(self, theta_D: np.ndarray) -> dict[str, float]:
        worth = self.judge_of("valid").worth(self.given(theta_D, "valid"))
        return {name: worth[name].value for name in AIMS}

    @classmethod
    def smaller_is_better(cls, figure: str) -> bool:
        if figure not in AIMS:
            raise UserError(f"no figure {figure!r} of exposure: want one of {', '.join(AIMS)}")
        return False

    def judge(self, theta_D: np.ndarray, resamples: int, seed: int, part: HeldOut = "test") -> dict[str, Any]:
        """The policy against the log's mean shares, the log's own and the best constant, by a model that the search has
        not met on users it has not met. Nothing is resampled."""
        rows, judge = self.parts[part], self.judge_of(part)
        users = len(rows)
        own = self.objective.shares(theta_D, rows.features_RF)
        policies = {
            "policy": own,
            "mean": np.tile(self.train.shares_RK.mean(axis=0), (users, 1)),
            "constant": np.tile(self.constant(), (users, 1)),
            "uniform": np.full((users, len(rows.categories)), 1 / len(rows.categories)),
            "logging": rows.shares_RK,
        }
        figures: dict[str, Any] = {"users": users}
        if self.objective.model is not None:
            figures["outcome_model.r2"] = self.objective.model.r2
        figures |= compare(judge, policies, "policy", ("mean", "constant", "logging"))
        if rows.best_RK is not None:
            for name, shares_RK in policies.items():
                used = self.given(theta_D, part) if name == "policy" else shares_RK
                figures[f"{name}.mtse"] = treatment_error(rows.best_RK, used)
                figures[f"{name}.l1"] = float(np.abs(used - rows.best_RK).sum(axis=1).mean())
        figures |= {f"share.{name}": float(mean) for name, mean in zip(rows.categories, own.mean(axis=0), strict=True)}
        figures["significant"] = figures["policy.over.constant.doubly_robust.low"] > 0
        return {f"exposure.{key}": found for key, found in figures.items()} | {"message": sentence(figures)}

    def constant(self) -> np.ndarray:
        """The best constant shares by what is tuned on, of the mean and some hundred logged ones."""
        objective = self.objective
        random = np.random.default_rng([self.seed, 3])
        drawn = self.train.shares_RK[random.permutation(len(self.train))[:CANDIDATES]]
        tried_CK = np.concatenate([self.train.shares_RK.mean(axis=0)[None], drawn])
        some = random.permutation(len(objective.rows))[: self.settings.users]
        worths = [objective.worth_of_constant(shares_K, some) for shares_K in tried_CK]
        return np.asarray(tried_CK[int(np.argmax(worths))])

    @classmethod
    def results(cls, summary: dict[str, Any]) -> Table | None:
        return policy_results(summary)

    @classmethod
    def panels(cls, record: Record) -> list[Panel]:
        return policy_panels(record)


@dataclass
class TrueValue:
    """The simulator's value in the place of a model."""

    rows: ShareRows

    def __call__(self, features_RF: np.ndarray, shares_RK: np.ndarray) -> np.ndarray:
        from funnel.exposure.simulation import best_shares

        return value(shares_RK, best_shares(features_RF))


def default() -> dict[str, Any]:
    """The defaults of every setting."""
    return {}


def thorough() -> dict[str, Any]:
    """Until a network's policy stands still: PGPE, which finds the size of its own perturbations, small steps, and many
    pairs on few users each. What makes a generation's direction noisy is the number of directions, hardly the users."""
    return {"algorithm": "pgpe", "learning_rate": 0.03, "pairs": 64, "generations": 1000, "users": 50}


def shape() -> Space:
    """How sure of the log a policy must be."""
    return {"overlap.floor": LogUniform(0.001, 0.2)}


ExposureTuning.presets, ExposureTuning.spaces = named(default, thorough), named(shape)
