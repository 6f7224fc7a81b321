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
from typing import Any, ClassVar

import numpy as np

from data.errors import UserError
from es.policies import Box, Policy, Positive
from funnel.fresh.slot import FreshSettings
from funnel.panels import Panel, Record, Table
from funnel.platform.episodes import Episodes, EpisodeSettings, interval
from funnel.platform.numbered_worlds import WorldObjective, WorldTuning, check_worlds, told
from funnel.platform.settings import PlatformSettings
from funnel.settings import plain
from funnel.spaces import LogUniform, Presets, Space, Spaces, named
from funnel.tunable import HeldOut

CORPUS, DUIC, DWELL = "discoverable_at_5_7d", "duic_at_5", "dwell"
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
        check_worlds(self, ("discoverable", "duic", "limit", "penalty"))
        if self.per_evaluation < 1:
            raise UserError(f"per_evaluation is {self.per_evaluation}, must be at least 1")
        if self.per_evaluation > self.worlds:
            raise UserError(f"per_evaluation is {self.per_evaluation}, but there are {self.worlds} worlds to tune on")
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
class FreshObjective(WorldObjective):
    settings: FreshTuningSettings
    name: ClassVar[str] = "fresh"

    def __post_init__(self) -> None:
        self.knobs = knobs(self.settings.start, self.settings.world)
        self.episodes = Episodes(self.settings.world, self.settings.episode)

    def tree(self, theta_D: np.ndarray) -> dict[str, Any]:
        """The policy of theta, as JSON has it."""
        values = self.knobs.values(theta_D)
        return {"slot": decoded(values, self.settings.start, self.settings.world)}

    def numbers(self, seed: int) -> list[int]:
        return [(seed + k) % self.settings.worlds for k in range(self.settings.per_evaluation)]

    def worth(self, change: Mapping[str, float]) -> float:
        """The return of these changes, in percent."""
        settings = self.settings
        gain = settings.discoverable * change[CORPUS] + settings.duic * change[DUIC]
        return gain - settings.penalty * max(0.0, -change[DWELL] - settings.limit)


class FreshTuning(WorldTuning):
    """funnel/tunable.py: Tunable."""

    name: ClassVar[str] = "fresh"
    settings_type: ClassVar[type] = FreshTuningSettings
    aims: ClassVar[tuple[str, ...]] = AIMS
    objective_type: ClassVar[type] = FreshObjective
    presets: ClassVar[Presets]
    spaces: ClassVar[Spaces]

    def describe(self) -> str:
        return f"{self.objective.knobs.dimension} numbers of the fresh slot {self.lived()}"

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
