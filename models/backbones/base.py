"""What a backbone is, and the settings of all of them (each reads those it uses). Shapes: B rows, I in, H out."""

from dataclasses import dataclass

from torch import Tensor, nn

from data.errors import UserError


class Backbone(nn.Module):
    """x_BI -> one representation per task, each (B, output_width)."""

    output_width: int

    def __init__(self, inputs: int, tasks: int, config: "BackboneConfig") -> None:
        super().__init__()

    def forward(self, x_BI: Tensor) -> list[Tensor]:
        raise NotImplementedError


@dataclass(frozen=True)
class BackboneConfig:
    name: str = "mmoe"
    """mmoe, shared_bottom, omoe, cgc or ple."""
    experts: int = 4
    """Experts of a mixture (omoe, mmoe)."""
    shared_experts: int = 2
    """Experts that all tasks read, in each level (cgc, ple)."""
    task_experts: int = 1
    """Experts of each task's own, in each level (cgc, ple)."""
    levels: int = 2
    """Levels of experts (ple)."""
    expert_hidden: tuple[int, ...] = (128, 64)
    """Layer widths of each expert, or of the shared bottom."""
    dropout: float = 0.0
    """Dropout after each hidden layer, in [0, 1). Every worker draws masks of its own: with another number of workers
    the model is another one, as good."""

    def __post_init__(self) -> None:
        for key, least in (("experts", 1), ("shared_experts", 0), ("task_experts", 0), ("levels", 1)):
            if getattr(self, key) < least:
                raise UserError(f"model.backbone.{key} must be at least {least}, got {getattr(self, key)}")
        if self.shared_experts + self.task_experts == 0:
            raise UserError("model.backbone.shared_experts and .task_experts are both 0: a task needs an expert")
        if not self.expert_hidden or min(self.expert_hidden) < 1:
            raise UserError(f"model.backbone.expert_hidden needs positive widths, got {self.expert_hidden}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.backbone.dropout must lie in [0, 1), got {self.dropout}")
