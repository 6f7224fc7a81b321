"""What re-ranking could bring at most in the platform's closed loop: searches by the platform's true chances.

    python benchmarks/rerank/ceiling.py live --seconds 150     # again, until it says True
    python benchmarks/rerank/ceiling.py table

The worlds of benchmarks/rerank/closed.py. The control is the oracle's own point-wise order: true chances of every item
by itself, over all moods that the user may be in. Then what each kind of knowledge adds: what stands before an item
(fatigue), what the user did in the visit (odds over moods, by Bayes' rule), the mood itself, which nobody can know.
"""

import argparse
import itertools
import json
import time
from dataclasses import replace
from typing import Any

from benchmarks.bench import markdown, write_result
from benchmarks.rerank.closed import EPISODE, NUMBERS, SHOWN, SIZE, rewarded
from benchmarks.rerank.oracle import OracleEpisodes, OracleSettings
from benchmarks.rerank.worlds import PLACE, WORLDS
from funnel.platform.episodes import changes, interval
from funnel.rerank.tuning import COST

LINES = PLACE / "ceiling.jsonl"
CONTROL = "point-wise order"
ARMS = {
    CONTROL: OracleSettings(method="pointwise"),
    "adaptive": OracleSettings(),
    "adaptive, no feedback": OracleSettings(feedback=False),
    "greedy": OracleSettings(method="greedy"),
    "full beam": OracleSettings(method="beam"),
    "greedy, no feedback": OracleSettings(method="greedy", feedback=False),
    "adaptive, told the mood": OracleSettings(mood=True),
}
WORLDS_EACH = 6


def lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in LINES.read_text().splitlines()] if LINES.exists() else []


def live(until: float) -> bool:
    """Go on until then; whether all is there."""
    there = {(one["world"], one["number"], one["arm"]) for one in lines()}
    LINES.parent.mkdir(parents=True, exist_ok=True)
    with LINES.open("a") as file:
        for world in reversed(list(WORLDS)):
            episodes = OracleEpisodes(replace(WORLDS[world], **SIZE), EPISODE)
            for number, arm in itertools.product(NUMBERS[:WORLDS_EACH], ARMS):
                if (world, number, arm) in there or (world == "plain" and "mood" in arm):
                    continue
                if time.time() > until:
                    return False
                figures = dict(episodes.told(ARMS[arm], number))
                file.write(json.dumps({"world": world, "number": number, "arm": arm, "figures": figures}) + "\n")
                file.flush()
    return True


def table() -> None:
    by = {(one["world"], one["number"], one["arm"]): rewarded(one["figures"]) for one in lines()}
    text, figures = "", dict[str, Any]()
    for world in WORLDS:
        rows = []
        for arm in ARMS:
            own = [n for n in NUMBERS if (world, n, arm) in by and (world, n, CONTROL) in by]
            if arm == CONTROL or len(own) < 2:
                continue
            change = [changes(by[world, n, arm], by[world, n, CONTROL]) for n in own]
            found = {name: interval(one[name] for one in change) for name in SHOWN}
            cost = sum(by[world, n, arm][COST] for n in own) / len(own)
            figures[f"{world}, {arm}"] = {name: vars(value) for name, value in found.items()} | {COST: cost}
            right = [
                sum(by[world, n, arm][f"expected_{what}"] for n in own) / sum(by[world, n, arm][key] for n in own)
                for what, key in (("views", "effective_views"), ("likes", "likes"))
            ]
            figures[f"{world}, {arm}"]["expected / observed"] = right
            rows.append([arm, *found.values(), f"{cost:.0f}", ", ".join(f"{one:.3f}" for one in right), len(own)])
        header = ["oracle", *(name.replace("_", " ") for name in SHOWN), "evaluations a decision",
                  "expected / observed views, likes", "worlds"]  # fmt: skip
        text += f"\n**{world}** (% of the oracle's {CONTROL}, 95% over worlds)\n\n" + markdown(header, rows)
    write_result("rerank-ceiling", figures, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("live", "table"))
    parser.add_argument("--seconds", type=float, default=150.0)
    given = parser.parse_args()
    if given.what == "table":
        table()
    else:
        print(live(time.time() + given.seconds))


if __name__ == "__main__":
    main()
