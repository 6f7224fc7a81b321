"""What users did elsewhere, bound to the request that it belongs to: the user's latest relevant one before it.

    ASMOL (arXiv 2305.13647, s.3): a purchase in any other scenario counts for the latest request of the same user whose
    query the item is relevant to; of one user and one item there is one triple.

Shapes: L requests, E events, B events that were bound.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Relevant = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(requests, items) -> bool: whether each item is relevant to the request beside it."""


@dataclass(frozen=True)
class Events:
    """Purchases (or clicks) in other scenarios."""

    user_E: np.ndarray
    item_E: np.ndarray
    time_E: np.ndarray

    def __len__(self) -> int:
        return len(self.user_E)


def one_each(events: Events) -> np.ndarray:
    """int64: the latest event of every user and item, in the order of the events; of equal times the last one."""
    order_E = np.lexsort((np.arange(len(events)), events.time_E, events.item_E, events.user_E))
    user_E, item_E = events.user_E[order_E], events.item_E[order_E]
    last_E = np.ones(len(order_E), bool)
    last_E[:-1] = (user_E[1:] != user_E[:-1]) | (item_E[1:] != item_E[:-1])
    return np.sort(order_E[last_E])


def bind(user_L: np.ndarray, time_L: np.ndarray, events: Events, relevant: Relevant) -> tuple[np.ndarray, np.ndarray]:
    """(event_B, request_B): the events that were bound, each user and item once, and the request of each.

    A request at the very time of an event counts as before it. What no request before is relevant to is left out.
    """
    kept_E = one_each(events)
    order_L = np.lexsort((time_L, user_L))
    # Places in the order of (user, time): the last one at or before each event, if it is the same user's.
    user_S, time_S = user_L[order_L], time_L[order_L]
    place_E = last_before(user_S, time_S, events.user_E[kept_E], events.time_E[kept_E])
    found_E = np.full(len(kept_E), -1, np.int64)
    open_E = np.flatnonzero((place_E >= 0) & (user_S[place_E] == events.user_E[kept_E]))
    place_O = place_E[open_E]
    while len(open_E):
        fits_O = relevant(order_L[place_O], events.item_E[kept_E[open_E]])
        found_E[open_E[fits_O]] = order_L[place_O[fits_O]]
        # The others look one request further back.
        open_E, place_O = open_E[~fits_O], place_O[~fits_O] - 1
        there_O = place_O >= 0
        there_O[there_O] = user_S[place_O[there_O]] == events.user_E[kept_E[open_E[there_O]]]
        open_E, place_O = open_E[there_O], place_O[there_O]
    bound_E = found_E >= 0
    return kept_E[bound_E], found_E[bound_E]


def last_before(user_S: np.ndarray, time_S: np.ndarray, user_E: np.ndarray, time_E: np.ndarray) -> np.ndarray:
    """int64_E: the place of the last of the sorted (user, time) pairs that is not above each event's; -1: none."""
    both_user, both_time = np.concatenate([user_S, user_E]), np.concatenate([time_S, time_E])
    event = np.concatenate([np.zeros(len(user_S), bool), np.ones(len(user_E), bool)])
    order = np.lexsort((event, both_time, both_user))  # requests before events of the same moment
    before = np.cumsum(~event[order]) - 1
    place_E = np.empty(len(user_E), np.int64)
    place_E[order[event[order]] - len(user_S)] = before[event[order]]
    return place_E
