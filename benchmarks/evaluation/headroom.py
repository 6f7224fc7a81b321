"""How much could any order of a generated log gain? Expected value@10 of orders by the true probabilities.

    python -m benchmarks.evaluation.headroom --requests 6000 --seeds 3

With q, p and the value v of a conversion known exactly, the best order of a request is by its expected reward
q (1 + w p v). What it gains over the best of q, p and q p alone is all that tuning could gain with perfect scores;
q (1 + w p) is the best that can be done without the value.
"""

from dataclasses import dataclass

import numpy as np
import tyro

from benchmarks.bench import markdown, write_result
from data.world import World
from data.worlds import CANDIDATES, WORLDS, GeneratedLog


@dataclass
class Arguments:
    requests: int = 6000
    """Requests drawn of each world."""
    seeds: int = 3
    """Seeds of the world and of the requests."""
    k: int = 10
    conversion_weight: float = 10.0


def main(arguments: Arguments) -> None:
    """Draw, order, write the table."""
    rows, gains = [], dict[str, list[float]]()
    for name in WORLDS:
        for seed in range(arguments.seeds):
            values = orders(World(GeneratedLog(world=name, seed=seed)), arguments, seed)  # type: ignore[arg-type]
            single = max(values[:3])
            gains.setdefault(name, []).append(values[-1] / single - 1)
            without, whole = (f"{value / single - 1:+.2%}" for value in values[3:])
            rows.append([name, seed, *(f"{each:.4f}" for each in values), without, whole])
    header = ["world", "seed", "by q", "by p", "by q p", "by q (1 + w p)", "by q (1 + w p v)"]
    table = markdown([*header, "gain without v", "gain with v"], rows)
    head = f"Expected value@{arguments.k}, w = {arguments.conversion_weight:g}; gains over the best single score.\n\n"
    write_result("headroom", {"gains": gains}, head + table)


def orders(world: World, arguments: Arguments, seed: int) -> list[float]:
    """Expected value@k of the orders by q, p, q p, q (1 + w p) and q (1 + w p v)."""
    shown = world.draw_exposures(np.random.default_rng([seed, 1]), arguments.requests)
    truly = world.probabilities(shown)
    value_R = world.value(shown) if world.config.world == "conflict" else np.ones(len(shown.user_R))
    arrays = (truly.propensity_R, truly.conversion_R, value_R)
    q_RL, p_RL, v_RL = (array.astype(np.float64).reshape(-1, CANDIDATES) for array in arrays)
    weight = arguments.conversion_weight
    reward_RL = q_RL * (1 + weight * p_RL * v_RL)
    scores = (q_RL, p_RL, q_RL * p_RL, q_RL * (1 + weight * p_RL), reward_RL)
    return [expected(score_RL, reward_RL, arguments.k) for score_RL in scores]


def expected(score_RL: np.ndarray, reward_RL: np.ndarray, k: int) -> float:
    """Mean over requests of the expected reward of the k candidates that score highest."""
    first_Rk = np.argsort(-score_RL, axis=1, kind="stable")[:, :k]
    return float(np.take_along_axis(reward_RL, first_Rk, axis=1).sum(axis=1).mean())


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
