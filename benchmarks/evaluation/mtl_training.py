"""Multi-task networks of several seeds trained side by side, for benchmarks/evaluation/mtl.py.

Small networks leave a core waiting for Python, so the seeds of one architecture are stacked: every parameter gets a
leading axis of seeds, one vmapped pass serves all, and since losses are added and Adam works element by element, each
seed trains exactly as it would alone. Shapes: R rows, I inputs, S seeds, T tasks, B rows of a batch, N training rows.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from models.backbones.base import BackboneConfig
from models.layers import MLP, Experts
from models.registry import build_backbone

CHECKS = 10
EVALUATION_ROWS = 2048


class MultiTask(nn.Module):
    """x_BI -> outputs_BT: a backbone with one tower per task on top."""

    def __init__(self, inputs: int, tasks: int, backbone: BackboneConfig, tower_hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.backbone = build_backbone(backbone, inputs, tasks)
        width = self.backbone.output_width
        self.towers = nn.ModuleList(MLP(width, tower_hidden, 1, backbone.dropout) for _ in range(tasks))

    def forward(self, x_BI: Tensor) -> Tensor:
        return torch.cat([tower(h_BH) for tower, h_BH in zip(self.towers, self.backbone(x_BI), strict=True)], dim=1)


@dataclass(frozen=True)
class Problem:
    """Inputs that all seeds share, and for each seed its labels and its split."""

    x_RI: Tensor
    y_SRT: Tensor
    train_SN: Tensor
    """Row numbers; so are valid and test."""
    valid_SV: Tensor
    test_SM: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]
    """(outputs, labels) -> loss of every element."""


@dataclass(frozen=True)
class Fit:
    outputs_SMT: Tensor
    """On the test rows, at the check where the validation loss was lowest."""
    loss_ST: Tensor
    """Mean test loss of each task there."""
    parameters: int
    """Of one network."""


def fit(
    problem: Problem, backbone: BackboneConfig, tower_hidden: tuple[int, ...], steps: int, batch: int, rate: float
) -> Fit:
    """Train one network per seed: Adam with a linearly falling rate; an epoch draws without replacement."""
    seeds, rows = problem.train_SN.shape
    inputs, tasks = problem.x_RI.shape[1], problem.y_SRT.shape[2]
    networks = []
    for seed in range(seeds):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            networks.append(MultiTask(inputs, tasks, backbone, tower_hidden))
    parameters, buffers = stack_module_state(networks)
    optimizer = torch.optim.Adam(parameters.values(), lr=rate, fused=True)
    template = networks[0]
    for module in template.modules():
        if isinstance(module, Experts):
            module.one_node = False

    def apply(one_P: dict[str, Tensor], one_B: dict[str, Tensor], x_BI: Tensor) -> Tensor:
        return functional_call(template, (one_P, one_B), (x_BI,))

    stacked = vmap(apply, randomness="different")

    def outputs(rows_SB: Tensor) -> Tensor:
        return stacked(parameters, buffers, problem.x_RI[rows_SB])

    def evaluate(rows_SM: Tensor) -> tuple[Tensor, Tensor]:
        template.eval()
        with torch.no_grad():
            found_SMT = torch.cat([outputs(part) for part in rows_SM.split(EVALUATION_ROWS, dim=1)], dim=1)
        template.train()
        return found_SMT, problem.loss(found_SMT, take(problem.y_SRT, rows_SM)).mean(1)

    generator = torch.Generator().manual_seed(0)
    best_S = torch.full((seeds,), torch.inf)
    kept_SMT = torch.zeros(seeds, problem.test_SM.shape[1], tasks)
    kept_ST = torch.zeros(seeds, tasks)
    order, position = torch.empty(0, dtype=torch.long), 0
    for step in range(1, steps + 1):
        if position + batch > len(order):
            order, position = torch.randperm(rows, generator=generator), 0
        rows_SB = problem.train_SN[:, order[position : position + batch]]
        position += batch
        loss_SBT = problem.loss(outputs(rows_SB), take(problem.y_SRT, rows_SB))
        optimizer.zero_grad()
        loss_SBT.mean((1, 2)).sum().backward()
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / steps)
        if step % (steps // CHECKS) == 0:
            valid_S = evaluate(problem.valid_SV)[1].mean(1)
            better_S = valid_S < best_S
            best_S = torch.where(better_S, valid_S, best_S)
            found_SMT, found_ST = evaluate(problem.test_SM)
            kept_SMT[better_S], kept_ST[better_S] = found_SMT[better_S], found_ST[better_S]
    return Fit(kept_SMT, kept_ST, sum(parameter.numel() for parameter in template.parameters()))


def take(y_SRT: Tensor, rows_SB: Tensor) -> Tensor:
    """(S, B, T): each seed's labels of its own rows."""
    return y_SRT.gather(1, rows_SB.unsqueeze(2).expand(-1, -1, y_SRT.shape[2]))
