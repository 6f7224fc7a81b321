"""What the embedding's part of a step costs: lookup, gradient by row and row-wise Adagrad; now, before, and by fbgemm.

    python -m benchmarks.training.row_kernel
    PYTHON -m benchmarks.training.row_kernel      # of an environment that has fbgemm-gpu-cpu besides

23 id fields, batches of 4096, width 16, one thread, CPU seconds of that thread, all ways in turn in every repeat.
`index operations` is what models/row_kernels.py took the place of: torch.unique, index_select and its own gradient, and
the optimizer over all rows at once. All ways must move the table alike, within 1e-6 of its rate.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from torch import Tensor

from benchmarks.bench import markdown, write_result
from benchmarks.gpu import make_batches
from benchmarks.training.peers import BATCH, FIELDS, WIDTH
from distributed.training.optimizers import RowAdagrad
from models.embedding import EmbeddingTable

RATE, EPS, TOLERANCE = 0.05, 1e-10, 1e-4  # the tolerance is of a step, for several of them
Way = Callable[[Tensor, Tensor], None]


@dataclass
class Arguments:
    values: tuple[int, ...] = (8_700, 87_000, 870_000)
    """Distinct values of each of the 23 fields."""
    repeats: int = 15


def ours(start_NE: Tensor) -> tuple[Way, Tensor]:
    table = EmbeddingTable(len(start_NE), WIDTH).train()
    table.weight.copy_(start_NE)
    optimizer = RowAdagrad(table.weight, RATE, eps=EPS)

    def step(ids_R: Tensor, gradient_RE: Tensor) -> None:
        table(ids_R).backward(gradient_RE)
        assert table.touched is not None
        touched = table.touched
        optimizer.step(table.weight, touched.ids_U, touched.gradient(), touched.vectors_UE.detach())

    return step, table.weight


def index_operations(start_NE: Tensor) -> tuple[Way, Tensor]:
    weight_NE, total_N = start_NE.clone(), torch.zeros(len(start_NE))

    def step(ids_R: Tensor, gradient_RE: Tensor) -> None:
        ids_U, position_R = torch.unique(ids_R, return_inverse=True)
        vectors_UE = weight_NE.index_select(0, ids_U).requires_grad_()
        vectors_UE.index_select(0, position_R).backward(gradient_RE)
        gradient_UE = vectors_UE.grad
        assert gradient_UE is not None
        total_U = total_N.index_select(0, ids_U).add_(gradient_UE.square().mean(1))
        total_N.scatter_(0, ids_U, total_U)
        factor_U1 = total_U.sqrt_().add_(EPS).reciprocal_().unsqueeze(1)
        weight_NE.index_copy_(0, ids_U, torch.addcmul(vectors_UE.detach(), gradient_UE, factor_U1, value=-RATE))

    return step, weight_NE


def fbgemm(start_NE: Tensor) -> tuple[Way, Tensor]:
    """Its table with the optimizer inside backward; ids lie field by field there."""
    from fbgemm_gpu import split_table_batched_embeddings_ops_training as training  # type: ignore[import-not-found]

    place = (len(start_NE), WIDTH, training.EmbeddingLocation.HOST, training.ComputeDevice.CPU)
    table = training.SplitTableBatchedEmbeddingBagsCodegen(
        [place], feature_table_map=[0] * FIELDS, optimizer=training.OptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=RATE, eps=EPS,
    )  # fmt: skip
    weight_NE = table.split_embedding_weights()[0]
    weight_NE.copy_(start_NE)
    begin_R1 = torch.arange(BATCH * FIELDS + 1)
    turned: dict[int, Tensor] = {}

    def step(ids_R: Tensor, gradient_RE: Tensor) -> None:
        if ids_R.data_ptr() not in turned:
            turned[ids_R.data_ptr()] = ids_R.view(BATCH, FIELDS).t().reshape(-1)
        table(turned[ids_R.data_ptr()], begin_R1).backward(gradient_RE.view(BATCH, FIELDS * WIDTH))

    return step, weight_NE


def main(arguments: Arguments) -> None:
    torch.set_num_threads(1)
    ways: dict[str, Callable[[Tensor], tuple[Way, Tensor]]] = {"ours": ours, "index operations": index_operations}
    try:
        import fbgemm_gpu  # noqa: F401
    except ImportError:
        print("fbgemm-gpu-cpu is not installed: two ways are timed")
    else:
        ways["fbgemm"] = fbgemm
    rows, found = list[list[Any]](), dict[str, Any]()
    for values in arguments.values:
        batches = [batch.ids_BK.reshape(-1) for batch in make_batches(values, 6)]
        gradient_RE = 1e-3 * torch.randn(BATCH * FIELDS, WIDTH, generator=torch.Generator().manual_seed(0))
        start_NE = 0.01 * torch.randn(FIELDS * (values + 1), WIDTH, generator=torch.Generator().manual_seed(1))
        made = {name: make(start_NE) for name, make in ways.items()}
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for repeat in range(-2, arguments.repeats):
            for name, (step, _) in made.items():
                began = time.thread_time()
                step(batches[repeat % 6], gradient_RE)
                if repeat >= 0:
                    taken[name].append(1e3 * (time.thread_time() - began))
        for name, (_, weight_NE) in made.items():
            apart = float((weight_NE - made["ours"][1]).abs().max()) / RATE
            assert apart < TOLERANCE, f"{name} moves the table otherwise: {apart:.2g} of a step"
            median, least, most = statistics.median(taken[name]), min(taken[name]), max(taken[name])
            size = f"{len(weight_NE) / 1e6:.3g} M"
            rows.append([size, name, f"{median:.1f}", f"{least:.1f} to {most:.1f}", f"{apart:.1g}"])
            found[f"{values} {name}"] = {"cpu_ms": taken[name], "apart": apart}
    header = ["table rows", "way", "CPU ms a step", "range", "largest difference, in steps"]
    write_result("row-kernel", {"runs": found}, markdown(header, rows))


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
