"""Named configurations of the ranker, and where to search for better ones: {dotted key: value or domain}."""

from typing import Any

from funnel.spaces import Choice, LogUniform, Space, Uniform, named

Settings = dict[str, Any]


def default() -> Settings:
    """The defaults of every setting."""
    return {}


def doubly_robust() -> Settings:
    """ESCM2-DR as in the paper, with a third tower that imputes losses; alone in its tower, it trains as IPS does."""
    return {"objective.name": "escm2_dr"}


def paper() -> Settings:
    """ESCM2-IPS with the CVR term at full weight, the upper end of the paper's range."""
    return {"objective.name": "escm2_ips", "objective.lambda_c": 1.0}


def clicks() -> Settings:
    """A click model for `--given propensities=RUN`: products of features, more epochs, the epoch chosen by CTR
    log-loss."""
    return {
        "objective.name": "naive",
        "objective.lambda_ctr": 10.0,
        "epochs": 6,
        "stop_metric": "ctr.log_loss",
        "optimizer.learning_rate": 0.003,
        "optimizer.embedding_learning_rate": 0.02,
        "model.crossing": "fm",
    }


def instruments() -> Settings:
    """For a log whose schema declares instruments, beside `--given propensities=RUN`: that model weighs clicks, and a
    hidden cause is modelled as far as its estimate is exact."""
    return {"objective.name": "escm2_joint_ips", "objective.lambda_c": 1.0, "objective.theta": "shrunk"}


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


def standard() -> Space:
    """Objective and its weights, clip, widths and rates: what decides most of a trained model."""
    return {
        **loss(),
        **rates(),
        "model.embedding_width": Choice((8, 16, 32)),
        "model.backbone.expert_hidden": Choice(("64,32", "128,64", "256,128")),
        "model.backbone.dropout": Uniform(0.0, 0.3),
    }


def network() -> Space:
    """Backbone, crossing and widths: what the network can express."""
    return {
        "model.backbone.name": Choice(("shared_bottom", "mmoe", "ple")),
        "model.crossing": Choice(("none", "fm", "dcn_v2")),
        "model.cross_rank": Choice((0, 16)),
        "model.embedding_width": Choice((8, 16, 32)),
        "model.backbone.expert_hidden": Choice(("64,32", "128,64", "256,128")),
    }


def loss() -> Space:
    """What is minimised: objective, weights of its terms, the propensities' clip (docs/math.md)."""
    return {
        "objective.name": Choice(("escm2_ips", "escm2_snips", "escm2_dr", "esmm")),
        "objective.lambda_c": LogUniform(0.05, 5.0),
        "objective.lambda_g": LogUniform(0.1, 10.0),
        "objective.clip": Choice(("auto", 0.003, 0.01, 0.03, 0.1)),
    }


def rates() -> Space:
    """Learning rates of the network and of the embedding table."""
    return {
        "optimizer.learning_rate": LogUniform(2e-4, 1e-2),
        "optimizer.embedding_learning_rate": LogUniform(5e-3, 0.5),
    }


PRESETS = named(default, doubly_robust, paper, clicks, instruments, small, wide)
SPACES = named(standard, network, loss, rates)
