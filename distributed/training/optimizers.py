"""Row-wise optimizers for embedding tables: state of the touched rows is read, moved and written; the rest is not seen.

Shapes: V touched rows, E width. `step(table, ids_V, gradient_VE)` changes the table in place; `state()` is all that
decides the next step.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from models.row_kernels import take_rows

PIECE_ROWS = 8192
Zeros = Callable[[Sequence[int]], Tensor]
"""Where the state lies: makes float32 zeros of a shape."""


class RowOptimizer(Protocol):
    rate: float
    """The step size; a schedule may set it before each step."""

    def step(self, table: Tensor, ids_V: Tensor, gradient_VE: Tensor, vectors_VE: Tensor | None = None) -> None:
        """Move the rows. vectors_VE: what they hold now, if the caller has it, so that it is not read again."""

    def reopen(self) -> None:
        """The next call of `step` is part of the last one: it moves other rows of the same batch."""

    def state(self) -> dict[str, Tensor]: ...

    def load(self, state: dict[str, Tensor]) -> None: ...


class RowAdam:
    """Adam [Kingma and Ba, ICLR 2015] on the rows a batch touched; the same as torch.optim.SparseAdam.

    Moments of untouched rows do not decay; the bias correction counts all steps.
    """

    def __init__(
        self,
        table: Tensor,
        rate: float,
        zeros: Zeros = torch.zeros,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.rate, self.betas, self.eps = rate, betas, eps
        self.steps = 0
        self.mean = zeros(table.shape).to(table)
        self.square = zeros(table.shape).to(table)

    def step(self, table: Tensor, ids_V: Tensor, gradient_VE: Tensor, vectors_VE: Tensor | None = None) -> None:
        self.steps += 1
        first, second = self.betas
        rate = self.rate * (1 - second**self.steps) ** 0.5 / (1 - first**self.steps)
        for ids, gradient, rows in pieces(table, ids_V, gradient_VE, vectors_VE):
            mean = take_rows(self.mean, ids).lerp_(gradient, 1 - first)
            square = take_rows(self.square, ids).mul_(second).addcmul_(gradient, gradient, value=1 - second)
            self.mean.index_copy_(0, ids, mean)
            self.square.index_copy_(0, ids, square)
            # Writing rows that were read takes a third of the time of index_add_.
            table.index_copy_(0, ids, torch.addcdiv(rows, mean, square.sqrt_().add_(self.eps), value=-rate))

    def reopen(self) -> None:
        self.steps -= 1

    def state(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "square": self.square, "steps": torch.tensor(self.steps)}

    def load(self, state: dict[str, Tensor]) -> None:
        self.mean.copy_(state["mean"])
        self.square.copy_(state["square"])
        self.steps = int(state["steps"])


class RowAdagrad:
    """Row-wise Adagrad: one accumulator a row, the running sum of the mean squared gradient of its weights.

    Takes 1/E of Adagrad's memory [used for large tables in Mudigere et al., ISCA 2022, arXiv 2104.05158].
    """

    def __init__(self, table: Tensor, rate: float, zeros: Zeros = torch.zeros, eps: float = 1e-10) -> None:
        self.rate, self.eps = rate, eps
        self.total = zeros(table.shape[:1]).to(table)

    def step(self, table: Tensor, ids_V: Tensor, gradient_VE: Tensor, vectors_VE: Tensor | None = None) -> None:
        for ids, gradient, rows in pieces(table, ids_V, gradient_VE, vectors_VE):
            total = self.total.index_select(0, ids).add_(gradient.square().mean(1))
            self.total.scatter_(0, ids, total)
            factor = total.sqrt_().add_(self.eps).reciprocal_()
            table.index_copy_(0, ids, torch.addcmul(rows, gradient, factor.unsqueeze(1), value=-self.rate))

    def reopen(self) -> None:
        pass

    def state(self) -> dict[str, Tensor]:
        return {"total": self.total}

    def load(self, state: dict[str, Tensor]) -> None:
        self.total.copy_(state["total"])


def pieces(
    table: Tensor, ids_V: Tensor, gradient_VE: Tensor, vectors_VE: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(ids, their gradients, what their rows hold), some thousand rows at a time: they stay in the cache from the first
    operation to the last, and to read them from the table brings there what is written next. On a GPU all at once.
    """
    if table.device.type != "cpu":
        yield ids_V, gradient_VE, table.index_select(0, ids_V) if vectors_VE is None else vectors_VE
        return
    for ids, gradient in zip(ids_V.split(PIECE_ROWS), gradient_VE.split(PIECE_ROWS), strict=True):
        yield ids, gradient, take_rows(table, ids)


def dense_optimizer(
    parameters: Sequence[nn.Parameter], name: str, rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """What moves everything but the embedding tables."""
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=0.9, nesterov=True, weight_decay=weight_decay)
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=weight_decay, fused=True)


def rate_factor(schedule: str, step: int, steps: int) -> float:
    """What rates are multiplied with at a step (from 0) of `steps` in all: 1, or falling linearly from 1 towards 0."""
    return 1.0 - step / steps if schedule == "linear" else 1.0


def build_row_optimizer(name: str, table: Tensor, rate: float, zeros: Zeros = torch.zeros) -> RowOptimizer:
    return RowAdam(table, rate, zeros) if name == "adam" else RowAdagrad(table, rate, zeros)
