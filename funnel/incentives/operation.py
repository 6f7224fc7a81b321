"""Incentives from day to day (funnel/operation.py: Operation), in a simulated world or on day partitions of a log.

    python -m jobs.operate --system incentives --days 30 --out runs/daily
    python -m jobs.operate --system incentives --days 30 --out runs/plain --cadence.every 1 --gate.share 0
    python -m jobs.operate --system incentives --data runs/days --out runs/daily        # days of a log
    python -m jobs.operate --system incentives --replay runs/daily/days/00012

A day: effects are refitted when it is time, users who are due get a strategy under the budget (cadence.py), monitors
say what moved (monitors.py), the decision is kept so that it can be replayed (snapshot.py), and new effects replace the
standing ones only through the gate (gate.py). In the simulated world a share of the users gets strategies at random,
which effects are learnt from; the first days are all random. Shapes: U users, N who are there, A arms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np

from data.errors import UserError
from funnel.fitted import Map
from funnel.incentives.cadence import CadenceSettings, allowed, due, start_weight
from funnel.incentives.clusters import Clusters
from funnel.incentives.effect_settings import EffectSettings, Learning
from funnel.incentives.fitted import IncentiveEffects
from funnel.incentives.gate import GateSettings, Trial
from funnel.incentives.monitors import MonitorSettings, alerts, drift, stability
from funnel.incentives.plan import per_user
from funnel.incentives.snapshot import Snapshot, decide_as_far, facts_of
from funnel.incentives.snapshot import replay as replay_snapshot
from funnel.incentives.source import LoggedDays, Morning, SimulatedDays, Source
from funnel.incentives.strategies import bill
from funnel.incentives.world import WorldSettings
from funnel.operation import Day
from funnel.panels import Panel, Record, Table
from funnel.platform.draws import key, uniforms

GROUP = 501
NOBODY = np.empty(0, np.int64)


@dataclass(frozen=True)
class OperationSettings:
    data: Path | None = None
    """A log whose parts are days, 2026-01-01 and on; left out: a simulated world."""
    budget: float = 1.0
    """Cost a user who is there, on average, of those not drawn at random."""
    by: Literal["user", "cluster"] = "user"
    """Whether every user has a strategy of his own or a cluster of users shares one."""
    refit: int = 7
    """Days between two fits of the effects."""
    window: int = 21
    """Days whose random rows are learnt from."""
    warmup: int = 4
    """Days of random strategies for everybody before the first decision."""
    explore: float = 0.1
    """Share of the users whose strategies stay random, drawn each day."""
    strategies: Literal["ladder", "grid"] = "ladder"
    """Of the simulated world; ladder: six, from nothing to eight a day; grid: 27, three levels of each number."""
    world: WorldSettings = field(default_factory=lambda: WorldSettings(users=10_000))
    effects: Learning = field(default_factory=Learning)
    cadence: CadenceSettings = field(default_factory=CadenceSettings)
    monitors: MonitorSettings = field(default_factory=MonitorSettings)
    gate: GateSettings = field(default_factory=GateSettings)

    def __post_init__(self) -> None:
        for name in ("refit", "window", "warmup"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least 1")
        if self.data is not None:
            for name in ("world", "strategies", "explore"):
                if getattr(self, name) != getattr(simulated(), name):
                    raise UserError(f"{name} has no effect with data: users, strategies and random rows are the log's")
        if not 0 < self.budget < np.inf:
            raise UserError(f"budget is {self.budget}, must be a finite number above 0")
        if not 0 < self.explore < 1:
            raise UserError(f"explore is {self.explore}, must lie between 0 and 1: effects are learnt from these users")
        if self.explore + self.gate.share >= 1:
            raise UserError("explore and gate.share leave nobody for the standing effects")


@lru_cache(maxsize=1)
def simulated() -> OperationSettings:
    """The defaults."""
    return OperationSettings()


class IncentiveOperation:
    """Effects -> allocation by cadence -> monitors -> snapshot -> gate."""

    name: ClassVar[str] = "incentives"
    settings_type: ClassVar[type] = OperationSettings

    def __init__(self, settings: OperationSettings, seed: int, source: Source) -> None:
        self.settings, self.seed, self.source = settings, seed, source
        self.standing: IncentiveEffects | None = None
        self.candidate: IncentiveEffects | None = None
        self.trial: Trial | None = None
        self.fitted_on = -1
        # The sensitive are few and respond in their own way: their effects are not those of all.
        self.effects = EffectSettings.on_random_rows(settings.effects, settings.budget, source.sensitive)
        self.history: list[dict[str, np.ndarray]] = []
        self.arm_of: dict[int, int] = {}

    @classmethod
    def open(cls, settings: OperationSettings, seed: int) -> Self:
        source: Source = (
            SimulatedDays(settings.world, settings.strategies, seed)
            if settings.data is None
            else LoggedDays(settings.data)
        )
        return cls(settings, seed, source)

    def ready(self, day: int) -> bool:
        return self.source.ready(day)

    def step(self, day: int, map: Map) -> Day:
        settings, morning = self.settings, self.source.morning(day)
        self.learn(morning.known)
        figures: dict[str, Any] = {"users": len(morning.user_N)} | ({"date": morning.date} if morning.date else {})
        if day < settings.warmup or not self.history:
            figures |= self.after(morning, np.full(len(morning.user_N), -1), np.full(len(morning.user_N), 2))
            return Day({**figures, "phase": "random"})
        figures |= self.refit(day, morning, map)
        assert self.standing is not None
        group_N = self.groups(morning.user_N)
        before_N = np.array([self.arm_of.get(user, -1) for user in morning.user_N.tolist()], np.int64)
        decided_N = group_N < 2
        due_N = due(settings.cadence, day, morning.user_N, morning.activity_N, morning.tenure_N, before_N) & decided_N
        snapshot, facts, told = self.decided(morning, due_N, decided_N, group_N, before_N)
        arm_N = np.where(decided_N, before_N, -1)
        arm_N[due_N] = snapshot.arm_N
        self.arm_of |= dict(zip(snapshot.user_N.tolist(), snapshot.arm_N.tolist(), strict=True))
        vectors_AT = self.standing.arms_AT
        figures |= drift(before_N[decided_N], arm_N[decided_N], vectors_AT, bill(vectors_AT))
        if (limited := self.standing.limited(morning.x_NF)) is not None:
            own_N = np.flatnonzero(decided_N)
            levels = limited.levels(limited.cost_KRA[:, own_N, arm_N[own_N]].mean(1))
            figures |= {f"held.{text}": level for text, level in levels.items()}
        figures |= {"due": int(due_N.sum()), "alerts": alerts(settings.monitors, figures) + told, "phase": "decided"}
        figures |= self.after(morning, arm_N, group_N)
        return Day(figures, snapshot.arrays(), facts)

    def learn(self, known: dict[str, np.ndarray]) -> None:
        """Keep the random rows of the last days."""
        if known and len(known["arm"]):
            self.history = [*self.history, known][-self.settings.window :]

    def groups(self, user_N: np.ndarray) -> np.ndarray:
        """2: random, 1: trial, 0: the others. A user's group stays."""
        draw_N = uniforms(key(self.seed, GROUP), user_N)
        explore = self.settings.explore if self.source.closed else 0.0
        trial = self.settings.gate.share if self.candidate is not None and self.source.closed else 0.0
        return np.where(draw_N < explore, 2, np.where(draw_N < explore + trial, 1, 0))

    def refit(self, day: int, morning: Morning, map: Map) -> dict[str, float]:
        """Fit when it is time and no trial runs; the monitors' figures of the change."""
        settings = self.settings
        if self.standing is not None and (day - self.fitted_on < settings.refit or self.trial is not None):
            return {}
        rows = {name: np.concatenate([each[name] for each in self.history]) for name in self.history[0]}
        found = IncentiveEffects.fit(self.effects, rows, self.seed + day, map)
        self.fitted_on, before = day, self.standing
        if before is None:
            self.standing = found
            return {"fitted": 1.0, "rows_learnt_from": float(len(rows["arm"]))}
        figures = stability(
            before.effects(morning.x_NF), found.effects(morning.x_NF), found.standard_errors(morning.x_NF)
        )
        if settings.gate.share == 0:
            self.standing = found
        elif self.source.closed:
            self.candidate, self.trial = found, Trial()
        else:
            figures |= self.judge_logged(found)
        return {**figures, "fitted": 1.0, "rows_learnt_from": float(len(rows["arm"]))}

    def judge_logged(self, found: IncentiveEffects) -> dict[str, float]:
        """On a log the gate is off-policy: the candidate's strategies against the standing ones' on the newest random
        rows, by SNIPS."""
        from funnel.effects.reading import outcome_of, parsed_weights
        from funnel.effects.value import Logged, gain, policy_value

        assert self.standing is not None
        newest = self.history[-self.settings.gate.days :]
        rows = {name: np.concatenate([each[name] for each in newest]) for name in newest[0]}
        outcome_R = outcome_of(rows, parsed_weights(self.settings.effects.outcomes))
        logged = Logged(rows["arm"], rows["propensity"], outcome_R, cluster_R=rows.get("user"))
        values = [
            policy_value(per_user(one.effects(rows["x"]), one.cost(rows["x"]), self.settings.budget).arm_R, logged,
                         "snips")
            for one in (found, self.standing)
        ]  # fmt: skip
        gained = gain(values[0], values[1], logged)
        replaced = gained.low > -self.settings.gate.tolerance
        if replaced:
            self.standing = found
        return gained.figures("gate.gain") | {"replaced": float(replaced)}

    def decided(
        self, morning: Morning, due_N: np.ndarray, decided_N: np.ndarray, group_N: np.ndarray, before_N: np.ndarray
    ) -> tuple[Snapshot, dict[str, Any], list[str]]:
        """Strategies of the users who are due, under what the others leave of the budget and of floors and ceilings;
        what a person should know of these."""
        settings, standing = self.settings, self.standing
        assert standing is not None
        cost_NA = standing.cost(morning.x_NF)
        rest_N = np.flatnonzero(decided_N & ~due_N)
        spent = float(cost_NA[rest_N, before_N[rest_N]].sum())
        own_N = np.flatnonzero(due_N)
        effect_NA = standing.effects(morning.x_NF[own_N])
        if self.candidate is not None:
            trial_N = group_N[own_N] == 1
            effect_NA[trial_N] = self.candidate.effects(morning.x_NF[own_N[trial_N]])
        value_NA = effect_NA * start_weight(settings.cadence, morning.tenure_N[own_N])[:, None]
        allowed_NA = allowed(settings.cadence, morning.sensitive_N[own_N], bill(standing.arms_AT))
        cheapest = float(cost_NA[own_N].min(1).sum()) if len(own_N) else 0.0
        # What earlier decisions cost today may leave less than the cheapest plan of the others.
        budget = max(settings.budget * float(decided_N.sum()) - spent, cheapest * (1 + 1e-9))
        group = NOBODY
        if settings.by == "cluster" and len(own_N):
            group = Clusters.fit(morning.x_NF, settings.effects.clusters, self.seed).of(morning.x_NF[own_N])
        limited = standing.limited(morning.x_NF)
        if limited is not None and len(own_N):
            taken_K = limited.cost_KRA[:, rest_N, before_N[rest_N]].sum(1)
            limited = limited.of(own_N, (limited.limit_K * int(decided_N.sum()) - taken_K) / len(own_N))
        arm_N, limited, told = decide_as_far(value_NA, cost_NA[own_N], allowed_NA, group, budget, limited)
        taken = (value_NA, cost_NA[own_N], allowed_NA.astype(np.uint8), group, arm_N)
        snapshot = Snapshot(morning.user_N[own_N], *taken, limited)
        facts = facts_of(budget, limited, strategies=standing.arms_AT.tolist(), fitted_on=self.fitted_on)
        return snapshot, facts, told

    def after(self, morning: Morning, arm_N: np.ndarray, group_N: np.ndarray) -> dict[str, Any]:
        """What came of the day, where the source tells, and the gate's answer."""
        told = self.source.act(morning, arm_N)
        if told is None:
            return {}
        figures: dict[str, Any] = dict(told.figures)
        decided_N = group_N < 2
        if self.trial is not None and self.candidate is not None:
            self.trial.add(told.value_N[decided_N], group_N[decided_N] == 1)
            value, error = self.trial.difference()
            figures |= {"gate.difference": value, "gate.error": error if np.isfinite(error) else None}
            answer = self.trial.answer(self.settings.gate)
            figures["gate"] = answer
            if answer != "wait":
                self.standing = self.candidate if answer == "replace" else self.standing
                self.candidate = self.trial = None
        return figures

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays: dict[str, np.ndarray] = {}
        facts: dict[str, Any] = {"fitted_on": self.fitted_on, "history": len(self.history)}
        for name, model in (("standing", self.standing), ("candidate", self.candidate)):
            if model is not None:
                own, facts[name] = model.state()
                arrays |= {f"{name}:{field}": value for field, value in own.items()}
        for number, each in enumerate(self.history):
            arrays |= {f"history.{number}:{field}": value for field, value in each.items()}
        if self.trial is not None:
            arrays["trial:sums"], facts["looks"] = self.trial.sums_23, self.trial.looks
        users = sorted(self.arm_of)
        arrays["arms:user"] = np.array(users, np.int64)
        arrays["arms:arm"] = np.array([self.arm_of[user] for user in users], np.int64)
        return arrays | {f"source:{field}": value for field, value in self.source.state().items()}, facts

    def resume(self, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        def under(name: str) -> dict[str, np.ndarray]:
            return {field.partition(":")[2]: value for field, value in arrays.items()
                    if field.partition(":")[0] == name}  # fmt: skip

        for name in ("standing", "candidate"):
            if name in facts:
                setattr(self, name, IncentiveEffects.restore(self.effects, under(name), facts[name]))
        self.fitted_on = int(facts["fitted_on"])
        self.history = [under(f"history.{number}") for number in range(int(facts["history"]))]
        if "trial:sums" in arrays:
            self.trial = Trial(arrays["trial:sums"].copy(), list(facts["looks"]))
        self.arm_of = dict(zip(arrays["arms:user"].tolist(), arrays["arms:arm"].tolist(), strict=True))
        self.source.resume(under("source"))

    @classmethod
    def replay(cls, snapshot: Mapping[str, np.ndarray], facts: Mapping[str, Any], where: str) -> str:
        return replay_snapshot(snapshot, facts, where)

    def summarise(self, days: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        from funnel.incentives.operation_panels import summarise

        return summarise(days, self.settings.budget)

    @classmethod
    def results(cls, summary: Mapping[str, Any]) -> Table | None:
        from funnel.incentives.operation_panels import results

        return results(summary)

    @classmethod
    def panels(cls, record: Record) -> list[Panel]:
        from funnel.incentives.operation_panels import panels

        return panels(record)
