"""What a backbone is and what it can be told (each reads the fields it has use for). Shapes: B rows, I in, H out."""

from dataclasses import dataclass

from torch import Tensor, nn


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
    """mmoe or shared_bottom."""
    experts: int = 4
    """Experts of a mixture (mmoe)."""
    expert_hidden: tuple[int, ...] = (128, 64)
    """Layer widths of each expert, or of the shared bottom."""
    dropout: float = 0.0
    """Dropout after each hidden layer, in [0, 1)."""

    def __post_init__(self) -> None:
        if self.experts < 1:
            raise ValueError(f"model.backbone.experts must be at least 1, got {self.experts}")
        if not self.expert_hidden or min(self.expert_hidden) < 1:
            raise ValueError(f"model.backbone.expert_hidden needs positive widths, got {self.expert_hidden}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.backbone.dropout must lie in [0, 1), got {self.dropout}")
