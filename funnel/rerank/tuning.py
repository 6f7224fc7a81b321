"""The numbers of re-ranking's search, tuned in simulated worlds and judged in worlds that were never tuned on.

    python -m jobs.evolve --objective rerank --start.weights runs/phone/list_scorer.npz --out runs/tuned --workers 2
    python -m jobs.experiment --control runs/pointwise.json --treatment runs/tuned/policy.json --out runs/against

alpha, beta, k and t (`stability`) of the adaptive beam. A candidate's return is what it changes in a world, in percent
of the same world with the same scorer's point-wise order, the two lived with common random numbers:

    views * (effective views) + likes * (likes) + length * (items seen in a visit)
        - penalty * 100 max(0, evaluations a decision / limit - 1)

k is relaxed: 3.4 is 3 lists for 60% of requests and 4 for the rest, so a small step of k changes the return a little.
Only the ratio of alpha to beta decides what is shown. The two of an antithetic pair live in the same world.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from data.errors import UserError
from es.policies import Box, Policy, Positive
from funnel.panels import Panel, Record, Table
from funnel.platform.episodes import EpisodeSettings, interval
from funnel.platform.numbered_worlds import CostedEpisodes, WorldObjective, WorldTuning, check_worlds, told
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policies
from funnel.rerank.stage import ListReRankingSettings
from funnel.settings import plain
from funnel.spaces import LogUniform, Presets, Space, Spaces, named
from funnel.tunable import HeldOut

VIEWS, LIKES, LENGTH, COST = "effective_views", "likes", "visit_length", "evaluations"
SHOWN = (VIEWS, LIKES, LENGTH, "dwell", "positives", "requests")
AIMS = ("return", VIEWS, LIKES, LENGTH, COST)
"""Figures of `measure`: percent of the control's, and evaluations of a decision."""
WIDEST = 16


@dataclass(frozen=True)
class RerankTuningSettings:
    world: PlatformSettings = field(default_factory=lambda: PlatformSettings(users=500, items=300, uploads=25))
    episode: EpisodeSettings = field(default_factory=lambda: EpisodeSettings(first=2, days=4, settle=1))
    start: ListReRankingSettings = field(default_factory=ListReRankingSettings)
    """The policy that tuning begins with and is compared to; its `weights` are needed."""
    worlds: int = 16
    """Worlds that are tuned on."""
    held_out: int = 16
    """Worlds that judge."""
    views: float = 1.0
    """Weight of one percent more effective views."""
    likes: float = 0.25
    """Weight of one percent more likes; a small world has few, so they are noisy."""
    length: float = 1.0
    """Weight of one percent more items seen in a visit."""
    limit: float = 150.0
    """Evaluations of the scorer that a decision may cost on average: the latency that a device allows."""
    penalty: float = 0.1
    """What each percent beyond that costs."""

    def __post_init__(self) -> None:
        check_worlds(self, ("views", "likes", "length", "penalty"))
        if not 0 < self.limit < np.inf:
            raise UserError(f"limit is {self.limit}, must be a finite number above 0")
        if self.start.method != "adaptive":
            raise UserError(f"start.method is {self.start.method!r}; what is tuned is the adaptive beam")


def knobs(start: ListReRankingSettings) -> Policy:
    """Four numbers, each with a map from all of R; theta = 0 is the start."""
    widest = float(min(WIDEST, start.candidates))
    inside = min(max(start.k + start.more, 1.05), widest - 0.05)
    return Policy(
        (
            Positive(("alpha",), max(start.alpha, 0.05)),
            Positive(("beta",), max(start.beta, 0.05)),
            Box(("k",), 1.0, widest, inside),
            Box(("stability",), 0.3, 1.0, min(max(start.stability, 0.31), 0.999)),
        )
    )


def decoded(values: Mapping[str, float], start: ListReRankingSettings) -> dict[str, Any]:
    """The stage's settings that the numbers stand for."""
    k = int(values["k"])
    own = {"alpha": values["alpha"], "beta": values["beta"], "k": k, "more": min(values["k"] - k, 0.999)}
    return {"kind": "list", **plain(start), **own, "stability": values["stability"]}


class RerankEpisodes(CostedEpisodes):
    """With the evaluations of a decision."""

    price = COST

    def cost(self, policies: Policies) -> float:
        stage = policies.reranking
        return stage.evaluations / max(stage.decisions, 1) if hasattr(stage, "evaluations") else 0.0


@dataclass
class RerankObjective(WorldObjective):
    settings: RerankTuningSettings
    name: ClassVar[str] = "rerank"

    def __post_init__(self) -> None:
        start = self.settings.start
        self.knobs = knobs(start)
        control = {"reranking": {"kind": "list", **plain(start), "method": "pointwise"}}
        self.episodes = RerankEpisodes(self.settings.world, self.settings.episode, control)

    def tree(self, theta_D: np.ndarray) -> dict[str, Any]:
        """The policy of theta, as JSON has it."""
        return {"reranking": decoded(self.knobs.values(theta_D), self.settings.start)}

    def worth(self, change: Mapping[str, float]) -> float:
        """The return of these changes, in percent."""
        settings = self.settings
        gain = settings.views * change[VIEWS] + settings.likes * change[LIKES] + settings.length * change[LENGTH]
        return gain - settings.penalty * 100 * max(0.0, change[COST] / settings.limit - 1)


class RerankTuning(WorldTuning):
    """funnel/tunable.py: Tunable."""

    name: ClassVar[str] = "rerank"
    settings_type: ClassVar[type] = RerankTuningSettings
    aims: ClassVar[tuple[str, ...]] = AIMS
    smaller: ClassVar[tuple[str, ...]] = (COST,)
    objective_type: ClassVar[type] = RerankObjective
    presets: ClassVar[Presets]
    spaces: ClassVar[Spaces]

    @classmethod
    def open(cls, settings: RerankTuningSettings, seed: int, searching: bool = False) -> Self:
        """Raises UserError for weights that the platform cannot use."""
        for tree in (RerankObjective(settings).tree(np.zeros(4, np.float32)), {}):
            Policies.of(tree, settings.world, 0, "start")
        return super().open(settings, seed, searching)

    def describe(self) -> str:
        return (
            f"{self.objective.knobs.dimension} numbers of the search {self.lived()}, at most {self.settings.limit:g} "
            "evaluations a decision"
        )

    def judge(self, theta_D: np.ndarray, resamples: int, seed: int, part: HeldOut = "test") -> dict[str, Any]:
        """Changes against the point-wise order and against the start, world by world; intervals over worlds."""
        start = {"reranking": {"kind": "list", **plain(self.settings.start)}}
        tuned, begun = self.changes(self.policy(theta_D), part), self.changes(start, part)
        found: dict[str, Any] = {"rerank.worlds": len(tuned), "rerank.limit": self.settings.limit}
        for name in (*SHOWN, COST):
            for side, values in (
                ("tuned", [each[name] for each in tuned]),
                ("start", [each[name] for each in begun]),
                ("gain", [a[name] - b[name] for a, b in zip(tuned, begun, strict=True)]),
            ):
                found |= told(f"rerank.{side}.{name}", values)
        worths = [[self.objective.worth(each) for each in side] for side in (tuned, begun)]
        gain = [a - b for a, b in zip(*worths, strict=True)]
        for side, values in (("tuned", worths[0]), ("start", worths[1]), ("gain", gain)):
            found |= told(f"rerank.{side}.return", values)
        found["rerank.significant"] = interval(gain).sign > 0
        return found | {"message": sentence(found)}

    @classmethod
    def results(cls, summary: Mapping[str, Any]) -> Table | None:
        from funnel.rerank.tuning_panels import results

        return results(summary)

    @classmethod
    def panels(cls, record: Record) -> list[Panel]:
        from funnel.rerank.tuning_panels import panels

        return panels(record)


def sentence(found: Mapping[str, Any]) -> str:
    gain, low, high = (found[f"rerank.gain.return{end}"] for end in ("", ".low", ".high"))
    better = "beats" if low > 0 else "falls behind" if high < 0 else "is not told from"
    return (
        f"In {found['rerank.worlds']} worlds never tuned on, the tuned search {better} the start by {gain:+.2f} "
        f"({low:+.2f} to {high:+.2f}); effective views {found[f'rerank.tuned.{VIEWS}']:+.1f}%, likes "
        f"{found[f'rerank.tuned.{LIKES}']:+.1f}%, visit length {found[f'rerank.tuned.{LENGTH}']:+.1f}% against the "
        f"point-wise order at {found[f'rerank.tuned.{COST}']:.0f} evaluations a decision."
    )


def default() -> dict[str, Any]:
    """The defaults of every setting."""
    return {}


def trade() -> Space:
    """How much a decision may cost."""
    return {"limit": LogUniform(20.0, 500.0), "likes": LogUniform(0.05, 2.0)}


RerankTuning.presets, RerankTuning.spaces = named(default), named(trade)
