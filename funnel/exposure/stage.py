"""Shares of exposure on the platform: a re-ranking that gives each user's categories the shares they should have.

    {"reranking": {"kind": "shares", "model": "runs/forest"}}          # of jobs.fit, or of --problem joint_shares
    {"reranking": {"kind": "shares", "shares": [0.2, 0.5, 0.3]}}       # the same for everybody
    {"reranking": {"kind": "shares", "taste": 1.5}}                    # by taste, by a rule that nobody learnt
    {"reranking": {"kind": "shares", "random": 1.0}}                   # drawn anew for each user and day: to log with

At every place the next item is the best-ranked one of the category that lags most behind its share of what the user
has seen today; of categories without a candidate the next one's. Random shares are Dirichlet draws around equal ones.
Shapes: R requests, M candidates, U users, F features, K categories.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import gammaincinv

from data.errors import UserError
from funnel.exposure.learnt import read_learnt
from funnel.exposure.shares import TOLERANCE
from funnel.platform.draws import key, uniforms
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policy, Step
from funnel.platform.view import NOBODY, Feedback, Requests, View

DRAW = 187
"""Word of the address of what decides a user's random shares of a day."""


@dataclass(frozen=True)
class ShareReRankingSettings:
    model: str = ""
    """Run directory of learnt shares, whose features are those of funnel/exposure/platform_log.py."""
    shares: tuple[float, ...] = ()
    """The same shares for everybody, one a category."""
    random: float = 0.0
    """Concentration of random shares (Dirichlet): 1 draws all mixes alike, more keeps near equal ones."""
    taste: float = 0.0
    """Shares by the rule softmax(taste x how well a user's taste fits the category's content); 0: no such rule."""
    candidates: int = 0
    """Ranked items that a page is chosen from; 0: all that pre-ranking leaves. A mix is kept only of what is there."""

    def __post_init__(self) -> None:
        if (bool(self.model) + bool(self.shares) + bool(self.random) + bool(self.taste)) > 1:
            raise UserError("model, shares, random and taste exclude each other")
        if not 0 <= self.taste < np.inf:
            raise UserError(f"taste is {self.taste}, must be a finite number of at least 0")
        if self.candidates < 0:
            raise UserError(f"candidates is {self.candidates}, must be at least 0")
        if not 0 <= self.random < np.inf:
            raise UserError(f"random is {self.random}, must be a finite number of at least 0")
        if self.shares and (min(self.shares) < 0 or abs(sum(self.shares) - 1) > TOLERANCE):
            raise UserError(
                f"shares {list(self.shares)} sum to {sum(self.shares):g}; want at least 0 each and 1 in all"
            )


class ShareReRanking(Policy):
    """funnel/platform/stages.py: ReRanking."""

    settings_type = ShareReRankingSettings

    def __init__(self, settings: ShareReRankingSettings, world: PlatformSettings, seed: int) -> None:
        super().__init__(settings, world, seed)
        self.candidates = max(settings.candidates or world.kept, world.slots)
        categories = world.categories
        if settings.shares and len(settings.shares) != categories:
            raise UserError(f"{len(settings.shares)} shares for {categories} categories")
        self.learnt = read_learnt(Path(settings.model)) if settings.model else None
        if self.learnt is not None and len(self.learnt.categories) != categories:
            raise UserError(f"{settings.model}: {len(self.learnt.categories)} shares for {categories} categories")
        same_K = np.array(settings.shares) if settings.shares else np.full(categories, 1 / categories)
        self.share_UK = np.tile(same_K, (world.users, 1))
        self.seen_UK = np.zeros((world.users, categories))

    def refresh(self, view: View) -> None:
        """The shares of the day, and nothing seen yet."""
        self.seen_UK[:] = 0.0
        users = len(self.share_UK)
        if self.settings.random:
            self.share_UK = random_shares(users, self.share_UK.shape[1], self.settings.random, self.seed, view.day)
        if self.settings.taste:
            fit_UK = inner_products(view.users.taste_UD, view.centre_KD)
            odds_UK = np.exp(self.settings.taste * (fit_UK - fit_UK.max(axis=1, keepdims=True)))
            self.share_UK = odds_UK / odds_UK.sum(axis=1, keepdims=True)
        if self.learnt is not None:
            self.share_UK = self.learnt.shares(user_features(view))

    def choose(self, requests: Requests, step: Step, view: View) -> np.ndarray:
        there_RM = step.left_RM & (step.item_RM != NOBODY)
        category_RM = view.items.category_I[np.maximum(step.item_RM, 0)]
        share_RK, seen_RK = self.share_UK[requests.user_R], self.seen_UK[requests.user_R].copy()
        rows = np.arange(len(requests))
        for column_R in step.seen_RP.T:  # what was watched on this page is not in seen_UK yet
            watched = column_R >= 0
            np.add.at(seen_RK, (rows[watched], category_RM[rows[watched], column_R[watched]]), 1.0)
        lag_RK = share_RK * (seen_RK.sum(axis=1, keepdims=True) + 1) - seen_RK
        worth_RM = np.take_along_axis(lag_RK, category_RM.astype(np.int64), axis=1)
        worth_RM = np.where(there_RM, worth_RM - 1e-9 * np.arange(step.item_RM.shape[1]), -np.inf)
        first_R = np.argmax(step.left_RM, axis=1)
        return np.where(there_RM.any(axis=1), worth_RM.argmax(axis=1), first_R)

    def observe(self, feedback: Feedback, view: View) -> None:
        """Count what was seen."""
        row, column = np.nonzero(feedback.seen_RS & (feedback.item_RS != NOBODY))
        category = view.items.category_I[feedback.item_RS[row, column]]
        np.add.at(self.seen_UK, (feedback.requests.user_R[row], category), 1.0)


def random_shares(users: int, categories: int, concentration: float, seed: int, day: int) -> np.ndarray:
    """(U, K) Dirichlet draws; of a user the same whoever else there is."""
    number_U = np.arange(users)
    draws = np.stack([uniforms(key(seed, DRAW, day, k), number_U) for k in range(categories)], axis=1)
    if concentration == 1.0:
        amount = -np.log(np.maximum(draws, 1e-12))
    else:
        amount = np.maximum(gammaincinv(concentration, np.clip(draws, 1e-12, 1 - 1e-12)), 1e-12)
    return np.asarray(amount / amount.sum(axis=1, keepdims=True))


def inner_products(taste_UD: np.ndarray, centre_KD: np.ndarray) -> np.ndarray:
    """(U, K) float64, summed dimension by dimension: no bit depends on BLAS."""
    found = np.zeros((len(taste_UD), len(centre_KD)))
    for taste_U, centre_K in zip(taste_UD.T, centre_KD.T, strict=True):
        found += taste_U[:, None].astype(np.float64) * centre_K
    return found


def user_features(view: View) -> np.ndarray:
    """(U, F) float64: how well the user's taste, as the platform has learnt it, fits each category's content, group and
    activity; names: feature_names. Not the taste itself: what its dimensions say of categories is another in every
    world, and a fit is what a share's effect goes by."""
    users = view.users
    fit_UK = inner_products(users.taste_UD, view.centre_KD)
    return np.column_stack([fit_UK, users.core_U, users.activity_U]).astype(np.float64)


def feature_names(categories: int) -> tuple[str, ...]:
    return (*(f"fit_{k}" for k in range(categories)), "core", "activity")
