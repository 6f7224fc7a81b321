"""A small log of items taken whose law is known: users like some directions of content, items have hidden quality."""

from pathlib import Path

import numpy as np

from funnel.fresh.taken_log import Histories, Items, Taken, TakenLog

USERS, ITEMS, KINDS, WIDTH, PAST = 60, 80, 5, 4, 8


def made(events: int = 3000, seed: int = 0) -> tuple[np.ndarray, Items, Taken]:
    """(core_U, items, taken): each row's item is the best of 6 for its user by taste . content + noise."""
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
    day_E, dwell_E = np.sort(rng.uniform(3, 6, events)), rng.gamma(2, 20, events)
    rings = np.full((3, USERS, PAST), -1.0)
    before = []
    for user, item, dwell, day in zip(user_E, item_E, dwell_E, day_E, strict=True):
        before.append(rings[:, user].copy())
        rings[:, user, 1:], rings[:, user, 0] = rings[:, user, :-1].copy(), (item, dwell, day)
    history = Histories.of_rings(*np.stack(before, 1))
    return rng.random(USERS) < 0.3, items, Taken(user_E, item_E, day_E, history)


def written(out: Path, seed: int = 0, events: int = 3000, ids: np.ndarray | None = None) -> Path:
    """The log; `ids`: another number for every item, the items staying as they are."""
    core_U, items, taken = made(events, seed)
    if ids is not None:
        items = Items(**{name: value[np.argsort(ids)] for name, value in vars(items).items()})
        history = Histories(**{**vars(taken.history), "item_S": ids[taken.history.item_S]})
        taken = Taken(taken.user_R, ids[taken.item_R], taken.day_R, history)
    TakenLog(KINDS, WIDTH, item_ids=256, history=PAST).write(out, taken, core_U, items, seed)
    return out
