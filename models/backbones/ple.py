"""PLE [Tang et al., Progressive Layered Extraction (PLE): A Novel Multi-Task Learning Model, RecSys 2020].

CGC stacked: a level's mixtures are the inputs of the next. Every level but the last also mixes all its experts into an
input for the shared experts above; the gates of a level read what their group's experts read.
"""

from torch import Tensor, nn

from models.backbones.base import Backbone, BackboneConfig
from models.backbones.cgc import ExtractionLevel


class PLE(Backbone):
    """x_BI -> one mixture (B, output_width) per task, after `config.levels` levels of experts of equal widths."""

    def __init__(self, inputs: int, tasks: int, config: BackboneConfig) -> None:
        super().__init__(inputs, tasks, config)
        self.output_width = config.expert_hidden[-1]
        widths = [inputs] + [self.output_width] * (config.levels - 1)
        shared_mixtures = [config.shared_experts > 0] * (config.levels - 1) + [False]
        self.levels = nn.ModuleList(
            ExtractionLevel(width, tasks, config, shared) for width, shared in zip(widths, shared_mixtures, strict=True)
        )

    def forward(self, x_BI: Tensor) -> list[Tensor]:
        x = x_BI
        for level in self.levels:
            x = level(x)
        return list(x.unbind(0))
