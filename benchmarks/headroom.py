"""How much could any fusion gain on the generated log? Expected value@10 of orders by the true probabilities.

    python -m benchmarks.headroom --requests 6000 --seeds 3

With q and p known exactly, the best order of a request is by q (1 + w p). What it gains over the best of q, p and q p
alone is all that a fusion of perfect scores could gain.
"""

from dataclasses import dataclass

import numpy as np
import tyro

from benchmarks.bench import markdown, write_result
from data.world import CANDIDATES, GeneratedLog, World


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
    rows, gains = [], []
    for seed in range(arguments.seeds):
        world = World(GeneratedLog(seed=seed))
        shown = world.draw_exposures(np.random.default_rng([seed, 1]), arguments.requests)
        truly = world.probabilities(shown)
        q_RL, p_RL = (v.astype(np.float64).reshape(-1, CANDIDATES) for v in (truly.propensity_R, truly.conversion_R))
        reward_RL = q_RL * (1 + arguments.conversion_weight * p_RL)
        values = [value(order, reward_RL, arguments.k) for order in (q_RL, p_RL, q_RL * p_RL, reward_RL)]
        gains.append(values[3] / max(values[:3]) - 1)
        rows.append([seed, *(f"{each:.4f}" for each in values), f"{gains[-1]:+.2%}"])
    table = markdown(["seed", "by q", "by p", "by q p", "by q (1 + w p)", "gain over the best single"], rows)
    head = f"Expected value@{arguments.k}, w = {arguments.conversion_weight:g}.\n\n"
    write_result("headroom", {"gains": gains}, head + table)


def value(score_RL: np.ndarray, reward_RL: np.ndarray, k: int) -> float:
    """Mean over requests of the expected reward of the k candidates that score highest."""
    first_Rk = np.argsort(-score_RL, axis=1, kind="stable")[:, :k]
    return float(np.take_along_axis(reward_RL, first_Rk, axis=1).sum(axis=1).mean())


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
