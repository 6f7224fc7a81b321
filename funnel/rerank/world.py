"""Lists whose items act on each other, with known chances: what searches are compared on.

An item has base logits of an effective view, a like and looking on, and a category. What stands before it moves them:

    view   a_i + sum over j of the last `reach` items of fade^(places back) C[g_i, g_j]    C: categories that spoil each
    like   b_i + half of the same sum                                                     other (on the diagonal most)
    next   n_i + sum over them of fade^(places back) E[g_j]                                and such that keep users on

Nothing is drawn while a list is looked at: its value is exact (list_value.py). Shapes: R requests, M candidates,
G categories, P items watched, L planned, K lists.
"""

from dataclasses import dataclass

import numpy as np

from data.errors import UserError
from funnel.rerank.limits import Bounds
from funnel.rerank.list_value import Chances, SearchSettings, list_value
from funnel.rerank.search import NOTHING, Found, search


@dataclass(frozen=True)
class ListWorldSettings:
    categories: int = 8
    context: float = 1.0
    """How strongly items act on those after them; 0: not at all."""
    fade: float = 0.7
    reach: int = 3
    view: tuple[float, float] = (-0.4, 0.9)
    """Mean and standard deviation of the base logit."""
    like: tuple[float, float] = (-3.5, 0.9)
    next: tuple[float, float] = (2.0, 0.3)

    def __post_init__(self) -> None:
        if self.categories < 1 or self.reach < 1:
            raise UserError("categories and reach must be at least 1")


@dataclass(frozen=True)
class ListWorld:
    """Requests with their candidates; base logits (R, M) and what categories do to each other."""

    settings: ListWorldSettings
    category_RM: np.ndarray
    base_3RM: np.ndarray
    """Logits of view, like, next."""
    act_RGG: np.ndarray
    """act[r, g_i, g_j]: what an item of category g_j before it does to one of g_i."""
    keep_RG: np.ndarray

    @classmethod
    def draw(cls, settings: ListWorldSettings, requests: int, candidates: int, seed: int) -> "ListWorld":
        rng, groups = np.random.default_rng(seed), settings.categories
        means = (settings.view, settings.like, settings.next)
        base = [rng.normal(mean, sd, (requests, candidates)) for mean, sd in means]
        # Items that hold the eye are liked too.
        base[1] = base[1] + 0.6 * (base[0] - settings.view[0])
        act = rng.normal(0, 0.35, (requests, groups, groups)) - 0.9 * np.eye(groups)
        keep = rng.normal(0, 0.15, (requests, groups))
        category = rng.integers(0, groups, (requests, candidates))
        return cls(settings, category, np.stack(base), settings.context * act, settings.context * keep)

    def chances(self, row_R: np.ndarray, before_RKN: np.ndarray) -> Chances:
        """(R, K, M) of every candidate after these items, in order; NOTHING: none."""
        category_RM, act_RGG, keep_RG = self.category_RM[row_R], self.act_RGG[row_R], self.keep_RG[row_R]
        rows, lists, length = before_RKN.shape
        moved_RKG, held_RK1 = np.zeros((rows, lists, act_RGG.shape[1])), np.zeros((rows, lists, 1))
        r_R1 = np.arange(rows)[:, None]
        for back in range(1, min(self.settings.reach, length) + 1):
            item_RK = before_RKN[:, :, -back]
            group_RK = category_RM[r_R1, np.maximum(item_RK, 0)]
            weight_RK1 = self.settings.fade**back * (item_RK != NOTHING)[:, :, None]
            moved_RKG += weight_RK1 * act_RGG.transpose(0, 2, 1)[r_R1, group_RK]
            held_RK1 += weight_RK1 * keep_RG[r_R1, group_RK][:, :, None]
        moved_RKM = np.take_along_axis(
            moved_RKG, np.broadcast_to(category_RM[:, None], (rows, lists, category_RM.shape[1])), 2
        )
        view_RM, like_RM, next_RM = self.base_3RM[:, row_R]
        return Chances(
            sigmoid(view_RM[:, None] + moved_RKM),
            sigmoid(like_RM[:, None] + 0.5 * moved_RKM),
            sigmoid(next_RM[:, None] + held_RK1 + np.zeros_like(moved_RKM)),
        )

    def scorer(self, watched_RP: np.ndarray) -> "WorldScorer":
        return WorldScorer(self, watched_RP)

    def of_list(self, list_RL: np.ndarray) -> Chances:
        """(R, L): of the items of whole lists, each after those before it."""
        row_R, found = np.arange(len(list_RL)), []
        for place in range(list_RL.shape[1]):
            chances = self.chances(row_R, list_RL[:, None, :place])
            found.append([value[row_R, 0, list_RL[:, place]] for value in chances])
        return Chances(*(np.stack([one[n] for one in found], 1) for n in range(3)))


@dataclass(frozen=True)
class WorldScorer:
    """list_value.py: Scorer, after what was watched."""

    world: ListWorld
    watched_RP: np.ndarray

    def __call__(self, row_R: np.ndarray, prefix_RKL: np.ndarray) -> Chances:
        rows, lists, _ = prefix_RKL.shape
        watched_RKP = np.broadcast_to(self.watched_RP[row_R][:, None], (rows, lists, self.watched_RP.shape[1]))
        return self.world.chances(row_R, np.concatenate([watched_RKP, prefix_RKL], 2))

    def alone(self, row_R: np.ndarray) -> Chances:
        none = np.zeros((len(row_R), 1, 0), np.int64)
        return Chances(*(value[:, 0] for value in self.world.chances(row_R, none)))


@dataclass(frozen=True)
class Played:
    """What a search came to as it is used: one item shown, watched, searched again."""

    list_RL: np.ndarray
    value_R: np.ndarray
    """Exact, of the list that was shown."""
    found: list[Found]
    """Of every place."""


def play(world: ListWorld, settings: SearchSettings, places: int, bounds: Bounds | None = None) -> Played:
    """Fill the places of every request. `bounds` are those of the whole list."""
    rows, candidates = world.category_RM.shape
    settings.check_width(candidates)
    left_RM, list_RL = np.ones((rows, candidates), bool), np.full((rows, places), NOTHING)
    found = []
    for place in range(places):
        now = bounds if bounds is None else after(bounds, left_RM, list_RL[:, :place])
        found.append(search(world.scorer(list_RL[:, :place]), left_RM, settings, places - place, now))
        list_RL[:, place] = found[-1].first_R
        np.put_along_axis(left_RM, list_RL[:, place : place + 1], False, 1)
    chances = world.of_list(list_RL)
    return Played(list_RL, list_value(chances, settings.alpha, settings.beta), found)


def after(bounds: Bounds, left_RM: np.ndarray, shown_RP: np.ndarray) -> Bounds:
    """The bounds of the places that are left once these items were shown."""
    group_RP = np.take_along_axis(bounds.group_RM, shown_RP, 1)
    used_RG = (group_RP[:, :, None] == np.arange(bounds.low_RG.shape[1])).sum(1)
    there_RG = ((bounds.group_RM[:, :, None] == np.arange(used_RG.shape[1])) & left_RM[:, :, None]).sum(1)
    low_RG = np.minimum(np.maximum(bounds.low_RG - used_RG, 0), there_RG)
    return Bounds(bounds.group_RM, low_RG, np.maximum(bounds.high_RG - used_RG, 0))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray((1 / (1 + np.exp(-x))).astype(np.float32))
