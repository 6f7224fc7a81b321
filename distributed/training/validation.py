"""One pass of a model over a part, shared by all workers.

Truth, where the log has it, is joined here and nowhere else: no training step ever sees it.
"""

from contextlib import nullcontext

import numpy as np
import torch

from data.encode import Encoder
from data.log import Log, Part
from data.reading import ordered_tables
from distributed.tables.collectives import max_over_workers
from distributed.tables.placement import answering
from distributed.training.stopping import Interrupted, Stop
from funnel.figures.binary import BinaryMetrics
from funnel.ranking.calibration import Calibration
from funnel.ranking.counts import Evaluation, predict
from models.entire_space import EntireSpaceModel


def evaluate(
    model: EntireSpaceModel,
    log: Log,
    part: Part,
    clip: float,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
    truth: bool = False,
    calibration: Calibration | None = None,
    stop: Stop | None = None,
) -> Evaluation:
    """Evaluate on a part; workers share its row groups and all return the figures of the whole.

    `stop`: all workers raise stopping.Interrupted if one of them is to stop or cannot read on.
    """
    schema = log.schema
    known = log.truth(part) if truth and log.has_truth(part) else None
    columns = schema.columns + ([schema.exposure] if known is not None and schema.exposure else [])
    columns = list(dict.fromkeys(columns))
    encoder = Encoder(schema)
    evaluation = Evaluation(clip)
    if known is not None:
        evaluation.spaces["cvr.entire"] = BinaryMetrics()
    training = model.training
    model.eval()
    with answering(model), stop.reading() if stop else nullcontext():
        for table in ordered_tables(log, part, columns, rank, world_size):
            if stop and stop.code():
                break
            rows = encoder.encode(table)
            potential_B = None
            if known is not None:
                exposures = table.column(schema.exposure).to_numpy()
                potential_B = torch.from_numpy(known.potential_R[known.lookup(exposures)].astype(np.float32))
            logits = predict(model, rows, device)
            if calibration is not None:
                logits = calibration.apply(logits)
            evaluation.add(logits, torch.tensor(rows.click_R), torch.tensor(rows.conversion_R), potential_B)
    model.train(training)
    evaluation.merge(device)
    if stop and (code := int(max_over_workers(torch.tensor(float(stop.code()), device=device)))):
        raise Interrupted(code)
    return evaluation
