"""Learnt shares against what they are compared with, on rows that they were not made of.

Half of the judging part makes an outcome model and the density of what was shown, the other half judges by both
(value.py). Shapes: U users, F features, K categories.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from funnel.exposure.figures import treatment_error
from funnel.exposure.outcome import OutcomeModel, OutcomeSettings
from funnel.exposure.overlap import Overlap, OverlapSettings
from funnel.exposure.panels import sentence
from funnel.exposure.shares import ShareRows, check_policy
from funnel.exposure.value import Judge, compare

Shares = Callable[[np.ndarray], np.ndarray]
"""(U, K) of features (U, F)."""


def judged(
    rows: ShareRows,
    shares: Shares,
    wanted: Shares,
    facts: Mapping[str, Any],
    outcome_model: OutcomeSettings,
    overlap: OverlapSettings,
    step: float,
    seed: int,
) -> tuple[dict[str, Any], ShareRows, np.ndarray]:
    """(flat figures with "message", the rows that judged, what they were given). wanted: the shares before they were
    drawn in; step: the grid that shares lie on. facts: "mean", "low", "high" of the shares that were learnt from."""
    order = np.random.default_rng([seed, 4]).permutation(len(rows))
    fitted, judging = rows.take(order[: len(rows) // 2]), rows.take(order[len(rows) // 2 :])
    model = OutcomeModel.fit(fitted, outcome_model, seed + 1)
    mean_K, users = np.array(facts["mean"]), len(judging)
    own = shares(judging.features_RF)
    check_policy(own, np.array(facts["low"]), np.array(facts["high"]), rows.categories, step)
    policies = {
        "policy": own,
        "constant": np.tile(best_constant(model, fitted, mean_K, seed), (users, 1)),
        "mean": np.tile(mean_K, (users, 1)),
        "uniform": np.full((users, len(mean_K)), 1 / len(mean_K)),
        "logging": judging.shares_RK,
    }
    judge = Judge(judging, model.predict, Overlap.fit(fitted, overlap, seed + 1), mean_K)
    figures: dict[str, Any] = {"users": users, "outcome_model.r2": model.r2}
    moved_U = np.abs(own - wanted(judging.features_RF)).sum(axis=1)
    figures["policy.drawn_in"] = float((moved_U > 1e-9).mean())
    figures |= compare(judge, policies, "policy", ("mean", "constant", "logging"))
    if judging.best_RK is not None:
        for name, shares_RK in policies.items():
            figures[f"{name}.mtse"] = treatment_error(judging.best_RK, shares_RK)
            figures[f"{name}.l1"] = float(np.abs(shares_RK - judging.best_RK).sum(axis=1).mean())
    figures |= {f"share.{name}": float(mean) for name, mean in zip(rows.categories, own.mean(axis=0), strict=True)}
    summary = {f"exposure.{key}": found for key, found in figures.items()} | {"message": sentence(figures)}
    return summary, judging, own


def seen_range(rows: ShareRows) -> dict[str, Any]:
    """Facts of what a system was fitted on."""
    shares_RK = rows.shares_RK
    return {"rows": len(rows), "mean": shares_RK.mean(axis=0).tolist(), "low": shares_RK.min(axis=0).tolist(),
            "high": shares_RK.max(axis=0).tolist()}  # fmt: skip


def best_constant(model: OutcomeModel, rows: ShareRows, mean_K: np.ndarray, seed: int) -> np.ndarray:
    """The best shares for everybody by the model, of the mean and some hundred logged ones."""
    random = np.random.default_rng([seed, 3])
    drawn = rows.shares_RK[random.permutation(len(rows))[:300]]
    tried_CK = np.concatenate([mean_K[None], drawn])
    some = rows.features_RF[random.permutation(len(rows))[:500]]
    worths = [model.predict(some, np.tile(shares_K, (len(some), 1))).mean() for shares_K in tried_CK]
    return np.asarray(tried_CK[int(np.argmax(worths))])
