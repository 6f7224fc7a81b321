"""The numbers of the fresh-content funnel, tuned in simulated worlds and judged in worlds that were never tuned on.

    python -m jobs.evolve --objective fresh --out runs/fresh --generations 20 --pairs 8 --workers 2
    python -m jobs.evolve --objective fresh --out runs/strict --limit 0 --penalty 50

A candidate is a policy of the slot (funnel/fresh/slot.py). Its return is what it changes in a world, in percent of the
same world without a slot, the two lived with common random numbers:

    discoverable * (corpus@5, 7 days) + duic * (DUIC@5) - penalty * max(0, loss of dwell - limit)

The two of an antithetic pair live in the same world. OUT/policy.json is a policy for jobs.experiment.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from data.errors import UserError
from es.policies import Box, Policy, Positive
from funnel.fresh.slot import FreshSettings
from funnel.panels import Panel, Record, Table
from funnel.platform.episodes import Episodes, EpisodeSettings, interval
from funnel.platform.settings import PlatformSettings
from funnel.settings import plain
from funnel.spaces import LogUniform, Presets, Space, Spaces, named
from funnel.tunable import HeldOut

CORPUS, DUIC, DWELL = "discoverable_at_5_7d", "duic_at_5", "dwell"
VALID, TEST = 1_000_000, 2_000_000
"""Numbers from which worlds are taken that nothing is tuned on; those tuned on are numbered from 0."""
SHOWN = (CORPUS, DUIC, DWELL, "fresh.dwell", "fresh.positives", "good_ctr.core", "small.dwell", "uploads")
AIMS = ("return", CORPUS, DUIC, DWELL)
"""Figures of `measure`, in percent of the control's."""


@dataclass(frozen=True)
class FreshTuningSettings:
    world: PlatformSettings = field(default_factory=lambda: PlatformSettings(users=1000, items=500, uploads=40))
    episode: EpisodeSettings = field(default_factory=lambda: EpisodeSettings(first=4, days=8, settle=2))
    start: FreshSettings = field(default_factory=lambda: FreshSettings(q=0.4))
    """The policy that tuning begins with and is compared to: the paper's setting. Its twelve numbers are moved."""
    worlds: int = 16
    """Worlds that are tuned on."""
    per_evaluation: int = 1
    """Worlds that a candidate lives in at each evaluation."""
    held_out: int = 16
    """Worlds that judge."""
    discoverable: float = 1.0
    """Weight of one percent more discoverable corpus."""
    duic: float = 1.0
    """Weight of one percent more DUIC."""
    limit: float = 0.2
    """Percent of dwell that may be lost."""
    penalty: float = 2.0
    """Weight of one percent of dwell lost beyond that. A world's dwell is noisy: a high price makes the search shy."""

    def __post_init__(self) -> None:
        for name, least in (("worlds", 1), ("per_evaluation", 1), ("held_out", 2)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least {least}")
        if self.per_evaluation > self.worlds:
            raise UserError(f"per_evaluation is {self.per_evaluation}, but there are {self.worlds} worlds to tune on")
        if self.worlds > VALID:
            raise UserError(f"worlds is {self.worlds}, must be at most {VALID:,}")
        for name in ("discoverable", "duic", "limit", "penalty"):
            if not 0 <= getattr(self, name) < np.inf:
                raise UserError(f"{name} is {getattr(self, name)}, must be a finite number of at least 0")
        if self.start.first >= self.world.slots:
            raise UserError(f"start.first is {self.start.first}, but a page has {self.world.slots} slots")


def knobs(start: FreshSettings, world: PlatformSettings) -> Policy:
    """The twelve numbers, each with a map from all of R; theta = 0 is the start."""
    inside = {name: min(max(getattr(start, name), 0.01), 0.99) for name in ("p", "q")}
    last = world.slots - 0.5
    return Policy(
        (
            Box(("rate",), 0.0, 1.0, min(max(start.rate, 0.005), 0.99)),
            Box(("p",), 0.0, 1.0, inside["p"]),
            Box(("q",), 0.0, 1.0, inside["q"]),
            Positive(("n_low",), max(start.n_low, 0.1)),
            Positive(("grad_over_low",), max(start.n_grad / max(start.n_low, 0.1) - 1, 0.1)),
            Positive(("temperature",), max(start.temperature, 0.05)),
            Positive(("prior_strength",), start.prior_strength),
            Box(("idf_power",), -0.01, 3.0, min(start.idf_power, 2.9)),
            Positive(("nominees",), float(start.nominees)),
            Box(("kept_share",), 0.0, 1.0001, start.kept / start.nominees),
            Box(("first",), -0.5, last, min(float(start.first), last - 0.25)),
            Positive(("max_age",), start.max_age),
        )
    )


def decoded(values: Mapping[str, float], start: FreshSettings, world: PlatformSettings) -> dict[str, Any]:
    """The settings of the slot that the numbers stand for; whole numbers where the slot wants them."""
    nominees = int(min(max(round(values["nominees"]), 1), 1000))
    own = {
        "rate": values["rate"],
        "p": values["p"],
        "q": values["q"],
        "n_low": values["n_low"],
        "n_grad": values["n_low"] * (1 + values["grad_over_low"]),
        "temperature": values["temperature"],
        "prior_strength": values["prior_strength"],
        "idf_power": max(values["idf_power"], 0.0),
        "nominees": nominees,
        "kept": int(min(max(round(values["kept_share"] * nominees), 1), nominees)),
        "first": int(min(max(round(values["first"]), 0), world.slots - 1)),
        "max_age": values["max_age"],
    }
    return {"kind": "fresh", **plain(start), **own}


@dataclass
class FreshObjective:
    """es/objectives/base.py: the return of theta in the world that the seed names."""

    settings: FreshTuningSettings
    batch_pairs: ClassVar[int] = 1

    def __post_init__(self) -> None:
        self.knobs = knobs(self.settings.start, self.settings.world)
        self.episodes = Episodes(self.settings.world, self.settings.episode)

    def __getstate__(self) -> dict[str, Any]:
        return {"settings": self.settings}  # worlds are begun again where they are needed

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.settings = state["settings"]
        self.__post_init__()

    def initial(self) -> np.ndarray:
        return self.knobs.initial()

    def describe(self) -> dict[str, Any]:
        return {"objective": "fresh", **plain(self.settings)}

    def tree(self, theta_D: np.ndarray) -> dict[str, Any]:
        """The policy of theta, as JSON has it."""
        values = self.knobs.values(theta_D)
        return {"slot": decoded(values, self.settings.start, self.settings.world)}

    def evaluate_batch(self, theta_PD: np.ndarray, seeds_P: np.ndarray) -> np.ndarray:
        settings, found = self.settings, []
        for theta_D, seed in zip(theta_PD, seeds_P.tolist(), strict=True):
            worlds = [(seed + k) % settings.worlds for k in range(settings.per_evaluation)]
            tree = self.tree(theta_D)
            found.append(self.worth(mean([self.episodes.changes(tree, number) for number in worlds])))
        return np.array(found)

    def worth(self, change: Mapping[str, float]) -> float:
        """The return of these changes, in percent."""
        settings = self.settings
        gain = settings.discoverable * change[CORPUS] + settings.duic * change[DUIC]
        return gain - settings.penalty * max(0.0, -change[DWELL] - settings.limit)


def mean(figures: list[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([each[name] for each in figures])) for name in figures[0]}


class FreshTuning:
    """funnel/tunable.py: Tunable."""

    name: ClassVar[str] = "fresh"
    settings_type: ClassVar[type] = FreshTuningSettings
    goal: ClassVar[str] = "return"
    presets: ClassVar[Presets]
    spaces: ClassVar[Spaces]

    def __init__(self, settings: FreshTuningSettings, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.objective = FreshObjective(settings)

    @classmethod
    def open(cls, settings: FreshTuningSettings, seed: int, searching: bool = False) -> Self:
        """Worlds are numbered: nothing has to be split, also where a search wants "valid" worlds beside the others."""
        return cls(settings, seed)

    def facts(self) -> dict[str, Any]:
        return {"worlds": {"tuned on": self.settings.worlds, "held out": self.settings.held_out}}

    def describe(self) -> str:
        settings = self.settings
        return (
            f"{self.objective.knobs.dimension} numbers of the fresh slot in {settings.worlds} worlds of "
            f"{settings.world.users:,} users, {settings.episode.days} days each"
        )

    def policy(self, theta_D: np.ndarray) -> dict[str, Any]:
        return self.objective.tree(theta_D)

    def numbers(self, part: HeldOut) -> range:
        first = (TEST if part == "test" else VALID) + 1000 * (self.seed % 1000)
        return range(first, first + self.settings.held_out)

    def changes(self, tree: Mapping[str, Any], part: HeldOut) -> list[Mapping[str, float]]:
        return [self.objective.episodes.changes(tree, number) for number in self.numbers(part)]

    def measure(self, theta_D: np.ndarray) -> dict[str, float]:
        change = mean(self.changes(self.policy(theta_D), "valid"))
        return {"return": self.objective.worth(change), **{name: change[name] for name in AIMS[1:]}}

    @classmethod
    def smaller_is_better(cls, figure: str) -> bool:
        if figure not in AIMS:
            raise UserError(f"no figure {figure!r} of fresh: want one of {', '.join(AIMS)}")
        return False

    def judge(self, theta_D: np.ndarray, resamples: int, seed: int, part: HeldOut = "test") -> dict[str, Any]:
        """Changes against no slot and against the start, world by world; intervals over worlds."""
        start = {"slot": {"kind": "fresh", **plain(self.settings.start)}}
        tuned, begun = self.changes(self.policy(theta_D), part), self.changes(start, part)
        found: dict[str, Any] = {"fresh.worlds": len(tuned)}
        for name in SHOWN:
            for key, values in (
                (f"fresh.tuned.{name}", [each[name] for each in tuned]),
                (f"fresh.start.{name}", [each[name] for each in begun]),
                (f"fresh.gain.{name}", [a[name] - b[name] for a, b in zip(tuned, begun, strict=True)]),
            ):
                found |= told(key, values)
        worths = [[self.objective.worth(each) for each in side] for side in (tuned, begun)]
        gain = [a - b for a, b in zip(*worths, strict=True)]
        found |= told("fresh.tuned.return", worths[0]) | told("fresh.start.return", worths[1])
        found |= told("fresh.gain.return", gain)
        found["fresh.significant"] = interval(gain).sign > 0
        return found | {"message": sentence(found)}

    @classmethod
    def results(cls, summary: Mapping[str, Any]) -> Table | None:
        from funnel.fresh.panels import results

        return results(summary)

    @classmethod
    def panels(cls, record: Record) -> list[Panel]:
        from funnel.fresh.panels import panels

        return panels(record)


def told(key: str, values: list[float]) -> dict[str, float]:
    found = interval(values)
    return {key: found.mean, f"{key}.low": found.low, f"{key}.high": found.high}


def sentence(found: Mapping[str, Any]) -> str:
    gain, low, high = (found[f"fresh.gain.return{end}"] for end in ("", ".low", ".high"))
    dwell = found[f"fresh.tuned.{DWELL}"]
    better = "beats" if low > 0 else "falls behind" if high < 0 else "is not told from"
    return (
        f"In {found['fresh.worlds']} worlds never tuned on, the tuned policy {better} the start by {gain:+.2f} "
        f"({low:+.2f} to {high:+.2f}); corpus {found[f'fresh.tuned.{CORPUS}']:+.1f}%, DUIC "
        f"{found[f'fresh.tuned.{DUIC}']:+.1f}%, dwell {dwell:+.2f}% against no slot."
    )


def default() -> dict[str, Any]:
    """The defaults of every setting."""
    return {}


def trade() -> Space:
    """How dear a loss of dwell is."""
    return {"penalty": LogUniform(1.0, 200.0), "limit": LogUniform(0.01, 2.0)}


FreshTuning.presets, FreshTuning.spaces = named(default), named(trade)
