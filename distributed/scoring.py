"""A trained model applied to a log: probabilities of every exposure, row group by row group."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from data.encode import Encoder
from data.log import Log, Part
from data.schema import Schema
from distributed.calibration import Calibration
from distributed.checkpoint import MODEL, check_tensors, read_checkpoint
from distributed.config import TrainConfig, from_dict
from distributed.evaluation import predict
from distributed.stream import ordered_tables
from distributed.train_loop import MODEL_DIRECTORY
from distributed.training_step import build_model
from models.entire_space import EntireSpaceModel
from models.objectives.propensity import resolve_clip
from models.objectives.terms import log_product

SCORES = ("pctr", "pcvr", "pctcvr")


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


def for_scoring(log: Log, trained: Schema, truth: bool = False) -> Log:
    """The log read with the trained model's features and labels, and the log's own keys (and truth) beside them."""
    own = log.schema
    schema = dataclasses.replace(
        trained,
        exposure=own.exposure,
        user=own.user,
        request=own.request,
        value=own.value,
        weight=None,
        truth=own.truth if truth else None,
    )
    return dataclasses.replace(log, schema=schema)


def score(
    model: EntireSpaceModel, log: Log, part: Part, device: torch.device, calibration: Calibration | None = None
) -> Iterator[pa.Table]:
    """Tables of exposure_id, user, request (where the schema names them), click, conversion, pctr, pcvr, pctcvr, value.

    One table a row group, read ahead: memory is flat in the number of rows.
    """
    schema = log.schema
    encoder = Encoder(schema)
    keys = {"exposure_id": schema.exposure, "user": schema.user, "request": schema.request}
    for table in ordered_tables(log, part, schema.all_columns):
        logits = predict(model, encoder.encode(table), device)
        if calibration is not None:
            logits = calibration.apply(logits)
        probabilities = {
            "pctr": logits["ctr"].sigmoid(),
            "pcvr": logits["cvr"].sigmoid(),
            "pctcvr": log_product(logits["ctr"], logits["cvr"]).exp(),
        }
        columns = {name: table.column(source) for name, source in keys.items() if source}
        for name, source in (("click", schema.click), ("conversion", schema.conversion)):
            columns[name] = table.column(source).cast(pa.int8())
        columns |= {name: pa.array(values.numpy().astype(np.float32)) for name, values in probabilities.items()}
        if schema.value:
            columns["value"] = table.column(schema.value).cast(pa.float32())
        yield pa.table(columns)
