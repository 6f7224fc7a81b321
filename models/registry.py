"""Names -> parts. A new backbone or objective is one file and one line here; an objective may also stay outside."""

import importlib
from collections.abc import Mapping
from typing import TypeVar

from data.errors import UserError
from models.backbones.base import Backbone, BackboneConfig
from models.backbones.cgc import CGC
from models.backbones.mmoe import MMoE
from models.backbones.omoe import OMoE
from models.backbones.ple import PLE
from models.backbones.shared_bottom import SharedBottom
from models.objectives.base import Objective, ObjectiveConfig
from models.objectives.escm2_dr import Escm2Dr
from models.objectives.escm2_ips import Escm2Ips
from models.objectives.escm2_joint import Escm2Joint
from models.objectives.escm2_joint_ips import Escm2JointIps
from models.objectives.escm2_mrdr import Escm2Mrdr
from models.objectives.escm2_snips import Escm2Snips
from models.objectives.esmm import Esmm
from models.objectives.mtl_imp import MtlImp
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
    "mtl_imp": MtlImp,
    "esmm": Esmm,
    "escm2_ips": Escm2Ips,
    "escm2_snips": Escm2Snips,
    "escm2_dr": Escm2Dr,
    "escm2_mrdr": Escm2Mrdr,
    "escm2_joint": Escm2Joint,
    "escm2_joint_ips": Escm2JointIps,
}

Part = TypeVar("Part")


def lookup(parts: Mapping[str, Part], name: str, kind: str) -> Part:
    """parts[name]; a UserError that lists the valid names if there is none."""
    if name not in parts:
        raise UserError(f"unknown {kind} {name!r}; valid: {', '.join(sorted(parts))}")
    return parts[name]


def build_backbone(config: BackboneConfig, inputs: int, tasks: int) -> Backbone:
    return lookup(BACKBONES, config.name, "backbone")(inputs, tasks, config)


def find_objective(name: str) -> type[Objective]:
    """The objective of that name, or the class that "my.module:Class" (or "my/module.py:Class") names.

    Such a module is found from where Python looks, which includes the root that a run was started from; workers look
    in the same places. Raises UserError if there is no such name, module or class, or the class is no Objective.
    """
    place, colon, attribute = name.rpartition(":")
    if not colon:
        return lookup(OBJECTIVES, name, "objective")
    try:
        found = getattr(importlib.import_module(place.removesuffix(".py").replace("/", ".")), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"objective {name!r}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Objective)):
        raise UserError(f"objective {name!r}: {attribute} is no subclass of models.objectives.base.Objective")
    return found


def build_objective(config: ObjectiveConfig, click_rate: float) -> Objective:
    """`click_rate` of the training part decides what `clip: auto` means."""
    return find_objective(config.name)(config, click_rate)
