"""Effects of incentives, fitted on a log and judged on its randomised rows (funnel/fitted.py: Fitted).

    python -m jobs.make_data --world incentives --rows 200000 --out runs/rewards
    python -m jobs.fit --system incentives --data runs/rewards --out runs/effects
    python -m jobs.fit --system incentives --data runs/rewards --out runs/x --learner x

`dml` is one model over the treatment vector; t, s, x and dr have a model an arm. What is learnt is spent under a budget
(allocation.py), per user and per cluster of users, and judged by IPS, SNIPS and DR on rows whose arm was drawn evenly.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np

from data.credentials import shown
from data.errors import UserError
from data.log import Log
from funnel.effects.dml import VectorEffects, check_features, fit_dml
from funnel.effects.gram import sums
from funnel.effects.learners import ArmEffects, LearnerSettings, fit_learner
from funnel.effects.nuisances import propensities, propensity_model
from funnel.effects.overlap import check_arms, overlap
from funnel.effects.reading import check_even, check_free, outcome_of, parsed_weights, read_part, strategies_of
from funnel.effects.rows import TreatedRows
from funnel.fitted import Arrays, Map, here
from funnel.incentives.aims import Limited, OutcomeLevels, effects_of, limited, limits_of
from funnel.incentives.effect_settings import EffectSettings
from funnel.panels import Panel, Record, Table

OWN, LEVEL = "own:", "level."
"""Before the names of arrays of the model of their own, and of those of outcomes that are held."""


def treated(settings: EffectSettings, arrays: Arrays) -> TreatedRows:
    """Arrays of a part as rows of the weighted outcome. Raises UserError for arms and outcomes that are not there."""
    if "arm" not in arrays:
        raise UserError("the log's schema names no 'arm' under 'treatment': incentives choose among arms")
    outcome_R = outcome_of(arrays, parsed_weights(settings.outcomes), "outcomes: ")
    return TreatedRows(
        x_RF=arrays["x"],
        outcome_R=outcome_R,
        arm_R=arrays["arm"],
        arms_AT=strategies_of(arrays),
        cluster_R=arrays.get("user", np.empty(0, np.int64)),
    )


class IncentiveEffects:
    """Fitted effects of strategies, and what they cost whom."""

    name: ClassVar[str] = "incentives"
    settings_type: ClassVar[type] = EffectSettings

    def __init__(
        self,
        settings: EffectSettings,
        model: VectorEffects | ArmEffects,
        arms_AT: np.ndarray,
        facts: Mapping[str, Any],
        own: VectorEffects | ArmEffects | None = None,
        levels: Mapping[str, OutcomeLevels] | None = None,
    ) -> None:
        self.settings, self.model, self.arms_AT, self.facts, self.own = settings, model, arms_AT, facts, own
        self.levels, self.aims = levels or {}, limits_of(settings)

    @classmethod
    def read(cls, settings: EffectSettings, log: Log, part: str) -> dict[str, np.ndarray]:
        arrays = read_part(log, part)
        outcome_of(arrays, parsed_weights(settings.outcomes), "outcomes: ")
        for limit in limits_of(settings):
            outcome_of(arrays, {limit.outcome: 1.0}, f"{limit.text}: ")
        if "arm" not in arrays:
            raise UserError(f"{shown(log.location)}/schema.json: names no 'arm' under 'treatment': incentives choose "
                            "among arms")  # fmt: skip
        if part == "train":  # others may lack an arm: they teach nothing
            strategies_of(arrays, f"{shown(log.location)}/{part}: ")
            check_free(arrays, f"{shown(log.location)}/{part}: ")
            treated(settings, arrays).check(part)
        return arrays

    @classmethod
    def check(cls, settings: EffectSettings, train: Arrays, judging: Arrays, where: str) -> None:
        """What needs more than one row at a time: arms, costs against the budget, rows that can judge."""
        schema = f"{where}/schema.json: names no"
        for key, why in (("cost", "a budget needs what each arm costs"), ("propensity", "nothing judges without it")):
            if key not in train:
                raise UserError(f"{schema} {key!r} under 'treatment': {why}")
        arms = len(strategies_of(train))
        if arms < 2:
            raise UserError(f"{where}/train: arm 0 is the only one; effects need at least two arms")
        check_budget(settings, cost_facts(train), train["x"])
        check_features(settings.dml, train["x"].shape[1])
        check_own(settings, train["x"].shape[1])
        rows_to_fit(settings, train)
        if settings.propensities == "logged":
            check_even(train, f"{where}/train")
        if "randomised" in judging and not judging["randomised"].any():
            raise UserError(f"{where}: no row of the judging part is randomised")
        if judging["arm"].max() >= arms:
            row = int(np.argmax(judging["arm"] >= arms))
            raise UserError(f"{where}: row {row} of the judging part has an arm {judging['arm'][row]} that nobody got "
                            "in train")  # fmt: skip

    @classmethod
    def fit(cls, settings: EffectSettings, arrays: Arrays, seed: int, map: Map = here) -> Self:
        arms_AT = strategies_of(arrays)
        kept_N = rows_to_fit(settings, arrays)
        rows = treated(settings, {key: value[kept_N] for key, value in arrays.items()}).check()
        if len(rows.arms_AT) < len(arms_AT):
            raise UserError(f"the randomised rows have {len(rows.arms_AT)} arms of {len(arms_AT)}: the others were "
                            "given to nobody there")  # fmt: skip
        costs = {"cost": cost_facts(arrays)}
        check_budget(settings, costs["cost"], rows.x_RF)
        share_A = np.bincount(rows.arm_R, minlength=rows.arms) / len(rows)
        if settings.propensities == "logged":
            # Drawn evenly among all arms, where the rows do not say among which.
            even_RA = np.full((len(rows), rows.arms), 1 / rows.arms)
            rows = replace(rows, propensity_RA=arrays["shares"][kept_N] if "shares" in arrays else even_RA)
        model = fit_effects(settings, rows, seed, map)
        report, own = balance(settings, rows, seed), own_model(settings, rows, seed, map)
        facts = {
            "own": own is not None,
            "rows": len(rows),
            "arms": arms_AT.tolist(),
            "share_of_arm": share_A.tolist(),
            **report,
        }
        levels = {}
        for name in dict.fromkeys(limit.outcome for limit in limits_of(settings)):
            alone = replace(rows, outcome_R=outcome_of(arrays, {name: 1.0})[kept_N])
            levels[name] = OutcomeLevels.fit(fit_effects(settings, alone, seed, map), alone)
        return cls(settings, model, arms_AT, facts | costs, own, levels)

    def effects(self, x_RF: np.ndarray) -> np.ndarray:
        """What each arm brings against the cheapest one, (R, A)."""
        found_RA = effects_of(self.model, x_RF, self.arms_AT)
        if self.own is not None and len(x_RF):
            own_N = np.flatnonzero(x_RF[:, self.settings.own] > 0.5)
            found_RA[own_N] = effects_of(self.own, x_RF[own_N], self.arms_AT)
        return found_RA

    def limited(self, x_RF: np.ndarray) -> Limited | None:
        """The floors and ceilings for these users, where the settings name some."""
        return limited(self.aims, self.levels, x_RF)

    def standard_errors(self, x_RF: np.ndarray) -> np.ndarray | None:
        if isinstance(self.model, VectorEffects):
            return self.model.standard_errors(x_RF, self.arms_AT)
        return self.model.standard_errors(x_RF)

    def cost(self, x_RF: np.ndarray) -> np.ndarray:
        """What each arm costs each user, (R, A): at least 0, by a linear model of the share of the bill that is taken,
        or the arm's mean."""
        return costs_of(self.facts["cost"], x_RF)

    def describe(self) -> str:
        what = "DML over treatment vectors" if self.settings.learner == "dml" else f"{self.settings.learner}-learner"
        return f"effects of {len(self.arms_AT)} strategies by {what} on {self.facts['rows']:,} rows"

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        facts: dict[str, Any] = {**self.facts, "model": dict(self.model.facts)}
        arrays = self.model.arrays() | {"strategies": self.arms_AT}
        if self.own is not None:
            facts["own_model"] = dict(self.own.facts)
            arrays |= {f"{OWN}{key}": value for key, value in self.own.arrays().items()}
        facts |= {"levels": {name: one.facts() for name, one in self.levels.items()}} if self.levels else {}
        for name, one in self.levels.items():
            arrays |= {f"{LEVEL}{name}:{key}": value for key, value in one.model.arrays().items()}
        return arrays, facts

    @classmethod
    def restore(cls, settings: EffectSettings, arrays: Arrays, facts: Mapping[str, Any]) -> Self:
        def under(front: str) -> dict[str, np.ndarray]:
            return {key.removeprefix(front): value for key, value in arrays.items() if key.startswith(front)}

        common = {key: value for key, value in arrays.items()
                  if key != "strategies" and not key.startswith((OWN, LEVEL))}  # fmt: skip
        own, arms_AT = under(OWN), arrays["strategies"]
        kind: Any = VectorEffects if settings.learner == "dml" else ArmEffects
        second = kind.restore(own, facts["own_model"]) if own else None
        levels = {name: OutcomeLevels.restore(kind, under(f"{LEVEL}{name}:"), each, arms_AT)
                  for name, each in facts.get("levels", {}).items()}  # fmt: skip
        return cls(settings, kind.restore(common, facts["model"]), arms_AT, facts, second, levels)

    def judge(self, arrays: Arrays, resamples: int, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
        from funnel.incentives.judging import judge

        return judge(self, arrays, resamples, seed)

    @classmethod
    def results(cls, summary: Mapping[str, Any]) -> Table | None:
        from funnel.incentives.panels import results

        return results(summary)

    @classmethod
    def panels(cls, record: Record) -> list[Panel]:
        from funnel.incentives.panels import panels

        return panels(record)


def own_model(settings: EffectSettings, rows: TreatedRows, seed: int, map: Map) -> VectorEffects | ArmEffects | None:
    """The effects of users whose feature `own` is 1, from their rows alone; None where they are too few, or some arm
    was given to hardly any of them."""
    if settings.own < 0:
        return None
    check_own(settings, rows.x_RF.shape[1])
    mine = rows.take(np.flatnonzero(rows.x_RF[:, settings.own] > 0.5))
    enough = len(mine) >= settings.own_rows
    if not enough or np.bincount(mine.arm_R, minlength=rows.arms).min() < settings.arms.smallest_arm:
        return None
    return fit_effects(settings, mine, seed + 1, map)


def check_own(settings: EffectSettings, columns: int) -> None:
    if settings.own >= columns:
        raise UserError(f"own is {settings.own}, but there are {columns} numeric features")


def check_budget(settings: EffectSettings, costs: Mapping[str, Any], x_RF: np.ndarray) -> None:
    cheapest = float(costs_of(costs, x_RF).min(1).mean())
    if cheapest > settings.budget:
        raise UserError(f"budget is {settings.budget:g} a user, but the cheapest strategy of each comes to "
                        f"{cheapest:.4g}")  # fmt: skip


def costs_of(known: Mapping[str, Any], x_RF: np.ndarray) -> np.ndarray:
    """What `cost_facts` say of these users, (R, A)."""
    if known["kind"] == "mean":
        return np.tile(np.array(known["by_arm"]), (len(x_RF), 1))
    return np.asarray(claimed(known, x_RF)[:, None] * np.array(known["bill"])[None])


def claimed(known: Mapping[str, Any], x_RF: np.ndarray) -> np.ndarray:
    """Which share of a bill these users take, by `cost_facts` of kind "claims", (R,)."""
    centred_RF = np.nan_to_num(x_RF - np.array(known["mean"]))
    return np.asarray(np.clip(known["level"] + centred_RF @ np.array(known["slope"]), 0.0, known.get("most", 1.0)))


def rows_to_fit(settings: EffectSettings, arrays: Arrays) -> np.ndarray:
    if settings.fit_on == "all":
        return np.arange(len(arrays["arm"]))
    if "randomised" not in arrays:
        raise UserError("fit_on randomised: the log's schema names no 'randomised' column under 'treatment'")
    found = np.flatnonzero(arrays["randomised"])
    if not len(found):
        raise UserError("fit_on randomised: no row of the log is randomised")
    return found


def fit_effects(settings: EffectSettings, rows: TreatedRows, seed: int, map: Map) -> VectorEffects | ArmEffects:
    if settings.learner == "dml":
        check_arms(rows, 1)
        return fit_dml(rows, settings.dml, settings.nuisances, seed, map)
    return fit_learner(
        rows, LearnerSettings(learner=settings.learner, **vars(settings.arms)), settings.nuisances, seed, map
    )


def balance(settings: EffectSettings, rows: TreatedRows, seed: int) -> dict[str, Any]:
    """How much the arms' users overlap, on at most `nuisances.rows` rows."""
    kept_N = np.sort(np.random.default_rng(seed).permutation(len(rows))[: settings.nuisances.rows])
    some = rows.take(kept_N)
    if some.propensity_RA is not None:
        share_RA = some.propensity_RA
    else:
        model = propensity_model(settings.nuisances, some.x_RF, some.arm_R, some.arms, seed)
        share_RA = propensities(model, some.x_RF)
    found = overlap(some, share_RA)
    return {
        "overlap": {
            "rows": found.rows_A.tolist(),
            "smallest": found.smallest_A.tolist(),
            "rare": found.rare_A.tolist(),
            "effective": found.effective_A.tolist(),
            "worst_before": found.worst_before,
            "worst_after": found.worst_after,
        }
    }


def cost_facts(arrays: Arrays) -> dict[str, Any]:
    """How costs follow from user and arm. Strategies with amounts and numbers: a share of the bill amount * number is
    taken, linear in the features (more than 1 where the log has it: costs in another unit than amounts); others: the
    mean cost of each arm. Raises UserError for a log without costs, and where a bill of 0 costs something."""
    if "cost" not in arrays:
        raise UserError("the log's schema names no 'cost' under 'treatment': a budget needs what each arm costs")
    arm_R, cost_R = arrays["arm"], arrays["cost"]
    arms_AT = strategies_of(arrays)
    if arms_AT.shape[1] != 3 or "treatment" not in arrays:
        count_A = np.maximum(np.bincount(arm_R), 1)
        return {"kind": "mean", "by_arm": (np.bincount(arm_R, cost_R) / count_A).tolist()}
    bill_A = arms_AT[:, 0] * arms_AT[:, 2]
    check_free(arrays)
    kept_N = np.flatnonzero(bill_A[arm_R] > 0)
    x_NF = arrays["x"][kept_N].astype(np.float64)
    mean_F = np.nanmean(x_NF, 0) if len(kept_N) else np.zeros(x_NF.shape[1])

    def block(piece: slice) -> tuple[np.ndarray, np.ndarray]:
        bill_B = bill_A[arm_R[kept_N[piece]]]
        design_BF = np.column_stack([np.ones(len(bill_B)), np.nan_to_num(x_NF[piece] - mean_F)])
        return design_BF * bill_B[:, None], cost_R[kept_N[piece]]

    slope_F = sums(len(kept_N), 1 + x_NF.shape[1], block).solve(1e-6)
    return {
        "kind": "claims",
        "bill": bill_A.tolist(),
        "level": float(slope_F[0]),
        "slope": slope_F[1:].tolist(),
        "mean": mean_F.tolist(),
        "most": max(float((cost_R[kept_N] / bill_A[arm_R[kept_N]]).max(initial=0.0)), 1.0),
    }
