"""Named configurations and search spaces, as functions.

A configuration is what `--set` would say, {key: value}: `--preset NAME` of jobs.train and jobs.evolve. A space
says where `jobs.tune --space NAME` looks, {key: domain of ray.tune}; it holds the default of each of its keys, so that
the default configuration is a point of it and the first trial of every search.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

What = Literal["train", "evolve"]
Settings = dict[str, Any]
Space = dict[str, Any]


def default() -> Settings:
    """The defaults of every setting."""
    return {}


def doubly_robust() -> Settings:
    """ESCM2-DR with the imputation of the paper: more bias removed than by IPS, at less variance, for a third tower."""
    return {"objective.name": "escm2_dr"}


def paper() -> Settings:
    """ESCM2-IPS with the CVR term at full weight, the upper end of the paper's range; wants many conversions."""
    return {"objective.name": "escm2_ips", "objective.lambda_c": 1.0}


def clicks() -> Settings:
    """A click model for `jobs.train --propensities`: more epochs and higher rates, the epoch chosen by CTR log-loss."""
    return {
        "objective.name": "naive",
        "objective.lambda_ctr": 10.0,
        "epochs": 6,
        "stop_metric": "ctr.log_loss",
        "optimizer.learning_rate": 0.003,
        "optimizer.embedding_learning_rate": 0.1,
    }


def small() -> Settings:
    """Half the default network in every width: for a first look at a log, or a log of few conversions."""
    return {
        "model.embedding_width": 8,
        "model.tower_hidden": (16,),
        "model.backbone.experts": 2,
        "model.backbone.expert_hidden": (64, 32),
    }


def wide() -> Settings:
    """Twice the default network in every width, with some dropout: for logs of many conversions."""
    return {
        "model.embedding_width": 32,
        "model.tower_hidden": (64,),
        "model.backbone.experts": 8,
        "model.backbone.expert_hidden": (256, 128),
        "model.backbone.dropout": 0.1,
    }


def cautious() -> Settings:
    """Small perturbations, many of them, small steps: for a policy in use that should not move far."""
    return {"sigma": 0.03, "pairs": 128, "learning_rate": 0.02}


def separable() -> Settings:
    """SNES: a sigma of its own for every weight, for scores of very different scales."""
    return {"algorithm": "snes", "sigma": 0.2}


def evolution_strategy() -> Settings:
    """PGPE with ClipUp, as Toklu et al. 2020 run it: steps of bounded length."""
    return {"algorithm": "pgpe", "optimizer": "clipup", "learning_rate": 0.05}


PRESETS: Mapping[What, tuple[Callable[[], Settings], ...]] = {
    "train": (default, doubly_robust, paper, clicks, small, wide),
    "evolve": (default, cautious, separable, evolution_strategy),
}


def standard() -> Space:
    """Objective and its weights, clip, widths and rates: what decides most of a trained model."""
    from ray import tune

    return {
        **loss(),
        **rates(),
        "model.embedding_width": tune.choice([8, 16, 32]),
        "model.backbone.expert_hidden": tune.choice(["64,32", "128,64", "256,128"]),
        "model.backbone.dropout": tune.uniform(0.0, 0.3),
    }


def loss() -> Space:
    """What is minimised: objective, weights of its terms, the propensities' clip (docs/math.md)."""
    from ray import tune

    return {
        "objective.name": tune.choice(["escm2_ips", "escm2_snips", "escm2_dr", "esmm"]),
        "objective.lambda_c": tune.loguniform(0.01, 1.0),
        "objective.lambda_g": tune.loguniform(0.1, 10.0),
        "objective.clip": tune.choice(["auto", 0.003, 0.01, 0.03, 0.1]),
    }


def rates() -> Space:
    """Learning rates of the network and of the embedding table."""
    from ray import tune

    return {
        "optimizer.learning_rate": tune.loguniform(2e-4, 1e-2),
        "optimizer.embedding_learning_rate": tune.loguniform(5e-3, 0.5),
    }


def es_standard() -> Space:
    """Size of the perturbations, pairs of candidates in a generation, step size, decay of theta towards 0."""
    from ray import tune

    return {
        "sigma": tune.loguniform(0.01, 1.0),
        "pairs": tune.choice([16, 32, 64, 128]),
        "learning_rate": tune.loguniform(0.005, 0.5),
        "weight_decay": tune.choice([0.0, 0.001, 0.01, 0.1]),
    }


def es_forms() -> Space:
    """The same, and the form of the fusion."""
    from ray import tune

    return {"fusion": tune.choice(["product", "sum", "rank"]), **es_standard()}


SPACES: Mapping[What, Mapping[str, Callable[[], Space]]] = {
    "train": {"standard": standard, "loss": loss, "rates": rates},
    "evolve": {"standard": es_standard, "forms": es_forms},
}


def find_preset(what: What, name: str) -> Settings:
    """The configuration of this name; ValueError listing the names there are."""
    named = {function.__name__: function for function in PRESETS[what]}
    if name not in named:
        raise ValueError(f"--preset {name}: no such preset of jobs.{what}; there are {', '.join(named)}")
    return named[name]()


def find_space(what: What, name: str) -> Space:
    """The space of this name; ValueError listing the names there are."""
    if name not in SPACES[what]:
        raise ValueError(f"--space {name}: no such space of jobs.{what}; there are {', '.join(SPACES[what])}")
    return SPACES[what][name]()
