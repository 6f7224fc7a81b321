"""Names -> parts. A new backbone or objective is one file and one line here."""

from collections.abc import Mapping
from typing import TypeVar

from models.backbones.base import Backbone, BackboneConfig
from models.backbones.cgc import CGC
from models.backbones.mmoe import MMoE
from models.backbones.omoe import OMoE
from models.backbones.ple import PLE
from models.backbones.shared_bottom import SharedBottom
from models.objectives.base import Objective, ObjectiveConfig
from models.objectives.escm2_dr import Escm2Dr
from models.objectives.escm2_ips import Escm2Ips
from models.objectives.esmm import Esmm
from models.objectives.naive import Naive

BACKBONES: dict[str, type[Backbone]] = {
    "shared_bottom": SharedBottom,
    "omoe": OMoE,
    "mmoe": MMoE,
    "cgc": CGC,
    "ple": PLE,
}

OBJECTIVES: dict[str, type[Objective]] = {
    "naive": Naive,
    "esmm": Esmm,
    "escm2_ips": Escm2Ips,
    "escm2_dr": Escm2Dr,
}

Part = TypeVar("Part")


def lookup(parts: Mapping[str, Part], name: str, kind: str) -> Part:
    """parts[name]; a ValueError that lists the valid names if there is none."""
    if name not in parts:
        raise ValueError(f"unknown {kind} {name!r}; valid: {', '.join(sorted(parts))}")
    return parts[name]


def build_backbone(config: BackboneConfig, inputs: int, tasks: int) -> Backbone:
    return lookup(BACKBONES, config.name, "backbone")(inputs, tasks, config)


def build_objective(config: ObjectiveConfig, click_rate: float) -> Objective:
    """`click_rate` of the training part decides what `clip: auto` means."""
    return lookup(OBJECTIVES, config.name, "objective")(config, click_rate)
