"""What each user of a generated log clicked before it begins: a list of items in time order, the same in every row.

A user has between 0 and `most` past clicks, every number equally likely. Each is one item of 30 drawn from the items'
law, taken with odds exp(selection m), m the standardised interest of data/world.py: the click law without what depends
on the presentation. So the history shows the user's taste and nothing that happens in the log.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from data.bags import Bags, offsets

SHOWN = 30
BLOCK = 2**14


def draw_history(
    rng: np.random.Generator, users: int, most: int, item_cdf_I: np.ndarray, click_logit: Callable[..., np.ndarray]
) -> Bags:
    """The past clicks of every user. click_logit(user_R, item_R) is what odds grow with."""
    length_U = rng.integers(0, most + 1, users)
    user_S = np.repeat(np.arange(users), length_U)
    item_S = np.empty(len(user_S), np.int64)
    for begin in range(0, len(user_S), BLOCK):
        user_B = user_S[begin : begin + BLOCK]
        shape = (len(user_B), SHOWN)
        drawn_BC = np.searchsorted(item_cdf_I, rng.random(shape), side="right")
        item_BC = np.minimum(drawn_BC, len(item_cdf_I) - 1)
        # The largest of logits with Gumbel noise is a draw from their softmax.
        noisy_BC = click_logit(np.repeat(user_B, SHOWN), item_BC.ravel()).reshape(shape) + rng.gumbel(size=shape)
        item_S[begin : begin + BLOCK] = item_BC[np.arange(len(user_B)), noisy_BC.argmax(1)]
    return Bags(item_S, offsets(length_U))


def list_column(bags: Bags) -> pa.Array:
    """list<int64>, missing where there are no values."""
    empty_R = np.diff(bags.offset_R1) == 0
    return pa.ListArray.from_arrays(pa.array(bags.offset_R1, pa.int32()), pa.array(bags.ids_S), mask=pa.array(empty_R))
