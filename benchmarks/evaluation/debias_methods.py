"""The methods that debiasing is judged by, as settings: naive, ESCM2, its rivals, two stages, a hidden cause, oracle.

Beside settings of the ranker by dotted key a method may have the keys below, which debias.py reads.
"""

from typing import Any

TWO_STAGES = "two stages"
"""Beside a method's settings: a click model that is trained before gives the propensities; its settings, beside the
preset `clicks`."""
FOLDS = "folds"
"""Among the settings of a click model: cross-fitted over so many folds of users."""
INSTRUMENTS = "instruments"
"""Beside a method's settings: the schema declares channel, hour and position as instruments, in whatever world."""
TRUE_Q = "true q"
"""Beside a method's settings: the true propensities weigh the clicks."""
ESTIMATED = "estimated"
"""In place of a theta: the one that the run of FIRST, a click model with instruments, estimates of its training part; 0
where nothing is claimed."""
SHRUNK = "shrunk"
"""The same estimate, drawn towards 0 by its error, in place of all or nothing."""


def objective(name: str, **values: Any) -> dict[str, Any]:
    """Settings of an objective by dotted key. What is left out is as the dated results were measured: lambda_c = .1,
    and an imputation in the same weight that trains the shared layers."""
    own: dict[str, Any] = {"lambda_c": 0.1, "imputation_gradient": "shared", **values}
    own.setdefault("lambda_imp", own["lambda_c"])
    return {"objective.name": name, **{f"objective.{key}": value for key, value in own.items()}}


ALONE = {"lambda_c": 1, "lambda_g": 0}  # without the CTCVR term
PLAIN_CLICKS = {"model.crossing": "none", "optimizer.embedding_learning_rate": 0.1}
FM_CLICKS = {"model.crossing": "fm", "optimizer.embedding_learning_rate": 0.02}
FOLDED_CLICKS = {**FM_CLICKS, FOLDS: 3}
TAILORED_CLICKS = {**FM_CLICKS, "objective.balance.weight": 1.0}
SLICED_CLICKS = {**TAILORED_CLICKS, "objective.balance.kind": "slices"}
METHODS: dict[str, dict[str, Any]] = {
    "naive": objective("naive"),
    "MTL-IMP": objective("mtl_imp"),
    "ESMM": objective("esmm"),
    "ESCM2-IPS": objective("escm2_ips"),
    "ESCM2-IPS, lambda_c = 1": objective("escm2_ips", lambda_c=1),
    "ESCM2-DR": objective("escm2_dr"),
    "ESCM2-DR, labels": objective("escm2_dr", imputation="label"),
    "ESCM2-SNIPS": objective("escm2_snips"),
    "ESCM2-SNIPS alone": objective("escm2_snips", **ALONE),
    "ESCM2-MRDR": objective("escm2_mrdr"),
    "ESCM2-MRDR, labels": objective("escm2_mrdr", imputation="label"),
    "two stages, IPS": {TWO_STAGES: PLAIN_CLICKS, **objective("escm2_ips", lambda_c=1)},
    "two stages, IPS alone": {TWO_STAGES: PLAIN_CLICKS, **objective("escm2_ips", **ALONE)},
    "two stages, SNIPS": {TWO_STAGES: PLAIN_CLICKS, **objective("escm2_snips", lambda_c=1)},
    "two stages, SNIPS alone": {TWO_STAGES: PLAIN_CLICKS, **objective("escm2_snips", **ALONE)},
    "two stages, DR": {TWO_STAGES: PLAIN_CLICKS, **objective("escm2_dr", lambda_c=1)},
    "two stages, DR alone, labels": {TWO_STAGES: PLAIN_CLICKS, **objective("escm2_dr", **ALONE, imputation="label")},
    "naive, instruments": {INSTRUMENTS: True, **objective("naive")},
    "IPS, true q": {TRUE_Q: True, **objective("escm2_ips", lambda_c=1)},
    "IPS alone, true q": {TRUE_Q: True, **objective("escm2_ips", **ALONE)},
    "two stages, IPS, fm": {TWO_STAGES: FM_CLICKS, **objective("escm2_ips", lambda_c=1)},
    "two stages, IPS alone, fm": {TWO_STAGES: FM_CLICKS, **objective("escm2_ips", **ALONE)},
    "two stages, IPS, fm, 3 folds": {TWO_STAGES: FOLDED_CLICKS, **objective("escm2_ips", lambda_c=1)},
    "two stages, IPS, fm, tailored": {TWO_STAGES: TAILORED_CLICKS, **objective("escm2_ips", lambda_c=1)},
    "two stages, IPS, fm, slices": {TWO_STAGES: SLICED_CLICKS, **objective("escm2_ips", lambda_c=1)},
    "two stages, SNIPS alone, fm": {TWO_STAGES: FM_CLICKS, **objective("escm2_snips", **ALONE)},
    "two stages, SNIPS alone, tailored": {
        TWO_STAGES: {**PLAIN_CLICKS, "objective.balance.weight": 1.0},
        **objective("escm2_snips", **ALONE),
    },
    "two stages, SNIPS, fm": {TWO_STAGES: FM_CLICKS, **objective("escm2_snips", lambda_c=1)},
    "two stages, DR, fm": {TWO_STAGES: FM_CLICKS, **objective("escm2_dr", lambda_c=1)},
    "two stages, DR, fm, instruments": {
        INSTRUMENTS: True,
        TWO_STAGES: FM_CLICKS,
        **objective("escm2_dr", lambda_c=1),
    },
    "two stages, DR, fm, instruments, clip 0.005": {
        INSTRUMENTS: True,
        TWO_STAGES: FM_CLICKS,
        **objective("escm2_dr", lambda_c=1, clip=0.005),
    },
    "joint, weighed": {
        INSTRUMENTS: True,
        TWO_STAGES: FM_CLICKS,
        **objective("escm2_joint_ips", lambda_c=1, theta=ESTIMATED),
    },
    "IPS, true q, clip 0.005": {TRUE_Q: True, **objective("escm2_ips", lambda_c=1, clip=0.005)},
    "joint, weighed, clip 0.005": {
        INSTRUMENTS: True,
        TWO_STAGES: FM_CLICKS,
        **objective("escm2_joint_ips", lambda_c=1, theta=ESTIMATED, clip=0.005),
    },
    "joint, weighed, shrunk": {
        INSTRUMENTS: True,
        TWO_STAGES: FM_CLICKS,
        **objective("escm2_joint_ips", lambda_c=1, theta=SHRUNK),
    },
    "joint, fm": {INSTRUMENTS: True, "model.crossing": "fm", **objective("escm2_joint", lambda_c=1, theta=ESTIMATED)},
    "joint": {INSTRUMENTS: True, **objective("escm2_joint", lambda_c=1, theta=ESTIMATED)},
    "joint, theta learnt": {INSTRUMENTS: True, **objective("escm2_joint", lambda_c=1)},
    "oracle": {**objective("oracle"), "stop_metric": "cvr.click.log_loss"},
}
