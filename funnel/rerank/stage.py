"""Re-ranking with the trained list scorer, on the platform: after each view the next item is searched for again.

    {"reranking": {"kind": "list", "weights": "runs/phone/list_scorer.npz", "candidates": 20, "stability": 0.95}}
    {"reranking": {"kind": "shuffled", "candidates": 20}}        # a random order, to log what a scorer can learn from

What was watched on this page comes with each step, what was watched before in the visit is kept here, user by user.
Shapes: R requests of a block, A of them active, M candidates, P watched on this page, S slots, N kept of a visit,
O width of vectors, F feedback values, U users, C categories.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
import torch

from data.errors import UserError
from funnel.platform.draws import bits, key, uniforms
from funnel.platform.figures import EFFECTIVE
from funnel.platform.logs.columns import item_columns, platform_schema, user_columns
from funnel.platform.numbers import gumbel_table
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policy, Step
from funnel.platform.view import NOBODY, Feedback, Requests, View
from funnel.rerank.limits import Bounds, parsed
from funnel.rerank.list_value import Scorer, SearchSettings
from funnel.rerank.rivals import LeavingByPlace, Weibull
from funnel.rerank.scorer import NetworkScorer, NumpyScorer, Watched
from funnel.rerank.search import search
from funnel.rerank.weights import Weights, load

MORE = key(0, 41)
"""Address of what decides which requests are searched with one list more."""
TOLD = ("click", "good", "dwell", "like", "purchase", "effective_view")
"""Feedback that the platform gives after each view."""


@dataclass(frozen=True)
class ListReRankingSettings(SearchSettings):
    weights: str = ""
    """list_scorer.npz of jobs.export."""
    candidates: int = 20
    """Ranked items that a page is chosen from; at least the page's slots."""
    more: float = 0.0
    """Share of requests that are searched with one list more than k: a k between whole numbers."""
    leave: Literal["next", "place"] = "next"
    """Who says whether users look on: the network's head, or a law of how many items they have seen (CAVE)."""
    context: bool = True
    """Whether the scorer is told what was watched before this page and on it; what is planned it is told anyway."""
    limits: tuple[str, ...] = ()
    """Shares of exposure, each "CATEGORY:LEAST:MOST"; "*:0:.3": every category that is not named."""
    scope: Literal["page", "session"] = "page"
    """Of what the limits are shares."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < 1:
            raise UserError(f"candidates is {self.candidates}, must be at least 1")
        if not 0 <= self.more < 1:
            raise UserError(f"more is {self.more}, must lie in 0..1, 1 left out")
        parsed(self.limits, 0, 1, self.scope, check=False)


@dataclass
class Page:
    """What is known of a block of requests while its users look down their pages."""

    scorer: NetworkScorer
    item_RM: np.ndarray
    category_RM: np.ndarray
    length_RM: np.ndarray
    before_R: np.ndarray
    """int: items watched on earlier pages of the visit."""


class ListReRanking(Policy):
    """funnel/platform/stages.py: ReRanking. `evaluations` and `decisions` count what its searches cost."""

    settings_type = ListReRankingSettings

    def __init__(self, settings: ListReRankingSettings, world: PlatformSettings, seed: int) -> None:
        super().__init__(settings, world, seed)
        if not settings.weights:
            raise UserError("weights is not given: the list_scorer.npz of jobs.export")
        self.candidates = max(settings.candidates, world.slots)
        settings.check_width(self.candidates)
        self.limits = parsed(settings.limits, world.categories, world.slots, settings.scope)
        self.weights: Weights = load(settings.weights)
        check_platform(self.weights, world, settings.weights)
        self.law = Weibull(*self.weights.problem.facts["leave"])
        self.pages: dict[int, Page] = {}
        self.evaluations = self.decisions = 0
        width, most = self.weights.scorer.config.output, max(self.weights.scorer.config.before, 1)
        names = self.weights.problem.settings.feedback
        self.item_UNO = np.zeros((world.users, most, width), np.float32)
        self.there_UN = np.zeros((world.users, most), bool)
        self.feedback_UNF = np.zeros((world.users, most, len(names)), np.float32)
        self.visit_U = np.full(world.users, NOBODY, np.int64)
        self.seen_U = np.zeros(world.users, np.int64)
        self.had_UC = np.zeros((world.users, world.categories), np.int64)

    def choose(self, requests: Requests, step: Step, view: View) -> np.ndarray:
        block = int(requests.key_R[0]) if len(requests) else 0
        if step.place == 0 or block not in self.pages:
            self.pages[block] = self.opened(requests, step, view)
        page = self.pages[block]
        active_R = step.active_R & step.left_RM.any(1)
        wider_R = uniforms(MORE, requests.key_R) < self.settings.more
        chosen_R = np.zeros(len(requests), np.int64)
        for row_A, settings in (
            (np.flatnonzero(active_R & ~wider_R), self.settings),
            (np.flatnonzero(active_R & wider_R), replace(self.settings, k=self.settings.k + 1)),
        ):
            if not len(row_A):
                continue
            scorer = self.scorer(page, step, row_A)
            bounds = self.bounds(page, step, row_A, requests) if self.limits else None
            found = search(scorer, step.left_RM[row_A], settings, self.world.slots - step.place, bounds)
            self.evaluations += int(found.evaluations_R.sum())
            self.decisions += len(row_A)
            chosen_R[row_A] = found.first_R
        return chosen_R

    def opened(self, requests: Requests, step: Step, view: View) -> Page:
        """Vectors of all candidates, and what was watched before this page of the visit."""
        rows, candidates = step.item_RM.shape
        item_R = np.maximum(step.item_RM, 0).reshape(-1)
        score_R = np.where(step.item_RM == NOBODY, 0, step.score_RM).reshape(-1).astype(np.float32)
        row_R = np.repeat(np.arange(rows), candidates)
        good_R = np.zeros(len(item_R), np.float32) if step.good_RM is None else step.good_RM.reshape(-1)
        ranked = {"rank_score": score_R, "rank_good": good_R.astype(np.float32)}
        columns = {**user_columns(requests, view, row_R, 0), **item_columns(item_R, view), **ranked}
        problem = self.weights.problem
        names = problem.views.schema.raw(problem.views.schema.features)
        encoded = problem.encoder.encode(pa.table({name: columns[name] for name in names}))
        with torch.inference_mode():
            query_BO, item_BO = self.weights.scorer.vectors(
                torch.from_numpy(encoded.ids_RK), torch.from_numpy(encoded.numeric_RN)
            )
        item_RMO = item_BO.view(rows, candidates, -1)
        user_R = requests.user_R
        same_R = self.visit_U[user_R] == requests.visit_R
        watched = Watched(
            torch.from_numpy(self.item_UNO[user_R]),
            torch.from_numpy(self.there_UN[user_R] & same_R[:, None] & self.settings.context),
            torch.from_numpy(self.feedback_UNF[user_R]),
        )
        scorer = NetworkScorer(
            self.weights.scorer, self.weights.maps, query_BO.view(rows, candidates, -1)[:, 0], item_RMO, watched
        )
        item_RM = item_R.reshape(rows, candidates)
        return Page(
            scorer,
            step.item_RM.copy(),
            view.items.category_I[item_RM],
            view.items.length_I[item_RM],
            self.seen_U[user_R] * same_R,
        )

    def scorer(self, page: Page, step: Step, row_A: np.ndarray) -> Scorer:
        """Of the active requests, after what they watched on this page too."""
        row, own = torch.from_numpy(row_A), page.scorer
        watched, item_AMO = own.watched.take(row), own.item_RMO[row]
        if step.place and self.settings.context:
            seen_AP = torch.from_numpy(step.seen_RP[row_A][:, ::-1].copy())
            now = Watched(
                item_AMO.gather(1, seen_AP.unsqueeze(2).expand(-1, -1, item_AMO.shape[2])),
                torch.ones(seen_AP.shape, dtype=torch.bool),
                torch.from_numpy(self.told(step, page, row_A)),
            )
            watched = watched.behind(now, self.weights.scorer.config.before)
        after: Scorer = NumpyScorer(replace(own, query_RO=own.query_RO[row], item_RMO=item_AMO, watched=watched))
        if self.settings.leave == "next":
            return after
        return LeavingByPlace(after, self.law, page.before_R[row_A] + step.place)

    def told(self, step: Step, page: Page, row_A: np.ndarray) -> np.ndarray:
        """float32 (A, P, F): the feedback of what was watched on this page, the latest first."""
        given = {name: value_RP[row_A] for name, value_RP in step.feedback_RP.items()}
        length_AP = np.take_along_axis(page.length_RM[row_A], step.seen_RP[row_A], 1)
        return feedback_of(self.weights.problem.settings.feedback, given, length_AP)[:, ::-1].copy()

    def bounds(self, page: Page, step: Step, row_A: np.ndarray, requests: Requests) -> Bounds:
        user_A = requests.user_R[row_A]
        same_A = self.visit_U[user_A] == requests.visit_R[row_A]
        here_AC = np.zeros((len(row_A), self.world.categories), np.int64)
        for place in range(step.place):
            shown_A = page.category_RM[row_A, step.seen_RP[row_A, place]]
            here_AC[np.arange(len(row_A)), shown_A] += 1
        assert self.limits is not None
        had_AC = self.had_UC[user_A] * same_A[:, None]
        return self.limits.bounds(page.category_RM[row_A], step.left_RM[row_A], had_AC, here_AC)

    def observe(self, feedback: Feedback, view: View) -> None:
        """Keep what was watched on the page, with what came of it, for the next page of the visit."""
        requests = feedback.requests
        page = self.pages.pop(int(requests.key_R[0]), None) if len(requests) else None
        if page is None:
            return
        user_R = requests.user_R
        same_RS = page.item_RM[:, None] == feedback.item_RS[:, :, None]
        column_RS = same_RS.argmax(2)
        given = {name: getattr(feedback, f"{name}_RS") for name in TOLD if name != "effective_view"}
        told_RSF = feedback_of(
            self.weights.problem.settings.feedback, given, np.take_along_axis(page.length_RM, column_RS, 1)
        )
        vector_RSO = np.take_along_axis(page.scorer.item_RMO.numpy(), column_RS[:, :, None], 1)
        same_R = self.visit_U[user_R] == requests.visit_R
        self.seen_U[user_R] = self.seen_U[user_R] * same_R + feedback.seen_RS.sum(1)
        old_RN = self.there_UN[user_R] & same_R[:, None]
        kept_RA = np.concatenate([feedback.seen_RS[:, ::-1], old_RN], 1)
        order_RN = np.argsort(~kept_RA, axis=1, kind="stable")[:, : self.there_UN.shape[1]]
        for ring, new in ((self.item_UNO, vector_RSO), (self.feedback_UNF, told_RSF)):
            both = np.concatenate([new[:, ::-1], ring[user_R]], 1)
            ring[user_R] = np.take_along_axis(both, order_RN[:, :, None], 1)
        self.there_UN[user_R] = np.take_along_axis(kept_RA, order_RN, 1)
        if self.limits:
            self.had_UC[user_R] *= same_R[:, None]
            shown_RS = np.take_along_axis(page.category_RM, column_RS, 1)
            np.add.at(self.had_UC, (user_R[:, None], shown_RS), feedback.seen_RS.astype(np.int64))
        self.visit_U[user_R] = requests.visit_R


def feedback_of(names: tuple[str, ...], given: Mapping[str, np.ndarray], length_RP: np.ndarray) -> np.ndarray:
    """float32 (R, P, F): log(1 + x) of the feedback of these names, as the training's log has it."""
    values = dict(given) | {"effective_view": given["dwell"] >= np.float32(EFFECTIVE) * length_RP}
    found = [np.log1p(values[name].astype(np.float32)) for name in names]
    return np.stack(found, 2) if found else np.zeros((*length_RP.shape, 0), np.float32)


def check_platform(weights: Weights, world: PlatformSettings, path: str) -> None:
    """Raises UserError where the network was trained on columns that this platform has not, or has otherwise."""
    problem = weights.problem
    schema = platform_schema("platform", world, "visit_id", 0, truth=True)
    there = {one.name: one for one in schema.categorical}
    known = {*schema.numeric, "rank_score", "rank_good"} - {"position", "recent_same"}
    for one in problem.views.schema.categorical:
        own = there.get(one.name)
        if own is None or (own.kind, own.rows) != (one.kind, one.rows):
            has = f"{own.rows} rows of the kind {own.kind}" if own else "none of that name"
            raise UserError(
                f"{path}: was trained on a {one.name!r} of {one.rows} rows of the kind {one.kind}; "
                f"this platform has {has}"
            )
    for name in problem.views.schema.numeric:
        if name not in known:
            raise UserError(f"{path}: was trained with the feature {name!r}, which this platform has not")
    for name in problem.settings.feedback:
        if name not in TOLD:
            raise UserError(f"{path}: was trained with the feedback {name!r}; this platform tells {', '.join(TOLD)}")


@dataclass(frozen=True)
class ShuffledSettings:
    candidates: int = 20
    """Ranked items that a page is drawn from."""
    temperature: float = 1.0
    """Gumbel noise of this scale on the main system's score; large: any order."""

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise UserError(f"candidates is {self.candidates}, must be at least 1")
        if not 0 <= self.temperature < 1e6:
            raise UserError(f"temperature is {self.temperature}, must be a finite number of at least 0")


class Shuffled(Policy):
    """The main system's order with noise: pages whose logs say what other orders would do."""

    settings_type = ShuffledSettings

    def __init__(self, settings: ShuffledSettings, world: PlatformSettings, seed: int) -> None:
        super().__init__(settings, world, seed)
        self.candidates = max(settings.candidates, world.slots)

    def choose(self, requests: Requests, step: Step, view: View) -> np.ndarray:
        # Another word of the request's randomness than the fusion's noise: its key is shifted.
        word_RM = bits(requests.key_R + np.uint64(0x5851F42D4C957F2D), view.items.key_I.take(step.item_RM, mode="clip"))
        noise_RM = np.float32(self.settings.temperature) * gumbel_table().take(word_RM >> np.uint64(48))
        score_RM = np.where(step.left_RM, step.score_RM + noise_RM, -np.inf)
        return np.asarray(score_RM.argmax(1))
