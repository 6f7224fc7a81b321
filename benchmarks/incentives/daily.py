"""Thirty days of incentives in a closed loop: cadence and gate against none, per user against clusters.

    OMP_NUM_THREADS=1 python -m benchmarks.incentives.daily --seeds 5

Each variant lives in worlds of the same seeds and luck. `share` is the true gain of the decided users against what the
true effects would have brought them at the same cost; `moved` the share of users whose strategy changed against the day
before. Each finished world is a line of the cache.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.incentives.effects import spread
from funnel.fitted import here
from funnel.incentives.cadence import CadenceSettings
from funnel.incentives.gate import GateSettings
from funnel.incentives.operation import IncentiveOperation, OperationSettings
from funnel.incentives.world import WorldSettings

GATE, NO_GATE = GateSettings(), GateSettings(share=0.0)
WEEKLY, DAILY = CadenceSettings(), CadenceSettings(every=1)
VARIANTS: dict[str, dict[str, Any]] = {
    "cadence and gate": {"cadence": WEEKLY, "gate": GATE},
    "cadence, no gate": {"cadence": WEEKLY, "gate": NO_GATE},
    "daily, no gate": {"cadence": DAILY, "gate": NO_GATE},
    "clusters, cadence and gate": {"cadence": WEEKLY, "gate": GATE, "by": "cluster"},
}
FIGURES = ("mean.true.gain", "true.share", "mean.cost", "mean.moved", "mean.retained", "mean.due")


@dataclass
class Arguments:
    seeds: int = 5
    days: int = 30
    users: int = 4_000
    cache: Path = Path("/tmp/incentives-daily.jsonl")
    name: str = "incentives-daily"


def lived(variant: str, seed: int, arguments: Arguments) -> dict[str, Any]:
    settings = OperationSettings(world=WorldSettings(users=arguments.users), **VARIANTS[variant])
    operation, days = IncentiveOperation.open(settings, seed), []
    for day in range(arguments.days):
        days.append({"day": day, **operation.step(day, here).figures})
    late = [one for one in days if one["phase"] == "decided" and one["day"] >= arguments.days // 2]
    summary = operation.summarise(days)
    summary["late.share"] = float(
        np.sum([one["true.gain"] for one in late]) / np.sum([one["true.oracle"] for one in late])
    )
    return summary


def main(arguments: Arguments) -> None:
    known: dict[str, dict[str, Any]] = {}
    if arguments.cache.exists():
        known = {one["key"]: one for one in map(json.loads, arguments.cache.read_text().splitlines())}
    for seed in range(arguments.seeds):
        for variant in VARIANTS:
            key = f"{variant} {seed} {arguments.days} {arguments.users}"
            if key not in known:
                known[key] = {"key": key, "variant": variant, "seed": seed, **lived(variant, seed, arguments)}
                with arguments.cache.open("a") as file:
                    file.write(json.dumps(known[key]) + "\n")
    found = [one for one in known.values() if one["key"].endswith(f" {arguments.days} {arguments.users}")]
    first, rows = next(iter(VARIANTS)), []
    for variant in VARIANTS:
        own = sorted((one for one in found if one["variant"] == variant), key=lambda one: one["seed"])
        base = sorted((one for one in found if one["variant"] == first), key=lambda one: one["seed"])
        paired = [a["mean.true.gain"] - b["mean.true.gain"] for a, b in zip(own, base, strict=True)]
        rows.append([variant, *(spread([one[name] for one in own]) for name in (*FIGURES[:4], "late.share")),
                     spread([1000 * each for each in paired]) if variant != first else "-",
                     f"{np.mean([one['mean.due'] / one['mean.users'] for one in own]):.2f}"])  # fmt: skip
    head = ["variant", "gain a user", "share of the oracle", "cost", "moved a day", "share, second half",
            "gain less the first's, /1000", "due"]  # fmt: skip
    write_result(arguments.name, {"worlds": found}, markdown(head, rows))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
