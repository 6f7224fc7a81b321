"""What a finished training run leaves: its model, ready to use, and what it takes to judge it."""

from dataclasses import dataclass
from pathlib import Path

from data.schema import Schema
from distributed.checkpoint.read import MODEL, MODEL_DIRECTORY, check_tensors, read_checkpoint
from distributed.config import TrainConfig, from_dict
from funnel.ranking.calibration import Calibration
from funnel.ranking.network import build_model
from models.entire_space import EntireSpaceModel
from models.objectives.propensity import resolve_clip


@dataclass(frozen=True)
class Trained:
    """A finished training run: its model in evaluation mode, and what it takes to use and judge it."""

    model: EntireSpaceModel
    schema: Schema
    config: TrainConfig
    clip: float
    """What the objective raised propensities to."""
    calibration: Calibration | None


def load_run(run: Path) -> Trained:
    """The best model of a finished training run, with its calibration if it has one.

    Raises ValueError if the run is not finished, or its model or calibration is damaged, or is no funnel's.
    """
    directory = run / MODEL_DIRECTORY
    if not directory.is_dir():
        raise ValueError(f"{run}: holds no trained model (no {MODEL_DIRECTORY}/); is this a finished training run?")
    checkpoint = read_checkpoint(directory, with_optimizer=False)
    identity = checkpoint.identity
    schema = Schema.from_dict(identity["schema"], f"{directory}: schema")
    config = from_dict(TrainConfig, identity["config"])
    model = build_model(config, schema, tuple(identity["tasks"]))
    check_tensors(checkpoint.model, model.state_dict(), directory / MODEL)
    model.load_state_dict(checkpoint.model)
    absent = [task for task in ("ctr", "cvr") if task not in model.tasks]
    if absent:
        raise ValueError(f"{run}: its model has no task {absent[0]!r} (it has {', '.join(model.tasks)})")
    clip = resolve_clip(config.objective.clip, float(identity["click_rate"]))
    return Trained(model.eval(), schema, config, clip, Calibration.load(directory))


def load_model(run: Path) -> tuple[EntireSpaceModel, Schema]:
    """The model of `load_run` and the schema it was trained on."""
    trained = load_run(run)
    return trained.model, trained.schema
