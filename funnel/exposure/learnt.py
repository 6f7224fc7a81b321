"""Learnt shares from a run directory, for the platform: a forest that jobs.fit has fitted, or a policy that jobs.train
--problem joint_shares has trained. Arrays and JSON, no code."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.numpy import load_file

from data.errors import UserError
from data.schema import Schema
from funnel.exposure.fitted import ExposureForest
from funnel.exposure.joint import JointModule, JointProblem, JointSettings
from funnel.settings import fields, read


class Learnt(Protocol):
    @property
    def categories(self) -> tuple[str, ...]: ...
    def shares(self, features_UF: np.ndarray) -> np.ndarray:
        """(U, K), each row sums to 1."""


@dataclass(frozen=True)
class JointPolicy:
    """A trained policy as the platform asks for it."""

    problem: JointProblem
    network: JointModule

    @property
    def categories(self) -> tuple[str, ...]:
        return self.problem.categories

    def shares(self, features_UF: np.ndarray) -> np.ndarray:
        return self.problem.shares(self.network, features_UF)


def read_learnt(run: Path) -> Learnt:
    """Raises UserError for a directory that holds no learnt shares."""
    model = run / "model"
    if (model / "checkpoint.json").exists():
        return trained(model)
    record, arrays = stored(run, "model.json", "arrays.safetensors")
    if record.get("system") != ExposureForest.name:
        raise UserError(f"{run}: a model of {record.get('system')!r}, not of {ExposureForest.name}")
    settings: Any = read(ExposureForest.settings_type, record["settings"], str(model / "model.json"))
    return ExposureForest.restore(settings, arrays, record["facts"])


def trained(model: Path) -> JointPolicy:
    """The best weights of a training, which has no tables."""
    record, arrays = stored(model.parent, "checkpoint.json", "model.safetensors")
    if record.get("problem") != JointProblem.name:
        raise UserError(f"{model.parent}: a training of {record.get('problem')!r}, not of {JointProblem.name}")
    own = fields(JointSettings)
    tree = {key: value for key, value in record["config"].items() if key in own}
    schema = Schema.from_dict(record["schema"], f"{model}: schema")
    problem = JointProblem(read(JointSettings, tree, f"{model}: config"), schema, record["facts"])
    network = problem.network()
    try:
        network.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
    except RuntimeError as error:
        raise UserError(f"{model}: not the weights of its settings ({str(error).splitlines()[-1].strip()})") from None
    return JointPolicy(problem, network.eval())


def stored(run: Path, facts: str, arrays: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        return json.loads((run / "model" / facts).read_text()), load_file(run / "model" / arrays)
    except OSError as error:
        raise UserError(f"{run}: holds no learnt shares ({error.strerror}: {error.filename})") from None
    except Exception as error:  # safetensors has errors of its own
        raise UserError(f"{run}/model: not readable ({str(error).splitlines()[0]})") from None
