"""A trained model applied to a log: probabilities of every exposure, one row group after the other.

funnel/tools.py: Scoring.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import torch

from data.encode import Encoder
from data.log import Log, Part
from data.reading import ordered_tables
from data.schema import Schema
from funnel.network import BatchNetwork
from funnel.problem import Given
from funnel.ranking.calibration import Calibration
from funnel.ranking.counts import predict
from funnel.tools import Scores
from models.objectives.terms import log_product

SCORES = ("pctr", "pcvr", "pctcvr")


def for_scoring(log: Log, trained: Schema, truth: bool = False) -> Log:
    """The log read with the trained model's features and labels, and the log's own keys and weights (and truth)."""
    own = log.schema
    schema = dataclasses.replace(
        trained,
        exposure=own.exposure,
        user=own.user,
        request=own.request,
        value=own.value,
        weight=own.weight,
        truth=own.truth if truth else None,
    )
    return dataclasses.replace(log, schema=schema)


def score_part(run: Given, log: Log, part: str, device: torch.device, raw: bool) -> Scores:
    """pctr, pcvr and pctcvr of a part beside labels and keys, calibrated unless `raw`."""
    calibration = None if raw else Calibration.load(run.directory, run.checksum)
    method = calibration.about.get("method", "none") if calibration else "none"
    log = for_scoring(log, run.problem.schema)
    rows, network = log.part(part), run.network.to(device)
    assert isinstance(network, BatchNetwork)
    return Scores(rows, score(network, log, rows, device, calibration), {"calibration": method})


def score(
    network: BatchNetwork, log: Log, part: Part, device: torch.device, calibration: Calibration | None = None
) -> Iterator[pa.Table]:
    """Tables of exposure_id, user, request (where the schema names them), click, conversion, pctr, pcvr, pctcvr, value,
    weight.

    One table a row group, read ahead: memory is flat in the number of rows.
    """
    schema = log.schema
    encoder = Encoder(schema)
    keys = {"exposure_id": schema.exposure, "user": schema.user, "request": schema.request}
    for table in ordered_tables(log, part, schema.all_columns):
        logits = predict(network, encoder.encode(table), device)
        if calibration is not None:
            logits = calibration.apply(logits)
        probabilities = {
            "pctr": logits["ctr"].sigmoid(),
            "pcvr": logits["cvr"].sigmoid(),
            "pctcvr": log_product(logits["ctr"], logits["cvr"]).exp(),
        }
        columns = {name: table.column(source) for name, source in keys.items() if source}
        for name in ("click", "conversion"):
            columns[name] = table.column(schema.labels[name]).cast(pa.int8())
        columns |= {name: pa.array(values.numpy().astype(np.float32)) for name, values in probabilities.items()}
        if schema.value:
            columns["value"] = table.column(schema.value).cast(pa.float32())
        if schema.weight:
            columns["weight"] = table.column(schema.weight).cast(pa.float32())
        yield pa.table(columns)
