"""Names -> systems: the one place that lists them. A class is imported when it is asked for, not before."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data.errors import UserError
from data.nearest import meant

PROBLEMS: Mapping[str, str] = {
    "entire_space": "funnel.ranking.problem:EntireSpace",
    "listwise": "funnel.lists.problem:ListWise",
    "fresh_two_tower": "funnel.fresh.problem:FreshTwoTower",
    "fresh_sequence": "funnel.fresh.problem:FreshSequence",
    "prerank": "funnel.prerank.problem:PreRank",
    "rerank": "funnel.rerank.problem:Rerank",
    "dragonnet": "funnel.incentives.problem:DragonNetProblem",
    "cfr": "funnel.incentives.problem:CFRProblem",
    "vcnet": "funnel.exposure.problem:VCNet",
    "drnet": "funnel.exposure.problem:DRNet",
    "joint_shares": "funnel.exposure.joint:JointProblem",
}
"""What jobs.train --problem NAME trains."""
TUNABLES: Mapping[str, str] = {
    "fusion": "funnel.fusion.tuning:FusionTuning",
    "off_policy": "funnel.off_policy.tuning:OffPolicyTuning",
    "fresh": "funnel.fresh.tuning:FreshTuning",
    "rerank": "funnel.rerank.tuning:RerankTuning",
    "exposure": "funnel.exposure.tuning:ExposureTuning",
    "incentives": "funnel.incentives.tuning:IncentiveTuning",
    "prerank": "funnel.prerank.tuning:PreRankTuning",
    "quotas": "funnel.prerank.quotas:QuotaTuning",
}
"""What jobs.evolve --objective NAME tunes, beside the plain objectives of es/objectives/registry.py."""
FITTED: Mapping[str, str] = {
    "incentives": "funnel.incentives.fitted:IncentiveEffects",
    "exposure": "funnel.exposure.fitted:ExposureForest",
    "up_down": "funnel.exposure.up_down:UpDown",
}
"""What jobs.fit --system NAME fits on arrays (funnel/fitted.py)."""
OPERATIONS: Mapping[str, str] = {"incentives": "funnel.incentives.operation:IncentiveOperation"}
"""What jobs.operate --system NAME operates from day to day (funnel/operation.py)."""
SERVED: Mapping[str, str] = {"fusion": "funnel.fusion.serving"}
"""Policies that jobs.export --policy can put into a graph: a module by tunable (funnel/tools.py: Serving)."""
SIMULATORS: Mapping[str, str] = {"platform": "funnel.platform.experiment:PlatformSimulator"}
"""Worlds in which jobs.experiment compares policies (funnel/simulator.py)."""
LOGGED: Mapping[str, str] = {
    "platform": "funnel.platform.logs.writer:PlatformLogs",
    "fresh": "funnel.fresh.logs:TakenLogs",
    "cascade": "funnel.prerank.logs:CascadeLogs",
    "incentives": "funnel.incentives.logs:RewardLogs",
    "shares": "funnel.exposure.logs:ShareLogs",
    "dose": "funnel.exposure.logs:DoseLogs",
    "platform_shares": "funnel.exposure.platform_log:MixLogs",
}
"""Worlds of which jobs.make_data --world NAME writes logs (funnel/simulator.py: Logging); data/worlds.py has others."""


@dataclass(frozen=True)
class Stage:
    """What may stand at a stage of the platform's funnel, by kind; `default`: where a policy leaves it out."""

    default: str
    kinds: Mapping[str, str]


STAGES: Mapping[str, Stage] = {
    "matching": Stage("lists", {"lists": "funnel.platform.matching:Lists", "routes": "funnel.prerank.routes:Routes"}),
    "preranking": Stage(
        "plain",
        {
            "plain": "funnel.platform.preranking:PlainPreRanking",
            "trained": "funnel.prerank.trained:TrainedPreRanking",
        },
    ),
    "ranking": Stage("plain", {"plain": "funnel.platform.ranking:PlainRanking"}),
    "fusion": Stage("sum", {"sum": "funnel.platform.fusion:SumFusion"}),
    "slot": Stage(
        "none",
        {
            "none": "funnel.platform.slot:NoSlot",
            "random": "funnel.platform.slot:RandomSlot",
            "fresh": "funnel.fresh.slot:FreshFunnel",
        },
    ),
    "reranking": Stage(
        "none",
        {
            "none": "funnel.platform.reranking:AsRanked",
            "list": "funnel.rerank.stage:ListReRanking",
            "shuffled": "funnel.rerank.stage:Shuffled",
            "shares": "funnel.exposure.stage:ShareReRanking",
        },
    ),
}
"""The stages that a request passes, in order (funnel/platform/stages.py)."""
POLICIES: Mapping[str, str] = {
    "plain": "funnel.platform.presets:plain",
    "random_slot": "funnel.platform.presets:random_slot",
    "popular": "funnel.platform.presets:popular",
    "fresh": "funnel.fresh.presets:fresh",
    "fresh_two_tower": "funnel.fresh.presets:fresh_two_tower",
    "fresh_real_time": "funnel.fresh.presets:fresh_real_time",
}
"""Policies of the platform by name: functions that give their plain settings."""
DEFAULT_PROBLEM, DEFAULT_TUNABLE, DEFAULT_SIMULATOR = "entire_space", "fusion", "platform"
DEFAULT_FITTED, DEFAULT_OPERATION = "incentives", "incentives"


def find_problem(name: str) -> Any:
    """The problem of that name, or the class that "package.module:Class" names. Raises UserError for what is none."""
    return find(name, PROBLEMS, "problem")


def find_tunable(name: str) -> Any:
    """The tunable of that name, or the class that "package.module:Class" names. Raises UserError for what is none."""
    return find(name, TUNABLES, "objective")


def find_fitted(name: str) -> Any:
    """The class of that name that is fitted, or the one that "package.module:Class" names. Raises UserError for what is
    none."""
    return find(name, FITTED, "system")


def find_operation(name: str) -> Any:
    """The class of that name that is operated, or the one that "package.module:Class" names. Raises UserError for what
    is none."""
    return find(name, OPERATIONS, "system")


def find_serving(name: str) -> Any:
    """The module that serves policies of the tunable of that name. Raises UserError if they cannot be served."""
    if name not in SERVED:
        raise UserError(f"a policy of {name} cannot be exported; those of {', '.join(SERVED)} can")
    return importlib.import_module(SERVED[name])


def find_simulator(name: str) -> Any:
    """The simulator of that name, or the class that "package.module:Class" names. Raises UserError for what is none."""
    return find(name, SIMULATORS, "world")


def find_logging(name: str) -> Any:
    """The world of that name that writes logs. Raises UserError for what is none."""
    return find(name, LOGGED, "world")


def find_policy(stage: str, kind: str) -> Any:
    """The class of that kind of policy for a stage of the platform. Raises UserError for what is none."""
    return find(kind, STAGES[stage].kinds, f"kind of {stage}")


def tool(problem: Any, name: str) -> Any:
    """The module by which the problem (or its class) lets itself be scored, calibrated, evaluated or exported, one of
    the protocols in funnel/tools.py. Raises UserError if it has none of that name."""
    if name not in problem.tools:
        raise UserError(f"problem {problem.name} has nothing to {name}")
    return importlib.import_module(problem.tools[name])


def find(name: str, known: Mapping[str, str], what: str) -> Any:
    place = known.get(name, name)
    module, colon, attribute = place.partition(":")
    if not colon:
        near = meant(name, known)
        hint = f"did you mean {near}? " if near else ""
        raise UserError(f"no {what} {name!r}: {hint}choose {', '.join(known)}, or name yours package.module:Class")
    try:
        return getattr(importlib.import_module(module.removesuffix(".py").replace("/", ".")), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{what} {name!r}: {error}") from error
