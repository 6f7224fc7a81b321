"""alpha, beta, k and t of the adaptive beam tuned by evolution strategies under a limit of evaluations, and judged.

    python benchmarks/rerank/tuning.py search --seconds 150     # again, until it says True
    python benchmarks/rerank/tuning.py judge --seconds 150      # again, until it says True
    python benchmarks/rerank/tuning.py table

In worlds with moods, with the scorer of benchmarks/rerank/worlds.py that was trained in others; judged in worlds no
search has seen, against the start (alpha 1, beta 4, k 4, t .95) and a random search of as many evaluations.
"""

import argparse
import dataclasses
import json
import time
from typing import Any

import numpy as np

from benchmarks.bench import markdown, write_result
from benchmarks.rerank.worlds import PLACE, WORLDS, trained
from data.errors import Stopped
from es import engine
from es.config import ESConfig
from funnel.platform.episodes import EpisodeSettings, interval
from funnel.rerank.stage import ListReRankingSettings
from funnel.rerank.tuning import COST, LENGTH, LIKES, VIEWS, RerankObjective, RerankTuning, RerankTuningSettings
from funnel.settings import plain

GENERATIONS, PAIRS = 8, 4
EPISODES = 2 * GENERATIONS * PAIRS
WORLD = dataclasses.replace(WORLDS["moods"], users=300, items=250, uploads=15.0)
FOLDER = PLACE / "tuning"
CONFIG = ESConfig(
    generations=GENERATIONS, pairs=PAIRS, sigma=0.5, learning_rate=0.25, centre_every=0, checkpoint_every=1, workers=0
)


def settings() -> RerankTuningSettings:
    start = ListReRankingSettings(weights=str(trained("moods", "full").absolute()))
    episode = EpisodeSettings(first=2, days=3, settle=0)
    return RerankTuningSettings(world=WORLD, episode=episode, start=start, worlds=8, held_out=12, limit=100.0)


def search(until: float) -> bool:
    """Both searches, as far as they come until then; whether both have ended."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    objective = RerankObjective(settings())
    if not (FOLDER / "es.json").exists():
        try:
            found = engine.run(objective, CONFIG, FOLDER / "es", stopping=lambda: time.time() > until)
        except Stopped:
            return False
        (FOLDER / "es.json").write_text(json.dumps(found.theta.tolist()))
    path, rng = FOLDER / "random.jsonl", np.random.default_rng(0)
    theta_ND = rng.normal(0, 1.0, (EPISODES, 4)).astype(np.float32)
    theta_ND[0] = 0.0
    done = path.read_text().splitlines() if path.exists() else []
    with path.open("a") as file:
        for n in range(len(done), EPISODES):
            if time.time() > until:
                return False
            value = float(objective.evaluate_batch(theta_ND[n : n + 1], np.array([n], np.uint64))[0])
            file.write(json.dumps({"return": value}) + "\n")
            file.flush()
    values = [json.loads(line)["return"] for line in path.read_text().splitlines()]
    (FOLDER / "random.json").write_text(json.dumps(theta_ND[int(np.argmax(values))].tolist()))
    return True


def policies() -> dict[str, dict[str, Any]]:
    own = settings()
    objective = RerankObjective(own)
    found = {"start": {"reranking": {"kind": "list", **plain(own.start)}}}
    for name in ("es", "random"):
        if (FOLDER / f"{name}.json").exists():
            theta_D = np.array(json.loads((FOLDER / f"{name}.json").read_text()), np.float32)
            found[name] = objective.tree(theta_D)
    return found


def judge(until: float) -> bool:
    """Every policy in every world held out."""
    path, tunable = FOLDER / "judged.jsonl", RerankTuning(settings(), 0)
    there = {(one["policy"], one["world"]) for one in judged()}
    with path.open("a") as file:
        for number in range(2_000_000, 2_000_000 + tunable.settings.held_out):
            for name, tree in policies().items():
                if (name, number) in there:
                    continue
                if time.time() > until:
                    return False
                change = dict(tunable.objective.episodes.changes(tree, number))
                file.write(json.dumps({"policy": name, "world": number, "change": change}) + "\n")
                file.flush()
    return True


def judged() -> list[dict[str, Any]]:
    path = FOLDER / "judged.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table() -> None:
    objective, known = RerankObjective(settings()), policies()
    by = {(one["policy"], one["world"]): one["change"] for one in judged()}
    numbers = [n for n in sorted({world for _, world in by}) if all((name, n) in by for name in known)]
    rows, figures = [], {}
    for name, tree in known.items():
        worth = [objective.worth(by[name, n]) for n in numbers]
        gain = interval(a - objective.worth(by["start", n]) for a, n in zip(worth, numbers, strict=True))
        shown = [interval(by[name, n][key] for n in numbers) for key in (VIEWS, LIKES, LENGTH)]
        cost = float(np.mean([by[name, n][COST] for n in numbers]))
        stage = tree["reranking"]
        chosen = f"{stage['beta'] / stage['alpha']:.2f}, {stage['k'] + stage['more']:.1f}, {stage['stability']:.3f}"
        rows.append([name, chosen, interval(worth), "" if name == "start" else gain, *shown, f"{cost:.0f}"])
        figures[name] = {"policy": stage, "return": vars(interval(worth)), "gain": vars(gain), COST: cost}
    header = ["policy", "beta / alpha, k, t", "return", "above the start", *(n.replace("_", " ") for n in (VIEWS, LIKES,
              LENGTH)), "evaluations a decision"]  # fmt: skip
    text = (
        f"{EPISODES} evaluations each, limit {settings().limit:g} evaluations a decision; {len(numbers)} worlds held "
    )
    text += "out, % of the same scorer's point-wise order, 95%.\n\n" + markdown(header, rows)
    write_result("rerank-tuning", figures, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("search", "judge", "table"))
    parser.add_argument("--seconds", type=float, default=150.0)
    given = parser.parse_args()
    until = time.time() + given.seconds
    if given.what == "table":
        table()
    else:
        print(search(until) if given.what == "search" else judge(until))


if __name__ == "__main__":
    main()
