"""One pass of a network over a part, shared by all workers."""

from contextlib import nullcontext

import torch
from torch import nn

from data.log import Log, Part
from data.reading import ordered_tables
from distributed.context import CPU, Context
from distributed.reporting.reporter import REMEDY, Diverged
from distributed.tables.collectives import add_up, max_over_workers
from distributed.tables.placement import answering
from distributed.training.stopping import Interrupted
from funnel.problem import Counts, Outputs, Problem, Units

ROWS = 8192
"""At most so many rows go through the network at once."""


def count(
    problem: Problem,
    network: nn.Module,
    log: Log,
    part: Part,
    counts: Counts,
    context: Context | None = None,
    device: torch.device = CPU,
) -> Counts:
    """Add a part to `counts` and return them; workers share its row groups, and all end with the counts of the whole.

    With a context all workers raise stopping.Interrupted if one of them is to stop or cannot read on; without one, a
    process alone on `device`, what cannot be read is a UserError. All raise Diverged where an output is no number.
    """
    stop = context.stop if context else None
    context = context or Context(device=device)
    columns = list(dict.fromkeys([*problem.columns, *counts.columns]))
    training, numbers = network.training, True
    network.eval()
    with answering(network), stop.reading() if stop else nullcontext():
        for table in ordered_tables(log, part, columns, context.rank, context.world_size):
            if stop and stop.code():
                break
            units = problem.encode(table)
            outputs = predict(problem, network, units, table.num_rows, context.device)
            numbers = all(bool(output.isfinite().all()) for output in outputs.values())
            if not numbers:
                break
            counts.add(outputs, units.batch(), table)
    network.train(training)
    add_up(counts.sums(), counts.peaks(), context.device)
    if stop and (code := int(max_over_workers(torch.tensor(float(stop.code()), device=context.device)))):
        raise Interrupted(code)
    if max_over_workers(torch.tensor(float(not numbers), device=context.device)):
        raise Diverged(f"the model's outputs on part {part.name} are no finite numbers: training diverged; {REMEDY}")
    return counts


@torch.inference_mode()
def predict(problem: Problem, network: nn.Module, units: Units, rows: int, device: torch.device) -> Outputs:
    """Outputs of some units that have so many rows, on the CPU, computed in pieces of about ROWS rows; beside them, by
    role, what the networks of finished runs say that the problem was given."""
    step = max(1, ROWS * len(units) // max(rows, 1)) if rows > len(units) else ROWS
    pieces = []
    for begin in range(0, max(len(units), 1), step):
        batch = problem.complete(units.take(slice(begin, begin + step)).batch().to(device))
        outputs = {**network(batch), **(getattr(batch, "given", None) or {})}
        pieces.append({name: output.cpu() for name, output in outputs.items()})
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
