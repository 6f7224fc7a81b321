"""Points 2 to 4 of Wang et al. (KDD 2023) with networks that are trained in the loop, round after round.

    python benchmarks/fresh/trained.py run --worlds 16 --workers 2 --seconds 150      # again, until all is there
    python benchmarks/fresh/trained.py table

The two-tower (with and without ids and popularity) learns once a day, the sequence nominator every other tick, both
from the world's own good clicks by the project's own training loop, each round from the last one's weights.
Arms live in the
same worlds as those of benchmarks/fresh/paper.py; every page has a slot.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench import markdown, write_result
from benchmarks.fresh.points import verdict
from benchmarks.fresh.rounds import Rounds
from benchmarks.fresh.worlds import EPISODE, MAIN, NONE, WORLD, Lived, numbers, until_done
from funnel.fresh.slot import FreshSettings
from funnel.fresh.trained import Recorder, TrainedFunnel
from funnel.platform.stages import Policies
from funnel.platform.world import World, new_world

LINES = Path("runs/fresh-trained/lived.jsonl")
FIRST: dict[str, dict[str, Any]] = {
    "multi": {},
    "two_tower": {"nominators": "two_tower"},
    "two_tower_with_ids": {"nominators": "two_tower_with_ids"},
    "real_time": {"nominators": "real_time"},
}
ARMS = {**FIRST, "p 1": {"p": 1.0}, "p 1, q 0.4": {"p": 1.0, "q": 0.4}}
"""Settings of the slot by arm; it is on every page."""
EVERY = 2
"""Ticks between rounds of the sequence nominator: two rounds a day."""
MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
"""Where rounds are written: hundreds of them, each read once."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--worlds", type=int, default=16)
    parser.add_argument("--arms", choices=("first", "all"), default="all", help="first: those of points 2 to 4")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=150.0)
    given = parser.parse_args()
    if given.what == "run":
        until_done(
            lambda: live(FIRST if given.arms == "first" else ARMS, numbers(given.worlds), given.workers, given.seconds)
        )
    else:
        table()


def live(named: Iterable[str], worlds: range, workers: int, seconds: float) -> bool:
    """Run what is missing for about so many seconds; whether all is there."""
    arms, until = (NONE, *named), time.time() + seconds
    there = Lived.read(LINES).tables
    todo = [(name, number, until) for number in worlds for name in arms if (name, number) not in there]
    LINES.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool, LINES.open("a") as file:
        for done in as_completed([pool.submit(one, *task) for task in todo]):
            if line := done.result():
                file.write(json.dumps(line) + "\n")
                file.flush()
    there = Lived.read(LINES).tables
    return all((name, number) in there for name in arms for number in worlds)


def one(name: str, number: int, until: float) -> dict[str, Any] | None:
    """The line of one arm in one world; None after `until`."""
    if time.time() > until:
        return None
    torch.set_num_threads(1)
    recorder, begun = Recorder(), time.process_time()
    world = new_world(WORLD, number, [Policies.of(MAIN, WORLD, number)], watch=recorder)
    world.run(EPISODE.first)
    place = Path(tempfile.mkdtemp(prefix="fresh-rounds-", dir=MEMORY))
    try:
        trains = [Rounds(place / kind, number) for kind in ("two_tower", "real_time")]
        twin = arm_of(world, name, recorder, trains)
        twin.run(EPISODE.days)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return {
        "arm": name,
        "world": number,
        "days": twin.ledger.table()[-EPISODE.days :, :, 0].tolist(),
        "rounds": [train.number for train in trains],
        "recall": [train.recall for train in trains],
        "cpu_s": time.process_time() - begun,
    }


def arm_of(world: World, name: str, recorder: Recorder, trains: list[Rounds]) -> World:
    """The world with this arm's policies from here on."""
    policies = Policies.of(MAIN, WORLD, world.seed)
    if name != NONE:
        settings = FreshSettings(**{"rate": 1.0, **ARMS[name]})
        policies.slot = TrainedFunnel(settings, WORLD, world.seed, recorder, trains, EVERY)
    twin = world.copy([policies])
    twin.watch = recorder
    return twin


def table() -> None:
    lived = Lived.read(LINES)
    rows, figures = [], {}
    for point, one_arm, base, metric, paper, sign in (
        ("1", "multi", NONE, "duic_at_5", "", 1),
        ("1", "multi", NONE, "discoverable_at_5_7d", "up", 1),
        ("1", "multi", NONE, "dwell", "", 0),
        ("2", "two_tower", "two_tower_with_ids", "duic_at_5", "+3.3", 1),
        ("2", "two_tower", "two_tower_with_ids", "fresh.dwell", "+2.6", 1),
        ("3", "real_time", "two_tower", "duic_at_5", "-1.79", -1),
        ("3", "real_time", "two_tower", "fresh.dwell", "up", 1),
        ("4", "multi", "two_tower", "duic_at_5", "+.65", 1),
        ("4", "multi", "real_time", "duic_at_5", "+.65", 1),
        ("4", "multi", "two_tower", "discoverable_at_5_7d", "up", 1),
        ("4", "multi", "real_time", "discoverable_at_5_7d", "up", 1),
        ("4", "multi", "two_tower", "fresh.dwell", "", 0),
        ("4", "multi", "real_time", "fresh.dwell", "", 0),
        ("7", "p 1, q 0.4", "p 1", "core.dwell", "up", 1),
        ("7", "p 1, q 0.4", "p 1", "good_ctr.core", "up", 1),
        ("7", "p 1, q 0.4", "p 1", "duic_at_5", "level", 0),
    ):
        if len(lived.worlds(one_arm, base)) < 2:
            continue
        found = lived.change(one_arm, base, metric)
        figures[f"{point} {one_arm} against {base}: {metric}"] = vars(found)
        rows.append([point, f"{one_arm} against {base}: {metric}", str(found), paper, verdict(found, sign)])
    lines = [json.loads(line) for line in LINES.read_text().splitlines()]
    cost = [[name, *cost_of([line for line in lines if line["arm"] == name])] for name in ARMS]
    worlds = len(lived.worlds(NONE, *FIRST))
    text = f"Networks trained in the loop, {worlds} worlds; changes in percent (95% interval).\n\n"
    text += markdown(["point", "what", "here", "paper", "seen"], rows)
    text += "\n" + markdown(
        [
            "arm",
            "rounds a world (two-tower, sequence)",
            "recall@50 at the end (1: fewer than 50 items)",
            "CPU s a world",
        ],
        cost,
    )
    write_result("fresh-trained", {"points": figures, "lines": [short(line) for line in lines]}, text)


def cost_of(lines: list[dict[str, Any]]) -> list[str]:
    if not lines:
        return ["not run", "", ""]
    rounds = " and ".join(str(count) for count in lines[0]["rounds"])
    recalls = [sum(line["recall"][k] for line in lines) / len(lines) for k in (0, 1)]
    seen = " and ".join(f"{recall:.2f}" for recall, count in zip(recalls, lines[0]["rounds"], strict=True) if count)
    return [rounds, seen, f"{sum(line['cpu_s'] for line in lines) / len(lines):.1f}"]


def short(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key != "days"}


if __name__ == "__main__":
    main()
