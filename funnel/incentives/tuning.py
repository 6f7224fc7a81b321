"""Incentives tuned by evolution (funnel/tunable.py: Tunable): a menu of new strategies, or the decision itself.

    python -m jobs.evolve --objective incentives --out runs/menu                      # new strategies, in a world
    python -m jobs.evolve --objective incentives --tune decision --data runs/rewards --out runs/decision

`menu` (menu.py): the curves of a menu of strategies, by true or estimated effects, judged by the truth on other users
against the menu that it began with. `decision` (decision.py): what effects of a log are corrected by before the budget
is spent, by the doubly robust value on its train part, judged on its test part against two-stage.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np

from data.errors import UserError
from data.log import open_log
from funnel.effects.basis import UserBasis
from funnel.effects.dml import DMLSettings, fit_dml
from funnel.effects.nuisances import NuisanceSettings
from funnel.effects.reading import check_even, outcome_of, parsed_weights
from funnel.effects.rows import TreatedRows
from funnel.effects.value import Logged, compare
from funnel.figures.verdict import Gain, verdict
from funnel.incentives.decision import DecisionObjective
from funnel.incentives.effect_settings import EffectSettings, Learning
from funnel.incentives.fitted import IncentiveEffects
from funnel.incentives.judging import logged_rows
from funnel.incentives.menu import MINUTE, MenuObjective
from funnel.incentives.plan import mix_for_all, per_user
from funnel.incentives.strategies import grid_arms
from funnel.incentives.world import LoggingPolicy, World, WorldSettings
from funnel.panels import Panel, Record, Table
from funnel.spaces import LogUniform, Presets, Space, Spaces, named
from funnel.tunable import HeldOut

AIMS = ("gain",)


DEFAULTS: dict[str, Callable[[], Any]] = {"world": lambda: WorldSettings(users=30_000), "effects": Learning}


@dataclass(frozen=True)
class IncentiveTuningSettings:
    tune: Literal["menu", "decision"] = "menu"
    """menu: new strategies, in a simulated world; decision: what a log's effects are corrected by."""
    data: Path | None = None
    """decision: a log with treatments (jobs.make_data --world incentives)."""
    budget: float = 1.0
    """Cost a user, on average."""
    strategies: int = 5
    """menu: how many beside nothing."""
    by: Literal["truth", "estimate"] = "truth"
    """menu: effects that the search sees: the world's own, or what DML learns from random rows of 27 strategies."""
    rows: int = 20_000
    """menu by estimate: random rows that DML learns from."""
    users: int = 2_000
    """menu: users that a candidate is tried on, and as many others that judge."""
    world: WorldSettings = field(default_factory=DEFAULTS["world"])
    effects: Learning = field(default_factory=Learning)

    def __post_init__(self) -> None:
        if not 0 < self.budget < np.inf:
            raise UserError(f"budget is {self.budget}, must be a finite number above 0")
        if not 1 <= self.strategies <= 20:
            raise UserError(f"strategies is {self.strategies}, must lie in 1..20")
        if self.tune == "decision" and self.data is None:
            raise UserError("--data LOG is needed to tune the decision")
        if self.effects.floors or self.effects.ceilings:
            raise UserError("effects.floors and effects.ceilings go with jobs.fit and jobs.operate: what is tuned here "
                            "has one budget")  # fmt: skip
        for name in ("rows", "users"):
            if getattr(self, name) < 100:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least 100")
        idle = ("strategies", "by", "rows", "users", "world") if self.tune == "decision" else ("data", "effects")
        for name in idle + (("rows",) if self.tune == "menu" and self.by == "truth" else ()):
            plain = DEFAULTS[name]() if name in DEFAULTS else getattr(IncentiveTuningSettings, name)
            if getattr(self, name) != plain:
                why = f"tune {self.tune}" if name in idle else "by truth: nothing is estimated"
                raise UserError(f"{name} has no effect with {why}")
        if self.tune == "menu" and 3 * self.users > self.world.users:
            raise UserError(f"users is {self.users}: a world of {self.world.users} has too few for three such groups")


class IncentiveTuning:
    """A menu of strategies, or corrections of effects."""

    name: ClassVar[str] = "incentives"
    settings_type: ClassVar[type] = IncentiveTuningSettings
    goal: ClassVar[str] = "gain"
    presets: ClassVar[Presets]
    spaces: ClassVar[Spaces]

    def __init__(self, settings: IncentiveTuningSettings, seed: int, searching: bool) -> None:
        self.settings, self.seed = settings, seed
        self.objective: MenuObjective | DecisionObjective
        if settings.tune == "menu":
            self.open_menu()
        else:
            self.open_decision(searching)

    @classmethod
    def open(cls, settings: IncentiveTuningSettings, seed: int, searching: bool = False) -> Self:
        return cls(settings, seed, searching)

    def open_menu(self) -> None:
        settings = self.settings
        world = World(settings.world, self.seed)
        there_N = world.present()
        if len(there_N) < 3 * settings.users:
            raise UserError(f"{len(there_N)} users come on a day: too few for three groups of {settings.users}")
        groups = [there_N[k * settings.users : (k + 1) * settings.users] for k in range(3)]
        model = tried = None
        if settings.by == "estimate":
            model, tried = estimated(settings, self.seed), tried_arms()
        menu = (settings.strategies, settings.budget)
        self.objective = MenuObjective(world, groups[0], *menu, model, tried)
        self.judges: dict[str, MenuObjective] = {
            "valid": MenuObjective(world, groups[1], *menu),
            "test": MenuObjective(world, groups[2], *menu),
        }

    def open_decision(self, searching: bool) -> None:
        settings = self.settings
        assert settings.data is not None
        log = open_log(settings.data)
        effects = EffectSettings.on_random_rows(settings.effects, settings.budget)
        arrays = {part: random_rows(IncentiveEffects.read(effects, log, part), f"{settings.data}/{part}")
                  for part in ("train", "valid", "test")}  # fmt: skip
        # Half of the train part's users teach the effects, the others the correction.
        learn_R = arrays["train"]["user"] % 2 == 0 if "user" in arrays["train"] else half(arrays["train"], self.seed)
        teach, tune = ({name: each[side] for name, each in arrays["train"].items()} for side in (learn_R, ~learn_R))
        self.model = IncentiveEffects.fit(effects, teach, self.seed)
        arms = len(self.model.arms_AT)
        for part, own in arrays.items():
            if own["arm"].max() >= arms:
                raise UserError(f"{settings.data}/{part}: a random row has an arm {own['arm'].max()}, which no random "
                                "row has that effects are learnt from")  # fmt: skip
        self.basis = UserBasis.of(tune["x"], "linear")
        self.arrays = arrays
        robust_RA = robust(self.model, tune, self.seed)
        self.objective = DecisionObjective(
            self.basis(tune["x"]), self.model.effects(tune["x"]), self.model.cost(tune["x"]), robust_RA,
            settings.budget,
        )  # fmt: skip

    def facts(self) -> dict[str, Any]:
        if isinstance(self.objective, MenuObjective):
            return {"users": {"tuned on": self.settings.users, "held out": self.settings.users}}
        rows = {part: len(each["arm"]) for part, each in self.arrays.items()}
        return {"data": {"location": str(self.settings.data), "rows": sum(rows.values())}, "random rows": rows}

    def describe(self) -> str:
        if isinstance(self.objective, MenuObjective):
            known = "true" if self.settings.by == "truth" else "estimated"
            return f"{self.settings.strategies} strategies by {known} effects on {self.settings.users:,} users"
        return f"what {self.model.describe()} are corrected by, on {len(self.objective.psi_RG):,} random rows"

    def policy(self, theta_D: np.ndarray) -> dict[str, Any]:
        if isinstance(self.objective, MenuObjective):
            vectors_A3, curves = self.objective.menu(theta_D)
            return {
                "strategies": [
                    {"amount": v[0], "interval": v[1], "number": v[2]} for v in vectors_A3.round(9).tolist()
                ],
                "curves": [
                    {name: vars(getattr(one, name)) for name in ("amount", "interval", "number")} for one in curves
                ],
                "budget": self.settings.budget,
            }
        theta_GA = (self.objective.spread * theta_D.astype(np.float64)).reshape(self.objective.shape)
        return {
            "correction": theta_GA.tolist(),
            "mean": self.basis.mean_F.tolist(),
            "std": self.basis.std_F.tolist(),
            "budget": self.settings.budget,
        }

    def measure(self, theta_D: np.ndarray) -> dict[str, float]:
        if isinstance(self.objective, MenuObjective):
            return {"gain": self.judges["valid"].worth(theta_D)}
        figures = self.judged(theta_D, "valid")
        return {"gain": figures["learnt.over.two_stage.dr"]}

    @classmethod
    def smaller_is_better(cls, figure: str) -> bool:
        if figure not in AIMS:
            raise UserError(f"no figure {figure!r} of incentives: want one of {', '.join(AIMS)}")
        return False

    def judge(self, theta_D: np.ndarray, resamples: int, seed: int, part: HeldOut = "test") -> dict[str, Any]:
        """menu: the true gain a user on other users, paired with the menu it began with. decision: by DR."""
        if isinstance(self.objective, DecisionObjective):
            figures = self.judged(theta_D, part)
            gains = [Gain.of(figures, f"learnt.over.{rival}.dr", name) for rival, name in
                     (("two_stage", "two-stage"), ("mix", "the best mix for everybody"))]  # fmt: skip
            return figures | {
                "significant": all(each.significant for each in gains),
                "message": verdict("Tuning the decision", gains, "+.4g", "a user by dr"),
            }
        judge = self.judges[part]
        gain_N, begun_N = (user_gains(judge, theta) for theta in (theta_D, self.objective.initial()))
        difference_N = gain_N - begun_N
        error = float(difference_N.std(ddof=1)) / len(difference_N) ** 0.5
        value = float(difference_N.mean())
        figures = {
            "menu.gain": float(gain_N.mean()),
            "menu.start": float(begun_N.mean()),
            "menu.over_start": value,
            "menu.over_start.low": value - 1.96 * error,
            "menu.over_start.high": value + 1.96 * error,
        }
        gains = [Gain.of(figures, "menu.over_start", "the menu it began with")]
        message = verdict("The new menu", gains, "+.4g", "a user", " over users")
        return figures | {"significant": gains[0].significant, "message": message}

    def judged(self, theta_D: np.ndarray, part: str) -> dict[str, Any]:
        assert isinstance(self.objective, DecisionObjective)
        own, model, budget = self.arrays[part], self.model, self.settings.budget
        effect_RA, cost_RA = model.effects(own["x"]), model.cost(own["x"])
        corrected_RA = self.objective.corrected(theta_D, self.basis(own["x"]), effect_RA)
        outcome_R = outcome_of(own, parsed_weights(self.settings.effects.outcomes))
        policies = {
            "learnt": per_user(corrected_RA, cost_RA, budget).arm_R,
            "two_stage": per_user(effect_RA, cost_RA, budget).arm_R,
            "mix": mix_for_all(effect_RA, cost_RA, budget),
        }
        logged: Logged = logged_rows(own, outcome_R, len(model.arms_AT), self.seed)
        return compare(policies, logged, ("two_stage", "mix"), ("snips", "dr"))

    @classmethod
    def results(cls, summary: Mapping[str, Any]) -> Table | None:
        names = {
            "menu.gain": "gain a user, tuned menu",
            "menu.start": "gain a user, at the start",
            "menu.over_start": "difference",
            "learnt.dr": "outcome a user, tuned",
            "two_stage.dr": "outcome a user, two-stage",
            "learnt.over.two_stage.dr": "difference",
        }
        rows = tuple((name, f"{summary[key]:.4g}") for key, name in names.items() if key in summary)
        return Table("held out", ("figure", "value"), rows) if rows else None

    @classmethod
    def panels(cls, record: Record) -> list[Panel]:
        from funnel.incentives.tuning_panels import panels

        return panels(record)


def estimated(settings: IncentiveTuningSettings, seed: int) -> Any:
    """DML over vectors, from even draws of nothing and 27 strategies in a world of other users."""
    arms_A3 = tried_arms()
    world = World(replace(settings.world, users=3 * settings.rows), seed + 1)
    user_N = world.present()[: settings.rows]
    x_NF = world.features(user_N)
    arm_N, _, _ = LoggingPolicy(randomised=1.0).draw(world, user_N, len(arms_A3))
    outcome = world.play(user_N, arm_N, arms_A3)
    even_NA = np.full((len(user_N), len(arms_A3)), 1 / len(arms_A3))
    value_N = outcome.retained_N + MINUTE * outcome.minutes_N
    rows = TreatedRows(x_NF, value_N, arm_N, arms_A3, propensity_RA=even_NA)
    return fit_dml(rows, DMLSettings(), NuisanceSettings(), seed)


def tried_arms() -> np.ndarray:
    return np.concatenate([np.zeros((1, 3)), grid_arms()])


def user_gains(judge: MenuObjective, theta_D: np.ndarray) -> np.ndarray:
    """What a menu brings each user of a judge under the budget, (N,)."""
    vectors_A3, _ = judge.menu(theta_D)
    gain_NA = judge.gains(vectors_A3)
    arm_N = per_user(gain_NA, judge.costs(vectors_A3), judge.budget).arm_R
    return np.asarray(gain_NA[np.arange(len(arm_N)), arm_N])


def random_rows(arrays: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    if "randomised" not in arrays or "propensity" not in arrays:
        raise UserError("the log's schema names no 'randomised' and 'propensity' under 'treatment': nothing can judge")
    kept_N = np.flatnonzero(arrays["randomised"])
    if not len(kept_N):
        raise UserError(f"{where}: no row is randomised: nothing can be learnt or judged")
    check_even(arrays, where)
    return {name: each[kept_N] for name, each in arrays.items()}


def half(arrays: Mapping[str, np.ndarray], seed: int) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).permutation(len(arrays["arm"])) % 2 == 0)


def robust(model: IncentiveEffects, own: Mapping[str, np.ndarray], seed: int) -> np.ndarray:
    """The doubly robust outcome of each arm for each row, (R, A)."""
    outcome_R = outcome_of(own, parsed_weights(model.settings.outcomes))
    logged = logged_rows(own, outcome_R, len(model.arms_AT), seed)
    assert logged.level_RA is not None
    found_RA, rows = logged.level_RA.copy(), np.arange(len(outcome_R))
    own_R = logged.arm_R
    found_RA[rows, own_R] += (outcome_R - found_RA[rows, own_R]) / logged.propensity_R
    return np.asarray(found_RA)


def default() -> dict[str, Any]:
    """The defaults of every setting."""
    return {}


def budgets() -> Space:
    """How much may be spent."""
    return {"budget": LogUniform(0.3, 4.0)}


IncentiveTuning.presets, IncentiveTuning.spaces = named(default), named(budgets)
