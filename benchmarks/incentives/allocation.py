"""Allocation under a budget: seconds, memory and the gap to the dual bound, from a thousand to ten million users.

    OMP_NUM_THREADS=1 python -m benchmarks.incentives.allocation --repeats 3

Six options a user, costs stored as float32 or float64, a budget of .8 a user; up to 10,000 users HiGHS (scipy) solves
the same problem with users split, as a reference. On Ray the same table lies on so many actors. Floors and ceilings
(held.py): a floor of an outcome that options lower by random amounts, and a ceiling of another one that they raise,
both tighter than the plan under the budget alone keeps them.
"""

import resource
import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro
from scipy.optimize import linprog
from scipy.sparse import csr_array

from benchmarks.bench import markdown, write_result
from funnel.incentives.aims import Limited
from funnel.incentives.allocation import LocalShards, allocate, cut
from funnel.incentives.limits import allocate_within
from funnel.incentives.plan import per_user


@dataclass
class Arguments:
    users: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
    repeats: int = 3
    reference_users: int = 10_000
    """The largest table that HiGHS is given."""
    most_held: int = 1_000_000
    """The largest table with floors and ceilings."""
    name: str = "allocation"


def table(users: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Concave values of six rewards a user, the first of which is free; float32."""
    draws = np.random.default_rng(seed)
    cost_UA = np.sort(draws.uniform(0, 2, (users, 6)).astype(np.float32), 1)
    cost_UA[:, 0] = 0
    value_UA = np.sqrt(cost_UA) * draws.gamma(2, 1, (users, 1)).astype(np.float32)
    value_UA += 0.1 * draws.standard_normal((users, 6), np.float32)
    return value_UA, cost_UA


def highs(value_UA: np.ndarray, cost_UA: np.ndarray, budget: float) -> tuple[float, float]:
    """(value, seconds) of the linear program."""
    users, kinds = value_UA.shape
    rows = np.repeat(np.arange(users), kinds)
    one_each = csr_array((np.ones(users * kinds), (rows, np.arange(users * kinds))))
    began = time.perf_counter()
    found = linprog(
        -value_UA.ravel().astype(float),
        A_ub=cost_UA.reshape(1, -1).astype(float),
        b_ub=[budget],
        A_eq=one_each,
        b_eq=np.ones(users),
        method="highs-ipm",
    )
    return float(-found.fun), time.perf_counter() - began


def held(value_UA: np.ndarray, cost_UA: np.ndarray) -> dict[str, float]:
    """A floor alone, and a floor with a ceiling, beside a budget of .8 a user: seconds, gap, slack of the tighter."""
    draws = np.random.default_rng(2)
    taken_UA, raised_UA = (draws.random(cost_UA.shape, np.float32) for _ in range(2))
    both = Limited(("floor y=9.55", "ceiling z=0.46"), np.stack([taken_UA - 10, raised_UA]), np.array([-9.55, 0.46]))
    own_U, found = np.arange(len(value_UA)), dict[str, float]()
    for name, limited in (("floor", Limited(both.texts[:1], both.cost_KRA[:1], both.limit_K[:1])),
                          ("floor_and_ceiling", both)):  # fmt: skip
        began = time.perf_counter()
        plan = per_user(value_UA, cost_UA, 0.8, None, limited)
        found[f"{name}_seconds"] = time.perf_counter() - began
        levels_K = limited.cost_KRA[:, own_U, plan.arm_R].mean(1, dtype=np.float64)
        assert (levels_K <= limited.limit_K + 1e-6).all()
        assert cost_UA[own_U, plan.arm_R].mean(dtype=np.float64) <= 0.8
        found |= {f"{name}_gap": plan.allocation.gap, f"{name}_slack": float((limited.limit_K - levels_K).max())}
    return found


def measured(users: int, arguments: Arguments) -> dict[str, Any]:
    value_UA, cost_UA = table(users)
    budget = 0.8 * users
    seconds, several = [], []
    for _ in range(arguments.repeats):
        began = time.perf_counter()
        found = allocate(LocalShards(cut(value_UA, cost_UA[None])), budget)
        seconds.append(time.perf_counter() - began)
    assert found.cost_M[0] <= budget
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures: dict[str, Any] = {
        "users": users,
        "seconds": statistics.median(seconds),
        "all_seconds": seconds,
        "gap": found.gap,
        "unspent": 1 - float(found.cost_M[0]) / budget,
        "peak_mib": memory,
    }
    if users <= 1_000_000:
        load_UA = np.random.default_rng(1).random(cost_UA.shape, np.float32)
        both_MUA = np.stack([cost_UA, load_UA])
        began = time.perf_counter()
        limited = allocate_within(LocalShards(cut(value_UA, both_MUA)), np.array([budget, 0.45 * users]))
        several.append(time.perf_counter() - began)
        figures |= {"two_limits_seconds": several[0], "two_limits_gap": limited.gap}
    if users <= arguments.most_held:
        figures |= held(value_UA, cost_UA)
    if users <= arguments.reference_users:
        best, took = highs(value_UA, cost_UA, budget)
        figures |= {"highs_seconds": took, "share_of_highs": found.value / best}
    return figures


def main(arguments: Arguments) -> None:
    rows = [measured(users, arguments) for users in arguments.users]
    head = [
        "users",
        "one budget, s",
        "gap",
        "unspent",
        "two limits, s",
        "gap",
        "a floor, s",
        "gap",
        "floor and ceiling, s",
        "gap",
        "HiGHS, s",
        "of HiGHS' value",
        "peak MiB",
    ]
    cells = [
        [
            f"{row['users']:,}",
            f"{row['seconds']:.3f}",
            f"{row['gap']:.1e}",
            f"{row['unspent']:.1e}",
            f"{row['two_limits_seconds']:.2f}" if "two_limits_seconds" in row else "",
            f"{row['two_limits_gap']:.1e}" if "two_limits_gap" in row else "",
            f"{row['floor_seconds']:.2f}" if "floor_seconds" in row else "",
            f"{row['floor_gap']:.1e}" if "floor_gap" in row else "",
            f"{row['floor_and_ceiling_seconds']:.2f}" if "floor_seconds" in row else "",
            f"{row['floor_and_ceiling_gap']:.1e}" if "floor_seconds" in row else "",
            f"{row['highs_seconds']:.2f}" if "highs_seconds" in row else "",
            f"{row['share_of_highs']:.6f}" if "share_of_highs" in row else "",
            f"{row['peak_mib']:,.0f}",
        ]
        for row in rows
    ]
    write_result(arguments.name, {"rows": rows}, markdown(head, cells))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
