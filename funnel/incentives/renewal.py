"""The review of an operation's strategies: which are weak, what takes their places.

In the simulated world weak strategies are dropped and new ones get their random traffic from that day on; they can be
given by a decision once effects were fitted on it. On a log, whose random traffic others hand out, and with
`--proposals.by none` weak strategies stay, and an alert says which they are and what could be tried instead.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from funnel.effects.dml import VectorEffects, fit_dml
from funnel.effects.reading import parsed_weights
from funnel.fitted import Map
from funnel.incentives.candidates import Asked, proposed
from funnel.incentives.fitted import IncentiveEffects, claimed, treated
from funnel.incentives.review import Review, by_effects, by_means, rows_of
from funnel.incentives.strategies import bill

USERS = 1_000
"""Over whom new strategies are judged."""


def renewed(operation: Any, day: int, map: Map) -> tuple[list[dict[str, Any]], list[str]]:
    """(a record of each strategy that stands, is dropped or is new today, alerts), strategies replaced in the roster
    of the operation (operation.py: IncentiveOperation)."""
    own, roster = operation.settings.proposals, operation.roster
    ids_A = roster.live if roster is not None else operation.choice().ids_A
    known = knowledge(operation, day, map)
    found = reviewed(operation, ids_A, known)
    told, weak_N = found.told(operation.vectors(np.arange(int(ids_A.max()) + 1)), own.level), found.weak_ids
    free = max(own.batch - len(ids_A), 0) if roster is not None else 0
    new_M3, source = np.empty((0, 3)), "none"
    if own.by != "none" and known is not None:
        asked = asked_of(operation, known, ids_A, weak_N, day)
        new_M3, source = proposed(asked, min(len(weak_N) + free, own.batch - 1))
    alerts = untried(operation, found, day)
    if own.by != "none" and known is not None and len(weak_N) and not len(new_M3):
        alerts.append("nothing is proposed for weak strategies: none that keeps proposals.rules and lies within what "
                      "was tried adds anything")  # fmt: skip
    if roster is None or own.by == "none":
        return told, alerts + ([alert(weak_N, new_M3)] if len(weak_N) else [])
    weak_N = weak_N[: max(len(ids_A) + len(new_M3) - 2, 0)]  # two have to stand, or nothing is compared
    numbers_M = roster.replace(day, weak_N, new_M3)
    for one in told:
        one["dropped"] = one["strategy"] in set(weak_N.tolist())
    told += [
        {"strategy": number, "rows": 0, "weak": False, "new": source, "follows": roster.follows[number],
         "amount": vector_3[0], "interval": vector_3[1], "number": vector_3[2]}
        for number, vector_3 in zip(numbers_M.tolist(), new_M3.tolist(), strict=True)
    ]  # fmt: skip
    return told, alerts


def untried(operation: Any, found: Review, day: int) -> list[str]:
    """An alert for strategies that have stood since the last review at least and still lack the rows to be judged."""
    settings, roster = operation.settings, operation.roster
    least = settings.effects.arms.smallest_arm
    few_N = found.ids_A[found.rows_A < least]
    if roster is not None:
        few_N = few_N[day - np.array(roster.born)[few_N] >= settings.proposals.every]
    if not len(few_N):
        return []
    text = "strategy" if len(few_N) == 1 else "strategies"
    return [f"{text} {', '.join(map(str, few_N.tolist()))}: too little random traffic to be judged, below {least} rows"]


def alert(weak_N: np.ndarray, new_M3: np.ndarray) -> str:
    names = ", ".join(map(str, weak_N.tolist()))
    text = f"{'strategy' if len(weak_N) == 1 else 'strategies'} {names}: weak, another one beats it for no more money"
    instead = "; ".join(" x ".join(f"{number:.3g}" for number in vector_3) for vector_3 in new_M3)
    return text + (f"; to be tried instead (amount x interval x number): {instead}" if instead else "")


@dataclass(frozen=True)
class Knowledge:
    """Effects over vectors, the strategies they were fitted on, some users and the share of a bill that each takes."""

    model: VectorEffects
    tried_ids: np.ndarray
    x_NF: np.ndarray
    claim_N: np.ndarray


def knowledge(operation: Any, day: int, map: Map) -> Knowledge | None:
    """What is known of vectors; None where strategies have only names. Effects are those of the newest fit, or of a DML
    of its own where a learner of single arms decides."""
    settings, fit = operation.settings, operation.candidate or operation.standing
    effects: IncentiveEffects = fit.effects
    if effects.facts["cost"]["kind"] != "claims":
        return None
    model, tried_ids = effects.model, fit.ids_A
    if not isinstance(model, VectorEffects):
        rows, tried_ids = operation.rows()
        model = fit_dml(treated(effects.settings, rows), settings.effects.dml, settings.effects.nuisances,
                        operation.seed + day, map)  # fmt: skip
    x_RF = np.concatenate([each["x"] for each in operation.history[-settings.proposals.every :]])
    draws = np.random.default_rng([operation.seed, day])
    x_NF = x_RF[np.sort(draws.permutation(len(x_RF))[:USERS])]
    return Knowledge(model, tried_ids, x_NF, claimed(effects.facts["cost"], x_NF))


def reviewed(operation: Any, ids_A: np.ndarray, known: Knowledge | None) -> Review:
    settings, history = operation.settings, operation.history
    level, least = settings.proposals.level, settings.effects.arms.smallest_arm
    if known is None or settings.proposals.judged == "means":
        roster = operation.roster
        cost_A = bill(roster.vectors_S3[ids_A]) if roster is not None else operation.choice().bill_A
        return by_means(history, parsed_weights(settings.effects.outcomes), ids_A, cost_A, level, least)
    vectors_A3, rows_A = operation.vectors(ids_A), rows_of(history, ids_A)
    return by_effects(known.model, known.x_NF, vectors_A3, ids_A, rows_A, bill(vectors_A3), level, least,
                      np.isin(ids_A, known.tried_ids))  # fmt: skip


def asked_of(operation: Any, known: Knowledge, ids_A: np.ndarray, weak_N: np.ndarray, day: int) -> Asked:
    """What new strategies are proposed from: those that stand and that effects were fitted on, but the weak ones."""
    settings, roster = operation.settings, operation.roster
    menu_A = ids_A[~np.isin(ids_A, weak_N) & np.isin(ids_A, known.tried_ids)]
    ever_ST = roster.vectors_S3 if roster is not None else operation.vectors(ids_A)
    return Asked(known.model, known.x_NF, known.claim_N, operation.vectors(menu_A), operation.vectors(known.tried_ids),
                 ever_ST, settings.budget, settings.proposals, operation.seed + day, operation.maximise)  # fmt: skip
