"""What a training and a generation do on this machine's GPU, in under six minutes; without a GPU one line says so.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --device cpu --values 500 --steps 5    # the same code on a CPU: a check of the script

- Steps of the ranker in float32 and bfloat16 on batches that are on the device: rows/s.
- The embedding part alone (lookup, gradient by row, row-wise Adagrad) by the bytes that it has to move, as a share of
  what a copy of a large tensor moves on the same device.
- Parity: the same float32 training on the CPU and on the device; losses of every step and the weights at the end.
- The collectives of a training in a process group of one (NCCL on a GPU, Gloo on a CPU): each gives back what was sent.
- A generation of evolution strategies whose objective is computed on the device, against the same on the CPU.

The case is that of benchmarks/training/peers.py. Ends with 1 if parity, a collective or a generation is not right.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
import tyro
from torch import Tensor

from benchmarks.bench import markdown, write_result
from benchmarks.training.peer import synthetic
from benchmarks.training.peers import BATCH, FIELDS, WIDTH
from data.schema import CategoricalField, Schema
from distributed.config import TrainConfig
from distributed.context import Context
from distributed.training.learner import Learner
from distributed.training.optimizers import RowAdagrad
from es.config import ESConfig
from es.engine import run
from funnel.batch import Batch
from funnel.ranking.problem import EntireSpace, EntireSpaceSettings
from models.embedding import EmbeddingTable
from models.registry import find_objective

LOSS_TOLERANCE, WEIGHT_TOLERANCE, RETURN_TOLERANCE = 1e-4, 1e-3, 1e-4
HIDDEN, EXAMPLES = 32, 1024  # of the network that is evolved, and the rows that it is judged on


@dataclass
class Arguments:
    device: Literal["cuda", "cpu"] = "cuda"
    """cpu runs the whole script without a GPU and writes no result."""
    values: int = 87_000
    """Distinct values of each of the 23 fields."""
    steps: int = 40
    """Steps that are timed, and that parity is judged after."""
    pairs: int = 512
    """Pairs of the generation."""


def main(arguments: Arguments) -> int:
    """Measure, print the table, write the result file of a GPU; 1 if something is not right."""
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here: nothing was measured (--device cpu runs the same code on the CPU)")
        return 0
    device = torch.device(arguments.device)
    batches = make_batches(arguments.values)
    figures: dict[str, Any] = {"device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu"}
    for precision in ("float32", "bfloat16"):
        figures[f"rows_per_s.{precision}"] = training_rate(arguments, batches, precision, device)
    figures |= embedding(arguments, batches, device)
    figures |= parity(arguments, batches, device)
    figures |= collectives(device)
    figures |= generation(arguments.pairs, device)
    limits = {"parity.loss": LOSS_TOLERANCE, "parity.weights": WEIGHT_TOLERANCE, "es.returns": RETURN_TOLERANCE}
    wrong = [f"{name} is {figures[name]:.2g}, more than {most}" for name, most in limits.items()
             if not figures[name] <= most]  # fmt: skip
    wrong += [f"{name}: not what was sent" for name, right in figures["collectives"].items() if not right]
    table = markdown(["figure", "value"], [[name, shown(value)] for name, value in figures.items()])
    if device.type == "cuda":
        write_result("gpu", {"figures": figures, "wrong": wrong}, table)
    else:
        print(table)
    for line in wrong:
        print(f"wrong: {line}")
    return 1 if wrong else 0


def shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {'right' if right else 'WRONG'}" for name, right in value.items())
    return f"{value:,.4g}" if isinstance(value, float) and value < 1000 else f"{value:,.0f}" if isinstance(
        value, float) else str(value)  # fmt: skip


def make_batches(values: int, number: int = 8) -> list[Batch]:
    ids, labels = synthetic(BATCH * number, FIELDS, values, 0)
    ids += np.arange(FIELDS) * (values + 1) + 1  # row 0 of each field stands for a missing value
    return [
        Batch(
            torch.from_numpy(ids[part]),
            torch.zeros(BATCH, 0),
            {name: torch.from_numpy(labels[part, k].copy()) for k, name in enumerate(("click", "conversion"))},
        )
        for part in (slice(start, start + BATCH) for start in range(0, len(ids), BATCH))
    ]


def make_learner(values: int, precision: str, device: torch.device) -> Learner:
    fields = tuple(CategoricalField(f"f{k:02}", "hash", values) for k in range(FIELDS))
    schema = Schema(name="gpu", categorical=fields, numeric=(), labels={"click": "click", "conversion": "conversion"})
    settings = EntireSpaceSettings()
    tasks = list(find_objective(settings.objective.name).tasks)
    problem: Any = EntireSpace(settings, schema, {"tasks": tasks, "click_rate": 0.1, "conversion_rate": 0.1})
    learner = Learner(problem, TrainConfig(batch_size=BATCH, precision=precision), Context(device=device), 1000)
    learner.network.train()
    return learner


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds_of(work: Callable[[int], object], times: int, device: torch.device, warm: int = 3) -> float:
    """Median seconds of work(0), work(1), ..., each waited for."""
    taken = []
    for number in range(warm + times):
        began = time.perf_counter()
        work(number)
        wait(device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[warm:])


def training_rate(arguments: Arguments, batches: list[Batch], precision: str, device: torch.device) -> float:
    learner = make_learner(arguments.values, precision, device)
    own = [batch.to(device) for batch in batches]
    return BATCH / seconds_of(lambda n: learner.step(own[n % len(own)], n), arguments.steps, device)


def embedding(arguments: Arguments, batches: list[Batch], device: torch.device) -> dict[str, float]:
    """ms of lookup, gradient by row and Adagrad, and the bandwidth that its least bytes amount to."""
    table = EmbeddingTable(FIELDS * (arguments.values + 1), WIDTH).to(device).train()
    optimizer = RowAdagrad(table.weight, 0.05)
    ids = [batch.ids_BK.reshape(-1).to(device) for batch in batches]
    gradient_RE = torch.randn(len(ids[0]), WIDTH, device=device)

    def work(number: int) -> None:
        table(ids[number % len(ids)]).backward(gradient_RE)
        assert table.touched is not None
        touched = table.touched
        optimizer.step(table.weight, touched.ids_U, touched.gradient(), touched.vectors_UE.detach())

    seconds = seconds_of(work, arguments.steps, device)
    looked_up, distinct = len(ids[0]), statistics.mean(len(torch.unique(own)) for own in ids)
    # ids; distinct rows read and all written; gradients of all read; of the distinct ones rows and accumulators moved
    moved = looked_up * 8 + (distinct + 2 * looked_up) * 4 * WIDTH + distinct * (8 * WIDTH + 8)
    large = torch.zeros((256 if device.type == "cuda" else 16) * 2**20, device=device)
    target = torch.empty_like(large)
    copied = 2 * large.numel() * 4 / seconds_of(lambda _: target.copy_(large), 10, device)
    return {
        "embedding.ms": 1e3 * seconds,
        "embedding.distinct_rows": float(distinct),
        "embedding.gb_per_s": moved / seconds / 1e9,
        "copy.gb_per_s": copied / 1e9,
        "embedding.share_of_bandwidth": moved / seconds / copied,
    }


def parity(arguments: Arguments, batches: list[Batch], device: torch.device) -> dict[str, float]:
    """The largest relative difference of a step's loss, and of a tensor of weights (by its largest value)."""
    learners = [make_learner(arguments.values, "float32", where) for where in (torch.device("cpu"), device)]
    worst = 0.0
    for step in range(arguments.steps):
        batch = batches[step % len(batches)]
        here, there = (float(own.step(batch.to(own.context.device), step)["loss"]) for own in learners)
        worst = max(worst, abs(here - there) / abs(here))
    states = [own.network.state_dict() for own in learners]
    apart = [relative(own.double(), states[1][name].cpu().double()) for name, own in states[0].items() if own.numel()]
    return {"parity.loss": worst, "parity.weights": max(apart), "parity.last_loss": here}


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / ours.abs().max().clamp(min=1e-12))


def collectives(device: torch.device) -> dict[str, Any]:
    """Every collective of a training, called in a group of one."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    values = torch.arange(12.0, device=device).view(6, 2)
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(backend, init_method=f"file://{Path(folder) / 'group'}", rank=0, world_size=1)
        try:
            found = {}
            for name, operation in (("sum", dist.ReduceOp.SUM), ("max", dist.ReduceOp.MAX)):
                own = values.clone()
                dist.all_reduce(own, op=operation)
                found[f"all_reduce {name}"] = torch.equal(own, values)
            for name, gather in (("all_gather_single", True), ("all_to_all_single", False)):
                own = torch.empty_like(values)
                dist.all_gather_single(own, values) if gather else dist.all_to_all_single(own, values, [6], [6])
                found[name] = torch.equal(own, values)
            objects, box = [None], [{"step": 1}]
            dist.all_gather_object(objects, "word")
            dist.broadcast_object_list(box, src=0)
            found["objects"] = objects == ["word"] and box == [{"step": 1}]
            large = torch.zeros(2**20, device=device)
            seconds = seconds_of(lambda _: dist.all_reduce(large), 20, device)
        finally:
            dist.destroy_process_group()
    return {"backend": backend, "collectives": found, "all_reduce_4mib_ms": 1e3 * seconds}


class Regression:
    """Fit a fixed function by a network of one hidden layer, all candidates of a call at once on a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        generator = torch.Generator().manual_seed(0)
        self.x_RI = torch.randn(EXAMPLES, 8, generator=generator)
        self.y_R = torch.sin(self.x_RI.sum(1)).to(device)
        self.x_RI = self.x_RI.to(device)

    def initial(self) -> np.ndarray:
        return 0.1 * np.random.default_rng(0).standard_normal(10 * HIDDEN).astype(np.float32)

    def describe(self) -> dict[str, Any]:
        return {"objective": "regression", "hidden": HIDDEN}

    def evaluate_batch(self, theta_PD: np.ndarray, seeds_P: np.ndarray) -> np.ndarray:
        theta = torch.tensor(theta_PD, device=self.device)
        first_PIH = theta[:, : 8 * HIDDEN].view(-1, 8, HIDDEN)
        bias_P1H, last_PH1 = theta[:, 8 * HIDDEN : 9 * HIDDEN].unsqueeze(1), theta[:, 9 * HIDDEN :].unsqueeze(2)
        hidden_PRH = torch.tanh(self.x_RI @ first_PIH + bias_P1H)
        error_PR = (hidden_PRH @ last_PH1).squeeze(2) - self.y_R
        return -error_PR.square().mean(1).double().cpu().numpy()


def generation(pairs: int, device: torch.device, generations: int = 6) -> dict[str, float]:
    """Seconds of a generation here and on the CPU, and how far the first one's mean return is from the CPU's."""
    found = {}
    for name, where in (("cpu", torch.device("cpu")), ("device", device)):
        result = run(Regression(where), ESConfig(pairs=pairs, generations=generations, seed=1))
        taken = [line["seconds"] for line in result.history[1:]]
        found[name] = (1e3 * statistics.median(taken), result.history[0]["return.mean"])
    (cpu_ms, cpu_return), (device_ms, device_return) = found["cpu"], found["device"]
    return {
        "es.generation_ms": device_ms,
        "es.generation_ms_cpu": cpu_ms,
        "es.returns": abs(device_return - cpu_return) / abs(cpu_return),
    }


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
