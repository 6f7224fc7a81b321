"""What fitted effects are worth under a budget: values by IPS, SNIPS and DR, and curves, on rows not learnt from.

Rows judge whose arm was drawn evenly (the randomised slice) or, where the log has none, all of them by their logged
propensities. Policies: `user` (each user's own effects), `cluster` (one strategy a k-means cluster), `mix` (the best
mix of strategies by their mean effects, dealt out by chance), `constant` (the best single one), `cheapest` (nothing
that costs). Floors and ceilings of other outcomes hold for each but the last (for the best single one where one keeps
them). Their gains over `mix` and `constant` say whether individual effects pay. Shapes: R rows, A arms.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from data.errors import UserError
from funnel.effects import curves
from funnel.effects.reading import outcome_of, parsed_weights
from funnel.effects.value import Logged, compare, policy_value
from funnel.figures.verdict import Gain, verdict
from funnel.incentives.clusters import Clusters
from funnel.incentives.plan import mix_for_all, one_for_all, per_group, per_user
from funnel.off_policy.estimators import cross_fitted_rewards

POLICIES = ("user", "cluster", "mix", "constant", "cheapest")
RIVALS = ("mix", "constant")


def judge(effects: Any, arrays: Any, resamples: int, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """(figures, curves) of fitted effects (funnel/incentives/fitted.py) on the arrays of a part."""
    settings = effects.settings
    if "propensity" not in arrays:
        raise UserError("the log's schema names no 'propensity' under 'treatment': nothing can be judged without it")
    rows_N = np.flatnonzero(arrays["randomised"]) if "randomised" in arrays else np.arange(len(arrays["arm"]))
    if not len(rows_N):
        raise UserError("no row of the judging part is randomised")
    own = {key: value[rows_N] for key, value in arrays.items()}
    if own["arm"].max() >= len(effects.arms_AT):
        raise UserError(f"the judging part has an arm {own['arm'].max()} that was not learnt")
    effect_RA, cost_RA = effects.effects(own["x"]), effects.cost(own["x"])
    group_R = Clusters.fit(own["x"], settings.clusters, seed).of(own["x"])
    limited = effects.limited(own["x"])
    user = per_user(effect_RA, cost_RA, settings.budget, None, limited)
    policies = {
        "user": user.arm_R,
        "mix": mix_for_all(effect_RA, cost_RA, settings.budget, limited),
        "constant": one_for_all(effect_RA, cost_RA, settings.budget, limited),
        "cheapest": np.zeros(len(rows_N), np.int64),
    }
    try:
        policies["cluster"] = per_group(effect_RA, cost_RA, group_R, settings.budget, None, limited).arm_R
    except UserError as error:  # what users keep one by one, whole clusters may not
        unkept = {"cluster": str(error)}
    else:
        unkept = {}
    policies = {name: policies[name] for name in POLICIES if name in policies}
    outcome_R = outcome_of(own, parsed_weights(settings.outcomes))
    logged = logged_rows(own, outcome_R, len(effects.arms_AT), seed)
    figures = compare(policies, logged, ("mix", "constant", "cheapest"))
    spent = Logged(own["arm"], own["propensity"], own["cost"], cluster_R=own.get("user"))
    for name, arm_R in policies.items():
        figures |= policy_value(arm_R, spent, "snips").figures(f"{name}.cost")
    for limit in effects.aims:
        held = replace(logged, outcome_R=outcome_of(own, {limit.outcome: 1.0}))
        for name, arm_R in policies.items():
            figures |= policy_value(arm_R, held, "snips").figures(f"{name}.held.{limit.outcome}")
    figures["absent"] |= unkept
    if effects.aims:
        figures["limits"] = {limit.text: limit.outcome for limit in effects.aims}
    found, plots = areas(effect_RA, cost_RA, own, outcome_R, resamples, seed)
    gains = [Gain.of(figures, f"user.over.{rival}.dr", NAMES[rival]) for rival in RIVALS]
    figures |= found | {
        "rows": len(rows_N),
        "budget": settings.budget,
        "gap": user.allocation.gap,
        "price": float(user.allocation.price_M[0]),
        "overlap.worst_before": effects.facts["overlap"]["worst_before"],
        "overlap.worst_after": effects.facts["overlap"]["worst_after"],
        "significant": all(gain.significant for gain in gains),
        "message": verdict("Giving each user a strategy of his own", gains, "+.4g", "a user by dr"),
    }
    plots["overlap"] = effects.facts["overlap"]
    plots["model"] = {key: value for key, value in effects.model.facts.items() if not isinstance(value, dict)}
    plots["shares"] = {
        name: (np.bincount(arm_R, minlength=len(effects.arms_AT)) / len(arm_R)).tolist()
        for name, arm_R in policies.items()
    }
    return figures, plots


NAMES = {"mix": "the best mix for everybody", "constant": "the best single strategy"}


def logged_rows(own: Any, outcome_R: np.ndarray, arms: int, seed: int) -> Logged:
    """The judging rows, with a cross-fitted linear model of their outcomes."""
    x_FR = np.nan_to_num(((own["x"] - np.nanmean(own["x"], 0)) / np.maximum(np.nanstd(own["x"], 0), 1e-9)).T)
    cluster_R = own.get("user")
    numbered_R = None if cluster_R is None else np.unique(cluster_R, return_inverse=True)[1]
    level_AR = cross_fitted_rewards(x_FR, own["arm"], outcome_R, arms, seed=seed, cluster_R=numbered_R)
    return Logged(own["arm"], own["propensity"], outcome_R, level_AR.T, cluster_R)


def areas(
    effect_RA: np.ndarray, cost_RA: np.ndarray, own: Any, outcome_R: np.ndarray, resamples: int, seed: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """AUUC and Qini of the arm that brings most on average against the cheapest, AUCC of all arms, with curves."""
    top = int(np.argmax(effect_RA.mean(0)[1:])) + 1 if effect_RA.shape[1] > 1 else 0
    arm_R, cluster_R = own["arm"], own.get("user")
    treated_R = np.where(arm_R == top, 1, np.where(arm_R == 0, 0, -1))
    if top == 0 or not ((treated_R == 1).any() and (treated_R == 0).any()):
        return {}, {}
    score_R = effect_RA[:, top]
    uplift = curves.uplift(score_R, treated_R, outcome_R, own["propensity"], resamples, seed, cluster_R)
    pair_N = np.flatnonzero(treated_R >= 0)
    pair_cluster = None if cluster_R is None else cluster_R[pair_N]
    qini = curves.qini(score_R[pair_N], treated_R[pair_N], outcome_R[pair_N], resamples, seed, pair_cluster)
    cost = curves.cost_curve(effect_RA, cost_RA, own["arm"], outcome_R, own["propensity"], resamples, seed, cluster_R)
    figures = uplift.figures("auuc") | qini.figures("qini") | cost.figures("aucc") | {"uplift_arm": float(top)}
    return figures, {"uplift": uplift.plain(), "qini": qini.plain(), "cost": cost.plain()}
