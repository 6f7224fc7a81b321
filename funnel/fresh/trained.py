"""Trained networks as nominators in the world: what users take is recorded, learnt from in rounds, and served at once.

    Recorder          watches a world: every good click, with its user's history before the page
    TrainedNominator  one network: rounds of training on what was recorded, each from the last one's weights; its best
                      items are those of the largest inner products with the request's vector
    TrainedFunnel     the fresh slot with both networks in place of the stand-ins

How a round is trained is handed in (`Train`): benchmarks/fresh/rounds.py does it by the project's own loop. The
two-tower learns once a day from a week of good clicks on all items; the sequence nominator every `every` ticks from the
good clicks on fresh items since its last round. Shapes: R requests, P items of the pool, I items, O width of vectors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from funnel.fresh.retrieval import EXACT_ITEMS, Approximate, exact_top, within
from funnel.fresh.slot import FreshFunnel, FreshSettings
from funnel.fresh.taken_log import Histories, Items, Taken, TakenLog
from funnel.platform.numbers import on_grid
from funnel.platform.settings import PlatformSettings
from funnel.platform.view import Requests, View

WEEK = 7.0
LOOKED_THROUGH = 8
"""Times as many items as are wanted that an approximate index gives: not all are in the pool."""
STRETCH = 4.0
"""Unit vectors are stretched to use the grid on which inner products are exact."""


class Train(Protocol):
    """One round of training."""

    def __call__(self, problem: str, write: Callable[[Path], int], ids: bool) -> tuple[Any, nn.Module]:
        """`write` writes the round's log into a directory and returns its rows; (problem, network) are those that the
        round ends with: its first round begins from the seed, each further one from the last one's weights."""


@dataclass
class Recorder:
    """Good clicks of a world, in order (funnel/platform/world.py: Watcher)."""

    parts: list[Taken] = field(default_factory=list)

    def __call__(self, arm: int, view: View, requests: Requests, passed: Any, done: Any) -> None:
        feedback, past = done.feedback, view.history
        row_R, slot_R = np.nonzero(feedback.good_RS)
        if not len(row_R):
            return
        user_R = requests.user_R[row_R]
        # The ring still stands as it was before this page: the world writes it after the round.
        history = Histories.of_rings(past.item_UN[user_R], past.dwell_UN[user_R], past.time_UN[user_R])
        item_R = feedback.item_RS[row_R, slot_R].astype(np.int64)
        self.parts.append(Taken(user_R, item_R, np.full(len(row_R), requests.now), history))

    def copy(self) -> "Recorder":
        return Recorder(list(self.parts))

    def since(self, day: float) -> Taken | None:
        """What was taken from that day on; None: nothing."""
        kept = [part for part in self.parts if part.day_R[0] >= day]
        return Taken.join(kept) if kept else None


def items_of(view: View) -> Items:
    """What a nominator's log says of the items."""
    known = view.items
    return Items(
        known.category_I,
        known.content_ID,
        np.log(known.length_I.astype(np.float64)),
        known.rating_I,
        view.daily.positives_I,
        known.upload_I,
    )


@dataclass
class TrainedNominator:
    """funnel/fresh/nominators.py: Nominator, by a network."""

    problem_name: str
    world: PlatformSettings
    log: TakenLog
    recorder: Recorder
    train: Train
    every: int
    """Ticks between two rounds; the world's ticks a day: a round a day."""
    ids: bool = False
    fresh_only: bool = False
    """Whether a round learns from what was taken since the last one, of fresh items alone; else from a week's."""
    rounds: int = 0
    ticks: int = 0
    last: float = -np.inf
    problem: Any = None
    network: Any = None
    index: Approximate | None = None

    def refresh(self, view: View) -> None:
        """Rounds go by ticks."""

    def tick(self, view: View) -> None:
        if self.ticks % self.every == 0:
            self.learn(view)
        self.ticks += 1
        rows = len(view)
        blank = Taken(np.zeros(rows, np.int64), np.arange(rows), np.full(rows, view.now), Histories.none(rows))
        self.item_IO = self.vectors(blank, view, "item")
        self.index = Approximate(self.item_IO) if rows > EXACT_ITEMS else None

    def learn(self, view: View) -> None:
        """A round of training on what was recorded, if there is enough of it."""
        items, first = items_of(view), view.now - WEEK
        taken = self.recorder.since(max(self.last, first) if self.fresh_only and self.rounds else first)
        if taken is not None and self.fresh_only and self.rounds:
            young_R = taken.day_R - items.uploaded_I[taken.item_R] <= self.world.fresh_days
            taken = taken.take(np.flatnonzero(young_R))
        if taken is None or len(taken) < 64:
            if self.network is None:
                raise RuntimeError("a nominator cannot begin: the world's first days left fewer than 64 good clicks")
            return
        core_U, seed = view.users.core_U, self.rounds

        def write(out: Path) -> int:
            return self.log.write(out, taken, core_U, items, seed)

        self.problem, self.network = self.train(self.problem_name, write, self.ids)
        self.network.eval()
        self.rounds, self.last = self.rounds + 1, view.now

    @torch.inference_mode()
    def vectors(self, taken: Taken, view: View, side: str) -> np.ndarray:
        """float32 (R, O) on the grid: of the users' or of the items' side of these rows."""
        table = self.log.table(taken, view.users.core_U, items_of(view))
        found = self.network(self.problem.encode(table).batch())[side].numpy()
        return on_grid(STRETCH * found)

    def best(self, requests: Requests, pool_P: np.ndarray, view: View, count: int) -> np.ndarray:
        """By exact search over the pool; beyond a million items by an index of all of them, a few times as many as are
        wanted, of which those in the pool are kept (retrieval.py)."""
        user_R, past = requests.user_R, view.history
        history = Histories.of_rings(past.item_UN[user_R], past.dwell_UN[user_R], past.time_UN[user_R])
        asked = Taken(user_R, np.zeros(len(user_R), np.int64), np.full(len(user_R), view.now), history)
        query_RO = self.vectors(asked, view, "query")
        if self.index is None:
            return exact_top(query_RO, self.item_IO[pool_P], count)[0]
        most = min(LOOKED_THROUGH * count, len(self.item_IO))
        return within(self.index.top(query_RO, most)[0], pool_P, count)


class TrainedFunnel(FreshFunnel):
    """The fresh slot with networks for nominators. Made by hand: it needs somebody to train them."""

    def __init__(
        self,
        settings: FreshSettings,
        world: PlatformSettings,
        seed: int,
        recorder: Recorder,
        trains: Sequence[Train],
        every: int = 1,
    ) -> None:
        """`trains`: of the two-tower and of the sequence nominator; `every`: ticks between the latter's rounds."""
        super().__init__(settings, world, seed)
        log = TakenLog(world.categories, world.dimensions, history=16)
        ids = settings.nominators == "two_tower_with_ids"
        self.two_tower = TrainedNominator("fresh_two_tower", world, log, recorder, trains[0], world.ticks, ids)
        self.real_time = TrainedNominator("fresh_sequence", world, log, recorder, trains[1], every, fresh_only=True)
