"""The logs of benchmarks/evaluation/null_worlds.py: many kinds, all with a truth that is known.

R rounds, A actions, F features.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from funnel.fusion.evaluation import best_single, compare
from funnel.fusion.forms import Fusion, ScoredLog
from funnel.fusion.grid import grid_search
from funnel.fusion.objective import ScoreFusion
from funnel.off_policy.evaluation import compare_policies
from funnel.off_policy.objective import LoggedActions, OffPolicy, OffPolicySettings

Estimator = Literal["ips", "clipped", "snips", "dr"]
ESTIMATORS: tuple[Estimator, ...] = ("ips", "clipped", "snips", "dr")


@dataclass(frozen=True)
class Outcome:
    """A figure as it was printed, and the truth; low NaN: not printed."""

    figure: str
    truth: float
    low: float
    high: float


@dataclass(frozen=True)
class World:
    """A log of actions that change nothing."""

    rounds: int
    actions: int
    reward: Callable[[np.random.Generator, int], np.ndarray]
    truth: float
    skew: float = 0.0
    """Standard deviation of the logging policy's scores: of actions, and half as much of rounds."""
    users: int = 0
    """The action is drawn once a user, and a user's rounds pay alike; 0: rounds are independent."""
    heavy: bool = False
    """A few users have most rounds."""


def yes_no(rate: float) -> Callable[[np.random.Generator, int], np.ndarray]:
    return partial(_yes_no, rate)


def _yes_no(rate: float, rng: np.random.Generator, count: int) -> np.ndarray:
    return (rng.random(count) < rate).astype(float)


def spends(rate: float, sigma: float) -> Callable[[np.random.Generator, int], np.ndarray]:
    """Nothing, or a log-normal amount."""
    return partial(_spends, rate, sigma)


def _spends(rate: float, sigma: float, rng: np.random.Generator, count: int) -> np.ndarray:
    return (rng.random(count) < rate) * np.exp(sigma * rng.standard_normal(count))


def pareto(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.pareto(2.1, count) + 1


def normal(rng: np.random.Generator, count: int) -> np.ndarray:
    return 1 + rng.standard_normal(count)


def losses(rng: np.random.Generator, count: int) -> np.ndarray:
    """A gain of 1, and now and then a large loss."""
    return 1 - 30.0 * (rng.random(count) < 0.01)


WORLDS = {
    "rare_46": World(10_000, 46, yes_no(0.0045), 0.0045),
    "rare_3": World(20_000, 3, yes_no(0.0045), 0.0045),
    "rare_few_rounds": World(1_000, 5, yes_no(0.01), 0.01),
    "common_3": World(2_000, 3, yes_no(0.2), 0.2),
    "rare_misses": World(2_000, 4, yes_no(0.99), 0.99),
    "common_30": World(4_000, 30, yes_no(0.3), 0.3),
    "skewed_10": World(5_000, 10, yes_no(0.02), 0.02, skew=1.0),
    "very_skewed_20": World(5_000, 20, yes_no(0.05), 0.05, skew=2.0),
    "very_skewed_spends": World(5_000, 5, spends(0.1, 1.0), 0.1 * math.exp(0.5), skew=2.0),
    "spends_rare": World(10_000, 3, spends(0.01, 1.0), 0.01 * math.exp(0.5)),
    "spends_heavy": World(5_000, 3, spends(0.05, 1.5), 0.05 * math.exp(1.125)),
    "pareto": World(1_000, 3, pareto, 2.1 / 1.1),
    "normal": World(400, 3, normal, 1.0),
    "losses": World(4_000, 4, losses, 0.7),
    "tiny": World(60, 2, yes_no(0.3), 0.3),
    "tiny_normal": World(100, 2, normal, 1.0),
    "users": World(2_000, 3, yes_no(0.1), 0.1, users=100),
    "users_rare": World(10_000, 5, yes_no(0.01), 0.01, users=500),
    "users_heavy": World(6_000, 3, yes_no(0.1), 0.1, users=300, heavy=True),
}


def draw(world: World, seed: int) -> LoggedActions:
    """One log: two features that say nothing about what pays, unless they are of the user."""
    rng = np.random.default_rng([seed, 7])
    rounds, actions = world.rounds, world.actions
    cluster_R = np.empty(0, np.int64)
    drawn = rounds
    if world.users:
        share_U = rng.pareto(1.5, world.users) + 0.1 if world.heavy else np.ones(world.users)
        cluster_R = np.sort(rng.choice(world.users, rounds, p=share_U / share_U.sum()))
        cluster_R = np.unique(cluster_R, return_inverse=True)[1]
        drawn = int(cluster_R.max()) + 1
    score_AU = world.skew * (rng.standard_normal((actions, 1)) + 0.5 * rng.standard_normal((actions, drawn)))
    odds_AU = np.exp(score_AU - score_AU.max(axis=0))
    odds_AU /= odds_AU.sum(axis=0)
    action_U = np.minimum((odds_AU.cumsum(axis=0) < rng.random(drawn)).sum(axis=0), actions - 1)
    propensity_U = odds_AU[action_U, np.arange(drawn)]
    context_2U = rng.standard_normal((2, drawn))
    reward_R = world.reward(rng, rounds)
    if world.users:  # a user's rate: the mean of the world, spread by a beta law
        rate_U = rng.beta(20 * world.truth, 20 * (1 - world.truth), drawn)
        reward_R = (rng.random(rounds) < rate_U[cluster_R]).astype(float)
        action_U, propensity_U, context_2U = action_U[cluster_R], propensity_U[cluster_R], context_2U[:, cluster_R]
    context_FR = np.concatenate([np.ones((1, rounds)), context_2U]).astype(np.float32)
    actions_EA = np.eye(actions, dtype=np.float32)
    return LoggedActions(context_FR, action_U, propensity_U, reward_R, actions_EA, cluster_R=cluster_R)


def halves(log: LoggedActions, rng: np.random.Generator) -> tuple[LoggedActions, LoggedActions]:
    """Two halves of the rounds, or of the clusters."""
    clustered = len(log.cluster_R) > 0
    units = int(log.cluster_R.max()) + 1 if clustered else len(log.reward_R)
    half_U = np.zeros(units, bool)
    half_U[rng.permutation(units)[: units // 2]] = True
    half_R = half_U[log.cluster_R] if clustered else half_U
    return log.part(half_R), log.part(~half_R)


def judged_actions(world: World, seed: int) -> list[Outcome]:
    """Every figure of every estimator, for a policy of the log's shares moved at random: a little, or far."""
    rng = np.random.default_rng([seed, 8])
    tune, test = halves(draw(world, seed), rng)
    outcomes = []
    theta_D = rng.choice([0.3, 1.0, 3.0]) * rng.standard_normal(3 * world.actions)
    for estimator in ESTIMATORS:
        objective = OffPolicy(OffPolicySettings(estimator=estimator), tune)
        figures = compare_policies(objective, theta_D.astype(np.float32), test)
        for name in ("learnt", "best_constant", "logging", "gain_over_best_constant", "gain_over_logging"):
            truth = 0.0 if name.startswith("gain") else world.truth
            outcomes.append(outcome(figures, f"off_policy.{name}", truth, f"{estimator} {name}"))
    return outcomes


def outcome(figures: Mapping[str, Any], key: str, truth: float, name: str) -> Outcome:
    return Outcome(name, truth, figures.get(f"{key}.low", math.nan), figures.get(f"{key}.high", math.nan))


Simulations = Mapping[str, Callable[[int], Iterable[Outcome]]]
OFF_POLICY_WORLDS: Simulations = {name: partial(judged_actions, world) for name, world in WORLDS.items()}


@dataclass(frozen=True)
class Lists:
    """A scored log whose reward follows none of the scores."""

    users: int
    rate: float
    """Clicks of an exposure."""
    fusion: str = "sum"
    spread: float = 0.0
    """Standard deviation of the users' click rates, relative to the mean."""
    heavy: bool = False
    """A few users have most requests."""
    amounts: float = 0.0
    """Sigma of a click's log-normal reward; 0: every click pays 1, one in ten 11."""
    longest: int = 12
    k: int = 3


LISTS = {
    "clicks": Lists(600, 0.1),
    "clicks_product": Lists(600, 0.1, "product"),
    "rare_clicks": Lists(600, 0.004),
    "few_users": Lists(60, 0.1, "rank"),
    "heavy_users": Lists(600, 0.1, heavy=True, spread=0.5),
    "heavy_users_rare": Lists(600, 0.01, "product", heavy=True, spread=0.5),
    "users_differ": Lists(300, 0.1, spread=1.0),
    "amounts": Lists(600, 0.05, amounts=1.0),
    "heavy_amounts": Lists(600, 0.05, amounts=1.5, heavy=True),
    "long_lists": Lists(200, 0.02, longest=60, k=10),
}
MOVES = (0.02, 0.3, 1.5)
"""How far theta lies from the untuned fusion: few requests in another order, or nearly all."""


def scored(lists: Lists, rng: np.random.Generator) -> ScoredLog:
    """One log."""
    per_U = np.ceil(rng.pareto(1.3, lists.users)).clip(1, 200) if lists.heavy else rng.integers(1, 4, lists.users)
    user_R = np.repeat(np.arange(lists.users), per_U.astype(int))
    lengths_R = rng.integers(2, lists.longest + 1, len(user_R))
    request_C = np.repeat(np.arange(len(user_R)), lengths_R)
    rate_U = lists.rate * (rng.gamma(1 / lists.spread**2, lists.spread**2, lists.users) if lists.spread else 1.0)
    rate_C = np.minimum(np.broadcast_to(rate_U, (lists.users,))[user_R][request_C], 1.0)
    size_C = np.exp(lists.amounts * rng.standard_normal(len(request_C)))
    if not lists.amounts:
        size_C = 1 + 10.0 * (rng.random(len(request_C)) < 0.1)
    reward_C = (rng.random(len(request_C)) < rate_C) * size_C
    base_C = rng.standard_normal(len(request_C))
    scores_MC = np.exp(0.8 * base_C + 0.6 * rng.standard_normal((3, len(request_C))) - 2).astype(np.float32)
    names = ("pctr", "pcvr", "pctcvr")
    return ScoredLog(names, scores_MC, reward_C.astype(np.float32), request_C, user_R[request_C])


def judged_lists(lists: Lists, seed: int) -> list[Outcome]:
    """Every figure of a fusion moved at random; grid and best single score are chosen on the other half."""
    rng = np.random.default_rng([seed, 9])
    log = scored(lists, rng)
    half_U = np.zeros(lists.users, bool)
    half_U[rng.permutation(lists.users)[: lists.users // 2]] = True
    tune, test = log.part(half_U[log.user_C]), log.part(~half_U[log.user_C])
    fusion = Fusion.fit(lists.fusion, tune)
    theta_D = (rng.choice(MOVES) * rng.standard_normal(fusion.policy.dimension)).astype(np.float32)
    metric = "value" if seed % 2 else "ndcg"
    grid = grid_search(ScoreFusion(tune, fusion, metric, lists.k))
    single, possible = best_single(tune, metric, lists.k), 0.0 if lists.amounts else 11.0
    figures = compare(test, fusion, theta_D, single, metric, lists.k, grid=grid, possible=possible)
    lengths = np.arange(2, lists.longest + 1)
    mean = math.exp(lists.amounts**2 / 2) if lists.amounts else 2.0
    value = float(np.minimum(lengths, lists.k).mean()) * lists.rate * mean
    outcomes = []
    for each in ("tuned", "untuned", "best_single", "grid"):
        outcomes.append(outcome(figures, f"fusion.value_at_{lists.k}.{each}", value, f"value {each}"))
        if each != "tuned":
            for of in ("value", "ndcg"):
                key = f"fusion.{of}_at_{lists.k}.gain_over_{each}"
                outcomes.append(outcome(figures, key, 0.0, f"{of} gain_over_{each}"))
    return outcomes


FUSION_WORLDS: Simulations = {name: partial(judged_lists, lists) for name, lists in LISTS.items()}
