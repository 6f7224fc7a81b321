"""The stages of the funnel as interfaces, and Policies: one policy of each, built from plain settings.

A policy is a class with `settings_type` (a dataclass), made as `Kind(settings, world_settings, seed)`. It may keep
state: `refresh` runs once a day before the first request, `tick` before every part of a day, `observe` after every
round of requests (all pages of one number in a tick). A policy sees a View and blocks of Requests and must treat each
row of a block by itself (blocks may be cut anywhere). Its randomness comes from the requests' keys (draws.py) or from
`seed`; with common random numbers two worlds then differ by what the policies do alone. A test that compares worlds
copies them with their policies (copy.deepcopy): state must be copyable.

In JSON, {"slot": {"kind": "random", "rate": 0.2}, "fusion": {"popularity": 0.3}}: a stage that is left out is the
plain one, `kind` may be "package.module:Class". funnel/registry.py lists the kinds by stage. Shapes: view.py.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from data.errors import UserError
from data.nearest import correction
from funnel.platform.settings import PlatformSettings
from funnel.platform.view import Feedback, Requests, View
from funnel.registry import STAGES, find_policy
from funnel.settings import flat, plain, read


class Policy:
    """What every stage's policy has; all of it may be left as it is."""

    settings_type: type
    keep: int = 0
    """Of pre-ranking: see PreRanking."""

    def __init__(self, settings: Any, world: PlatformSettings, seed: int) -> None:
        """Raises UserError where the settings do not go with the world's."""
        self.settings, self.world, self.seed = settings, world, seed

    def refresh(self, view: View) -> None:
        """Once a day, before its first request."""

    def tick(self, view: View) -> None:
        """Before each part of a day (after `refresh`)."""

    def observe(self, feedback: Feedback, view: View) -> None:
        """After a round, for each of its blocks; of all arms that share the corpus."""


class Matching(Protocol):
    def candidates(self, requests: Requests, view: View) -> np.ndarray:
        """int_RC: candidates of each request, no item twice in a row; NOBODY where there are fewer."""


class PreRanking(Protocol):
    keep: int
    """How many go on to ranking; 0: as many as the world's settings say (`kept`)."""

    def score(self, requests: Requests, item_RC: np.ndarray, view: View) -> np.ndarray:
        """float32_RC, larger is better; the best go on. Scores of NOBODY do not count."""


class Ranking(Protocol):
    def predict(self, requests: Requests, item_RC: np.ndarray, view: View) -> Mapping[str, np.ndarray]:
        """Predictions by name, float32_RC logits: "good" (a good click), "purchase" (given a click) and what else the
        fusion wants."""


class Fusion(Protocol):
    def score(
        self, requests: Requests, item_RC: np.ndarray, predictions: Mapping[str, np.ndarray], view: View
    ) -> np.ndarray:
        """float32_RC, larger is better: the order of the page. Also orders what the fresh slot nominates."""


class FreshSlot(Protocol):
    """The slot that belongs to fresh items: nominators, graduation and pre-scorer stand behind `nominate`."""

    slots: int
    """Slots of a page that may be fresh: 0 or 1."""

    def wanted(self, requests: Requests, view: View) -> np.ndarray:
        """bool_R: which requests have a fresh slot."""

    def place(self, requests: Requests, view: View) -> np.ndarray:
        """int_R: the slot's place on the page, 0 .. slots-1 (dedicated: always the same; floating: any)."""

    def nominate(self, requests: Requests, view: View) -> np.ndarray:
        """int_RN: what the main ranker chooses one of, after graduation and pre-scorer; NOBODY: none. Asked only for
        requests that want one. Items that the user was shown lately are left out by the world."""


@dataclass(frozen=True)
class Step:
    """Where a user stands on the page: `place` items were looked at, the next one is chosen among the rest."""

    place: int
    item_RM: np.ndarray
    """Candidates in the order of the main system, the fresh slot's item among them; the same at every place."""
    score_RM: np.ndarray
    """float32: the fusion's score."""
    left_RM: np.ndarray
    """bool: not shown yet."""
    active_R: np.ndarray
    """bool: still looking. Choices for others do not count."""
    seen_RP: np.ndarray
    """int: what was watched on this page so far, in order (P = place); columns into item_RM."""
    feedback_RP: Mapping[str, np.ndarray]
    """(R, P) by name: "click", "good", "dwell", "like", "purchase" of what was watched."""
    good_RM: np.ndarray | None = None
    """float32: the ranker's logit of a good click with each candidate."""


class ReRanking(Protocol):
    candidates: int
    """How many ranked items it chooses a page from: at least the page's slots."""

    def choose(self, requests: Requests, step: Step, view: View) -> np.ndarray:
        """int_R: the column of the item to show next, one that is left; NOBODY: none of them may be shown, and the page
        ends. Asked at every place, after each view, so what was watched can decide what comes next."""


@dataclass
class Policies:
    """One policy of each stage, as an arm of a world has them."""

    matching: Any
    preranking: Any
    ranking: Any
    fusion: Any
    slot: Any
    reranking: Any
    tree: dict[str, Any] = field(default_factory=dict)
    """The plain settings they were made from."""

    @classmethod
    def of(cls, tree: Mapping[str, Any], world: PlatformSettings, seed: int, where: str = "policy") -> "Policies":
        """Raises UserError, opened by `where`, for an unknown stage, kind or key, or a value out of range."""
        for stage in tree:
            if stage not in STAGES:
                raise UserError(f"{where}: unknown key {stage!r}; {correction(stage, list(STAGES), 'stages')}")
        made, whole = {}, {}
        for stage in STAGES:
            given = tree.get(stage, {})
            if not isinstance(given, Mapping):
                raise UserError(f"{where}: {stage!r} must be an object of key: value, not {given!r}")
            kind = str(given.get("kind", STAGES[stage].default))
            policy = found(stage, kind, where)
            rest = {key: value for key, value in given.items() if key != "kind"}
            settings: Any = read(policy.settings_type, rest, f"{where}: {stage}")
            check_finite(settings, f"{where}: {stage}")
            try:
                made[stage] = policy(settings, world, seed)
            except UserError as error:
                raise UserError(f"{where}: {stage}: {error}") from None
            whole[stage] = {"kind": kind, **plain(settings)}
        return cls(**made, tree=whole)

    def each(self) -> list[Any]:
        return [getattr(self, stage) for stage in STAGES]


def found(stage: str, kind: str, where: str) -> Any:
    """The class of a stage's policy. Raises UserError, opened by `where`, for what is none."""
    try:
        policy = find_policy(stage, kind)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if not isinstance(getattr(policy, "settings_type", None), type):
        raise UserError(f"{where}: {stage}: {kind} is no policy: a class with settings_type is wanted")
    return policy


def check_finite(settings: Any, front: str) -> None:
    """Raises UserError for a number that is none: it would score items NaN days into a world, or silently none."""
    for name, value in flat(dataclasses.asdict(settings)).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{front}: {name} is {value}, must be a finite number")
