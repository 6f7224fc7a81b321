"""The worlds of the fresh-content benchmarks: arms lived in the same worlds, kept line by line so that a run goes on.

A line of the file is the ledger of one arm in one world: figures of every day. Worlds are numbered; an arm that is
there already is not run again. Shapes: W worlds, T days, F figures of a day.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from funnel.platform.designs import metrics
from funnel.platform.episodes import Episodes, EpisodeSettings, Interval, interval
from funnel.platform.figures import DAILY
from funnel.platform.settings import PlatformSettings

WORLD = PlatformSettings(uploads=60.0)
EPISODE = EpisodeSettings(first=4, days=12, settle=3)
MAIN = {
    "fusion": {"popularity": 0.12, "freshness": 0.4},
    "preranking": {"popularity": 0.12, "freshness": 0.4},
}
"""A main system that gives a quarter of all exposures to fresh items by itself."""
NONE = "none"


def arm(**slot: Any) -> dict[str, Any]:
    """A policy: the main system with this fresh slot on three of ten pages."""
    return {**MAIN, "slot": {"kind": "fresh", "rate": 0.3, **slot}}


@dataclass(frozen=True)
class Lived:
    """What was recorded: (T, F) by arm and world, the days from the policy's first one on."""

    tables: Mapping[tuple[str, int], np.ndarray]

    @classmethod
    def read(cls, path: Path) -> "Lived":
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return cls({(one["arm"], one["world"]): np.array(one["days"]) for one in lines})

    def worlds(self, *arms: str) -> list[int]:
        """Worlds in which all of these arms were run."""
        found = [{world for name, world in self.tables if name == one} for one in arms]
        return sorted(set.intersection(*found)) if found else []

    def values(self, arm: str, worlds: Iterable[int], metric: str, days: slice) -> np.ndarray:
        return np.array([figure(self.tables[arm, world][days], metric) for world in worlds])

    def change(self, arm: str, base: str, metric: str, days: slice = slice(EPISODE.settle, None)) -> Interval:
        """100 (arm / base - 1) over the worlds that both have, with a paired 95% interval."""
        worlds = self.worlds(arm, base)
        one, other = (self.values(name, worlds, metric, days) for name in (arm, base))
        return interval(100 * (one / other - 1))


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
        after = episodes.lived(episodes.policies(tree, number), number)
        day_TF = after.ledger.table()[:, :, 0]
        lines.append({"arm": name, "world": number, "days": day_TF[-episode.days :].tolist()})
    return lines


def until_done(step: Callable[[], bool]) -> None:
    """Say whether everything is there: a run with a time limit is to be given again."""
    print("all is there" if step() else "not yet all: give the same command again")
