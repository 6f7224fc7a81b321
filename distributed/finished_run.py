"""What a finished training run leaves: its problem and its network, ready to use."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from data.errors import UserError
from data.schema import Schema
from distributed.checkpoint.read import MODEL, MODEL_DIRECTORY, check_tensors, facts_of, read_checkpoint
from distributed.config import TrainConfig
from funnel.problem import Given, Problem
from funnel.registry import DEFAULT_PROBLEM, find_problem
from funnel.settings import fields, read
from models.rows import EVERY_ROW


@dataclass(frozen=True)
class FinishedRun:
    """The best model of a run, in evaluation mode, and what it takes to use it."""

    problem: Problem
    network: nn.Module
    schema: Schema
    config: TrainConfig
    settings: Any
    """The problem's own."""
    directory: Path
    """Of the model's files."""
    checksum: str
    """Which model it is (distributed/checkpoint/read.py: model_checksum)."""

    @property
    def given(self) -> Given:
        """As a problem or a tool takes it."""
        return Given(self.problem, self.network, self.directory, self.checksum)


def load_run(run: Path) -> FinishedRun:
    """The best model of a finished training run.

    Raises UserError if the run is not finished, or its model is damaged or not what its problem says.
    """
    directory = run / MODEL_DIRECTORY
    if not directory.is_dir():
        raise UserError(f"{run}: holds no trained model (no {MODEL_DIRECTORY}/); is this a finished training run?")
    checkpoint = read_checkpoint(directory, with_optimizer=False)
    identity = checkpoint.identity
    schema = Schema.from_dict(identity["schema"], f"{directory}: schema")
    kind = find_problem(identity.get("problem", DEFAULT_PROBLEM))
    config, settings = split_config(identity["config"], kind.settings_type, f"{directory}: config")
    problem: Problem = kind(settings, schema, facts_of(identity), {})
    network = problem.network(EVERY_ROW, config.seed)
    check_tensors(checkpoint.model, network.state_dict(), directory / MODEL)
    network.load_state_dict(checkpoint.model)
    return FinishedRun(problem, network.eval(), schema, config, settings, directory, checkpoint.checksum)


def split_config(tree: dict[str, Any], settings_type: type, where: str = "") -> tuple[TrainConfig, Any]:
    """The settings of the training and those of the problem, which are kept as one object."""
    own = fields(settings_type)
    config = read(TrainConfig, {key: value for key, value in tree.items() if key not in own}, where)
    return config, read(settings_type, {key: value for key, value in tree.items() if key in own}, where)


def joined_config(config: TrainConfig, settings: Any) -> dict[str, Any]:
    """Both as one object."""
    return {**dataclasses.asdict(config), **dataclasses.asdict(settings)}
