"""What workers tell each other; with one worker (or no process group) every function is the identity.

Shapes: U distinct table rows of this worker's batch, V of all workers' together, E width, W workers.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

sent: Counter[str] = Counter()
"""Bytes of table rows that this process has handed to others: "ids", "rows" (vectors and gradients), "counts"."""


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_workers(tensor: Tensor) -> Tensor:
    """In place: the sum over all workers, the same bits on each."""
    if world_size() > 1:
        dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
    return tensor


def max_over_workers(tensor: Tensor) -> Tensor:
    """In place: the elementwise maximum over all workers."""
    if world_size() > 1:
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor


def sum_gradients(parameters: Sequence[Tensor]) -> None:
    """Sum the .grad of dense parameters over workers: one flat buffer, one all-reduce.

    The objective has divided by the global batch's totals already, so the sum is the gradient of the whole batch. A
    parameter that no worker's loss reached keeps no gradient (its optimizer rests), as with one worker: flags that are
    summed along say so.
    """
    if world_size() == 1:
        return
    flags = [float(p.grad is not None) for p in parameters]
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([gradients[0].new_tensor(flags), *[gradient.reshape(-1) for gradient in gradients]])
    dist.all_reduce(flat, op=dist.ReduceOp.SUM)
    reached, summed = flat[: len(flags)], flat[len(flags) :]
    for index, (parameter, piece) in enumerate(
        zip(parameters, summed.split([g.numel() for g in gradients]), strict=True)
    ):
        if parameter.grad is not None or reached[index] > 0:
            parameter.grad = piece.view_as(parameter)


def sum_rows(ids_U: Tensor, values_UE: Tensor) -> tuple[Tensor, Tensor]:
    """Sum row gradients over workers: sorted distinct ids_V of all workers and their summed values_VE.

    Costs what the workers touched, not the table. Equal ids are added in the order of ranks, so every worker gets the
    same bits.
    """
    workers = world_size()
    if workers == 1:
        return ids_U, values_UE
    counts = torch.zeros(workers, dtype=torch.int64, device=ids_U.device)
    counts[dist.get_rank()] = len(ids_U)
    dist.all_reduce(counts)
    sizes = [int(count) for count in counts.tolist()]
    most = max(sizes)
    sent["ids"] += 8 * most * (workers - 1)
    sent["rows"] += 4 * values_UE.shape[1] * most * (workers - 1)
    # all_gather wants equal shapes: pad to the longest
    ids = ids_U.new_zeros(most)
    ids[: len(ids_U)] = ids_U
    values = values_UE.new_zeros(most, values_UE.shape[1])
    values[: len(ids_U)] = values_UE
    all_ids = ids.new_empty(workers * most)
    all_values = values.new_empty(workers * most, values.shape[1])
    dist.all_gather_single(all_ids, ids)
    dist.all_gather_single(all_values, values)
    kept = [slice(rank * most, rank * most + size) for rank, size in enumerate(sizes)]
    ids_R = torch.cat([all_ids[rows] for rows in kept])
    values_RE = torch.cat([all_values[rows] for rows in kept])
    ids_V, position_R = torch.unique(ids_R, return_inverse=True)
    return ids_V, values_RE.new_zeros(len(ids_V), values_RE.shape[1]).index_add_(0, position_R, values_RE)


def exchange(values: Tensor, out: Sequence[int], back: Sequence[int], kind: str) -> Tensor:
    """Send the first out[0] rows of `values` to worker 0, the next out[1] to worker 1, ...; their back[w] rows in turn.

    What comes lies in the order of ranks, whoever was first.
    """
    if world_size() == 1:
        return values
    found = values.new_empty(sum(back), *values.shape[1:])
    dist.all_to_all_single(found, values.contiguous(), list(back), list(out))
    one = values.element_size() * values[:1].numel() if len(values) else 0
    sent[kind] += one * (len(values) - out[dist.get_rank()])
    return found


def agree(error: str | None) -> None:
    """Raise the first worker's ValueError on all of them, so that none waits for one that has given up."""
    errors: list[Any] = [error]
    if world_size() > 1:
        errors = [None] * world_size()
        dist.all_gather_object(errors, error)
    for found in errors:
        if found is not None:
            raise ValueError(found)


def broadcast_object(value: Any) -> Any:
    """Rank 0's small plain object, on every worker."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
