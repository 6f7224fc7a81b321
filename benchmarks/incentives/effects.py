"""What learners of effects are worth in the rewarded world, as a share of what the true effects would reach.

    OMP_NUM_THREADS=1 python -m benchmarks.incentives.effects --question learners
    OMP_NUM_THREADS=1 python -m benchmarks.incentives.effects --question vectors
    OMP_NUM_THREADS=1 python -m benchmarks.incentives.effects --question logging

learners: T, S, X, DR and DML on six rewards, per user, by clusters and alike for everybody. vectors: one DML over the
vectors of 27 strategies against X-learners of 27 arms. logging: what a confounded log, a hidden cause, little random
traffic do. Effects are learnt in worlds of one seed and spent on 20,000 other users, whose truth says what was gained:
(value - value of the cheapest) / (oracle's value - value of the cheapest), retention + .01 minutes, budget per user.
`promised` is the gain that the learner itself expects, as a share of the true one.
Each finished case is a line of the cache, so that a stopped run goes on.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from benchmarks.bench import markdown, write_result
from funnel.effects.dml import DMLSettings, VectorEffects, fit_dml
from funnel.effects.learners import LearnerSettings, fit_learner
from funnel.effects.nuisances import NuisanceSettings
from funnel.effects.rows import TreatedRows
from funnel.incentives.clusters import Clusters
from funnel.incentives.plan import mix_for_all, per_group, per_user
from funnel.incentives.strategies import STRATEGIES as NAMED
from funnel.incentives.strategies import grid
from funnel.incentives.world import LoggingPolicy, World, WorldSettings

MINUTE = 0.01
STRATEGIES: dict[str, Callable[[], np.ndarray]] = {
    **NAMED,
    "grid8": lambda: grid(((0.3, 1.6), (0.5, 4.0), (1.0, 6.0))),
    "grid64": lambda: grid(((0.3, 0.6, 1.0, 1.6), (0.5, 1.5, 2.5, 4.0), (1.0, 2.0, 4.0, 6.0))),
}
STRATEGY_NAMES = {"ladder": "6", "grid": "27", "grid8": "8", "grid64": "64"}
EVEN = LoggingPolicy(confounding=0.0, randomised=1.0)
CLUSTERS = (10, 50, 200, 1000)


@dataclass
class Arguments:
    question: Literal["learners", "vectors", "logging"] = "learners"
    seeds: int = 5
    rows: tuple[int, ...] = ()
    """Sizes of the training rows, of those that the question has; none: all."""
    strategies: tuple[str, ...] = ()
    """Sets of strategies, of those that the question has; none: all."""
    name: str = ""
    """Of the result file; empty: that of the question."""
    cache: Path = Path("/tmp/incentives-effects.jsonl")
    users: int = 20_000
    """Users that the effects are spent on."""


@dataclass(frozen=True)
class Case:
    learner: str
    rows: int
    strategies: str = "ladder"
    log: str = "even"
    budgets: tuple[float, ...] = (1.0, 2.0, 3.5)


def asked(arguments: Arguments) -> list[Case]:
    return [
        case
        for case in cases(arguments.question)
        if (not arguments.rows or case.rows in arguments.rows)
        and (not arguments.strategies or case.strategies in arguments.strategies)
    ]


def cases(question: str) -> list[Case]:
    if question == "learners":
        return [Case(name, rows) for rows in (40_000, 10_000, 160_000) for name in LEARNERS
                if rows == 40_000 or name in ("x", "s", "dml")]  # fmt: skip
    if question == "vectors":
        names = ("dml", "dml_linear", "dml_cubic", "x")
        of_27 = [Case(name, rows, "grid") for rows in (8_000, 30_000, 120_000) for name in names]
        return of_27 + [Case(name, 30_000, other) for other in ("grid8", "grid64") for name in ("dml", "x")]
    return [Case(name, 40_000, log=log) for log in LOGS for name in ("dml", "x")]


LEARNERS = ("t", "s", "x", "x_linear", "dr_linear", "dr", "dml", "dml_linear")
LOGS = ("even", "slice", "confounded", "confounded_known", "hidden")


def day_of(users: int, seed: int, arms_A3: np.ndarray) -> tuple[World, np.ndarray]:
    """A world on its third morning, and who is there."""
    world = World(WorldSettings(users=users), seed)
    for _ in range(2):
        there_N = world.present()
        arm_N, _, _ = EVEN.draw(world, there_N, len(arms_A3))
        world.play(there_N, arm_N, arms_A3)
    return world, world.present()


def training_rows(case: Case, seed: int) -> TreatedRows:
    """Rows of one day, each another user's."""
    arms_A3 = STRATEGIES[case.strategies]()
    world, user_N = day_of(int(case.rows * 2.8), seed, arms_A3)
    user_N = user_N[: case.rows]
    logging = {
        "even": EVEN,
        "slice": LoggingPolicy(randomised=0.2),
        "confounded": LoggingPolicy(randomised=0.0),
        "confounded_known": LoggingPolicy(randomised=0.0),
        "hidden": LoggingPolicy(hidden=1.5, randomised=0.0),
    }[case.log]
    x_NF = world.features(user_N)
    arm_N, _, slice_N = logging.draw(world, user_N, len(arms_A3))
    known_NA = logging.probabilities(x_NF, len(arms_A3))
    outcome = world.play(user_N, arm_N, arms_A3)
    value_N = outcome.retained_N + MINUTE * outcome.minutes_N
    even_NA = np.full((len(user_N), len(arms_A3)), 1 / len(arms_A3))
    share_NA = {"even": even_NA, "slice": even_NA, "confounded_known": known_NA}.get(case.log)
    rows = TreatedRows(x_NF, value_N, arm_N, arms_A3, propensity_RA=share_NA)
    return rows.take(np.flatnonzero(slice_N)) if case.log == "slice" else rows


def effects(case: Case, rows: TreatedRows, x_NF: np.ndarray, seed: int) -> np.ndarray:
    """(N, A) for other users."""
    nuisances = NuisanceSettings(rows=1_000_000)
    name, _, variant = case.learner.partition("_")
    if name == "dml":
        dml = DMLSettings(basis="linear" if variant == "linear" else "auto", degree=3 if variant == "cubic" else 2)
        model: VectorEffects = fit_dml(rows, dml, nuisances, seed)
        return model.effects(x_NF, rows.arms_AT)
    settings = LearnerSettings(name, final="linear" if variant else "boosting", smallest_arm=2)  # type: ignore[arg-type]
    if variant:
        nuisances = replace(nuisances, basis="pairs")
    return fit_learner(rows, settings, nuisances, seed).effects(x_NF)


@lru_cache(maxsize=1)
def judged_on(strategies: str, seed: int, users: int) -> tuple[World, np.ndarray]:
    """The other users' world, and who of them the effects are spent on."""
    world, user_N = day_of(int(users * 2.8), 10_000 + seed, STRATEGIES[strategies]())
    return world, user_N[:users]


@lru_cache(maxsize=1)
def grouped(strategies: str, seed: int, users: int) -> dict[int, np.ndarray]:
    """Cluster of each of the other users, by number of clusters."""
    world, user_N = judged_on(strategies, seed, users)
    x_NF = world.features(user_N)
    return {count: Clusters.fit(x_NF, count, seed).of(x_NF) for count in CLUSTERS}


@lru_cache(maxsize=1)
def with_truth(strategies: str, seed: int, users: int, budgets: tuple[float, ...]) -> dict[float, dict[str, float]]:
    """By budget, what the true effects reach: the oracle's gain a user, and shares of it by clusters and by one mix."""
    world, user_N = judged_on(strategies, seed, users)
    truth = world.truth(user_N, STRATEGIES[strategies]())
    value_NA, cost_NA, own_N = truth.value(MINUTE), truth.cost_NA, np.arange(len(user_N))
    true_NA, groups = value_NA - value_NA[:, :1], grouped(strategies, seed, users)
    found = {}
    for budget in budgets:
        best = float(true_NA[own_N, per_user(value_NA, cost_NA, budget).arm_R].mean())
        found[budget] = {"oracle": best}
        arms = {"true_mix": mix_for_all(value_NA, cost_NA, budget)}
        for count, group_N in groups.items():
            arms[f"true_cluster.{count}"] = per_group(value_NA, cost_NA, group_N, budget).arm_R
        found[budget] |= {name: float(true_NA[own_N, arm_N].mean()) / best for name, arm_N in arms.items()}
    return found


def measured(case: Case, seed: int, users: int) -> dict[str, Any]:
    rows = training_rows(case, seed)
    world, user_N = judged_on(case.strategies, seed, users)
    x_NF, truth = world.features(user_N), world.truth(user_N, rows.arms_AT)
    value_NA, cost_NA = truth.value(MINUTE), truth.cost_NA
    began = time.process_time()
    effect_NA = effects(case, rows, x_NF, seed)
    seconds = time.process_time() - began
    groups = grouped(case.strategies, seed, users)
    reached = with_truth(case.strategies, seed, users, case.budgets)
    own_N = np.arange(len(user_N))
    true_NA = value_NA - value_NA[:, :1]
    found: dict[str, Any] = {
        "cpu_s": seconds,
        "rows": len(rows),
        "rmse": float(np.sqrt(((effect_NA - true_NA) ** 2)[:, 1:].mean())),
    }

    def gained(arm_N: np.ndarray) -> float:
        return float(true_NA[own_N, arm_N].mean())

    for budget in case.budgets:
        best = reached[budget]["oracle"]
        user = per_user(effect_NA, cost_NA, budget)
        spent = cost_NA[own_N, user.arm_R].mean()
        assert spent <= budget
        one: dict[str, float] = {
            **reached[budget],
            "user": gained(user.arm_R) / best,
            "mix": gained(mix_for_all(effect_NA, cost_NA, budget)) / best,
            "roi": gained(user.arm_R) / max(float(spent - cost_NA[:, 0].mean()), 1e-9),
            "promised": float(effect_NA[own_N, user.arm_R].mean()) / max(gained(user.arm_R), 1e-9),
            "gap": user.allocation.gap,
        }
        for count, group_N in groups.items():
            one[f"cluster.{count}"] = gained(per_group(effect_NA, cost_NA, group_N, budget).arm_R) / best
        found[f"{budget:g}"] = one
    return found


def run(arguments: Arguments) -> Iterator[dict[str, Any]]:
    """Every case of every seed, from the cache where it is there."""
    known = {}
    if arguments.cache.exists():
        for line in arguments.cache.read_text().splitlines():
            one = json.loads(line)
            known[one["key"]] = one
    for seed in range(arguments.seeds):
        for case in asked(arguments):
            key = f"{case} {seed} {arguments.users}"
            if key not in known:
                one = {"key": key, **vars(case), "seed": seed, **measured(case, seed, arguments.users)}
                one["budgets"] = list(case.budgets)
                with arguments.cache.open("a") as file:
                    file.write(json.dumps(one) + "\n")
                known[key] = one
            yield known[key]


def mean(found: list[dict[str, float]], name: str) -> float:
    return float(np.mean([one[name] for one in found]))


def spread(values: list[float]) -> str:
    """Mean and the t interval over seeds."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.3f}"
    half = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}.get(len(values), 2.2) * float(np.std(values, ddof=1))
    return f"{mean:.3f} ± {half / len(values) ** 0.5:.3f}"


def mean_of(values: list[float]) -> str:
    """Of the worlds in which it was measured; empty if none."""
    return f"{np.mean(values):.2f}" if values else ""


def of_case(found: list[dict[str, Any]], case: Case) -> list[dict[str, Any]]:
    """Its worlds."""
    front = f"{case} "
    return [one for one in found if one["key"].startswith(front)]


def regret_table(found: list[dict[str, Any]], asked_for: list[Case]) -> str:
    rows = []
    for case in asked_for:
        own = of_case(found, case)
        for budget in case.budgets:
            each = [one[f"{budget:g}"] for one in own]
            columns = ("user", "cluster.50", "mix", "true_mix")
            rows.append([case.log, STRATEGY_NAMES[case.strategies], case.learner, f"{case.rows:,}", f"{budget:g}",
                         *(spread([one[name] for one in each]) for name in columns),
                         spread([one["roi"] for one in each]),
                         mean_of([one["promised"] for one in each if "promised" in one]),
                         f"{np.mean([one['rmse'] for one in own]):.3f}",
                         f"{np.mean([one['cpu_s'] for one in own]):.1f}"])  # fmt: skip
    head = ["log", "strategies", "learner", "rows", "budget", "user", "50 clusters", "mix", "true mix", "ROI",
            "promised", "rmse", "CPU s"]  # fmt: skip
    return markdown(head, rows)


def cluster_table(found: list[dict[str, Any]]) -> str:
    lines = []
    for name in LEARNERS:
        own = of_case(found, Case(name, 40_000))
        for budget in Case(name, 40_000).budgets:
            each = [one[f"{budget:g}"] for one in own]
            cells = [f"{spread([one[f'cluster.{count}'] for one in each])} ({mean(each, f'true_cluster.{count}'):.3f})"
                     for count in CLUSTERS]  # fmt: skip
            lines.append([name, f"{budget:g}", *cells, spread([one["user"] for one in each])])
    return markdown(["learner", "budget", *map(str, CLUSTERS), "user"], lines)


def curve_of(one: dict[str, Any]) -> tuple[list[float], list[float]]:
    """(money beyond the cheapest plan's, gain) at nothing and at each budget."""
    gains = [one[f"{budget:g}"]["user"] * one[f"{budget:g}"]["oracle"] for budget in one["budgets"]]
    money = [gain / one[f"{budget:g}"]["roi"] for gain, budget in zip(gains, one["budgets"], strict=True)]
    return [0.0, *money], [0.0, *gains]


def money_for(gain: float, one: dict[str, Any]) -> float:
    """What this learner spends to gain so much: straight lines between its budgets, where its gains are concave, so
    rather too much; nan beyond the largest."""
    money, gains = curve_of(one)
    rising = np.maximum.accumulate(gains)
    return float(np.interp(gain, rising, money, right=np.nan))


def money_table(found: list[dict[str, Any]], asked_for: list[Case]) -> str:
    """What DML spends to gain what X-learners of arms gain, of the same rows and strategies."""
    rows = []
    for case in (one for one in asked_for if one.learner == "x"):
        pairs = list(zip(of_case(found, case), of_case(found, replace(case, learner="dml")), strict=True))
        for number, budget in enumerate(case.budgets, 1):
            curves = [curve_of(x) for x, _ in pairs]
            gains, money = [gain[number] for _, gain in curves], [spent[number] for spent, _ in curves]
            dml = [money_for(gain, own) for gain, (_, own) in zip(gains, pairs, strict=True)]
            ratios = [a / b for a, b in zip(dml, money, strict=True)]
            at = [own[f"{budget:g}"]["roi"] / x[f"{budget:g}"]["roi"] for x, own in pairs]
            rows.append([STRATEGY_NAMES[case.strategies], f"{case.rows:,}", f"{budget:g}",
                         f"{1000 * np.mean(gains):.1f}", f"{np.mean(money):.2f}", f"{np.mean(dml):.2f}",
                         spread(ratios), spread(at)])  # fmt: skip
    head = ["strategies", "rows", "budget", "X gains a user, /1000", "with money", "DML needs", "of X's money",
            "DML's ROI of X's at the same budget"]  # fmt: skip
    return markdown(head, rows)


def main(arguments: Arguments) -> None:
    found, cases_asked = list(run(arguments)), asked(arguments)
    table = regret_table(found, cases_asked)
    if arguments.question == "learners":
        table += "\nBy clusters of 10, 50, 200 and 1,000 (40,000 rows; in brackets with true effects):\n\n"
        table += cluster_table(found)
    if arguments.question == "vectors":
        table += "\nMoney beyond the cheapest plan's for what the X-learners gain:\n\n"
        table += money_table(found, cases_asked)
    write_result(arguments.name or f"incentives-{arguments.question}", {"cases": found}, table)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
