"""Two designs of a test, as worlds that share seeds.

user          users are split in two, the corpus is one. Two worlds are run from the same warm state: in AB the second
              half of the users has the treatment, in AA both halves have the control. What the test reads in AB, less
              what it reads in AA, is its result without the luck of the split:
                  effect = (m_1(AB) - m_0(AB)) - (m_1(AA) - m_0(AA)),     relative to m_1(AA)
user_corpus   users are split in two, and providers with their items likewise: each arm has a corpus of its own, and
              what it does to the corpus stays in it. Arms that never meet can be run one by one: each half is run
              under the treatment and under the control (AB less AA is zero for the half that keeps the control), and
                  effect = m(treatment, both halves) - m(control, both halves)
Under both policies a test begins with policies that have no state yet, on the world as it stands.
Metrics are of the whole test (figures.py); of two halves, sums are added first. m_a: of arm a's users.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from data.errors import UserError
from funnel.platform.figures import CORPUS, DAILY, METRICS, amount
from funnel.platform.population import arm_of, draw_population
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policies
from funnel.platform.world import World
from funnel.simulator import Compared

DESIGNS = ("user_corpus", "user")
FEW = 64
"""Users or providers up to which a split, a toss for each, may leave an arm without any."""


def seed_of(compared: Compared, pair: int) -> int:
    return compared.seed * 1_000_003 + pair


def check_arms(settings: PlatformSettings, compared: Compared, pair: int) -> None:
    """Raises UserError if the pair's split leaves an arm without users, or without providers."""
    seed = seed_of(compared, pair)
    groups = [("users", settings.users, seed)]
    groups += [("providers", settings.providers, seed + 1)] if compared.design == "user_corpus" else []
    for name, count, drawn in groups:
        if count <= FEW and len(set(arm_of(drawn, np.arange(count), 2).tolist())) < 2:
            raise UserError(f"{count} {name} are too few: the split of pair {pair} leaves an arm without any")


def run_pair(settings: PlatformSettings, compared: Compared, pair: int) -> dict[str, np.ndarray]:
    """float64 (days, len(DAILY)) of "control" and "treatment"; of "user" also of the half that keeps the control in
    both worlds: "beside_control", "beside_treatment"."""
    seed = seed_of(compared, pair)
    population = draw_population(settings, seed)

    def policies(tree: Mapping[str, Any]) -> Policies:
        return Policies.of(tree, settings, seed)

    if compared.design == "user":
        world = World(population, [policies(compared.control)])
        world.run(compared.warmup)
        found: dict[str, np.ndarray] = {}
        for name, second in (("control", compared.control), ("treatment", compared.treatment)):
            twin = world.copy([policies(compared.control), policies(second)])
            twin.run(compared.days)
            table = twin.ledger.table()
            found |= {f"beside_{name}": table[:, :, 0], name: table[:, :, 1]}
        return found
    total: dict[str, np.ndarray] = {}
    for half in (0, 1):
        world = World(population.part(half, 2), [policies(compared.control)])
        world.run(compared.warmup)
        for name, tree in (("control", compared.control), ("treatment", compared.treatment)):
            twin = world.copy([policies(tree)])
            twin.run(compared.days)
            table = twin.ledger.table()[:, :, 0]
            total[name] = total[name] + table if name in total else table
    return total


def values(tables: Mapping[str, np.ndarray], days: slice) -> dict[str, tuple[float, float]]:
    """{metric: (value under control, effect of the treatment)} of some days of a pair."""
    of = {name: metrics(table[days]) for name, table in tables.items()}
    found = {}
    for metric in METRICS:
        effect = of["treatment"][metric] - of["control"][metric]
        if "beside_control" in of:
            effect -= of["beside_treatment"][metric] - of["beside_control"][metric]
        found[metric] = (of["control"][metric], effect)
    return found


def metrics(day_TF: np.ndarray) -> dict[str, float]:
    """Every metric of some days of an arm: sums over the days; counts of items are means of days."""
    value_F = day_TF.sum(0)
    value_F[[DAILY.index(name) for name in CORPUS]] /= max(len(day_TF), 1)
    found = {}
    for name, (numerator, denominator) in METRICS.items():
        below = amount(denominator, value_F) if denominator else 1.0
        found[name] = float(amount(numerator, value_F) / below) if below else 0.0
    return found
