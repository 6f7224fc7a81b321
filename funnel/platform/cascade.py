"""A block of requests through the stages: matching, pre-ranking, ranking, fusion, the fresh slot, up to the page.

Shapes: R requests, C candidates, K kept for ranking, M of the page's list.
"""

from dataclasses import dataclass

import numpy as np

from data.errors import UserError
from funnel.platform.behaviour import Page
from funnel.platform.numbers import ranked, top
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policies
from funnel.platform.view import NOBODY, Requests, View

OUT = np.float32(-np.inf)


@dataclass(frozen=True)
class Passed:
    """What each stage took and gave."""

    matched_RC: np.ndarray
    prerank_score_RC: np.ndarray
    kept_RK: np.ndarray
    """Columns of matched_RC that went on to ranking."""
    score_RK: np.ndarray
    """The fusion's score of those; -inf where the user was shown the item lately or there was none."""
    page: Page


def pass_stages(settings: PlatformSettings, policies: Policies, requests: Requests, view: View) -> Passed:
    """Raises UserError where a policy gives what no stage can go on with."""
    item_RC = matched(settings, policies, requests, view)
    prerank_RC = policies.preranking.score(requests, item_RC, view)
    checked("preranking", prerank_RC, item_RC.shape)
    prerank_RC = np.where(item_RC == NOBODY, OUT, prerank_RC)
    kept_RK = top(prerank_RC, min(policies.preranking.keep or settings.kept, item_RC.shape[1]))
    item_RK = np.take_along_axis(item_RC, kept_RK, 1)
    score_RK, good_RK = scored(policies, requests, item_RK, view)
    size = min(max(policies.reranking.candidates, settings.slots), item_RK.shape[1])
    order_RM = ranked(score_RK, size)
    score_RM = np.take_along_axis(score_RK, order_RM, 1)
    item_RM = np.where(score_RM == OUT, NOBODY, np.take_along_axis(item_RK, order_RM, 1))
    page = Page(item_RM, score_RM, np.zeros(item_RM.shape, bool), np.take_along_axis(good_RK, order_RM, 1))
    if policies.slot.slots:
        page = with_fresh(policies, requests, page, view)
    return Passed(item_RC, prerank_RC, kept_RK, score_RK, page)


def matched(settings: PlatformSettings, policies: Policies, requests: Requests, view: View) -> np.ndarray:
    """What matching found; at least as many columns as a page has slots."""
    item_RC = policies.matching.candidates(requests, view)
    if len(item_RC) != len(requests) or item_RC.max(initial=NOBODY) >= len(view):
        raise UserError(f"matching found {item_RC.shape} items for {len(requests)} requests, or one that is not there")
    short = settings.slots - item_RC.shape[1]
    return np.pad(item_RC, ((0, 0), (0, short)), constant_values=NOBODY) if short > 0 else item_RC


def scored(policies: Policies, requests: Requests, item_RC: np.ndarray, view: View) -> tuple[np.ndarray, np.ndarray]:
    """(the fusion's scores; -inf for what is not there or was shown lately; the ranker's logit of a good click, 0 where
    it predicts none)."""
    predictions = policies.ranking.predict(requests, item_RC, view)
    score_RC = policies.fusion.score(requests, item_RC, predictions, view)
    checked("fusion", score_RC, item_RC.shape)
    out_RC = item_RC == NOBODY
    # One column of what was shown at a time: no (R, C, N) array.
    for shown_R in requests.shown_RN.T:
        out_RC |= item_RC == shown_R[:, None]
    good_RC = np.asarray(predictions.get("good", np.zeros(item_RC.shape, np.float32)), np.float32)
    return np.where(out_RC, OUT, score_RC), good_RC


def with_fresh(policies: Policies, requests: Requests, page: Page, view: View) -> Page:
    """The page with the fresh slot: the main ranker's best nominee stands at its place, all behind it move one down."""
    rows = np.flatnonzero(policies.slot.wanted(requests, view))
    if not len(rows):
        return page
    asking = part_of(requests, rows)
    item_RN = policies.slot.nominate(asking, view)
    score_RN, good_RN = scored(policies, asking, item_RN, view)
    best_R = score_RN.argmax(1)
    row_R = np.arange(len(rows))
    found_R = score_RN[row_R, best_R] > OUT
    place_R = policies.slot.place(asking, view)
    rows, row_R, best_R, place_R = rows[found_R], row_R[found_R], best_R[found_R], place_R[found_R]
    fresh_R, fresh_score_R, fresh_good_R = (x_RN[row_R, best_R] for x_RN in (item_RN, score_RN, good_RN))
    old_RM, size = page.item_RM[rows], page.item_RM.shape[1]
    # Keys of the new order: places of the old list, the fresh item just before its place, its double at the very end.
    rank_RA = np.empty((len(rows), size + 1), np.float32)
    double_RM = old_RM == fresh_R[:, None]
    rank_RA[:, 1:] = np.where(double_RM, size + 1, np.arange(size))
    # On a page that is not full it stands behind what is there; a double that goes makes room before it.
    place_R = np.minimum(place_R, ((old_RM != NOBODY) & ~double_RM).sum(1))
    before_R = (double_RM & (np.arange(size) <= place_R[:, None])).any(1)
    rank_RA[:, 0] = place_R - 0.5 + before_R
    order_RM = np.argsort(rank_RA, axis=1, kind="stable")[:, :size]
    item_RM, score_RM, slot_RM, good_RM = (
        x_RM.copy() for x_RM in (page.item_RM, page.score_RM, page.slot_RM, page.good_RM)
    )
    item_RM[rows] = np.take_along_axis(np.concatenate([fresh_R[:, None], old_RM], 1), order_RM, 1)
    for x_RM, fresh, old in ((score_RM, fresh_score_R, page.score_RM), (good_RM, fresh_good_R, page.good_RM)):
        both_RA = np.concatenate([fresh[:, None], old[rows]], 1)
        x_RM[rows] = np.take_along_axis(both_RA, order_RM, 1)
    slot_RM[rows] = order_RM == 0
    return Page(item_RM, score_RM, slot_RM, good_RM)


def part_of(requests: Requests, rows: np.ndarray) -> Requests:
    """Some requests of a block."""
    return Requests(
        requests.day, requests.tick, requests.page, requests.now, requests.user_R[rows], requests.intent_R[rows],
        requests.visit_R[rows], requests.key_R[rows], requests.shown_RN[rows],
    )  # fmt: skip


def checked(stage: str, score_RC: np.ndarray, shape: tuple[int, ...]) -> None:
    if score_RC.shape != shape:
        raise UserError(f"{stage} scored {score_RC.shape} for candidates of shape {shape}")
