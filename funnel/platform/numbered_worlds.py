"""Policies tuned in numbered worlds and judged in worlds that were never tuned on: what all such tunings share.

Worlds tuned on are numbered from 0; those that tell trials of a search apart from VALID, those that judge from TEST, a
thousand for each seed. A world is lived with and without a policy by common random numbers (episodes.py), so a world
is one observation, and intervals are over worlds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from data.errors import UserError
from es.policies import Policy
from funnel.platform.episodes import Episodes, Figures, changes, interval, measured
from funnel.platform.stages import Policies
from funnel.settings import plain
from funnel.tunable import HeldOut

VALID, TEST = 1_000_000, 2_000_000


class Worlds(Protocol):
    """Settings of such a tuning."""

    @property
    def worlds(self) -> int: ...

    @property
    def held_out(self) -> int: ...


def check_worlds(settings: Worlds, weights: Iterable[str]) -> None:
    """Raise UserError for numbers of worlds that cannot be, or weights of the return (by name) that are none."""
    for name, least in (("worlds", 1), ("held_out", 2)):
        if getattr(settings, name) < least:
            raise UserError(f"{name} is {getattr(settings, name)}, must be at least {least}")
    if settings.worlds > VALID:
        raise UserError(f"worlds is {settings.worlds}, must be at most {VALID:,}")
    for name in weights:
        if not 0 <= getattr(settings, name) < np.inf:
            raise UserError(f"{name} is {getattr(settings, name)}, must be a finite number of at least 0")


def numbers(seed: int, part: HeldOut, count: int) -> range:
    """Of the worlds of a part, or of the seeds of its trainings (funnel/prerank/tuning.py)."""
    first = (TEST if part == "test" else VALID) + 1000 * (seed % 1000)
    return range(first, first + count)


def mean(figures: Sequence[Figures]) -> dict[str, float]:
    """By figure, over worlds."""
    return {name: float(np.mean([each[name] for each in figures])) for name in figures[0]}


def told(key: str, values: list[float]) -> dict[str, float]:
    """{key, key.low, key.high}: the mean over worlds (or trainings) and its 95% interval by Student's t."""
    found = interval(values)
    return {key: found.mean, f"{key}.low": found.low, f"{key}.high": found.high}


@dataclass
class CostedEpisodes(Episodes):
    """Worlds whose figures have what a decision costs, too: as it is, where the others are changes in percent."""

    price: ClassVar[str] = "cost"
    """The figure's name."""

    def cost(self, policies: Policies) -> float:
        """Of policies whose days have been lived."""
        raise NotImplementedError

    def run(self, tree: Mapping[str, Any], number: int) -> Figures:
        policies = self.policies(tree, number)
        world = self.lived(policies, number)
        return {**measured(world, self.settings.settle), self.price: self.cost(policies)}

    def changes(self, tree: Mapping[str, Any], number: int) -> Figures:
        own = self.run(tree, number)
        return {**changes(own, self.base(number)), self.price: own[self.price]}


class WorldObjective:
    """es/objectives/base.py: the return of theta in the world that the seed names. `name` is the objective's."""

    name: ClassVar[str]
    batch_pairs: ClassVar[int] = 1
    settings: Any
    knobs: Policy
    episodes: Episodes

    def __post_init__(self) -> None:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return {"settings": self.settings}  # worlds are begun again where they are needed

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.settings = state["settings"]
        self.__post_init__()

    def initial(self) -> np.ndarray:
        return self.knobs.initial()

    def describe(self) -> dict[str, Any]:
        return {"objective": self.name, **plain(self.settings)}

    def tree(self, theta_D: np.ndarray) -> dict[str, Any]:
        """The platform's policy of theta, as JSON has it."""
        raise NotImplementedError

    def worth(self, change: Figures) -> float:
        """The return of these changes."""
        raise NotImplementedError

    def numbers(self, seed: int) -> list[int]:
        """Of the worlds that a candidate with this seed lives in."""
        return [seed % self.settings.worlds]

    def evaluate_batch(self, theta_PD: np.ndarray, seeds_P: np.ndarray) -> np.ndarray:
        found = []
        for theta_D, seed in zip(theta_PD, seeds_P.tolist(), strict=True):
            tree = self.tree(theta_D)
            found.append(self.worth(mean([self.episodes.changes(tree, number) for number in self.numbers(seed)])))
        return np.array(found)


class WorldTuning:
    """What funnel/tunable.py: Tunable is for such an objective; `aims` are the figures of `measure`."""

    name: ClassVar[str]
    goal: ClassVar[str] = "return"
    aims: ClassVar[tuple[str, ...]]
    smaller: ClassVar[tuple[str, ...]] = ()
    """Those of them that are better when smaller."""
    objective_type: ClassVar[type]
    objective: WorldObjective

    def __init__(self, settings: Any, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.objective = self.objective_type(settings)

    @classmethod
    def open(cls, settings: Any, seed: int, searching: bool = False) -> Self:
        """Worlds are numbered: nothing has to be split, also where a search wants "valid" worlds beside the others."""
        return cls(settings, seed)

    def facts(self) -> dict[str, Any]:
        return {"worlds": {"tuned on": self.settings.worlds, "held out": self.settings.held_out}}

    def lived(self) -> str:
        """The worlds tuned on, in words."""
        settings = self.settings
        return f"in {settings.worlds} worlds of {settings.world.users:,} users, {settings.episode.days} days each"

    def policy(self, theta_D: np.ndarray) -> dict[str, Any]:
        return self.objective.tree(theta_D)

    def numbers(self, part: HeldOut) -> range:
        """Of the worlds of a part."""
        return numbers(self.seed, part, self.settings.held_out)

    def changes(self, tree: Mapping[str, Any], part: HeldOut) -> list[Figures]:
        return [self.objective.episodes.changes(tree, number) for number in self.numbers(part)]

    def measure(self, theta_D: np.ndarray) -> dict[str, float]:
        change = mean(self.changes(self.policy(theta_D), "valid"))
        return {"return": self.objective.worth(change), **{name: change[name] for name in self.aims[1:]}}

    @classmethod
    def smaller_is_better(cls, figure: str) -> bool:
        if figure not in cls.aims:
            raise UserError(f"no figure {figure!r} of {cls.name}: want one of {', '.join(cls.aims)}")
        return figure in cls.smaller
