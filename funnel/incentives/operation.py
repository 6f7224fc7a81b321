"""Incentives from day to day (funnel/operation.py: Operation), in a simulated world or on day partitions of a log.

    python -m jobs.operate --system incentives --days 30 --out runs/daily
    python -m jobs.operate --system incentives --days 30 --out runs/plain --cadence.every 1 --gate.share 0
    python -m jobs.operate --system incentives --data runs/days --out runs/daily        # days of a log
    python -m jobs.operate --system incentives --replay runs/daily/days/00012

A day: effects are refitted when it is time, weak strategies are found and replaced (renewal.py), users who are due get
a strategy under the budget (cadence.py), monitors say what moved (monitors.py), the decision is kept so that it can be
replayed (snapshot.py), and new effects replace the standing ones only through the gate (gate.py). In the simulated
world a share of the users gets strategies at random (roster.py), which effects are learnt from; the first days are all
random. Strategies go by numbers that stay. Shapes: U users, N who are there, A strategies that can be given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np

from data.errors import UserError
from funnel.effects.dml import check_features
from funnel.effects.reading import parsed_weights
from funnel.fitted import Map
from funnel.incentives.aims import limits_of
from funnel.incentives.cadence import CadenceSettings, allowed, due
from funnel.incentives.choice import NOBODY, Choice, Fit, aligned, grouped
from funnel.incentives.effect_settings import EffectSettings, Learning
from funnel.incentives.fitted import IncentiveEffects
from funnel.incentives.gate import GateSettings, Trial
from funnel.incentives.logged_gate import judged, price_of_money
from funnel.incentives.monitors import MonitorSettings, alerts, drift, stability
from funnel.incentives.renewal import renewed
from funnel.incentives.roster import ProposalSettings, Roster, check_batches, learnable
from funnel.incentives.snapshot import Snapshot, decide_as_far, facts_of
from funnel.incentives.snapshot import replay as replay_snapshot
from funnel.incentives.source import LoggedDays, Morning, SimulatedDays, Source, Told, check_same
from funnel.incentives.strategies import STRATEGIES, bill
from funnel.incentives.world import WorldSettings
from funnel.operation import Day, Maximise
from funnel.panels import Panel, Record, Table
from funnel.platform.draws import key, uniforms

GROUP = 501


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
    proposals: ProposalSettings = field(default_factory=ProposalSettings)

    def __post_init__(self) -> None:
        for name in ("refit", "window", "warmup"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least 1")
        if self.data is not None:
            for name in ("world", "strategies", "explore"):
                if getattr(self, name) != getattr(simulated(), name):
                    raise UserError(f"{name} has no effect with data: users, strategies and random rows are the log's")
            for name in ("batch", "slices"):
                if getattr(self.proposals, name) != getattr(ProposalSettings(), name):
                    raise UserError(f"proposals.{name} has no effect with data: random traffic is the log's")
        else:
            check_batches(self.proposals, len(STRATEGIES[self.strategies]()), self.warmup)
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
    """Effects -> strategies -> allocation by cadence -> monitors -> snapshot -> gate."""

    name: ClassVar[str] = "incentives"
    settings_type: ClassVar[type] = OperationSettings
    maximise: Maximise

    def __init__(self, settings: OperationSettings, seed: int, source: Source) -> None:
        self.settings, self.seed, self.source = settings, seed, source
        self.standing: Fit | None = None
        self.candidate: Fit | None = None
        self.trial: Trial | None = None
        self.fitted_on = self.reviewed_on = -1
        self.fresh = 0  # of the history's days, those since the last fit
        # The sensitive are few and respond in their own way: their effects are not those of all.
        self.effects = EffectSettings.on_random_rows(settings.effects, settings.budget, source.sensitive)
        check_features(settings.effects.dml, source.columns)
        source.check("outcomes", parsed_weights(settings.effects.outcomes))
        source.check("floors and ceilings", [limit.outcome for limit in limits_of(self.effects)])
        if settings.proposals.by != "none" and not source.vectors:
            raise UserError(f"proposals.by {settings.proposals.by}: new strategies are made of an amount, an interval "
                            "and a number, which the log's do not have ('vector' under 'treatment')")  # fmt: skip
        self.roster = Roster.of(STRATEGIES[settings.strategies](), settings.proposals) if source.closed else None
        if self.roster is not None:
            allowed(settings.cadence, np.zeros(0, bool), bill(self.roster.vectors_S3))
        self.history: list[dict[str, np.ndarray]] = []
        self.arm_of: dict[int, int] = {}

    @classmethod
    def open(cls, settings: OperationSettings, seed: int) -> Self:
        if settings.data is not None:
            return cls(settings, seed, LoggedDays(settings.data))
        source = SimulatedDays(settings.world, settings.effects.outcomes, seed)
        source.check_budget(settings.budget, STRATEGIES[settings.strategies]())
        return cls(settings, seed, source)

    def ready(self, day: int) -> bool:
        return self.source.ready(day)

    def step(self, day: int, map: Map) -> Day:
        settings, morning = self.settings, self.source.morning(day)
        if morning.known and len(morning.known["arm"]):  # the random rows of the last days
            check_same(self.history if morning.date else (), morning.known, morning.date)
            self.history = [*self.history, morning.known][-settings.window :]
            self.fresh += 1
        figures: dict[str, Any] = {"users": len(morning.user_N)} | ({"date": morning.date} if morning.date else {})
        if day < settings.warmup or not self.history:
            nobody_N = np.full(len(morning.user_N), -1)
            if day >= settings.warmup:
                figures["alerts"] = [
                    "no row so far is randomised: nothing is decided, as effects are learnt from these"
                ]
            return Day({**figures, **self.after(morning, nobody_N, np.full(len(nobody_N), 2)), "phase": "random"})
        figures |= self.refit(day, morning, map)
        told: list[str] = []
        if self.reviewed_on < 0 or day - self.reviewed_on >= settings.proposals.every:
            figures["strategies"], told = renewed(self, day, map)
            self.reviewed_on = day
        group_N = self.groups(morning.user_N)
        before_N = np.array([self.arm_of.get(user, -1) for user in morning.user_N.tolist()], np.int64)
        choice, mine_N, decided_N = self.choice(), (group_N == 1).astype(np.int64), group_N < 2
        # Whose strategy is gone, known to effects that no longer decide for him, or beyond his cap, is due at once.
        kept_N = choice.has(mine_N, before_N)
        may_NA = choice.allowed(settings.cadence, morning.sensitive_N, mine_N)
        kept_N &= may_NA[np.arange(len(kept_N)), choice.columns(before_N)]
        due_N = due(settings.cadence, day, morning.user_N, morning.activity_N, morning.tenure_N,
                    np.where(kept_N, before_N, -1)) & decided_N  # fmt: skip
        snapshot, facts, more = self.decided(choice, morning, due_N, decided_N, mine_N, before_N)
        arm_N = np.where(decided_N, before_N, -1)
        arm_N[due_N] = choice.ids_A[snapshot.arm_N]
        self.arm_of |= dict(zip(snapshot.user_N.tolist(), arm_N[due_N].tolist(), strict=True))
        figures |= self.drifted(choice, before_N[decided_N], arm_N[decided_N])
        if (limited := choice.limited(morning.x_NF)) is not None:
            own_N = np.flatnonzero(decided_N)
            levels = limited.levels(limited.cost_KRA[:, own_N, choice.columns(arm_N[own_N])].mean(1))
            figures |= {f"held.{text}": level for text, level in levels.items()}
        told = alerts(settings.monitors, figures) + told + more
        figures |= {"due": int(due_N.sum()), "alerts": told, "phase": "decided"}
        figures |= self.after(morning, arm_N, group_N)
        return Day(figures, snapshot.arrays(), facts)

    def groups(self, user_N: np.ndarray) -> np.ndarray:
        """2: random, 1: trial, 0: the others. A user's group stays."""
        draw_N = uniforms(key(self.seed, GROUP), user_N)
        explore = self.settings.explore if self.source.closed else 0.0
        trial = self.settings.gate.share if self.candidate is not None and self.source.closed else 0.0
        return np.where(draw_N < explore, 2, np.where(draw_N < explore + trial, 1, 0))

    @property
    def gone(self) -> np.ndarray:
        """Numbers of the strategies that stand no longer."""
        return NOBODY if self.roster is None else np.flatnonzero(np.array(self.roster.dropped) >= 0)

    def choice(self) -> Choice:
        assert self.standing is not None
        return Choice([self.standing, *([self.candidate] if self.candidate is not None else [])], self.gone)

    def rows(self, history: Sequence[Mapping[str, np.ndarray]] = ()) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Random rows to learn from (of a log: of these days) and the numbers of their strategies: DML learns from
        those that are gone too."""
        dml = self.settings.effects.learner == "dml"
        if self.roster is None:
            history = history or self.history
            ids_A = np.unique(np.concatenate([each["arm"] for each in history]))
            return learnable(history, ids_A, np.ones(len(ids_A)), dml)
        ids_A = self.roster.ordered(np.arange(len(self.roster.born))) if dml else self.roster.live
        new_A = np.array(self.roster.born)[ids_A] > 0
        return learnable(self.history, ids_A, np.where(new_A, self.settings.effects.arms.smallest_arm, 1), dml)

    def refit(self, day: int, morning: Morning, map: Map) -> dict[str, Any]:
        """Fit when it is time and no trial runs; the monitors' figures of the change."""
        settings = self.settings
        if self.standing is not None and (day - self.fitted_on < settings.refit or self.trial is not None):
            return {}
        rows, ids_A = self.rows()
        found = Fit(IncentiveEffects.fit(self.effects, rows, self.seed + day, map), ids_A)
        self.fitted_on, before, fresh, self.fresh = day, self.standing, self.fresh, 0
        figures: dict[str, Any] = {"fitted": 1.0, "rows_learnt_from": float(len(rows["arm"]))}
        if before is None:
            self.standing = found
            return figures
        figures |= stability(*aligned(before, found, morning.x_NF))
        price = price_of_money(Choice([before], self.gone), settings.cadence, morning.x_NF, morning.tenure_N,
                               morning.sensitive_N, settings.budget)  # fmt: skip
        if settings.gate.share == 0:
            self.standing = found
        elif self.source.closed:
            self.candidate, self.trial = found, Trial(price)
        else:
            more = judged(self, before, min(settings.gate.days, fresh), price, day, map)
            self.standing = found if more["replaced"] else before
            figures |= more
        return figures

    def decided(
        self, choice: Choice, morning: Morning, due_N: np.ndarray, decided_N: np.ndarray, mine_N: np.ndarray,
        before_N: np.ndarray,
    ) -> tuple[Snapshot, dict[str, Any], list[str]]:  # fmt: skip
        """Strategies of the users who are due, under what the others leave of the budget and of floors and ceilings;
        what a person should know of these."""
        settings = self.settings
        cost_NA = choice.costs(morning.x_NF)
        rest_N, own_N = np.flatnonzero(decided_N & ~due_N), np.flatnonzero(due_N)
        column_N = choice.columns(before_N[rest_N])
        spent = float(cost_NA[rest_N, column_N].sum())
        x_NF, own_mine_N = morning.x_NF[own_N], mine_N[own_N]
        value_NA = choice.weighted(settings.cadence, x_NF, morning.tenure_N[own_N], own_mine_N)
        allowed_NA = choice.allowed(settings.cadence, morning.sensitive_N[own_N], own_mine_N)
        cheapest = float(np.where(allowed_NA, cost_NA[own_N], np.inf).min(1).sum()) if len(own_N) else 0.0
        # What earlier decisions cost today may leave less than the cheapest plan of the others.
        left = settings.budget * float(decided_N.sum()) - spent
        budget = max(left, cheapest * (1 + 1e-9))
        group_N = NOBODY
        if settings.by == "cluster" and len(own_N):
            group_N = grouped(morning.x_NF, x_NF, settings.effects.clusters, self.seed, own_mine_N)
        limited = choice.limited(morning.x_NF)
        if limited is not None and len(own_N):
            taken_K = limited.cost_KRA[:, rest_N, column_N].sum(1)
            limited = limited.of(own_N, (limited.limit_K * int(decided_N.sum()) - taken_K) / len(own_N))
        arm_N, limited, told = decide_as_far(value_NA, cost_NA[own_N], allowed_NA, group_N, budget, limited)
        taken = (value_NA, cost_NA[own_N], allowed_NA.astype(np.uint8), group_N, arm_N)
        snapshot = Snapshot(morning.user_N[own_N], *taken, limited)
        if cheapest > left:
            over = (spent + cheapest) / max(float(decided_N.sum()), 1.0)
            told = [
                *told,
                f"earlier decisions and the cheapest plan for who is due cost {over:.4g} a user today, above the "
                f"budget of {settings.budget:g}",
            ]
        facts = facts_of(budget, limited, numbers=choice.ids_A.tolist(), strategies=self.vectors(choice.ids_A).tolist(),
                         fitted_on=self.fitted_on)  # fmt: skip
        return snapshot, facts, told

    def vectors(self, ids_A: np.ndarray) -> np.ndarray:
        """(A, T) of strategies that the roster or some effects know; nan: none does."""
        if self.roster is not None:
            return self.roster.vectors_S3[ids_A]
        known: dict[int, np.ndarray] = {}
        for fit in (self.candidate, self.standing):
            if fit is not None:
                known |= dict(zip(fit.ids_A.tolist(), fit.effects.arms_AT, strict=True))
        width = len(next(iter(known.values())))
        return np.array([known.get(number, np.full(width, np.nan)) for number in ids_A.tolist()])

    def drifted(self, choice: Choice, before_N: np.ndarray, after_N: np.ndarray) -> dict[str, float]:
        """How far users' strategies moved from yesterday's, those that are gone counted."""
        count = int(max(before_N.max(initial=0), after_N.max(initial=0))) + 1
        vectors_ST = self.vectors(np.arange(count))
        if self.roster is not None:
            bill_S = vectors_ST[:, 0] * vectors_ST[:, 2]
        else:
            column_S = choice.columns(np.arange(count))
            bill_S = np.where(column_S >= 0, choice.bill_A[column_S], np.nan)
        known_N = (before_N < 0) | np.isfinite(bill_S[before_N])
        return drift(before_N[known_N], after_N[known_N], vectors_ST, bill_S)

    def after(self, morning: Morning, arm_N: np.ndarray, group_N: np.ndarray) -> dict[str, Any]:
        """Give users their strategies; what came of the day, where the source tells, and the gate's answer."""
        if self.roster is None:
            return {}
        random_N, day = group_N == 2, morning.day
        own_N = np.flatnonzero(random_N)
        slice_N = (morning.hour_N[own_N] * self.roster.slices // 24).astype(np.int64)
        arm_N = arm_N.copy()
        arm_N[own_N] = self.roster.deal(day, morning.user_N[own_N], slice_N, self.seed)
        told: Told = self.source.act(morning, arm_N, random_N, self.roster, self.roster.batch_of(day))
        figures: dict[str, Any] = dict(told.figures)
        if self.trial is not None and self.candidate is not None:
            decided_N = ~random_N
            self.trial.add(told.value_N[decided_N], told.cost_N[decided_N], group_N[decided_N] == 1)
            figures |= self.trial.figures()
            answer = self.trial.answer(self.settings.gate)
            figures["gate"] = answer
            if answer != "wait":
                self.standing = self.candidate if answer == "replace" else self.standing
                self.candidate = self.trial = None
        return figures

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        from funnel.incentives.operation_state import state_of

        return state_of(self)

    def resume(self, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        from funnel.incentives.operation_state import resume

        resume(self, arrays, facts)

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
