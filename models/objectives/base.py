"""What an objective is: logits and labels of some rows in, named loss terms out.

An objective only ever sums over its rows and divides by totals it is handed. The totals belong to the GLOBAL batch, so
gradients of ranks add up to the gradient of one process that saw all rows, however the rows were dealt.
Shapes: B rows.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from models.objectives.propensity import resolve_clip


@dataclass(frozen=True)
class ObjectiveConfig:
    name: str = "escm2_ips"
    """naive, esmm, escm2_ips or escm2_dr."""
    lambda_c: float = 0.1
    """Weight of the CVR term (escm2_*); the paper uses 0.1 to 1."""
    lambda_g: float = 1.0
    """Weight of the CTCVR term (escm2_*)."""
    clip: float | str = "auto"
    """Propensities below this are raised to it: a probability, or auto = a quarter of the training click rate."""
    imputation: str = "error"
    """What the imputation tower of escm2_dr predicts: error (the loss itself, as in the paper) or label (the potential
    conversion, so that unclicked rows teach the CVR tower too)."""

    def __post_init__(self) -> None:
        for key in ("lambda_c", "lambda_g"):
            if not getattr(self, key) >= 0:
                raise ValueError(f"objective.{key} must be at least 0, got {getattr(self, key)}")
        if self.imputation not in ("error", "label"):
            raise ValueError(f"objective.imputation must be 'error' or 'label', got {self.imputation!r}")
        resolve_clip(self.clip, click_rate=0.5)


@dataclass(frozen=True)
class Labels:
    """click_B and conversion_B in {0, 1}; weight_B counts a row more or less than once (None: all once)."""

    click_B: Tensor
    conversion_B: Tensor
    weight_B: Tensor | None = None

    def weigh(self, term_B: Tensor) -> Tensor:
        return term_B if self.weight_B is None else term_B * self.weight_B

    def totals(self) -> Tensor:
        """(2,) float64: weighted exposures and clicks of these rows. Summed over ranks they normalise every term."""
        ones_B = torch.ones_like(self.click_B)
        return torch.stack(
            [self.weigh(ones_B).sum(dtype=torch.float64), self.weigh(self.click_B).sum(dtype=torch.float64)]
        )


class Objective(Protocol):
    tasks: tuple[str, ...]
    clip: float
    """The resolved clip; what propensity health is reported with."""

    def __init__(self, config: ObjectiveConfig, click_rate: float) -> None: ...

    def __call__(self, logits: dict[str, Tensor], labels: Labels, totals: Tensor) -> dict[str, Tensor]:
        """Terms by name, and under "loss" what to differentiate: these rows' share of the global batch's loss."""
        ...
