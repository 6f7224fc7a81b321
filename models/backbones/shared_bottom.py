"""Shared-Bottom [Caruana 1997; the baseline of Ma et al., KDD 2018]: y_k = h_k(f(x)), one network for all tasks."""

from torch import Tensor

from models.backbones.base import Backbone, BackboneConfig
from models.layers import MLP


class SharedBottom(Backbone):
    """x_BI -> one representation (B, output_width), handed to every task."""

    def __init__(self, inputs: int, tasks: int, config: BackboneConfig) -> None:
        super().__init__(inputs, tasks, config)
        self.tasks = tasks
        self.bottom = MLP(inputs, config.expert_hidden, dropout=config.dropout)
        self.output_width = self.bottom.output_width

    def forward(self, x_BI: Tensor) -> list[Tensor]:
        shared_BH = self.bottom(x_BI)
        return [shared_BH] * self.tasks
