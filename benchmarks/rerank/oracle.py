"""Re-ranking that knows the platform's true chances: what any scorer could bring at most.

A user's mood of a visit is not known but to the arm that is told; the others hold odds over all moods: the shares from
which it is drawn, times the likelihood of what was watched in the visit (click, dwell, like). A candidate's chances are
the mean over moods, by how many of the last RECENT items are of its category (behaviour.py has the equations).

    view   sum_k odds_k sigma(x_k) Phi((DWELL + DWELL_SLOPE x_k + log(10 s / (.3 length))) / DWELL_NOISE)
    like   sum_k odds_k sigma(x_k) sigma(LIKE + .8 x'_k)
    next   sum_k odds_k E sigma(patience + NEXT + .6 good - .3 no click)

Shapes: R requests, M candidates, N = 0 .. RECENT items of the same category, K moods, P watched on the page, U users.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.special import expit, ndtr

from funnel.platform.behaviour import (
    DWELL_NOISE,
    DWELL_SLOPE,
    LIKE,
    LOG_DWELL,
    NEXT,
    RECENT,
    Potential,
    moods,
)
from funnel.platform.corpus import Corpus
from funnel.platform.episodes import Figures, measured
from funnel.platform.figures import EFFECTIVE
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policies, Step
from funnel.platform.view import NOBODY, Feedback, Requests, View
from funnel.rerank.list_value import Chances, SearchSettings
from funnel.rerank.search import search
from funnel.rerank.tuning import COST, RerankEpisodes

LEVELS = 65536.0


@dataclass(frozen=True)
class OracleSettings(SearchSettings):
    candidates: int = 20
    fatigue: bool = True
    """Whether what stands before an item on the page and in the visit is minded."""
    feedback: bool = True
    """Whether odds over moods follow what was watched."""
    mood: bool = False
    """Whether the mood itself is told."""


@dataclass
class Page:
    """Of a block of requests: logits by mood, chances by mood and items of the same category."""

    item_RM: np.ndarray
    category_RM: np.ndarray
    logit_RMK: np.ndarray
    chance_3RMNK: np.ndarray
    log_length_RM: np.ndarray
    prior_RK: np.ndarray
    evidence_RK: np.ndarray
    recent_RN: np.ndarray
    mixed_3RMN: np.ndarray | None = None


@dataclass(frozen=True)
class OracleScorer:
    """list_value.py: Scorer."""

    mixed_3RMN: np.ndarray
    alone_3RM: np.ndarray
    category_RM: np.ndarray
    recent_RN: np.ndarray
    minds: bool

    def __call__(self, row_R: np.ndarray, prefix_RKL: np.ndarray) -> Chances:
        rows, lists, length = prefix_RKL.shape
        category_RM, mixed_3RMN = self.category_RM[row_R], self.mixed_3RMN[:, row_R]
        same_RKM = np.zeros((rows, lists, category_RM.shape[1]), np.int64)
        if self.minds:
            planned_RKL = np.take_along_axis(category_RM[:, None], prefix_RKL, 2) if length else prefix_RKL
            old_RKN = np.broadcast_to(self.recent_RN[row_R][:, None], (rows, lists, RECENT))
            last_RKN = np.concatenate([planned_RKL[:, :, ::-1], old_RKN], 2)[:, :, :RECENT]
            for n in range(RECENT):
                same_RKM += last_RKN[:, :, n : n + 1] == category_RM[:, None]
        found = (np.take_along_axis(mixed_RMN[:, None], same_RKM[..., None], 3)[..., 0] for mixed_RMN in mixed_3RMN)
        return Chances(*found)

    def alone(self, row_R: np.ndarray) -> Chances:
        return Chances(*self.alone_3RM[:, row_R])


class Oracle:
    """funnel/platform/stages.py: ReRanking, told the truth: the corpus it works in is given to it (`corpus`)."""

    def __init__(self, settings: OracleSettings, world: PlatformSettings) -> None:
        self.settings, self.world, self.candidates = settings, world, max(settings.candidates, world.slots)
        self.corpus: Corpus | None = None
        self.pages: dict[int, Page] = {}
        self.evidence_UK = np.zeros((world.users, world.categories))
        self.recent_UN = np.full((world.users, RECENT), NOBODY)
        self.visit_U = np.full(world.users, NOBODY, np.int64)
        self.evaluations = self.decisions = 0
        self.predicted_3 = np.zeros(3)
        """Sums of the chances of what was shown: views, likes, looking on."""

    def refresh(self, view: View) -> None:
        pass

    def tick(self, view: View) -> None:
        pass

    def choose(self, requests: Requests, step: Step, view: View) -> np.ndarray:
        block = int(requests.key_R[0])
        if step.place == 0:
            self.pages[block] = self.opened(requests, step)
        page = self.pages[block]
        if step.place:
            self.watched(page, step.active_R, step.seen_RP[:, -1], {n: v[:, -1] for n, v in step.feedback_RP.items()})
        row_A = np.flatnonzero(step.active_R & step.left_RM.any(1))
        chosen_R = np.zeros(len(requests), np.int64)
        if len(row_A):
            odds_AK = page.prior_RK[row_A]
            if self.settings.feedback:
                evidence_AK = page.evidence_RK[row_A]
                odds_AK = odds_AK * np.exp(evidence_AK - evidence_AK.max(1, keepdims=True))
                odds_AK /= odds_AK.sum(1, keepdims=True)
            chance_3AMNK = page.chance_3RMNK[:, row_A]
            mixed_3AMN = np.einsum("xamnk,ak->xamn", chance_3AMNK, odds_AK, optimize=True)
            alone_3AM = np.einsum("xamk,ak->xam", chance_3AMNK[:, :, :, 0], page.prior_RK[row_A], optimize=True)
            scorer = OracleScorer(
                mixed_3AMN, alone_3AM, page.category_RM[row_A], page.recent_RN[row_A], self.settings.fatigue
            )
            found = search(scorer, step.left_RM[row_A], self.settings, self.world.slots - step.place)
            self.evaluations += int(found.evaluations_R.sum())
            self.decisions += len(row_A)
            chosen_R[row_A] = found.first_R
            now = scorer(np.arange(len(row_A)), np.zeros((len(row_A), 1, 0), np.int64))
            self.predicted_3 += [value[np.arange(len(row_A)), 0, found.first_R].sum() for value in now]
        return chosen_R

    def opened(self, requests: Requests, step: Step) -> Page:
        assert self.corpus is not None
        corpus, world = self.corpus, self.world
        item_RM = np.maximum(step.item_RM, 0)
        ahead = Potential.of(replace(world, mood=0.0), requests, item_RM, corpus)
        fit_RMK = np.clip(2 * corpus.items.content_ID[item_RM] @ corpus.centre_KD.T, -1, 1)
        logit_RMK = (ahead.logit_RM[:, :, None] + world.mood * fit_RMK).astype(np.float64)
        user_R = requests.user_R
        upper_RK = corpus.population.users.intent_UK[user_R] / LEVELS
        prior_RK = np.diff(np.concatenate([np.zeros((len(user_R), 1)), upper_RK[:, :-1], np.ones((len(user_R), 1))], 1))
        if self.settings.mood or not world.mood:
            prior_RK = np.zeros_like(prior_RK)
            prior_RK[np.arange(len(user_R)), moods(world, requests, corpus)] = 1.0
        same_R = self.visit_U[user_R] == requests.visit_R
        log_length_RM = np.log(corpus.items.length_I[item_RM].astype(np.float64))
        patience_R = corpus.population.users.patience_U[user_R] + NEXT
        tired_N = world.fatigue / RECENT * np.arange(RECENT + 1)
        chance_3RMNK = chances_of(
            logit_RMK[:, :, None, :] - tired_N[:, None],
            logit_RMK[:, :, None, :],
            log_length_RM[:, :, None, None],
            patience_R[:, None, None, None],
        )
        return Page(
            step.item_RM.copy(),
            ahead.category_RM,
            logit_RMK,
            chance_3RMNK,
            log_length_RM,
            prior_RK,
            self.evidence_UK[user_R] * same_R[:, None],
            np.where(same_R[:, None], self.recent_UN[user_R], NOBODY),
        )

    def watched(self, page: Page, active_R: np.ndarray, column_R: np.ndarray, given: dict[str, np.ndarray]) -> None:
        """Take in what came of the item just watched."""
        row_R = np.arange(len(column_R))
        category_R = page.category_RM[row_R, column_R]
        same_R = (page.recent_RN == category_R[:, None]).sum(1)
        plain_RK = page.logit_RMK[row_R, column_R]
        logit_RK = plain_RK - self.world.fatigue / RECENT * same_R[:, None]
        click_R1 = given["click"][:, None].astype(bool)
        off_RK = (np.log(np.maximum(given["dwell"][:, None], 1e-3)) - LOG_DWELL - DWELL_SLOPE * logit_RK) / DWELL_NOISE
        # Watched to the end, twice: more is not seen.
        full_R1 = given["dwell"][:, None] >= 1.999 * np.exp(page.log_length_RM[row_R, column_R])[:, None]
        dwell_RK = np.where(full_R1, np.log(np.maximum(ndtr(-off_RK), 1e-300)), -0.5 * off_RK**2)
        like_RK = 0.8 * plain_RK + LIKE
        like_RK = np.where(given["like"][:, None], log_sigmoid(like_RK), log_sigmoid(-like_RK))
        told_RK = np.where(click_R1, log_sigmoid(logit_RK) + dwell_RK + like_RK, log_sigmoid(-logit_RK))
        page.evidence_RK += told_RK * active_R[:, None]
        later_RN = np.concatenate([category_R[:, None], page.recent_RN[:, :-1]], 1)
        page.recent_RN = np.where(active_R[:, None], later_RN, page.recent_RN)

    def observe(self, feedback: Feedback, view: View) -> None:
        page = self.pages.pop(int(feedback.requests.key_R[0]), None)
        if page is None:
            return
        # All but the page's last place was taken in on the page.
        last = feedback.item_RS.shape[1] - 1
        column_R = (page.item_RM == feedback.item_RS[:, last, None]).argmax(1)
        given = {name: getattr(feedback, f"{name}_RS")[:, last] for name in ("click", "dwell", "like")}
        self.watched(page, feedback.seen_RS[:, last], column_R, given)
        user_R = feedback.requests.user_R
        self.evidence_UK[user_R], self.recent_UN[user_R] = page.evidence_RK, page.recent_RN
        self.visit_U[user_R] = feedback.requests.visit_R


def chances_of(logit: Any, plain: Any, log_length: Any, patience: Any) -> np.ndarray:
    """(3, ...): of an effective view, a like, looking on; `plain`: the logit without fatigue."""
    click = expit(logit)
    mean = LOG_DWELL + DWELL_SLOPE * logit
    good = click * ndtr((mean - np.log(10.0)) / DWELL_NOISE)
    view = click * ndtr((mean - np.log(EFFECTIVE) - log_length) / DWELL_NOISE)
    like = click * expit(0.8 * plain + LIKE)
    stays = (1 - click) * expit(patience - 0.3) + (click - good) * expit(patience) + good * expit(patience + 0.6)
    return np.stack(np.broadcast_arrays(view, like, stays)).astype(np.float32)


def log_sigmoid(x: np.ndarray) -> np.ndarray:
    return -np.logaddexp(0.0, -x)


@dataclass
class OracleEpisodes(RerankEpisodes):
    """Episodes in which the re-ranking may be an oracle."""

    known: dict[int, Figures] = field(default_factory=dict)

    def told(self, settings: OracleSettings, number: int) -> Figures:
        """Figures of a world under the oracle."""
        policies = Policies.of({}, self.world, number)
        oracle = Oracle(settings, self.world)
        policies.reranking = oracle
        world = self.begin(number).copy([policies])
        oracle.corpus = world.corpus
        world.run(self.settings.days)
        found = measured(world, self.settings.settle)
        expected = dict(zip(("expected_views", "expected_likes"), oracle.predicted_3.tolist(), strict=False))
        return {**found, **expected, COST: oracle.evaluations / max(oracle.decisions, 1)}
