"""What Wang et al. (KDD 2023) saw when fresh content got a slot of its own, seen in simulated worlds.

    python benchmarks/fresh/paper.py run --worlds 16 --workers 2 --seconds 150     # again and again, until all is there
    python benchmarks/fresh/paper.py designs --worlds 16 --workers 2 --seconds 150
    python benchmarks/fresh/paper.py table

Each arm lives in the same worlds, with common random numbers; a figure is the mean over worlds of its change in
percent, with a 95% interval by Student's t over worlds. The slot is compared to none on three pages of ten, funnels to
each other on every page. Counts are the world's own: K = 5 a day stands for the paper's
1000 at the low end, where a slot is felt.
"""

import argparse
import dataclasses
import json
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench import markdown, write_result
from benchmarks.fresh.points import ARMS, FIRST, points
from benchmarks.fresh.worlds import EPISODE, MAIN, RATE, WORLD, Lived, arm, live, numbers, until_done
from funnel.platform.designs import run_pair, values
from funnel.platform.episodes import interval
from funnel.simulator import Compared

LINES = Path("runs/fresh-paper/lived.jsonl")
PAIRS = Path("runs/fresh-paper/designs.jsonl")
DESIGNS = ("user_corpus", "user")
HALVED = dataclasses.replace(WORLD, users=4000, items=1800, providers=300, uploads=120.0)
"""The world that both designs split: each half is as large as the world of the other points."""
SEEN = ("duic_at_5", "discoverable_at_5_7d", "fresh.dwell", "fresh.positives", "dwell", "good_ctr", "uploads")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "designs", "table"))
    parser.add_argument("--worlds", type=int, default=16)
    parser.add_argument("--arms", choices=("first", "all"), default="all", help="first: those of points 1 to 4, 6, 7")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=150.0)
    given = parser.parse_args()
    if given.what == "run":
        arms = FIRST if given.arms == "first" else ARMS
        until_done(lambda: live(LINES, arms, numbers(given.worlds), given.workers, given.seconds))
    elif given.what == "designs":
        until_done(lambda: designs(range(given.worlds), given.workers, given.seconds))
    else:
        table()


def designs(pairs: range, workers: int, seconds: float) -> bool:
    """Slot against none by both designs, pair by pair; whether all pairs are there."""
    until = time.time() + seconds
    there = {(one["design"], one["pair"]) for one in read()}
    todo = [(design, pair, until) for pair in pairs for design in DESIGNS if (design, pair) not in there]
    PAIRS.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers, get_context("fork")) as pool, PAIRS.open("a") as file:
        for line in pool.map(one_pair, todo):
            if line:
                file.write(json.dumps(line) + "\n")
                file.flush()
    there = {(one["design"], one["pair"]) for one in read()}
    return all((design, pair) in there for pair in pairs for design in DESIGNS)


def read() -> list[dict[str, Any]]:
    return [json.loads(line) for line in PAIRS.read_text().splitlines()] if PAIRS.exists() else []


def one_pair(task: tuple[str, int, float]) -> dict[str, Any] | None:
    design, pair, until = task
    if time.time() > until:
        return None
    compared = Compared(MAIN, arm(rate=RATE), design=design, days=EPISODE.days, warmup=EPISODE.first, seed=9)
    found = values(run_pair(HALVED, compared, pair), slice(EPISODE.settle, None))
    return {"design": design, "pair": pair, "values": {name: found[name] for name in SEEN}}


def design_rows() -> list[list[Any]]:
    rows = []
    for name in SEEN:
        cells = []
        for design in DESIGNS:
            pairs = [one["values"][name] for one in read() if one["design"] == design]
            cells.append(str(interval(100 * effect / base for base, effect in pairs)) if pairs else "not run")
        rows.append([name, *cells])
    return rows


def table() -> None:
    lived = Lived.read(LINES)
    rows, figures = points(lived)
    text = f"Changes in percent (95% interval over worlds of {WORLD.users:,} users, days {EPISODE.settle + 1} to "
    text += f"{EPISODE.days} of the policy). The slot of points 1 and 9 is on {RATE:g} of all pages, the funnels of "
    text += "points 2 to 8 are on every page.\n\n"
    text += markdown(["point", "what", "here", "paper", "seen", "worlds"], rows)
    if pairs := min((sum(one["design"] == design for one in read()) for design in DESIGNS), default=0):
        text += (
            f"\n9. The slot against none by both designs ({pairs} pairs of {HALVED.users:,} users, split in two):\n\n"
        )
        text += markdown(["figure", "user-corpus co-diverted", "user-diverted"], design_rows())
    text += "\nThe slot's effect on the discoverable corpus, day by day of the policy:\n\n"
    days = range(EPISODE.days)
    by_day = [lived.change("slot", "none", "discoverable_at_5_7d", slice(day, day + 1)) for day in days]
    text += markdown(["day", *(str(day + 1) for day in days)], [["%", *(f"{one.mean:+.1f}" for one in by_day)]])
    slope = np.polyfit(list(days), [one.mean for one in by_day], 1)[0]
    write_result("fresh-paper", {"points": figures, "corpus_by_day_slope": float(slope), "designs": read()}, text)


if __name__ == "__main__":
    main()
