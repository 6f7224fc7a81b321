"""Stage quotas tuned by evolution strategies under a cost limit: candidates of each matching route, and how many of
them pre-ranking hands to the ranker.

    python -m jobs.evolve --objective quotas --out runs/quotas --limit 500
    python -m jobs.experiment --control runs/before.json --treatment runs/quotas/policy.json --out runs/against

Five numbers: `taste`, `intent`, `popular`, `fresh` (routes.py) and `keep`. A candidate's return is what it changes in a
simulated world, in percent of the same world under the start, the two lived with common random numbers:

    positives * (good clicks) + purchases * (purchases)
    cost of a request = candidates + rank_cost * keep

Numbers that would cost more than the limit are scaled down alike until they do not, so no candidate and no result is
beyond it; items that two routes find make a request cheaper still. The two of an antithetic pair live in the same
world; worlds that judge were never tuned on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from data.errors import UserError
from es.policies import Policy, Positive
from funnel.panels import Glossary, Intervals, Panel, Record, Sentence, Table
from funnel.platform.episodes import EpisodeSettings
from funnel.platform.numbered_worlds import CostedEpisodes, WorldObjective, WorldTuning, check_worlds, told
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policies
from funnel.prerank.routes import MOST, ROUTES, RouteSettings
from funnel.progress import WORDS, evolution, evolution_cost
from funnel.settings import plain
from funnel.spaces import LogUniform, Presets, Space, Spaces, named
from funnel.tunable import HeldOut

POSITIVES, PURCHASES, COST = "positives", "purchases", "cost"
AIMS = ("return", POSITIVES, PURCHASES, COST)
SHOWN = {POSITIVES: "good clicks", PURCHASES: "purchases", "dwell": "dwell", "requests": "requests"}
SECTION = "Stage quotas"


@dataclass(frozen=True)
class QuotaTuningSettings:
    world: PlatformSettings = field(default_factory=lambda: PlatformSettings(users=500, items=900, uploads=25))
    episode: EpisodeSettings = field(default_factory=lambda: EpisodeSettings(first=2, days=3, settle=0))
    start: RouteSettings = field(default_factory=RouteSettings)
    """The quotas that tuning begins with and is compared to."""
    keep: int = 60
    """How many the ranker is handed at the start."""
    weights: str = ""
    """pre_ranker.npz of a trained pre-ranker; the platform's plain stage, if left out."""
    worlds: int = 16
    """Worlds that are tuned on."""
    held_out: int = 16
    """Worlds that judge."""
    positives: float = 1.0
    """Weight of one percent more good clicks."""
    purchases: float = 0.25
    """Weight of one percent more purchases; a small world has few, so they are noisy."""
    rank_cost: float = 10.0
    """What ranking an item costs; pre-ranking one costs 1."""
    limit: float = 500.0
    """What a request may cost."""

    def __post_init__(self) -> None:
        check_worlds(self, ("positives", "purchases", "rank_cost"))
        if self.keep < 1:
            raise UserError(f"keep is {self.keep}, must be at least 1")
        least_cost = self.world.slots * (1 + self.rank_cost)
        if not least_cost <= self.limit < np.inf:
            raise UserError(f"limit is {self.limit:g}: a page of {self.world.slots} items alone costs {least_cost:g}")
        if self.keep < self.world.slots:
            raise UserError(f"keep is {self.keep}: a page of {self.world.slots} slots cannot be filled")


def knobs(settings: QuotaTuningSettings) -> Policy:
    """theta = 0 is the start; a quota that starts at 0 starts at 1."""
    maps = [Positive((name,), max(float(getattr(settings.start, name)), 1.0)) for name in ROUTES]
    return Policy((*maps, Positive(("keep",), float(settings.keep))))


def tree_of(quotas: Mapping[str, int], weights: str) -> dict[str, Any]:
    """The platform's policy with these quotas, as JSON has it."""
    trained: dict[str, Any] = {"kind": "trained", "weights": weights} if weights else {"kind": "plain"}
    matching = {"kind": "routes", **{name: quotas[name] for name in ROUTES}}
    return {"matching": matching, "preranking": {**trained, "keep": quotas["keep"]}}


@dataclass
class QuotaEpisodes(CostedEpisodes):
    """With what a request costs."""

    rank_cost: float = 10.0

    def cost(self, policies: Policies) -> float:
        return policies.matching.cost() + self.rank_cost * policies.preranking.keep


@dataclass
class QuotaObjective(WorldObjective):
    settings: QuotaTuningSettings
    name: ClassVar[str] = "quotas"

    def __post_init__(self) -> None:
        settings = self.settings
        self.knobs = knobs(settings)
        begin = tree_of({**plain(settings.start), "keep": settings.keep}, settings.weights)
        self.episodes = QuotaEpisodes(settings.world, settings.episode, begin, rank_cost=settings.rank_cost)

    def quotas(self, theta_D: np.ndarray) -> dict[str, int]:
        """Whole numbers within the limit, of which a page can be filled."""
        settings, values = self.settings, self.knobs.values(theta_D)
        slots, cost = settings.world.slots, settings.rank_cost
        total = sum(values[name] for name in ROUTES)
        share = min(settings.limit / (total + cost * values["keep"]), 1.0)
        keep = max(int(share * values["keep"]), slots)
        # Where a page's items are all that may be ranked, matching has what they leave.
        share = min(share, (settings.limit - cost * keep) / total)
        found = {name: min(int(share * values[name]), MOST) for name in ROUTES}
        found["taste"] += max(slots - sum(found.values()), 0)
        return {**found, "keep": min(keep, sum(found.values()))}

    def tree(self, theta_D: np.ndarray) -> dict[str, Any]:
        return tree_of(self.quotas(theta_D), self.settings.weights)

    def worth(self, change: Mapping[str, float]) -> float:
        """The return of these changes, in percent."""
        return self.settings.positives * change[POSITIVES] + self.settings.purchases * change[PURCHASES]


class QuotaTuning(WorldTuning):
    """funnel/tunable.py: Tunable."""

    name: ClassVar[str] = "quotas"
    settings_type: ClassVar[type] = QuotaTuningSettings
    aims: ClassVar[tuple[str, ...]] = AIMS
    smaller: ClassVar[tuple[str, ...]] = (COST,)
    objective_type: ClassVar[type] = QuotaObjective
    objective: QuotaObjective
    presets: ClassVar[Presets]
    spaces: ClassVar[Spaces]

    @classmethod
    def open(cls, settings: QuotaTuningSettings, seed: int, searching: bool = False) -> Self:
        """Raises UserError for weights that the platform cannot use."""
        Policies.of(QuotaObjective(settings).episodes.control, settings.world, 0, "start")
        return super().open(settings, seed, searching)

    def describe(self) -> str:
        limit = f"at most {self.settings.limit:g} a request"
        return f"quotas of {len(ROUTES)} matching routes and of ranking {self.lived()}, {limit}"

    def judge(self, theta_D: np.ndarray, resamples: int, seed: int, part: HeldOut = "test") -> dict[str, Any]:
        """Changes against the start, world by world; intervals over worlds."""
        tuned, start = self.changes(self.policy(theta_D), part), self.changes(self.objective.episodes.control, part)
        found: dict[str, Any] = {"quotas.worlds": len(tuned), "quotas.limit": self.settings.limit}
        for name in SHOWN:
            found |= told(f"quotas.gain.{name}", [each[name] for each in tuned])
        for side, figures in (("tuned", tuned), ("start", start)):
            found[f"quotas.{side}.cost"] = float(np.mean([each[COST] for each in figures]))
        gain = [self.objective.worth(a) - self.objective.worth(b) for a, b in zip(tuned, start, strict=True)]
        found |= told("quotas.gain.return", gain)
        begin = {**plain(self.settings.start), "keep": self.settings.keep}
        for name, value in self.objective.quotas(theta_D).items():
            found |= {f"quotas.{name}": value, f"quotas.start.{name}": begin[name]}
        found["quotas.significant"] = found["quotas.gain.return.low"] > 0
        return found | {"message": sentence(found)}

    @classmethod
    def results(cls, summary: Mapping[str, Any]) -> Table | None:
        if "quotas.worlds" not in summary:
            return None
        rows: list[tuple[Any, ...]] = [
            (name, "", "{:+.2f}% ({:+.2f} to {:+.2f})".format(*(summary[f"quotas.gain.{key}{e}"] for e in ENDS)))
            for key, name in SHOWN.items()
        ]
        rows.append(("cost of a request", *(f"{summary[f'quotas.{side}.cost']:.0f}" for side in ("start", "tuned"))))
        rows += [(name, summary[f"quotas.start.{name}"], summary[f"quotas.{name}"]) for name in (*ROUTES, "keep")]
        title = f"{summary['quotas.worlds']} worlds held out, % of the same world under the start (95% intervals)"
        return Table(title, ("figure", "start", "tuned"), tuple(rows))

    @classmethod
    def panels(cls, record: Record) -> list[Panel]:
        shown: list[Panel] = []
        if message := record.summary.get("message"):
            shown.append(Sentence(str(message), headline=True))
        if table := cls.results(record.summary):
            shown.append(table)
        gains = [record.interval(f"quotas.gain.{key}", name) for key, name in SHOWN.items()]
        if known := tuple(gain for gain in gains if gain):
            note = (
                "In worlds never tuned on, with 95% intervals over worlds. An open dot is no evidence of a difference."
            )
            shown.append(Intervals("Tuned against the start", "percent", known, 0.0, note, SECTION))
        course = evolution(record, SECTION, "return in the worlds tuned on")
        return [*shown, *course, evolution_cost(record, "quotas"), Glossary((*TERMS, *WORDS))]


ENDS = ("", ".low", ".high")
TERMS = (("Cost of a request", "its distinct candidates, and rank_cost for each that is handed to the ranker"),)


def sentence(found: Mapping[str, Any]) -> str:
    gain, low, high = (found[f"quotas.gain.return{end}"] for end in ENDS)
    better = "beat" if low > 0 else "fall behind" if high < 0 else "are not told from"
    return (
        f"In {found['quotas.worlds']} worlds never tuned on, the tuned quotas {better} the start by {gain:+.2f} "
        f"({low:+.2f} to {high:+.2f}); good clicks {found['quotas.gain.positives']:+.1f}%, purchases "
        f"{found['quotas.gain.purchases']:+.1f}%, a request costs {found['quotas.tuned.cost']:.0f} against "
        f"{found['quotas.start.cost']:.0f} (limit {found['quotas.limit']:g})."
    )


def default() -> dict[str, Any]:
    """The defaults of every setting."""
    return {}


def coarse() -> dict[str, Any]:
    """Large steps, for a search of a few hundred evaluations."""
    return {"sigma": 0.5, "learning_rate": 0.25, "pairs": 6, "generations": 15}


def budget() -> Space:
    """How much a request may cost."""
    return {"limit": LogUniform(200.0, 2000.0), "rank_cost": LogUniform(2.0, 15.0)}


QuotaTuning.presets, QuotaTuning.spaces = named(default, coarse), named(budget)
