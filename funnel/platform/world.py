"""A world: days of visits, each a round of requests a page, through the stages and down the page.

A day: providers upload (more, if what they uploaded of late was liked), the main system trains on all that was shown
(`Corpus.refresh`), then its parts (ticks) run. In a tick a user comes at most once: with probability 1 - exp(-visits /
ticks). All visits of a tick ask for their first page in one round, those that look on for their second in the next, and
so on; what systems know in real time moves between rounds. Within a round requests do not touch each other: blocks of
any size give the same bits. Arms that share a corpus split its users.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from data.errors import UserError
from funnel.platform.behaviour import RECENT, Walked, walk
from funnel.platform.cascade import Passed, pass_stages
from funnel.platform.corpus import Corpus
from funnel.platform.draws import key, keys, uniforms, words
from funnel.platform.figures import Ledger
from funnel.platform.population import Population, arm_of, draw_population
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policies
from funnel.platform.uploads import first_items, new_items
from funnel.platform.view import NOBODY, Requests, View

VISITS, INTENTS, REQUESTS = 11, 12, 13
"""First words of the addresses of what happens."""
BLOCK = 512
"""Requests that pass the stages together: large enough for numpy, small enough for the cache."""

Watcher = Callable[[int, View, Requests, Passed, Walked], None]
"""Told of every block: (arm, view, requests, what the stages did, what the users did)."""


@dataclass
class Visits:
    """Who is still looking in a tick, page after page."""

    user_R: np.ndarray
    intent_R: np.ndarray
    visit_R: np.ndarray
    recent_RN: np.ndarray

    def __len__(self) -> int:
        return len(self.user_R)

    def take(self, rows: np.ndarray) -> "Visits":
        return Visits(self.user_R[rows], self.intent_R[rows], self.visit_R[rows], self.recent_RN[rows])


class World:
    """One corpus with one or more arms; several worlds where arms split the corpus."""

    def __init__(
        self, population: Population, arms: Sequence[Policies], watch: Watcher | None = None, block: int = BLOCK
    ) -> None:
        """Raises UserError for fewer users than arms."""
        self.settings, self.seed, self.population = population.settings, population.seed, population
        if len(population.users) < len(arms):
            raise UserError(f"{len(population.users)} users cannot be split into {len(arms)} arms")
        self.arms, self.watch, self.block = list(arms), watch, block
        self.arm_U = arm_of(self.seed, population.users.number_U, len(arms))
        self.uploaded_P, first = first_items(population)
        self.corpus = Corpus(population, first)
        self.first = len(first)
        self.ledger = Ledger(self.settings, len(arms))
        self.day = 0
        visits_U = population.users.visits_U / self.settings.ticks
        self.comes_U = np.rint((1 - np.exp(-visits_U)) * 2**32) / 2**32

    def copy(self, arms: Sequence[Policies] | None = None) -> "World":
        """A world that stands where this one stands. With other arms, if given: a test begins, and counts from here."""
        twin = copy.copy(self)
        twin.corpus = copy.deepcopy(self.corpus, {id(self.population): self.population})
        twin.uploaded_P = self.uploaded_P.copy()
        if arms is None:
            twin.arms, twin.ledger = copy.deepcopy(self.arms), copy.deepcopy(self.ledger)
            return twin
        twin.arms, twin.ledger = list(arms), Ledger(self.settings, len(arms))
        twin.arm_U = arm_of(self.seed, self.population.users.number_U, len(arms))
        return twin

    def run(self, days: int) -> None:
        for _ in range(days):
            self.run_day()

    def run_day(self) -> None:
        uploads = 0
        if self.day:
            new = new_items(self.population, self.corpus, self.uploaded_P, self.day)
            uploads = len(new)
            self.corpus.add(new)
        self.corpus.refresh()
        self.ledger.begin(len(self.corpus.items))
        for tick in range(self.settings.ticks):
            now = self.day + tick / self.settings.ticks
            view = self.corpus.view(self.day, tick, now)
            for policies in self.arms:
                for policy in policies.each():
                    if tick == 0:
                        policy.refresh(view)
                    policy.tick(view)
            self.run_tick(tick, now)
        self.ledger.end(uploads, self.first)
        self.day += 1

    def run_tick(self, tick: int, now: float) -> None:
        visits = self.visits(tick)
        for page in range(self.settings.pages):
            if not len(visits):
                return
            view = self.corpus.view(self.day, tick, now)
            going, walked = [], []
            for arm in range(len(self.arms)):
                rows = np.flatnonzero(self.arm_U[visits.user_R] == arm)
                for begin in range(0, len(rows), self.block):
                    block = visits.take(rows[begin : begin + self.block])
                    done = self.run_block(arm, block, tick, page, now, view)
                    walked.append((arm, done))
                    going.append(Visits(block.user_R, block.intent_R, block.visit_R, done.recent_RN).take(done.on_R))
            for arm, done in walked:
                self.corpus.take(done.feedback)
                self.ledger.take(arm, done.feedback, self.corpus)
            for policies in self.arms:
                for policy in policies.each():
                    for _, done in walked:
                        policy.observe(done.feedback, view)
            visits = joined(going)

    def run_block(self, arm: int, visits: Visits, tick: int, page: int, now: float, view: View) -> Walked:
        under = key(self.seed, REQUESTS, self.day, tick, page)
        requests = Requests(
            self.day,
            tick,
            page,
            now,
            visits.user_R,
            visits.intent_R,
            visits.visit_R,
            keys(under, self.population.users.number_U[visits.user_R]),
            self.corpus.shown_UN[visits.user_R],
        )
        policies = self.arms[arm]
        passed = pass_stages(self.settings, policies, requests, view)
        done = walk(self.settings, requests, passed.page, visits.recent_RN, policies.reranking, self.corpus, view)
        if self.watch is not None:
            self.watch(arm, view, requests, passed, done)
        return done

    def visits(self, tick: int) -> Visits:
        """Who comes, and what for: the same in every world of the seed."""
        users = self.population.users
        comes_U = uniforms(key(self.seed, VISITS, self.day, tick), users.number_U) < self.comes_U
        user_R = np.flatnonzero(comes_U)
        drawn_R = words(key(self.seed, INTENTS, self.day, tick), users.number_U[user_R], 1)
        intent_R = (users.intent_UK[user_R] <= drawn_R).sum(1)
        number_R = (self.day * self.settings.ticks + tick) * self.settings.users + users.number_U[user_R]
        recent_RN = np.full((len(user_R), RECENT), NOBODY, np.int32)
        return Visits(user_R, np.minimum(intent_R, self.settings.categories - 1), number_R, recent_RN)


def joined(parts: Sequence[Visits]) -> Visits:
    """Visits of all blocks, by user: the order does not depend on arms or blocks."""
    if not parts:
        none_R = np.zeros(0, np.int64)
        return Visits(none_R, none_R, none_R, np.zeros((0, RECENT), np.int32))
    user_R, intent_R, visit_R = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("user_R", "intent_R", "visit_R")
    )
    whole = Visits(user_R, intent_R, visit_R, np.concatenate([part.recent_RN for part in parts]))
    return whole.take(np.argsort(whole.user_R, kind="stable"))


def new_world(settings: PlatformSettings, seed: int, arms: Sequence[Policies], watch: Watcher | None = None) -> World:
    """The world of a seed on its first day."""
    return World(draw_population(settings, seed), arms, watch)
