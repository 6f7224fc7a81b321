"""Named settings of the engine, and where jobs.tune searches for better ones; a tunable's own come beside them."""

from typing import Any

from funnel.spaces import Choice, LogUniform, Presets, Space, Spaces, named

Settings = dict[str, Any]


def default() -> Settings:
    """The defaults of every setting."""
    return {}


def cautious() -> Settings:
    """Small perturbations, many of them, small steps: for a policy in use that should not move far."""
    return {"sigma": 0.03, "pairs": 128, "learning_rate": 0.02}


def separable() -> Settings:
    """SNES: a sigma of its own for every weight, for scores of very different scales."""
    return {"algorithm": "snes", "sigma": 0.2}


def evolution_strategy() -> Settings:
    """PGPE with ClipUp, as Toklu et al. 2020 run it: steps of bounded length."""
    return {"algorithm": "pgpe", "optimizer": "clipup", "learning_rate": 0.05}


def standard() -> Space:
    """Size of the perturbations, pairs of candidates in a generation, step size, decay of theta towards 0."""
    return {
        "sigma": LogUniform(0.01, 1.0),
        "pairs": Choice((16, 32, 64, 128)),
        "learning_rate": LogUniform(0.005, 0.5),
        "weight_decay": Choice((0.0, 0.001, 0.01, 0.1)),
    }


PRESETS: Presets = named(default, cautious, separable, evolution_strategy)
SPACES: Spaces = named(standard)
