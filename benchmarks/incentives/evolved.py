"""What evolution adds: the decision tuned on its own value beside two-stage, a surrogate and BanditNet; new menus.

    OMP_NUM_THREADS=1 python -m benchmarks.incentives.evolved --seeds 5

decision: 20,000 even rows of the rewarded world. Two-stage fits effects on all of them (or on half); the others fit on
half and correct the effects on the other half: evolution by the doubly robust value under the budget, the surrogate by
gradients through a softmax at the two-stage price. BanditNet learns from all rows, of rewards less a price of what they
cost, the lowest of PRICES at which its softmax policy keeps the budget. menu: five strategies moved by evolution, by
the true effects or by DML on 20,000 rows of 28 strategies, beside where it began, beside all 28, and beside the five of
the grid that are best together, added one by one, by either. Judged by the truth on 10,000 and 2,000 other users; gains
a user times 1,000, budget 1. A finished part of a seed is a line of the cache.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.incentives.effects import MINUTE, Case, day_of, spread, training_rows
from es import engine
from es.config import ESConfig
from funnel.effects.basis import UserBasis
from funnel.effects.dml import DMLSettings, fit_dml
from funnel.effects.nuisances import NuisanceSettings, softmax
from funnel.effects.value import Logged
from funnel.incentives.decision import DecisionObjective, softened
from funnel.incentives.menu import MenuObjective
from funnel.incentives.plan import mix_for_all, per_user
from funnel.incentives.proposals import BanditNetSettings, banditnet
from funnel.incentives.strategies import bill
from funnel.incentives.tuning import IncentiveTuning, IncentiveTuningSettings, tried_arms, user_gains
from funnel.incentives.world import WorldSettings, claims
from funnel.off_policy.estimators import cross_fitted_rewards

BUDGET = 1.0
PRICES = (0.0, 0.02, 0.035, 0.05, 0.07, 0.1, 0.15)


@dataclass
class Arguments:
    seeds: int = 5
    generations: int = 20
    pairs: int = 12
    cache: Path = Path("/tmp/incentives-evolved.jsonl")


def evolved(objective: Any, seed: int, arguments: Arguments, sigma: float) -> np.ndarray:
    config = ESConfig(seed=seed, generations=arguments.generations, pairs=arguments.pairs, sigma=sigma,
                      learning_rate=0.1, centre_every=0, workers=0)  # fmt: skip
    return np.asarray(engine.run(objective, config).theta)


def decision(seed: int, arguments: Arguments) -> dict[str, float]:
    rows = training_rows(Case("dml", 20_000), seed)
    world, user_N = day_of(28_000, 10_000 + seed, rows.arms_AT)
    user_N = user_N[:10_000]
    x_NF, truth = world.features(user_N), world.truth(user_N, rows.arms_AT)
    true_NA = truth.value(MINUTE) - truth.value(MINUTE)[:, :1]
    own_N = np.arange(len(user_N))

    def gained(value_NA: np.ndarray) -> float:
        return 1000 * float(true_NA[own_N, per_user(value_NA, truth.cost_NA, BUDGET).arm_R].mean())

    teach, tune = rows.take(np.arange(0, len(rows), 2)), rows.take(np.arange(1, len(rows), 2))
    half = fit_dml(teach, DMLSettings(), NuisanceSettings(), seed)
    whole = fit_dml(rows, DMLSettings(), NuisanceSettings(), seed)
    basis = UserBasis.of(tune.x_RF, "linear")
    level_AR = cross_fitted_rewards(basis(tune.x_RF)[:, 1:].T, tune.arm_R, tune.outcome_R, rows.arms, seed=seed)
    logged = Logged(tune.arm_R, np.full(len(tune), 1 / rows.arms), tune.outcome_R, level_AR.T)
    assert logged.level_RA is not None
    robust_RA, at = logged.level_RA.copy(), np.arange(len(tune))
    robust_RA[at, tune.arm_R] += (tune.outcome_R - robust_RA[at, tune.arm_R]) * rows.arms
    effect_RA = half.effects(tune.x_RF, rows.arms_AT)
    claims_R = 0.3 + 0.6 * tune.x_RF[:, 6:7]
    cost_RA = claims_R * (rows.arms_AT[:, 0] * rows.arms_AT[:, 2])[None]
    objective = DecisionObjective(basis(tune.x_RF), effect_RA, cost_RA, robust_RA, BUDGET)
    held_NA, psi_NG = half.effects(x_NF, rows.arms_AT), basis(x_NF)
    learnt = {"evolution": evolved(objective, seed, arguments, 0.1), "surrogate": softened(objective)}
    found = {name: gained(objective.corrected(theta_D, psi_NG, held_NA)) for name, theta_D in learnt.items()}
    found |= {
        f"{name} on its rows": 1000 * float(objective.evaluate_batch(theta_D[None], np.zeros(1, np.uint64))[0])
        for name, theta_D in {**learnt, "two-stage, half": objective.initial()}.items()
    }
    return found | {
        "two-stage, half": gained(held_NA),
        "two-stage, all rows": gained(whole.effects(x_NF, rows.arms_AT)),
        "best mix": 1000 * float(true_NA[own_N, mix_for_all(true_NA, truth.cost_NA, BUDGET)].mean()),
        "true effects": gained(true_NA),
    }


def bandit(seed: int, arguments: Arguments) -> dict[str, float]:
    rows = training_rows(Case("dml", 20_000), seed)
    world, user_N = day_of(28_000, 10_000 + seed, rows.arms_AT)
    user_N = user_N[:10_000]
    x_NF, truth = world.features(user_N), world.truth(user_N, rows.arms_AT)
    true_NA = truth.value(MINUTE) - truth.value(MINUTE)[:, :1]
    basis = UserBasis.of(rows.x_RF, "squares")
    psi_RG, psi_NG = (basis(x)[:, 1:] for x in (rows.x_RF, x_NF))
    cost_R = claims(rows.x_RF[:, 6]) * bill(rows.arms_AT)[rows.arm_R]
    even_R = np.full(len(rows), 1 / rows.arms)
    settings = BanditNetSettings(translations=(0.0, 0.5, 1.0))
    for price in PRICES:
        weights_GA = banditnet(psi_RG, rows.arm_R, rows.outcome_R - price * cost_R, even_R, rows.arms, settings)
        share_NA = softmax(np.column_stack([np.ones(len(psi_NG)), psi_NG]) @ weights_GA)
        spent = float((share_NA * truth.cost_NA).sum(1).mean())
        if spent <= BUDGET:
            break
    return {"BanditNet": 1000 * float((share_NA * true_NA).sum(1).mean()), "BanditNet spends": spent, "price": price}


def best_of_grid(objective: MenuObjective, count: int) -> np.ndarray:
    """Nothing and the `count` of 27 strategies that are best together by what the objective knows, one by one."""
    chosen, left = [0], list(range(1, 28))
    all_A3 = tried_arms()
    gain_NA, cost_NA = objective.gains(all_A3), objective.costs(all_A3)
    for _ in range(count):
        worth = {a: per_user(gain_NA[:, [*chosen, a]], cost_NA[:, [*chosen, a]], BUDGET).allocation.value for a in left}
        chosen.append(max(left, key=worth.__getitem__))
        left.remove(chosen[-1])
    return all_A3[chosen]


def menu(seed: int, arguments: Arguments) -> dict[str, float]:
    found = {}
    for by in ("truth", "estimate"):
        settings = IncentiveTuningSettings(by=by, users=2000, world=WorldSettings(users=30_000))
        tunable = IncentiveTuning.open(settings, seed)
        judge = tunable.judges["test"]
        theta_D = evolved(tunable.objective, seed, arguments, 0.2)
        found[f"evolved by {by}"] = 1000 * float(user_gains(judge, theta_D).mean())
        vectors_A3 = best_of_grid(tunable.objective, settings.strategies)  # type: ignore[arg-type]
        plan = per_user(judge.gains(vectors_A3), judge.costs(vectors_A3), BUDGET)
        found[f"best five of the grid by {by}"] = 1000 * plan.allocation.value / len(judge.user_N)
        found["where it began"] = 1000 * float(user_gains(judge, judge.initial()).mean())
        vectors_A3 = tried_arms()
        plan = per_user(judge.gains(vectors_A3), judge.costs(vectors_A3), BUDGET)
        found["all 28 strategies"] = 1000 * plan.allocation.value / len(judge.user_N)
    return found


FIRST = {"decision": "two-stage, all rows", "menu": "where it began"}
"""What the other gains are compared with."""
OWN_ROWS = " on its rows"
"""Values on the rows that a decision was tuned on: compared with two-stage on these."""
NO_GAINS = {"BanditNet spends": "BanditNet: cost a user", "price": "BanditNet: price of a unit of cost"}


def table(found: list[dict[str, Any]], what: str) -> str:
    """Gains with their differences; below them values on own rows, and what is no gain."""
    names = [name for name in found[0][what] if name not in NO_GAINS]

    def compared(some: list[str], first: str, head: str) -> str:
        rows = [[name.removesuffix(OWN_ROWS), spread([one[what][name] for one in found]),
                 "-" if name == first else spread([one[what][name] - one[what][first] for one in found])]
                for name in some]  # fmt: skip
        return markdown(["", head, f"less {first.removesuffix(OWN_ROWS)}"], rows)

    text = f"{what}\n\n"
    text += compared([name for name in names if not name.endswith(OWN_ROWS)], FIRST[what], "gain a user /1000")
    if own := [name for name in names if name.endswith(OWN_ROWS)]:
        text += "\n" + compared(own, f"two-stage, half{OWN_ROWS}", "value on the rows it was tuned on, /1000")
    others = [[title, spread([one[what][name] for one in found])]
              for name, title in NO_GAINS.items() if name in found[0][what]]  # fmt: skip
    return text + ("\n" + markdown(["", "mean of the worlds"], others) if others else "")


def main(arguments: Arguments) -> None:
    known: dict[tuple[int, str], dict[str, float]] = {}
    if arguments.cache.exists():
        for one in map(json.loads, arguments.cache.read_text().splitlines()):
            known[one["seed"], one["part"]] = one["figures"]
    for seed in range(arguments.seeds):
        for part in (decision, bandit, menu):
            if (seed, part.__name__) not in known:
                figures = known[seed, part.__name__] = part(seed, arguments)
                with arguments.cache.open("a") as file:
                    file.write(json.dumps({"seed": seed, "part": part.__name__, "figures": figures}) + "\n")
    found: list[dict[str, Any]] = [
        {
            "seed": seed,
            "menu": known[seed, "menu"],
            "decision": known[seed, "decision"] | known[seed, "bandit"],
        }
        for seed in range(arguments.seeds)
    ]
    tables = [table(found, what) for what in ("decision", "menu")]
    write_result("incentives-evolved", {"seeds": found}, "\n".join(tables))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
