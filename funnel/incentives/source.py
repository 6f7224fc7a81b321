"""Where the days of an operation come from: a simulated world in a closed loop, or the parts of a log.

Shapes: N users who are there, S strategies ever, K of the day's random traffic.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

from data.credentials import shown
from data.days import DAY, WHOLE_DAY, look
from data.errors import UserError
from data.log import open_log
from funnel.effects.reading import check_even, check_free, check_vectors, outcome_of, parsed_weights, read_part
from funnel.incentives.plan import per_user
from funnel.incentives.roster import Roster
from funnel.incentives.strategies import NUMBERS, bill
from funnel.incentives.world import FEATURES, World, WorldSettings, claims

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
    """Random rows that have become known since the last morning, as funnel/effects/reading.py has them, and under
    "batch" the strategies that they were drawn from."""
    hour_N: np.ndarray = field(default_factory=lambda: np.empty(0))
    """When each of them will come, [0, 24); of a log nothing."""
    date: str = ""
    """Of a log: which day it is."""


@dataclass(frozen=True)
class Told:
    """What came of a day: each user's outcome and cost, and figures."""

    value_N: np.ndarray
    cost_N: np.ndarray
    figures: dict[str, float]


class Source(Protocol):
    @property
    def closed(self) -> bool:
        """Whether what is decided acts on what comes."""

    @property
    def sensitive(self) -> int:
        """Place of the feature that marks sensitive users."""

    @property
    def columns(self) -> int:
        """How many features there are."""

    @property
    def vectors(self) -> bool:
        """Whether strategies have an amount, an interval and a number."""

    def traits(self, x_NF: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(activity, days since joining, whether sensitive) of users with these features."""

    def check(self, option: str, outcomes: Iterable[str]) -> None:
        """Raises UserError for an outcome that is not there."""

    def ready(self, day: int) -> bool: ...
    def morning(self, day: int) -> Morning: ...
    def act(self, morning: Morning, arm_N: np.ndarray, random_N: np.ndarray, roster: Roster, batch_K: np.ndarray
            ) -> Told:  # fmt: skip
        """Give users their strategies, by number; `random_N`: those of the random traffic, drawn from `batch_K`. Only
        where the source is closed."""

    def state(self) -> dict[str, np.ndarray]: ...
    def resume(self, arrays: Mapping[str, np.ndarray]) -> None: ...


def check_outcomes(option: str, outcomes: Iterable[str], there: Sequence[str]) -> None:
    for name in outcomes:
        if name not in there:
            raise UserError(f"{option}: no outcome {name!r}; the log has {', '.join(there)}")


def check_same(history: Sequence[Mapping[str, np.ndarray]], known: Mapping[str, np.ndarray], day: str) -> None:
    """Raise UserError where an arm has another vector than on a day before."""
    for before in history:
        old_AT, new_AT = check_vectors(before), check_vectors(known)
        both = min(len(old_AT), len(new_AT))
        changed_A = (np.abs(old_AT[:both] - new_AT[:both]) > 1e-6).any(1)  # nan: not on both days
        if changed_A.any():
            arm = int(np.argmax(changed_A))
            raise UserError(f"{day}: arm {arm} is {new_AT[arm].tolist()}, but was {old_AT[arm].tolist()} before; a new "
                            "strategy has a number of its own")  # fmt: skip


def traits_of(x_NF: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    activity_N, tenure_N, sensitive_N = (x_NF[:, names.index(name)] for name in NAMED)
    return activity_N, np.expm1(tenure_N), sensitive_N > 0.5


class SimulatedDays:
    """World in a closed loop."""

    closed: ClassVar[bool] = True
    sensitive: ClassVar[int] = FEATURES.index("sensitive")
    columns: ClassVar[int] = len(FEATURES)
    vectors: ClassVar[bool] = True
    KEPT = ("tired_U", "was_there_U", "retained_U")

    def __init__(self, settings: WorldSettings, outcomes: Sequence[str], seed: int) -> None:
        self.world, self.weights = World(settings, seed), parsed_weights(outcomes)
        self.check("outcomes", self.weights)
        self.known: dict[str, np.ndarray] = {}

    def check(self, option: str, outcomes: Iterable[str]) -> None:
        check_outcomes(option, outcomes, ("retained", "minutes"))

    def check_budget(self, budget: float, vectors_A3: np.ndarray) -> None:
        """Raises UserError for a budget that is below the cheapest strategy for everybody."""
        least = float(bill(vectors_A3).min() * claims(self.world.activity_U).mean())
        if budget < least:
            raise UserError(f"budget is {budget:g} a user, but the cheapest strategy of each comes to {least:.4g}")

    def ready(self, day: int) -> bool:
        return True

    def traits(self, x_NF: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return traits_of(x_NF, FEATURES)

    def morning(self, day: int) -> Morning:
        world = self.world
        assert world.day == day, "days come one after the other"
        user_N = world.present()
        activity_N, sensitive_N = world.activity_U[user_N], world.sensitive_U[user_N]
        return Morning(day, user_N, world.features(user_N), activity_N, world.tenure(user_N), sensitive_N, self.known,
                       world.hours(user_N))  # fmt: skip

    def act(
        self, morning: Morning, arm_N: np.ndarray, random_N: np.ndarray, roster: Roster, batch_K: np.ndarray
    ) -> Told:
        world, vectors_S3, rows = self.world, roster.vectors_S3, np.arange(len(arm_N))
        live_A = roster.live
        truth = world.truth(morning.user_N, vectors_S3)
        true_NS = self.valued(truth.retention_NA, truth.minutes_NA)
        outcome = world.play(morning.user_N, arm_N, vectors_S3)
        value_N = self.valued(outcome.retained_N.astype(np.float64), outcome.minutes_N)
        kept = np.flatnonzero(random_N)
        self.known = {
            "x": morning.x_NF[kept],
            "arm": arm_N[kept],
            "treatment": vectors_S3[arm_N[kept]],
            "propensity": np.full(len(kept), 1 / len(batch_K)),
            "randomised": np.ones(len(kept), bool),
            "cost": outcome.cost_N[kept],
            "user": morning.user_N[kept],
            "outcome.retained": outcome.retained_N[kept].astype(np.float64),
            "outcome.minutes": outcome.minutes_N[kept],
            "batch": batch_K,
        }
        decided = ~random_N
        figures = {"retained": float(outcome.retained_N.mean()), "minutes": float(outcome.minutes_N.mean()),
                   "strategies.live": float(len(live_A))}  # fmt: skip
        gain_NS = true_NS - true_NS[:, live_A[:1]]
        cost_N, gain_N = truth.cost_NA[rows, arm_N], gain_NS[rows, arm_N]
        figures |= {f"random.{name}": float(each[random_N].mean())
                    for name, each in (("cost", cost_N), ("true.gain", gain_N)) if random_N.any()}  # fmt: skip
        if decided.any():
            cost = float(cost_N[decided].mean())
            figures |= {
                "cost": cost,
                "true.gain": float(gain_N[decided].mean()),
                "value": float(value_N[decided].mean()),
            }
            # What the same users and the same cost would have brought with the true effects of what stands.
            own_NA, cost_NA = gain_NS[decided][:, live_A], truth.cost_NA[decided][:, live_A]
            budget = max(cost, float(cost_NA.min(1).mean()), 1e-9) * (1 + 1e-9)
            best = per_user(own_NA, cost_NA, budget).arm_R
            figures["true.oracle"] = float(own_NA[np.arange(len(best)), best].mean())
        return Told(value_N, outcome.cost_N, figures)

    def valued(self, retained: np.ndarray, minutes: np.ndarray) -> np.ndarray:
        """The weighted sum of the outcomes."""
        return outcome_of({"outcome.retained": retained, "outcome.minutes": minutes}, self.weights)

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
        needed = (
            () if treatment is None else (treatment.arm, treatment.randomised, treatment.propensity, treatment.cost)
        )
        if treatment is None or not (all(needed) and schema.user):
            raise UserError(f"{data}/schema.json: an operation needs 'user' and, under 'treatment', 'arm', "
                            "'propensity', 'randomised' and 'cost'")  # fmt: skip
        self.names, self.vectors = schema.numeric, len(treatment.vector) == len(NUMBERS)
        absent = [name for name in NAMED if name not in self.names]
        if absent:
            raise UserError(f"{data}/schema.json: no numeric feature {absent[0]!r}; cadence and caps need "
                            f"{', '.join(NAMED)}")  # fmt: skip

        self.sensitive, self.columns = self.names.index("sensitive"), len(self.names)

    def traits(self, x_NF: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return traits_of(x_NF, self.names)

    def check(self, option: str, outcomes: Iterable[str]) -> None:
        check_outcomes(option, outcomes, tuple(self.log.schema.outcome))

    def ready(self, day: int) -> bool:
        """Raises UserError where a later day is there and this one is not: days are operated in order, and it could
        not be put in afterwards."""
        whole = list(look(self.data).whole)
        if day >= len(whole):
            return False
        due = (date.fromisoformat(whole[day - 1]) + timedelta(days=1)).isoformat() if day else whole[day]
        if whole[day] != due:
            raise UserError(f"{shown(str(self.data))}: {whole[day]} is there, but {due} is not (a day is whole with "
                            f"{WHOLE_DAY} in it); the same command goes on once it is")  # fmt: skip
        return True

    def morning(self, day: int) -> Morning:
        """The users of that part, by their last row of it. Raises UserError for rows that cannot be decided for or
        learnt from."""
        name_of_day, part = list(look(self.data).whole.items())[day]
        rows, where = read_part(open_log(self.data), part), f"{shown(str(self.data))}/{part}"
        for name in NAMED:
            unknown_R = np.isnan(rows["x"][:, self.names.index(name)])
            if unknown_R.any():
                raise UserError(f"{where}: row {int(np.argmax(unknown_R))}: {name!r} is missing; cadence and caps need "
                                "it")  # fmt: skip
        check_even(rows, where)
        check_vectors(rows, where)
        check_free(rows, f"{where}: ")
        self.taken = [*self.taken[:day], name_of_day]
        _, last_N = np.unique(rows["user"][::-1], return_index=True)
        last_N = len(rows["user"]) - 1 - last_N
        x_NF = rows["x"][last_N]
        kept_N = np.flatnonzero(rows["randomised"])
        known = {name: value[kept_N] for name, value in rows.items()}
        known["batch"] = np.unique(known["arm"])
        return Morning(day, rows["user"][last_N], x_NF, *self.traits(x_NF), known, date=name_of_day)

    def act(
        self, morning: Morning, arm_N: np.ndarray, random_N: np.ndarray, roster: Roster, batch_K: np.ndarray
    ) -> Told:
        raise AssertionError("a log's users have got what they got")

    def state(self) -> dict[str, np.ndarray]:
        return {"taken": np.array([int(each.replace("-", "")) for each in self.taken], np.int64)}

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
