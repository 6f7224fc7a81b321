"""What each way of pooling a list costs in a training step, and what it lets a model see.

    python -m benchmarks.training.list_pooling --seeds 3

Cost: a step of the default model (4096 rows, 11 id fields, a history of up to 50 items) in CPU-milliseconds of one
thread. Sight: a row shows an item and a history of 8; the label is whether the history holds an item of the same group.
With groups of one item that is the item itself; with groups of ten the embedding has to find the groups as well.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch count cores

import dataclasses
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional

from benchmarks.bench import markdown, write_result
from benchmarks.settings import training
from data.fields import POOLINGS, WEIGHED, Many
from data.generate import generate_log
from data.log import open_log
from data.schema import Schema
from data.world import GeneratedLog
from distributed.context import CPU, Context
from distributed.input.stream import TrainStream
from distributed.tables.placement import embedding_tables
from distributed.training.optimizers import build_row_optimizer
from funnel.batch import Batch
from funnel.ranking.problem import EntireSpace, EntireSpaceSettings
from models.backbones.base import BackboneConfig
from models.embedding import FieldOptions
from models.entire_space import EntireSpaceModel, ModelConfig
from models.pooling import BagTensors

ROWS, BATCH, EPOCHS, HISTORY = 40_000, 256, 3, 8
GROUPS = {"the item shown is in the history": (20, 20), "an item of its group is": (200, 20)}


@dataclass
class Arguments:
    seeds: int = 3
    """Data and initialisations of the second table."""
    steps: int = 12
    """Steps timed for the first table; the fastest counts."""


class Training:
    """A model with Adam and row-wise Adagrad, trained on clicks alone."""

    def __init__(self, model: EntireSpaceModel, rate: float) -> None:
        self.model, self.optimizer = model, torch.optim.Adam(model.parameters(), rate)
        self.tables = [
            (table, build_row_optimizer("adagrad", table.weight, 0.05)) for table in embedding_tables(model).values()
        ]

    def step(self, ids_BK: Tensor, numeric_BN: Tensor, bags: list[BagTensors], click_B: Tensor) -> None:
        self.optimizer.zero_grad()
        click_logit_B = self.model.logits(ids_BK, numeric_BN, bags)["ctr"]
        functional.binary_cross_entropy_with_logits(click_logit_B, click_B).backward()
        self.optimizer.step()
        for table, rows in self.tables:
            assert table.touched is not None
            rows.step(table.weight, table.touched.ids_U, table.touched.gradient())


def cost(schema: Schema, facts: dict[str, Any], batches: list[Batch]) -> float:
    """CPU-milliseconds of the fastest step; the batches keep their lists only if the schema has any."""
    network = EntireSpace(EntireSpaceSettings(), schema, facts).network()
    training, best = Training(network, 1e-3), float("inf")
    for batch in batches:
        start = time.process_time()
        bags = list(batch.bags) if schema.many else []
        training.step(batch.ids_BK, batch.numeric_BN, bags, batch.labels["click"])
        best = min(best, time.process_time() - start)
    return 1000 * best


def costs(steps: int) -> tuple[dict[str, float], float]:
    """Cost by pooling, and the mean number of values of a row."""
    with tempfile.TemporaryDirectory() as folder:
        generate_log(GeneratedLog(world="aligned", rows=100_000, history=50), Path(folder) / "log")
        log = open_log(Path(folder) / "log")
        job = training(Path("/nowhere"), log, {"batch_size": 4096})
        sizes = job.sizes["train"]
        stream = TrainStream(job.open_problem(CPU), log, job.parts["train"], sizes, job.config, Context())
        batches = [batch for batch, _ in zip(stream.epoch(0), range(steps), strict=False)]
    found = {"no list": cost(dataclasses.replace(log.schema, categorical=log.schema.single), job.facts, batches)}
    (history,) = log.schema.many
    for pooling in POOLINGS:
        many = Many(pooling, 50, "item_id" if pooling in WEIGHED else None)
        pooled = dataclasses.replace(history, many=many)
        fields = tuple(pooled if field is history else field for field in log.schema.categorical)
        found[pooling] = cost(dataclasses.replace(log.schema, categorical=fields), job.facts, batches)
    return found, statistics.mean(len(batch.bags[0].ids_S) / len(batch) for batch in batches)


def sight(pooling: str, items: int, groups: int, seed: int) -> float:
    """AUC on rows that were not trained on."""
    rng = torch.Generator().manual_seed(seed)
    item_R = torch.randint(0, items, (ROWS + 10_000,), generator=rng)
    past_RL = torch.randint(0, items, (ROWS + 10_000, HISTORY), generator=rng)
    label_R = (past_RL % groups == (item_R % groups).unsqueeze(1)).any(1).float()
    config = ModelConfig(embedding_scale=0.3, backbone=BackboneConfig(name="shared_bottom", expert_hidden=(64,)))
    options = (FieldOptions(), FieldOptions(owner=0, pooling=pooling, query=0 if pooling in WEIGHED else None))
    model = EntireSpaceModel(config, (items, 0), 0, ("ctr",), seed, options=options)
    training = Training(model, 2e-3)

    def inputs(rows: slice) -> tuple[Tensor, Tensor, list[BagTensors]]:
        past_BL = past_RL[rows]
        bags = [BagTensors(past_BL.reshape(-1), torch.arange(len(past_BL) + 1) * HISTORY)]
        return item_R[rows].unsqueeze(1), torch.zeros(len(past_BL), 0), bags

    for _ in range(EPOCHS):
        for begin in range(0, ROWS, BATCH):
            rows = slice(begin, min(begin + BATCH, ROWS))
            training.step(*inputs(rows), label_R[rows])
    model.eval()
    with torch.no_grad():
        return float(roc_auc_score(label_R[ROWS:], model.logits(*inputs(slice(ROWS, None)))["ctr"]))


def main(arguments: Arguments) -> None:
    """Measure both and write the tables."""
    torch.set_num_threads(1)
    milliseconds, values = costs(arguments.steps)
    rows: list[list[Any]] = [[name, f"{value:.1f}"] for name, value in milliseconds.items()]
    tables = f"A step of 4096 rows with {values:.1f} values each, the fastest of {arguments.steps}.\n\n"
    tables += markdown(["pooling", "CPU ms"], rows)
    auc = {
        pooling: {
            name: [sight(pooling, *shape, seed) for seed in range(arguments.seeds)] for name, shape in GROUPS.items()
        }
        for pooling in POOLINGS
    }
    tables += f"\nAUC after {EPOCHS} passes over {ROWS:,} rows: mean (range) of {arguments.seeds} seeds.\n\n"
    lines = [
        [pooling, *(f"{statistics.mean(a):.3f} ({min(a):.3f} to {max(a):.3f})" for a in by_name.values())]
        for pooling, by_name in auc.items()
    ]
    tables += markdown(["pooling", *GROUPS], lines)
    write_result("list-pooling", {"cpu_ms": milliseconds, "values_per_row": values, "auc": auc}, tables)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
