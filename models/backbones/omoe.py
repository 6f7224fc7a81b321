"""OMoE, the one-gate mixture of experts [Jacobs et al. 1991; the baseline of Ma et al., MMoE, KDD 2018].

y_k = h_k(sum_i g(x)_i f_i(x)),  g = softmax(W x): shared experts, one gate for all tasks.
"""

import torch
from torch import Tensor, nn

from models.backbones.base import Backbone, BackboneConfig
from models.layers import Experts


class OMoE(Backbone):
    """x_BI -> one mixture (B, output_width), handed to every task."""

    def __init__(self, inputs: int, tasks: int, config: BackboneConfig) -> None:
        super().__init__(inputs, tasks, config)
        self.tasks = tasks
        self.experts = Experts(inputs, config.experts, config.expert_hidden, config.dropout)
        self.output_width = self.experts.output_width
        self.gate = nn.Linear(inputs, config.experts, bias=False)

    def forward(self, x_BI: Tensor) -> list[Tensor]:
        outputs_BXH, logits_BX = self.experts.with_gates(x_BI, self.gate.weight)
        mixture_BH = torch.bmm(logits_BX.softmax(-1).unsqueeze(1), outputs_BXH).squeeze(1)
        return [mixture_BH] * self.tasks
