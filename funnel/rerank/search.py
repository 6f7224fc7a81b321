"""Which item comes next: point-wise, greedy, beam and adaptive beam search for the best list, many requests at once.

A beam keeps the k lists of largest value. A step puts every candidate that is left behind each of them and keeps the k
best again; the search ends after `horizon` steps, or (adaptive) as soon as it does not matter which list is best:

    alike     the least value kept is more than `stability` of the largest (the paper's rule)
    decided   all lists kept begin with the same item: what comes later cannot change it; or the best list begins as
              that of the step before did, and the values are alike or no list that begins otherwise is worth `lead`
              of it. Values that happen to be near each other at one step do not end a search

The first item of the best list is shown and watched; then all is searched again with what became of it. Cost: an
evaluation is one candidate predicted behind one list; k l m for l steps, where a full beam has k m^2. search_torch.py
does the same in torch.

Ties go to the earlier list, then to the earlier candidate. Shapes: list_value.py; B = K M extensions; G limits.py.
"""

from dataclasses import dataclass

import numpy as np

from data.errors import UserError
from funnel.rerank.limits import Bounds
from funnel.rerank.list_value import Chances, Scorer, SearchSettings

NOTHING = -1
"""As the item that comes next: none may be shown."""


@dataclass(frozen=True)
class Found:
    """What a search came to."""

    first_R: np.ndarray
    """int: the candidate (column) to show next; NOTHING."""
    value_R: np.ndarray
    """Of the best list, as far as it was planned."""
    steps_R: np.ndarray
    """int: length of it."""
    evaluations_R: np.ndarray
    """int: candidates that were predicted behind a list."""
    list_RL: np.ndarray
    """int: the best list; NOTHING behind its end."""


def search(
    scorer: Scorer, left_RM: np.ndarray, settings: SearchSettings, places: int, bounds: Bounds | None = None
) -> Found:
    """The next item of each request; left_RM: which candidates may still be shown, places: how many may come, this one
    among them. Raises UserError for a chance that is no number, and for list values that are not above 0."""
    rows = len(left_RM)
    if settings.method == "pointwise":
        return by_score(scorer, left_RM, settings, places, bounds)
    width = 1 if settings.method == "greedy" else settings.k
    most = 1 if settings.method == "greedy" else min(settings.horizon, places)
    steps_R, evaluations_R = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    best_RL, value_R = np.full((rows, most), NOTHING), np.zeros(rows)
    row_R = np.arange(rows)
    prefix_RKL = np.zeros((rows, 1, 0), np.int64)
    sum_RK, reached_RK = np.zeros((rows, 1), np.float32), np.ones((rows, 1), np.float32)
    free_RKM = left_RM[:, None]
    used_RKG = None if bounds is None else np.zeros((rows, 1, bounds.low_RG.shape[1]), np.int64)
    led_R = np.full(rows, NOTHING)
    for step in range(most):
        chances = checked(scorer(row_R, prefix_RKL))
        evaluations_R[row_R] += free_RKM.sum((1, 2))
        may_RKM = free_RKM if used_RKG is None else free_RKM & allowed(cut(bounds, row_R), used_RKG, places - step)
        gain_RKM = settings.alpha * chances.view + settings.beta * chances.like
        total_RKM = np.where(may_RKM, sum_RK[:, :, None] + reached_RK[:, :, None] * gain_RKM, -np.inf)
        candidates = total_RKM.shape[2]
        total_RB = total_RKM.reshape(len(row_R), -1)
        kept_RK = np.argsort(-total_RB, axis=1, kind="stable")[:, :width]
        value_RK = np.take_along_axis(total_RB, kept_RK, 1)
        # Requests none of whose lists can be made longer end with what they have.
        on_R = value_RK[:, 0] > -np.inf
        from_RK, item_RK = kept_RK // candidates, kept_RK % candidates
        prefix_RKL = np.concatenate([np.take_along_axis(prefix_RKL, from_RK[:, :, None], 1), item_RK[:, :, None]], 2)
        best_RL[row_R[on_R], : step + 1] = prefix_RKL[on_R, 0]
        value_R[row_R[on_R]], steps_R[row_R[on_R]] = value_RK[on_R, 0], step + 1
        if settings.method == "adaptive":
            on_R &= ~ended(value_RK, prefix_RKL[:, :, 0], led_R[row_R], settings)
            led_R[row_R] = prefix_RKL[:, 0, 0]
        if step + 1 == most or not on_R.any():
            break
        next_RB = chances.next.reshape(len(row_R), -1)
        reached_RK = np.take_along_axis(reached_RK, from_RK, 1) * np.take_along_axis(next_RB, kept_RK, 1)
        free_RKM = np.take_along_axis(free_RKM, from_RK[:, :, None], 1).copy()
        np.put_along_axis(free_RKM, item_RK[:, :, None], False, 2)
        free_RKM &= (value_RK > -np.inf)[:, :, None]
        if used_RKG is not None:
            used_RKG = counted(cut(bounds, row_R), np.take_along_axis(used_RKG, from_RK[:, :, None], 1), item_RK)
            used_RKG = used_RKG[on_R]
        sum_RK = np.where(value_RK > -np.inf, value_RK, 0).astype(np.float32)[on_R]
        row_R, prefix_RKL, reached_RK, free_RKM = row_R[on_R], prefix_RKL[on_R], reached_RK[on_R], free_RKM[on_R]
    return Found(best_RL[:, 0], value_R, steps_R, evaluations_R, best_RL)


def by_score(
    scorer: Scorer, left_RM: np.ndarray, settings: SearchSettings, places: int, bounds: Bounds | None
) -> Found:
    """The candidate of the largest alpha p(ev) + beta p(like) without any context."""
    rows = len(left_RM)
    chances = checked(scorer.alone(np.arange(rows)))
    may_RM = left_RM
    if bounds is not None:
        none_RKG = np.zeros((rows, 1, bounds.low_RG.shape[1]), np.int64)
        may_RM = left_RM & allowed(bounds, none_RKG, places)[:, 0]
    total_RM = np.where(may_RM, settings.alpha * chances.view + settings.beta * chances.like, -np.inf)
    first_R = total_RM.argmax(1)
    value_R = np.take_along_axis(total_RM, first_R[:, None], 1)[:, 0]
    there_R = value_R > -np.inf
    first_R = np.where(there_R, first_R, NOTHING)
    return Found(first_R, np.where(there_R, value_R, 0.0), there_R.astype(np.int64), left_RM.sum(1), first_R[:, None])


def ended(value_RK: np.ndarray, first_RK: np.ndarray, led_R: np.ndarray, settings: SearchSettings) -> np.ndarray:
    """bool: whether an adaptive search stops with these values of lists that begin with these items; led_R: with which
    item the best list of the step before began (NOTHING: there was none)."""
    alike_R = stable(value_RK, settings.stability)
    if settings.stop == "alike":
        return alike_R
    other_R = np.where(first_RK != first_RK[:, :1], value_RK, -np.inf).max(1)
    ahead_R = other_R < np.float32(settings.lead) * value_RK[:, 0]
    return np.asarray((other_R == -np.inf) | ((led_R == first_RK[:, 0]) & (alike_R | ahead_R)))


def stable(value_RK: np.ndarray, share: float) -> np.ndarray:
    """bool: least of the values kept > share of the largest. Raises UserError where a value is not above 0."""
    there_RK = value_RK > -np.inf
    least_R, most_R = np.where(there_RK, value_RK, np.inf).min(1), value_RK[:, 0]
    if (bad_R := (least_R <= 0)).any():
        raise UserError(
            f"a list has the value {float(least_R[bad_R][0]):g}: adaptive search stops by the share of two values, "
            "which must be above 0"
        )
    with np.errstate(invalid="ignore"):
        # A request without any list (inf / -inf) is not stable, and is ended by its own rule.
        return np.asarray(least_R / most_R > share) & there_RK[:, 0]


def checked(chances: Chances) -> Chances:
    """Raises UserError where a chance is no finite number."""
    for name, value in zip(Chances._fields, chances, strict=True):
        if not np.isfinite(value).all():
            wrong = float(value[~np.isfinite(value)][0])
            raise UserError(f"the chance of {name!r} is {wrong}: a list scorer must give numbers")
    return chances


def cut(bounds: Bounds | None, row_R: np.ndarray) -> Bounds:
    assert bounds is not None
    return Bounds(bounds.group_RM[row_R], bounds.low_RG[row_R], bounds.high_RG[row_R])


def allowed(bounds: Bounds, used_RKG: np.ndarray, places: int) -> np.ndarray:
    """bool (R, K, M): candidates with which a list can still keep all bounds; `places`: this one and those behind."""
    rows, lists, _ = used_RKG.shape
    room_RKG, need_RKG = used_RKG < bounds.high_RG[:, None], np.maximum(bounds.low_RG[:, None] - used_RKG, 0)
    # One more column, the last, stands for candidates without limits.
    room_RKA = np.concatenate([room_RKG, np.ones((rows, lists, 1), bool)], 2)
    helps_RKA = np.concatenate([need_RKG > 0, np.zeros((rows, lists, 1), bool)], 2)
    at_RKM = np.broadcast_to(bounds.group_RM[:, None], (rows, lists, bounds.group_RM.shape[1]))
    at_RKM = np.where(at_RKM < 0, used_RKG.shape[2], at_RKM)
    helps_RKM = np.take_along_axis(helps_RKA, at_RKM, 2)
    still_RKM = need_RKG.sum(2)[:, :, None] - helps_RKM
    return np.take_along_axis(room_RKA, at_RKM, 2) & ((still_RKM < places) | helps_RKM)


def counted(bounds: Bounds, used_RKG: np.ndarray, item_RK: np.ndarray) -> np.ndarray:
    """used_RKG with the categories of the items that each list has got."""
    group_RK = np.take_along_axis(bounds.group_RM, item_RK, 1)
    return used_RKG + (group_RK[:, :, None] == np.arange(used_RKG.shape[2]))
