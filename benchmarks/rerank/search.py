"""Searches for the best list, as they are used: one item shown, watched, searched again; exact values.

    python benchmarks/rerank/search.py            # seconds

Worlds of funnel/rerank/world.py, whose items act on each other; their constants were set so that the point-wise order
and the greedy one lose about what a first prototype saw (11% and 3%). 10 places, k = 4, alpha 1, beta 4. The full beam
plans all places that are left. "By values alone": the paper's rule (stop: alike); the rule for stopping was found on
draws 100 to 102, those here had no part in it. Intervals: Student's t over requests, each beside the full beam on the
same request.
"""

import numpy as np

from benchmarks.bench import markdown, write_result
from funnel.platform.episodes import interval
from funnel.rerank.list_value import SearchSettings, list_value
from funnel.rerank.rivals import LeavingByPlace, drawn, fit_weibull
from funnel.rerank.search import NOTHING, Found, search
from funnel.rerank.world import ListWorld, ListWorldSettings, Played, play

REQUESTS, PLACES, SEEDS = 200, 10, 6
TS = (0.7, 0.8, 0.9, 0.95, 0.99)
ALIKE = (0.9, 0.95, 0.97, 0.99)
CONTEXTS = (0.5, 2.0)


def cost(played: Played) -> tuple[float, float]:
    """(evaluations, steps) of a decision, mean over places and requests."""
    return tuple(  # type: ignore[return-value]
        float(np.mean([getattr(one, name) for one in played.found])) for name in ("evaluations_R", "steps_R")
    )


def stays_of(world: ListWorld, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(length, left) of visits down the point-wise lists: what a log would show of when users leave."""
    chances = world.of_list(play(world, SearchSettings(method="pointwise"), PLACES).list_RL)
    stay_RL = rng.random(chances.next.shape) < chances.next
    left_R = ~stay_RL.all(1)
    return np.where(left_R, 1 + stay_RL.argmin(1), PLACES), left_R


def replay(world: ListWorld, choose: object) -> Played:
    """As world.py: play, by another way to choose: (watched, left_RM, places) -> Found."""
    rows, candidates = world.category_RM.shape
    left_RM, list_RL = np.ones((rows, candidates), bool), np.full((rows, PLACES), NOTHING)
    found: list[Found] = []
    for place in range(PLACES):
        found.append(choose(list_RL[:, :place], left_RM, PLACES - place))  # type: ignore[operator]
        list_RL[:, place] = found[-1].first_R
        np.put_along_axis(left_RM, list_RL[:, place : place + 1], False, 1)
    settings = SearchSettings()
    return Played(list_RL, list_value(world.of_list(list_RL), settings.alpha, settings.beta), found)


def runs(world: ListWorld, seed: int, more: bool) -> dict[str, Played]:
    """What is compared, by name; the full beam first."""
    found = {"full beam": play(world, SearchSettings(method="beam"), PLACES)}
    for name in ("pointwise", "greedy"):
        found[name] = play(world, SearchSettings(method=name), PLACES)
    for t in TS:
        found[f"adaptive, t = {t}"] = play(world, SearchSettings(stability=t), PLACES)
    for t in ALIKE:
        found[f"by values alone, t = {t}"] = play(world, SearchSettings(stability=t, stop="alike"), PLACES)
    if not more:
        return found
    for k in (2, 8, 16):
        found[f"adaptive, t = .95, k = {k}"] = play(world, SearchSettings(k=k), PLACES)
        found[f"full beam, k = {k}"] = play(world, SearchSettings(method="beam", k=k), PLACES)
    law = fit_weibull(*stays_of(world, np.random.default_rng(seed)))
    rows, settings = len(world.category_RM), SearchSettings()

    def by_place(watched_RP: np.ndarray, left_RM: np.ndarray, places: int) -> Found:
        scorer = LeavingByPlace(world.scorer(watched_RP), law, np.full(rows, watched_RP.shape[1]))
        return search(scorer, left_RM, settings, places)

    found["adaptive, t = .95, leaving by place"] = replay(world, by_place)
    for lists in (10, 40, 160):

        def generate(watched_RP: np.ndarray, left_RM: np.ndarray, places: int, lists: int = lists) -> Found:
            return drawn(world.scorer(watched_RP), left_RM, settings, places, lists, seed + watched_RP.shape[1])

        found[f"{lists} lists drawn"] = replay(world, generate)
    return found


def rows_of(candidates: int, context: float, more: bool) -> list[list[object]]:
    """Lines of the table, over SEEDS draws of worlds."""
    parts = []
    for seed in range(SEEDS):
        world = ListWorld.draw(ListWorldSettings(context=context), REQUESTS, candidates, seed)
        parts.append(runs(world, seed, more))
    full_R = np.concatenate([part["full beam"].value_R for part in parts]).astype(np.float64)
    lines: list[list[object]] = []
    most = np.mean([cost(part["full beam"])[0] for part in parts])
    for name in parts[0]:
        value_R = np.concatenate([part[name].value_R for part in parts]).astype(np.float64)
        evaluations, steps = np.mean([cost(part[name]) for part in parts], 0)
        loss = interval(100 * (value_R - full_R) / full_R.mean())
        ends = [100 * (part[name].value_R.mean() / part["full beam"].value_R.mean() - 1) for part in parts]
        lines.append(
            [name, str(loss), f"{min(ends):+.2f} to {max(ends):+.2f}",
             f"{evaluations:.0f}", f"{most / evaluations:.1f}", f"{steps:.1f}"]
        )  # fmt: skip
    return lines


def main() -> None:
    header = ["search", "list value against the full beam, %", "by seed", "evaluations a decision", "times fewer",
              "steps"]  # fmt: skip
    text, figures = "", {}
    for context in (1.0, *CONTEXTS):
        for candidates in (20, 50):
            lines = rows_of(candidates, context, more=context == 1.0)
            figures[f"context {context}, {candidates} candidates"] = [
                dict(zip(header, line, strict=True)) for line in lines
            ]
            text += f"\n**{candidates} candidates, context {context:g}**\n\n" + markdown(header, lines)
    write_result("rerank-search", figures, text)


if __name__ == "__main__":
    main()
