"""Thirty days of incentives in a closed loop: cadence and gate against none, per user against clusters, new strategies.

    OMP_NUM_THREADS=1 python -m benchmarks.incentives.daily --seeds 5
    OMP_NUM_THREADS=1 python -m benchmarks.incentives.daily --question proposals --users 10000

Each variant lives in worlds of the same seeds and luck. `share` is the true gain of the decided users against what the
true effects would have brought them at the same cost with the strategies that stand; `moved` the share of users whose
strategy changed against the day before. proposals: weak strategies replaced by new ones of a grid or of evolution,
against strategies that stay, from a ladder of six (of which one number moves) and from a grid of 27; level 1: weak is
what lies one standard error apart on either side. Gains are compared at what they cost, which the budget holds alike.
Each finished world is a line of the cache.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.incentives.effects import spread
from funnel.fitted import here
from funnel.incentives.cadence import CadenceSettings
from funnel.incentives.gate import GateSettings
from funnel.incentives.operation import IncentiveOperation, OperationSettings
from funnel.incentives.roster import ProposalSettings
from funnel.incentives.world import WorldSettings
from jobs.operate import maximised

GATE, NO_GATE = GateSettings(), GateSettings(share=0.0)
WEEKLY, DAILY = CadenceSettings(), CadenceSettings(every=1)
PROPOSALS = {
    "none replaced": ProposalSettings(),
    "new by grid": ProposalSettings(by="grid"),
    "new by evolution": ProposalSettings(by="evolution"),
    "new by grid, level 1": ProposalSettings(by="grid", level=1.0),
}
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "cadence": {
        "cadence and gate": {"cadence": WEEKLY, "gate": GATE},
        "cadence, no gate": {"cadence": WEEKLY, "gate": NO_GATE},
        "daily, no gate": {"cadence": DAILY, "gate": NO_GATE},
        "clusters, cadence and gate": {"cadence": WEEKLY, "gate": GATE, "by": "cluster"},
    },
    "proposals": {
        f"{strategies}, {name}": {"strategies": strategies, "proposals": own}
        for strategies in ("grid", "ladder")
        for name, own in PROPOSALS.items()
    },
}
"""Of a question, the first of each group is what the others are compared with."""
FIGURES = ("mean.true.gain", "true.share", "mean.cost", "mean.moved", "late.share")


@dataclass
class Arguments:
    question: Literal["cadence", "proposals"] = "cadence"
    seeds: int = 5
    first_seed: int = 0
    variants: tuple[str, ...] = ()
    """Of the question's; none: all."""
    days: int = 30
    users: int = 4_000
    cache: Path = Path("/tmp/incentives-daily.jsonl")
    name: str = ""
    """Of the result file; empty: that of the question."""


def lived(variant: str, seed: int, arguments: Arguments) -> dict[str, Any]:
    own = VARIANTS[arguments.question][variant]
    settings = OperationSettings(world=WorldSettings(users=arguments.users), **own)
    operation, days = IncentiveOperation.open(settings, seed), []
    operation.maximise = maximised
    for day in range(arguments.days):
        days.append({"day": day, **operation.step(day, here).figures})
    late = [one for one in days if one["phase"] == "decided" and one["day"] >= arguments.days // 2]
    summary = operation.summarise(days)
    summary["late.gain"] = float(np.mean([one["true.gain"] for one in late]))
    summary["late.share"] = summary["late.gain"] / float(np.mean([one["true.oracle"] for one in late]))
    for name in ("gain", "cost"):
        key = "random.true.gain" if name == "gain" else "random.cost"
        summary[f"random.{name}"] = float(np.mean([one[key] for one in late]))
    assert operation.roster is not None
    summary |= {"dropped": float(len(operation.gone)), "new": float(np.sum(np.array(operation.roster.born) > 0))}
    return summary


def main(arguments: Arguments) -> None:
    known: dict[str, dict[str, Any]] = {}
    if arguments.cache.exists():
        known = {one["key"]: one for one in map(json.loads, arguments.cache.read_text().splitlines())}
    variants = [one for one in VARIANTS[arguments.question] if not arguments.variants or one in arguments.variants]
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    size = f"{arguments.days} {arguments.users} lanes"
    for seed in seeds:
        for variant in variants:
            key = f"{variant} {seed} {size}"
            if key not in known:
                known[key] = {"key": key, "variant": variant, "seed": seed, **lived(variant, seed, arguments)}
                with arguments.cache.open("a") as file:
                    file.write(json.dumps(known[key]) + "\n")
    found = {variant: [known[f"{variant} {seed} {size}"] for seed in seeds] for variant in variants}
    rows = []
    for variant in variants:
        own = found[variant]
        group = variant.partition(",")[0] if arguments.question == "proposals" else ""
        first = next(each for each in variants if each.startswith(group))
        pairs = list(zip(own, found[first], strict=True))
        less = ["-"] * 4
        if variant != first:
            less = [spread([1000 * (a.get(name, np.nan) - b.get(name, np.nan)) for a, b in pairs])
                    for name in ("mean.true.gain", "late.gain", "random.gain", "random.cost")]  # fmt: skip
        rows.append([variant, *(spread([one[name] for one in own]) for name in FIGURES), *less,
                     f"{np.mean([one['mean.due'] / one['mean.users'] for one in own]):.2f}",
                     f"{np.mean([one['dropped'] for one in own]):.1f}",
                     f"{np.mean([one['new'] for one in own]):.1f}"])  # fmt: skip
    head = ["variant", "gain a user", "share of the oracle", "cost", "moved a day", "share, second half",
            "gain less the first's, /1000", "second half", "of random users", "their cost", "due",
            "dropped", "new"]  # fmt: skip
    name = arguments.name or ("incentives-daily" if arguments.question == "cadence" else "incentives-proposals")
    write_result(name, {"worlds": [one for own in found.values() for one in own]}, markdown(head, rows))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
