"""MMoE [Ma et al., Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts, KDD 2018].

y_k = h_k(sum_i g_k(x)_i f_i(x)),  g_k = softmax(W_k x): shared experts, one gate per task.
"""

import torch
from torch import Tensor, nn

from models.backbones.base import Backbone, BackboneConfig
from models.layers import Experts


class MMoE(Backbone):
    """x_BI -> one mixture (B, output_width) per task."""

    def __init__(self, inputs: int, tasks: int, config: BackboneConfig) -> None:
        super().__init__(inputs, tasks, config)
        self.tasks = tasks
        self.experts = Experts(inputs, config.experts, config.expert_hidden, config.dropout)
        self.output_width = self.experts.output_width
        self.gates = nn.Linear(inputs, tasks * config.experts, bias=False)  # all gates in one product

    def forward(self, x_BI: Tensor) -> list[Tensor]:
        outputs_BXH, logits_BG = self.experts.with_gates(x_BI, self.gates.weight)
        gates_BTX = logits_BG.view(len(x_BI), self.tasks, self.experts.experts).softmax(-1)
        mixtures_BTH = torch.bmm(gates_BTX, outputs_BXH)
        return list(mixtures_BTH.unbind(1))
