"""Re-ranking in the platform's closed loop: what searches, feedback and rivals change against the point-wise order.

    python benchmarks/rerank/closed.py live --world moods --seconds 150     # again, until done; --share 0/2, 1/2
    python benchmarks/rerank/closed.py table

Scorers are those of benchmarks/rerank/worlds.py, trained in other worlds. A world lives its first days in the main
system's order, then some days under each policy, with common random numbers; differences are world by world, in percent
of the control: the same scorer's point-wise order, without any context.
"""

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.bench import markdown, write_result
from benchmarks.rerank.worlds import KINDS, PLACE, WORLDS, weights_of
from funnel.platform.episodes import EpisodeSettings, changes, interval
from funnel.rerank.tuning import COST, RerankEpisodes

LINES = PLACE / "closed.jsonl"
NUMBERS = range(5_000_000, 5_000_040)
"""Worlds: none that a scorer has learnt from, none that is tuned on."""
SIZE: dict[str, Any] = {"users": 300, "items": 250, "uploads": 15.0}
EPISODE = EpisodeSettings(first=2, days=4, settle=0)
CONTROL = "point-wise order"
LEAST = 3
"""Worlds that a policy needs to be in the table."""
REWARD = "effective views + 4 likes"
"""What the searches are after."""
SHOWN = (REWARD, "effective_views", "likes", "visit_length", "good_ctr", "dwell")


def arms(world: str) -> dict[str, dict[str, Any]]:
    """Policies by name."""

    def stage(kind: str, **more: Any) -> dict[str, Any]:
        return {"reranking": {"kind": "list", "weights": str(weights_of(world, kind).absolute()), **more}}

    found = {
        CONTROL: stage("full", method="pointwise"),
        "adaptive, t = .95": stage("full"),
        "adaptive, no feedback": stage("no feedback"),
        "greedy": stage("full", method="greedy"),
        "order of a point-wise scorer": stage("no context", method="pointwise"),
        "main system's order": {},
        "adaptive, told nothing that was watched": stage("full", context=False),
        "adaptive, leaving by place": stage("full", leave="place"),
        "full beam": stage("full", method="beam"),
    }
    there = {str(weights_of(world, kind).absolute()) for kind in KINDS if weights_of(world, kind).exists()}
    return {name: one for name, one in found.items() if one == {} or one["reranking"]["weights"] in there}


def lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in LINES.read_text().splitlines()] if LINES.exists() else []


def rewarded(figures: dict[str, float]) -> dict[str, float]:
    return {**figures, REWARD: figures["effective_views"] + 4 * figures["likes"]}


def live(world: str, until: float, numbers: Sequence[int] = NUMBERS) -> bool:
    """Go on until then, world by world; whether all is there."""
    there = {(one["world"], one["number"], one["arm"]) for one in lines()}
    episodes = RerankEpisodes(replace(WORLDS[world], **SIZE), EPISODE)
    known = arms(world)
    with LINES.open("a") as file:
        # The first arms in every world before the next ones: whenever it is stopped there is something to compare.
        order = {arm: max(index - 1, 0) for index, arm in enumerate(known)}
        for number, arm in sorted(itertools.product(numbers, known), key=lambda one: order[one[1]]):
            if (world, number, arm) in there:
                continue
            if time.time() > until:
                return False
            begun = time.process_time()
            figures = dict(episodes.run(known[arm], number))
            one = {"world": world, "number": number, "arm": arm, "figures": figures}
            file.write(json.dumps({**one, "cpu_seconds": time.process_time() - begun}) + "\n")
            file.flush()
    return True


def table() -> None:
    by = {(one["world"], one["number"], one["arm"]): rewarded(one["figures"]) for one in lines()}
    text, figures = "", {}
    for world in WORLDS:
        names = [arm for arm in dict.fromkeys(arm for w, _, arm in by if w == world) if arm != CONTROL]
        numbers = [n for n in NUMBERS if (world, n, CONTROL) in by]
        rows = []
        for arm in names:
            own = [n for n in numbers if (world, n, arm) in by]
            if len(own) < LEAST:
                continue
            change = [changes(by[world, n, arm], by[world, n, CONTROL]) for n in own]
            cost = sum(by[world, n, arm][COST] for n in own) / max(len(own), 1)
            found = {name: interval(one[name] for one in change) for name in SHOWN}
            figures[f"{world}, {arm}"] = {name: vars(value) for name, value in found.items()} | {COST: cost}
            rows.append([arm, *found.values(), f"{cost:.0f}", len(own)])
        if not rows:
            continue
        header = ["policy", *(name.replace("_", " ") for name in SHOWN), "evaluations a decision", "worlds"]
        text += f"\n**{world}** (% of the {CONTROL}, 95% over worlds)\n\n" + markdown(header, rows)
        pair = ("adaptive, t = .95", "adaptive, no feedback")
        with_feedback = [n for n in numbers if all((world, n, arm) in by for arm in pair)]
        if len(with_feedback) >= LEAST:
            text += "\n" + share_of_feedback(world, with_feedback, by)
    write_result("rerank-closed", figures, text)


def share_of_feedback(world: str, numbers: list[int], by: Any) -> str:
    """What real-time feedback brings on top of the watched items alone, and its share of a gain that is told from 0."""
    parts = []
    for name in SHOWN:
        whole, without = (
            [changes(by[world, n, arm], by[world, n, CONTROL])[name] for n in numbers]
            for arm in ("adaptive, t = .95", "adaptive, no feedback")
        )
        added = interval(a - b for a, b in zip(whole, without, strict=True))
        gain = interval(whole)
        share = f", {added.mean / gain.mean:.0%} of the gain" if gain.low > 0 else ""
        parts.append(f"{name.replace('_', ' ')} {added} points{share}")
    return "Feedback features add: " + "; ".join(parts) + ".\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("live", "table"))
    parser.add_argument("--world", choices=tuple(WORLDS), default="moods")
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--share", default="0/1", help="every so-many-th world")
    given = parser.parse_args()
    if given.what == "table":
        table()
    else:
        own, of = map(int, given.share.split("/"))
        print(live(given.world, time.time() + given.seconds, NUMBERS[own::of]))


if __name__ == "__main__":
    main()
