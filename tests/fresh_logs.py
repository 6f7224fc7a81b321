"""A small log of items taken whose law is known: users like some directions of content, items have hidden quality."""

from pathlib import Path

import numpy as np

from funnel.fresh.taken_log import Events, Items, TakenLog

USERS, ITEMS, KINDS, WIDTH = 60, 80, 5, 4


def made(events: int = 3000, seed: int = 0) -> tuple[np.ndarray, Items, Events]:
    """(core_U, items, events): each event's item is the best of 6 for its user by taste . content + noise."""
    rng = np.random.default_rng(seed)
    centre_KD = rng.normal(size=(KINDS, WIDTH))
    category_I = rng.integers(0, KINDS, ITEMS)
    content_ID = centre_KD[category_I] + 0.5 * rng.normal(size=(ITEMS, WIDTH))
    items = Items(
        category_I, content_ID, rng.normal(4, 1, ITEMS), rng.normal(size=ITEMS), rng.integers(0, 50, ITEMS),
        rng.uniform(-5, 3, ITEMS),
    )  # fmt: skip
    taste_UD = centre_KD[rng.integers(0, KINDS, USERS)]
    user_E = rng.integers(0, USERS, events)
    offered_EC = rng.integers(0, ITEMS, (events, 6))
    fit_EC = (content_ID[offered_EC] * taste_UD[user_E][:, None]).sum(2) + rng.gumbel(size=(events, 6))
    item_E = offered_EC[np.arange(events), fit_EC.argmax(1)]
    day_E = np.sort(rng.uniform(3, 6, events))
    return (
        rng.random(USERS) < 0.3,
        items,
        Events(user_E, item_E, day_E, rng.gamma(2, 20, events), np.ones(events, bool)),
    )


def written(out: Path, seed: int = 0, events: int = 3000, ids: np.ndarray | None = None) -> Path:
    """The log; `ids`: another name for every item, the items staying as they are."""
    core_U, items, given = made(events, seed)
    if ids is not None:
        back = np.argsort(ids)
        items = Items(**{name: value[back] for name, value in vars(items).items()})
        given = Events(**{**vars(given), "item_E": ids[given.item_E]})
    TakenLog(KINDS, WIDTH, item_ids=256, history=8).write(out, core_U, items, given, np.ones(len(given), bool), seed)
    return out
