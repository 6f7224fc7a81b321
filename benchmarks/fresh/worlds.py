"""The worlds of the fresh-content benchmarks: arms lived in the same worlds, kept line by line so that a run goes on.

A line of the file is the ledger of one arm in one world: figures of every day. Worlds are numbered; an arm that is
there already is not run again. Shapes: W worlds, T days, F figures of a day.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from funnel.platform.behaviour import Walked
from funnel.platform.cascade import Passed
from funnel.platform.designs import metrics
from funnel.platform.episodes import Episodes, EpisodeSettings, Interval, interval
from funnel.platform.figures import DAILY
from funnel.platform.settings import PlatformSettings
from funnel.platform.view import Requests, View
from funnel.platform.world import World

WORLD = PlatformSettings(uploads=60.0)
EPISODE = EpisodeSettings(first=4, days=12, settle=3)
MAIN = {
    "fusion": {"popularity": 0.12, "freshness": 0.4},
    "preranking": {"popularity": 0.12, "freshness": 0.4},
}
"""A main system that gives a quarter of all exposures to fresh items by itself."""
NONE = "none"
RATE = 0.3
"""Share of pages with a slot where it is compared to none: as much as raises DUIC by what the paper saw."""


def arm(kind: str = "fresh", rate: float = 1.0, **slot: Any) -> dict[str, Any]:
    """A policy: the main system with a slot for fresh items, on every page unless `rate` says otherwise: what tells two
    funnels apart shows three times as clearly as with RATE."""
    return {**MAIN, "slot": {"kind": kind, "rate": rate, **slot}}


def numbers(count: int) -> range:
    """The worlds that count. Those before were looked at while the main system, RATE and the points were chosen."""
    return range(100, 100 + count)


@dataclass(frozen=True)
class Lived:
    """What was recorded: (T, F) by arm and world, the days from the policy's first one on."""

    tables: Mapping[tuple[str, int], np.ndarray]
    small: Mapping[tuple[str, int], Mapping[str, float]]
    """Likewise, what SmallProviders counted; {} where nobody did."""

    @classmethod
    def read(cls, path: Path) -> "Lived":
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        tables = {(one["arm"], one["world"]): np.array(one["days"]) for one in lines}
        return cls(tables, {(one["arm"], one["world"]): one.get("small", {}) for one in lines})

    def worlds(self, *arms: str) -> list[int]:
        """Worlds in which all of these arms were run."""
        found = [{world for name, world in self.tables if name == one} for one in arms]
        return sorted(set.intersection(*found)) if found else []

    def values(self, arm: str, worlds: Iterable[int], metric: str, days: slice) -> np.ndarray:
        if metric.startswith(AUDIENCE):
            return np.array([self.small[arm, world][metric.removeprefix(AUDIENCE)] for world in worlds])
        return np.array([figure(self.tables[arm, world][days], metric) for world in worlds])

    def change(self, arm: str, base: str, metric: str, days: slice = slice(EPISODE.settle, None)) -> Interval:
        """100 (arm / base - 1) over the worlds that both have, with a paired 95% interval."""
        worlds = self.worlds(arm, base)
        one, other = (self.values(name, worlds, metric, days) for name in (arm, base))
        return interval(100 * (one / other - 1))


AUDIENCE = "small_audience."
"""Figures of SmallProviders by name."""
RATIOS = {
    "slot.good_ctr": ("slot_positives", "slot_exposures"),
    "core.dwell": ("core_dwell", ""),
    "fresh.good_ctr": ("fresh_positives", "fresh_exposures"),
}
"""Figures beside those of funnel/platform/figures.py."""


def figure(day_TF: np.ndarray, metric: str) -> float:
    if metric not in RATIOS:
        return metrics(day_TF)[metric]
    above, below = RATIOS[metric]
    value_F = day_TF.sum(0)
    return float(value_F[DAILY.index(above)] / (value_F[DAILY.index(below)] if below else 1.0))


def live(
    path: Path,
    arms: Mapping[str, Mapping[str, Any]],
    worlds: Iterable[int],
    workers: int,
    seconds: float,
    world: PlatformSettings = WORLD,
    episode: EpisodeSettings = EPISODE,
) -> bool:
    """Run what is missing, world by world in parallel processes, for about so many seconds; whether all is there."""
    there, begun = Lived.read(path).tables, time.time()
    todo = {number: [name for name in arms if (name, number) not in there] for number in worlds}
    todo = {number: names for number, names in todo.items() if names}
    path.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers, get_context("fork")) as pool, path.open("a") as file:
        waiting = [
            pool.submit(lived, number, {name: arms[name] for name in names}, world, episode, begun + seconds)
            for number, names in todo.items()
        ]
        for done in as_completed(waiting):
            for line in done.result():
                file.write(json.dumps(line) + "\n")
                file.flush()
    there = Lived.read(path).tables
    return all((name, number) in there for name in arms for number in worlds)


def lived(
    number: int, arms: Mapping[str, Mapping[str, Any]], world: PlatformSettings, episode: EpisodeSettings, until: float
) -> list[dict[str, Any]]:
    """The lines of some arms in one world; none after `until`."""
    episodes, lines = Episodes(world, episode, MAIN), []
    for name, tree in arms.items():
        if time.time() > until:
            break
        begun = episodes.begin(number)
        small = SmallProviders.of(begun, episode.first + episode.settle)
        after = begun.copy([episodes.policies(tree, number)])
        after.watch = small
        after.run(episode.days)
        day_TF = after.ledger.table()[-episode.days :, :, 0]
        lines.append({"arm": name, "world": number, "days": day_TF.tolist(), "small": small.sums})
    return lines


@dataclass
class SmallProviders:
    """Counts what users do with items of providers of small audience: those with the fewest positive interactions on
    all their items before the policy begins, which together have half of all items. (`small` of
    funnel/platform/figures.py is by number of uploads, which the main system does not look at.)"""

    small_P: np.ndarray
    first: int
    """Day from which it counts."""
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("exposures", "positives", "dwell"), 0.0))

    @classmethod
    def of(cls, world: World, first: int) -> "SmallProviders":
        items, count = world.corpus.items, len(world.population.providers)
        own_P = np.bincount(items.provider_I, minlength=count)
        liked_P = np.bincount(items.provider_I, world.corpus.live[1], count)
        order_P = np.lexsort((own_P, liked_P))
        small_P = np.zeros(count, bool)
        small_P[order_P[np.cumsum(own_P[order_P]) <= own_P.sum() / 2]] = True
        return cls(small_P, first)

    def __call__(self, arm: int, view: View, requests: Requests, passed: Passed, done: Walked) -> None:
        """funnel/platform/world.py: Watcher."""
        if requests.day < self.first:
            return
        shown = done.feedback
        small_RS = self.small_P.take(view.items.provider_I.take(shown.item_RS, mode="clip"))
        self.sums["exposures"] += float((shown.seen_RS & small_RS).sum())
        self.sums["positives"] += float((shown.good_RS & small_RS).sum())
        self.sums["dwell"] += float((shown.dwell_RS * small_RS).sum(dtype=np.float64))


def until_done(step: Callable[[], bool]) -> None:
    """Say whether everything is there: a run with a time limit is to be given again."""
    print("all is there" if step() else "not yet all: give the same command again")
