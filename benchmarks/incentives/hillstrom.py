"""Hillstrom's e-mail experiment: is anybody better served by a policy of his own than all by the best e-mail?

    OMP_NUM_THREADS=1 python -m benchmarks.incentives.hillstrom --file ../shared/data/hillstrom/log.parquet

42,609 customers, three arms drawn evenly (none, women's, men's e-mail), outcome: a visit (and spend). Effects are
learnt on one half and judged on the other by IPS, SNIPS and DR, five splits; beside the best constant arm, which is
chosen on the learning half. Policies: X-, DR- and T-learner and DML without a budget, X-learner when three customers in
ten may get an e-mail. Splits share customers, so that their spread is not that of independent draws.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.incentives.effects import spread
from funnel.effects.dml import DMLSettings, fit_dml
from funnel.effects.learners import LearnerSettings, fit_learner
from funnel.effects.nuisances import NuisanceSettings
from funnel.effects.rows import TreatedRows
from funnel.effects.value import Logged, compare
from funnel.incentives.plan import per_user
from funnel.off_policy.estimators import cross_fitted_rewards

ARMS = ("No E-Mail", "Womens E-Mail", "Mens E-Mail")


@dataclass
class Arguments:
    file: Path = Path("../shared/data/hillstrom/log.parquet")
    splits: int = 5


def read(path: Path) -> dict[str, np.ndarray]:
    table = pq.read_table(path).to_pandas()
    x = {name: table[name].to_numpy(float) for name in ("recency", "history", "mens", "womens", "newbie")}
    for name in ("zip_code", "channel"):
        for value in sorted(table[name].unique())[1:]:
            x[f"{name}={value}"] = (table[name] == value).to_numpy(float)
    return {"x": np.column_stack(list(x.values())), "arm": table["segment"].map(dict(zip(ARMS, range(3), strict=True)))
            .to_numpy(), "visit": table["visit"].to_numpy(float), "spend": table["spend"].to_numpy(float)}  # fmt: skip


def effects(name: str, rows: TreatedRows, x_RF: np.ndarray, seed: int) -> np.ndarray:
    nuisances = NuisanceSettings(trees=60, leaves=8)
    if name == "dml":
        return fit_dml(rows, DMLSettings(degree=1, richest="linear"), nuisances, seed).effects(x_RF, rows.arms_AT)
    return fit_learner(rows, LearnerSettings(name), nuisances, seed).effects(x_RF)  # type: ignore[arg-type]


def split(data: dict[str, np.ndarray], outcome: str, seed: int) -> dict[str, Any]:
    order_R = np.random.default_rng(seed).permutation(len(data["arm"]))
    learn, judge = np.array_split(order_R, 2)
    y_R, arm_R, x_RF = data[outcome], data["arm"], data["x"]
    even = np.full((len(learn), 3), 1 / 3)
    rows = TreatedRows(x_RF[learn], y_R[learn], arm_R[learn], np.eye(3)[:, 1:], propensity_RA=even)
    best = int(np.argmax([y_R[learn][arm_R[learn] == a].mean() for a in range(3)]))
    policies = {"constant": np.full(len(judge), best)}
    cost_RA = np.tile([0.0, 1.0, 1.0], (len(judge), 1))
    for name in ("t", "x", "dr", "dml"):
        effect_RA = effects(name, rows, x_RF[judge], seed)
        policies[name] = effect_RA.argmax(1)
        if name == "x":
            policies["x30"] = per_user(effect_RA, cost_RA, 0.3).arm_R
            random_R = np.random.default_rng(seed).random(len(judge)) < 0.3
            policies["random30"] = np.where(random_R, best, 0)
    z_FR = ((x_RF[judge] - x_RF[judge].mean(0)) / np.maximum(x_RF[judge].std(0), 1e-9)).T
    level_AR = cross_fitted_rewards(z_FR, arm_R[judge], y_R[judge], 3, seed=seed)
    logged = Logged(arm_R[judge], np.full(len(judge), 1 / 3), y_R[judge], level_AR.T)
    return {"seed": seed, "outcome": outcome, "best": ARMS[best], **compare(policies, logged, ("constant", "random30"))}


def main(arguments: Arguments) -> None:
    data = read(arguments.file)
    found = [split(data, outcome, seed) for outcome in ("visit", "spend") for seed in range(arguments.splits)]
    write_result("incentives-hillstrom", {"splits": [json.loads(json.dumps(one, default=str)) for one in found]},
                 table(found))  # fmt: skip


def table(found: list[dict[str, Any]]) -> str:
    rows = []
    for outcome in ("visit", "spend"):
        own = [one for one in found if one["outcome"] == outcome]
        for name in ("constant", "t", "x", "dr", "dml", "x30", "random30"):
            rival = "random30" if name == "x30" else "constant"
            key = f"{name}.over.{rival}.dr"
            cells = [spread([one[f"{name}.{estimator}"] for one in own]) for estimator in ("ips", "dr")]
            gains = [one for one in own if key in one]
            significant = sum(one[f"{key}.low"] > 0 for one in gains)
            worse = sum(one[f"{key}.high"] < 0 for one in gains)
            told = f"{significant} of {len(gains)} splits above 0, {worse} below" if gains else ""
            one = gains[0] if gains else None
            gain = f"{one[key]:+.4f} ({one[f'{key}.low']:+.4f} to {one[f'{key}.high']:+.4f})" if one else ""
            verdict = "not significant" if gains else ""
            if gains and max(significant, worse) == len(gains):
                verdict = "better" if significant else "worse"
            rows.append([outcome, name, *cells, f"{gain} over {rival}" if gain else own[0]["best"], told, verdict])
    head = ["outcome", "policy", "IPS", "DR", "gain by DR, first split (95%)", "splits", ""]
    return markdown(head, rows)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
