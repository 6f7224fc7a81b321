"""Where the days of an operation come from: a simulated world in a closed loop, or the parts of a log.

Shapes: N users who are there, A arms.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

from data.credentials import shown
from data.days import DAY, look
from data.errors import UserError
from data.log import open_log
from funnel.effects.reading import read_part
from funnel.incentives.plan import per_user
from funnel.incentives.strategies import STRATEGIES
from funnel.incentives.world import FEATURES, LoggingPolicy, World, WorldSettings

MINUTE = 0.01
NAMED = ("activity", "tenure", "sensitive")
"""Features of a log: how often a user comes, how long ago (log(1 + days)) he joined, whether he is sensitive."""


@dataclass(frozen=True)
class Morning:
    """Who is there, and what is known of them and of the days before."""

    day: int
    user_N: np.ndarray
    x_NF: np.ndarray
    activity_N: np.ndarray
    tenure_N: np.ndarray
    sensitive_N: np.ndarray
    known: dict[str, np.ndarray]
    """Random rows that have become known since the last morning, as funnel/effects/reading.py has them."""
    date: str = ""
    """Of a log: which day it is."""


@dataclass(frozen=True)
class Told:
    """What came of a day: each user's outcome, and figures."""

    value_N: np.ndarray
    figures: dict[str, float]


class Source(Protocol):
    @property
    def closed(self) -> bool:
        """Whether what is decided acts on what comes."""

    @property
    def sensitive(self) -> int:
        """Place of the feature that marks sensitive users."""

    def ready(self, day: int) -> bool: ...
    def morning(self, day: int) -> Morning: ...
    def act(self, morning: Morning, arm_N: np.ndarray) -> Told | None:
        """Give users their strategies; -1: one drawn evenly."""

    def state(self) -> dict[str, np.ndarray]: ...
    def resume(self, arrays: Mapping[str, np.ndarray]) -> None: ...


class SimulatedDays:
    """World in a closed loop."""

    closed: ClassVar[bool] = True
    sensitive: ClassVar[int] = FEATURES.index("sensitive")
    KEPT = ("tired_U", "was_there_U", "retained_U")

    def __init__(self, settings: WorldSettings, strategies: str, seed: int) -> None:
        self.world, self.arms_A3 = World(settings, seed), STRATEGIES[strategies]()
        self.known: dict[str, np.ndarray] = {}

    def ready(self, day: int) -> bool:
        return True

    def morning(self, day: int) -> Morning:
        world = self.world
        assert world.day == day, "days come one after the other"
        user_N = world.present()
        activity_N, sensitive_N = world.activity_U[user_N], world.sensitive_U[user_N]
        return Morning(day, user_N, world.features(user_N), activity_N, world.tenure(user_N), sensitive_N, self.known)

    def act(self, morning: Morning, arm_N: np.ndarray) -> Told:
        world, arms = self.world, len(self.arms_A3)
        random_N = arm_N < 0
        even_N, _, _ = LoggingPolicy(randomised=1.0).draw(world, morning.user_N, arms)
        arm_N = np.where(random_N, even_N, arm_N)
        rows = np.arange(len(arm_N))
        truth = world.truth(morning.user_N, self.arms_A3)
        outcome = world.play(morning.user_N, arm_N, self.arms_A3)
        value_N = outcome.retained_N + MINUTE * outcome.minutes_N
        kept = np.flatnonzero(random_N)
        self.known = {
            "x": morning.x_NF[kept],
            "arm": arm_N[kept],
            "treatment": self.arms_A3[arm_N[kept]],
            "propensity": np.full(len(kept), 1 / arms),
            "randomised": np.ones(len(kept), bool),
            "cost": outcome.cost_N[kept],
            "user": morning.user_N[kept],
            "outcome.retained": outcome.retained_N[kept].astype(np.float64),
            "outcome.minutes": outcome.minutes_N[kept],
        }
        decided = ~random_N
        figures = {"retained": float(outcome.retained_N.mean()), "minutes": float(outcome.minutes_N.mean())}
        if decided.any():
            true_NA = truth.value(MINUTE)
            gain_NA = true_NA - true_NA[:, :1]
            cost = float(truth.cost_NA[rows, arm_N][decided].mean())
            figures |= {
                "cost": cost,
                "true.gain": float(gain_NA[rows, arm_N][decided].mean()),
                "value": float(value_N[decided].mean()),
            }
            # What the same users and the same cost would have brought with the true effects.
            best = per_user(true_NA[decided], truth.cost_NA[decided], max(cost, 1e-9) * (1 + 1e-9)).arm_R
            figures["true.oracle"] = float(gain_NA[decided][np.arange(len(best)), best].mean())
        return Told(value_N, figures)

    def state(self) -> dict[str, np.ndarray]:
        own = {name: getattr(self.world, name) for name in self.KEPT}
        return own | {"day": np.array(self.world.day), **{f"known.{name}": each for name, each in self.known.items()}}

    def resume(self, arrays: Mapping[str, np.ndarray]) -> None:
        for name in self.KEPT:
            setattr(self.world, name, arrays[name].copy())
        self.world.day = int(arrays["day"])
        self.known = {name.removeprefix("known."): each for name, each in arrays.items() if name.startswith("known.")}


class LoggedDays:
    """Day partitions of a log (data/days.py), in order; decisions are written and nothing else happens."""

    closed: ClassVar[bool] = False

    def __init__(self, data: Path) -> None:
        self.data, self.log = data, open_log(data)
        self.taken: list[str] = []
        found = look(data)
        others = {name: why for name, why in found.passed_over.items() if not DAY.fullmatch(name)}
        if others and not found.whole:
            name, why = next(iter(others.items()))
            raise UserError(f"{shown(str(data))}/{name}: {why}; an operation lives from day to day (jobs.make_data "
                            "--world incentives --days 14 writes such a log)")  # fmt: skip
        schema = self.log.schema
        treatment = schema.treatment
        if treatment is None or not (treatment.arm and treatment.randomised and treatment.propensity and schema.user):
            raise UserError(f"{data}/schema.json: an operation needs 'user' and, under 'treatment', 'arm', "
                            "'propensity' and 'randomised'")  # fmt: skip
        self.names = schema.numeric
        absent = [name for name in NAMED if name not in self.names]
        if absent:
            raise UserError(f"{data}/schema.json: no numeric feature {absent[0]!r}; cadence and caps need "
                            f"{', '.join(NAMED)}")  # fmt: skip

        self.sensitive = self.names.index("sensitive")

    def ready(self, day: int) -> bool:
        return day < len(look(self.data).whole)

    def morning(self, day: int) -> Morning:
        """The users of that part, by their last row of it."""
        date, part = list(look(self.data).whole.items())[day]
        rows = read_part(open_log(self.data), part)
        self.taken = [*self.taken[:day], date]
        _, last_N = np.unique(rows["user"][::-1], return_index=True)
        last_N = len(rows["user"]) - 1 - last_N
        x_NF = rows["x"][last_N]
        activity_N, tenure_N, sensitive_N = (x_NF[:, self.names.index(name)] for name in NAMED)
        kept_N = np.flatnonzero(rows["randomised"])
        known = {name: value[kept_N] for name, value in rows.items()}
        user_N, sensitive_N = rows["user"][last_N], sensitive_N > 0.5
        return Morning(day, user_N, x_NF, activity_N, np.expm1(tenure_N), sensitive_N, known, date)

    def act(self, morning: Morning, arm_N: np.ndarray) -> None:
        return None

    def state(self) -> dict[str, np.ndarray]:
        return {"taken": np.array([int(date.replace("-", "")) for date in self.taken], np.int64)}

    def resume(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Raises UserError where the days that were operated are no longer the first ones."""
        known = arrays["taken"].tolist()
        self.taken = list(look(self.data).whole)[: len(known)]
        for before, now in zip(known, self.taken, strict=False):
            if before != int(now.replace("-", "")):
                raise UserError(f"{shown(str(self.data))}: day {now} stands where {before} was operated; days are "
                                "added at the end")  # fmt: skip
        if len(self.taken) < len(known):
            raise UserError(f"{shown(str(self.data))}: {len(known)} days were operated, {len(self.taken)} are there")
