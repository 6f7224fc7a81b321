"""How good the next item is that each kind of knowledge chooses in the same situations, by the true chances.

    python benchmarks/rerank/choices.py --scorer moods/full --worlds 4 [--label "the scorer"]

A world lives under the scorer's greedy search; at every decision all choosers look at the same candidates after the
same things watched, and the chance of an effective view (and of alpha view + beta like) of what each would show is
counted as the oracle of benchmarks/rerank/oracle.py knows it in context. Nothing is drawn, so no luck of
users is in the figures; what a choice does later in the visit they do not see.
Intervals: over worlds, of the difference to the scorer's own order without context.
"""

import argparse
import json
from dataclasses import replace
from typing import Any

import numpy as np
import torch

import benchmarks.rerank.oracle as truth
import funnel.rerank.stage as stage
from benchmarks.bench import markdown, write_result
from benchmarks.rerank.closed import SIZE
from benchmarks.rerank.worlds import PLACE, WORLDS
from funnel.platform.episodes import interval
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policies, Step
from funnel.platform.view import Feedback, Requests, View
from funnel.platform.world import new_world
from funnel.rerank.list_value import Chances
from funnel.rerank.search import search

LINES = PLACE / "choices.jsonl"
FIRST, DAYS = 2, 1
NUMBERS = range(5_100_000, 5_100_032)
CONTROL = "scorer, without context"
Said = tuple[Chances, Chances, np.ndarray]
"""Chances in context (R, M), alone (R, M), and what is left."""


class Overheard:
    """Stands in for `search` where a policy calls it, and keeps what its scorer says."""

    def __init__(self) -> None:
        self.said: Said | None = None

    def __call__(self, scorer: Any, left_RM: np.ndarray, *more: Any) -> Any:
        rows = np.arange(len(left_RM))
        context = scorer(rows, np.zeros((len(rows), 1, 0), np.int64))
        self.said = Chances(*(value[:, 0] for value in context)), scorer.alone(rows), left_RM
        return search(scorer, left_RM, *more)


class Chooser:
    """funnel/platform/stages.py: ReRanking: the scorer's greedy search, the oracle listening."""

    def __init__(self, weights: str, world: PlatformSettings, seed: int) -> None:
        own = stage.ListReRankingSettings(weights=weights, method="greedy")
        self.scorer, self.oracle = stage.ListReRanking(own, world, seed), truth.Oracle(own_truth(), world)
        self.candidates, self.heard, self.true = self.scorer.candidates, Overheard(), Overheard()
        self.sums: dict[str, np.ndarray] = {}

    def refresh(self, view: View) -> None:
        pass

    def tick(self, view: View) -> None:
        pass

    def observe(self, feedback: Feedback, view: View) -> None:
        self.scorer.observe(feedback, view)
        self.oracle.observe(feedback, view)

    def choose(self, requests: Requests, step: Step, view: View) -> np.ndarray:
        stage.search, truth.search = self.heard, self.true  # type: ignore[assignment]
        try:
            self.oracle.choose(requests, step, view)
            chosen_R = self.scorer.choose(requests, step, view)
        finally:
            stage.search = truth.search = search
        active_R = step.active_R & step.left_RM.any(1)
        if active_R.any():
            self.count(step.score_RM[active_R])
        return chosen_R

    def count(self, score_RM: np.ndarray) -> None:
        assert self.heard.said is not None
        assert self.true.said is not None
        (context, alone, left_RM), (known, bare, _) = self.heard.said, self.true.said
        worth_RM = reward(known)
        for name, value_RM in (
            (CONTROL, reward(alone)),
            ("scorer, in context", reward(context)),
            ("oracle, without context", reward(bare)),
            ("oracle, in context", worth_RM),
            ("main system's order", score_RM),
        ):
            at = np.arange(len(left_RM)), np.where(left_RM, value_RM, -np.inf).argmax(1)
            found = np.array([known.view[at].sum(), worth_RM[at].sum(), len(left_RM)], np.float64)
            self.sums[name] = self.sums.get(name, 0) + found


def own_truth() -> truth.OracleSettings:
    return truth.OracleSettings(method="greedy")


def reward(chances: Chances) -> np.ndarray:
    return np.asarray(chances.view + 4 * chances.like)


def lived(scorer: str, number: int) -> dict[str, list[float]]:
    """{chooser: [chance of an effective view, list reward]}, means over the decisions of a world."""
    world = replace(WORLDS["moods"], **SIZE)
    base = new_world(world, number, [Policies.of({}, world, number)])
    base.run(FIRST)
    policies = Policies.of({}, world, number)
    chooser = policies.reranking = Chooser(str(PLACE / scorer / "list_scorer.npz"), world, number)
    twin = base.copy([policies])
    chooser.oracle.corpus = twin.corpus
    twin.run(DAYS)
    return {name: (sums[:2] / sums[2]).tolist() for name, sums in chooser.sums.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scorer", default="moods/full")
    parser.add_argument("--label", default="")
    parser.add_argument("--worlds", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = [json.loads(line) for line in LINES.read_text().splitlines()] if LINES.exists() else []
    there = {(one["scorer"], one["world"]) for one in lines}
    label = given.label or given.scorer
    for number in NUMBERS[: given.worlds]:
        if (label, number) in there:
            continue
        lines.append({"scorer": label, "world": number, "found": lived(given.scorer, number)})
        with LINES.open("a") as file:
            file.write(json.dumps(lines[-1]) + "\n")
    rows = []
    for scorer in dict.fromkeys(one["scorer"] for one in lines):
        of = [one["found"] for one in lines if one["scorer"] == scorer]
        for name in of[0]:
            mean = np.mean([found[name] for found in of], 0)
            gain = [interval(100 * (f[name][n] / f[CONTROL][n] - 1) for f in of) for n in (0, 1)]
            shown = ["", ""] if name == CONTROL else gain
            rows.append([scorer, name, f"{mean[0]:.4f}", shown[0], f"{mean[1]:.4f}", shown[1], len(of)])
    header = ["scorer", "who chooses", "effective view", "against the control, %", "list reward", "against it, %",
              "worlds"]  # fmt: skip
    write_result("rerank-choices", {"lines": lines}, markdown(header, rows))


if __name__ == "__main__":
    main()
