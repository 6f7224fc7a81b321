"""A training that begins with the weights of a run for fewer features: they are written as a model of all of them."""

from pathlib import Path

import torch

from distributed.checkpoint.read import Progress, State
from distributed.checkpoint.rows import RowTensor
from distributed.checkpoint.store import CheckpointStore
from distributed.finished_run import load_run
from distributed.tables.placement import embedding_tables
from distributed.training.job import TrainJob
from funnel.growth import grow
from funnel.network import BatchNetwork
from models.rows import EVERY_ROW

BEGINNING = "beginning"


def grown_model(job: TrainJob, run: Path) -> Path:
    """RUN/beginning: the model of the finished `run`, with this job's features beside its own.

    Both models are held in memory here, tables and all.
    """
    before = load_run(run)
    network = job.open_problem(torch.device("cpu")).network(EVERY_ROW, job.config.seed)
    assert isinstance(before.network, BatchNetwork)
    assert isinstance(network, BatchNetwork)
    grow(before.network, before.schema, network, job.schema)
    tables = embedding_tables(network)
    state = State({name: tensor for name, tensor in network.state_dict().items() if name not in tables})
    state.rows.update({name: RowTensor(table.weight, table.rows, EVERY_ROW) for name, table in tables.items()})
    directory = Path(job.run) / BEGINNING
    with CheckpointStore(Path(job.run) / "checkpoints", background=False) as store:
        store.save_as(directory, state, Progress(), job.identity())
    return directory
