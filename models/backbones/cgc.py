"""CGC, customized gate control [Tang et al., Progressive Layered Extraction, RecSys 2020, s.4.1].

y_k = h_k(sum_i g_k(x)_i f_i(x)),  i over task k's own experts and the shared ones; no task sees another's experts.

Shapes: B rows, T tasks, O own experts of each task, S shared experts, X = T O + S experts in all, G input groups (the
tasks', then the shared one), I inputs, H outputs.
"""

import torch
from torch import Tensor, nn

from models.backbones.base import Backbone, BackboneConfig
from models.layers import Experts, GroupLinear


class ExtractionLevel(nn.Module):
    """Experts and gates of one level -> (groups, B, H): a mixture per task and, if asked for, one of all experts.

    Its input is one x_BI for all groups, or x_GBI with a slice for each: a group's experts and its gate read that.
    """

    group_X: Tensor

    def __init__(self, inputs: int, tasks: int, config: BackboneConfig, shared_mixture: bool) -> None:
        super().__init__()
        self.tasks, self.own, self.shared = tasks, config.task_experts, config.shared_experts
        experts = tasks * self.own + self.shared
        self.experts = Experts(inputs, experts, config.expert_hidden, config.dropout)
        self.gates = GroupLinear(tasks, inputs, self.own + self.shared, bias=False)
        self.shared_gate = nn.Linear(inputs, experts, bias=False) if shared_mixture else None
        group_X = [task for task in range(tasks) for _ in range(self.own)] + [tasks] * self.shared
        self.register_buffer("group_X", torch.tensor(group_X), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        shared = self.shared_gate
        if x.dim() == 3:
            outputs_BXH = self.experts(x.index_select(0, self.group_X))
            logits_BTE = self.gates(x[: self.tasks]).transpose(0, 1)
            shared_BX = None if shared is None else shared(x[self.tasks])
        else:  # all gates in one product
            weights = self.gates.weight if shared is None else torch.cat([self.gates.weight, shared.weight])
            outputs_BXH, logits_BG = self.experts.with_gates(x, weights)
            own = self.gates.out_features
            logits_BTE = logits_BG[:, :own].unflatten(1, (self.tasks, self.own + self.shared))
            shared_BX = None if shared is None else logits_BG[:, own:]
        gates_BTE = logits_BTE.softmax(-1)
        rows, _, width = outputs_BXH.shape
        own_BTOH = outputs_BXH[:, : self.tasks * self.own].reshape(rows, self.tasks, self.own, width)
        shared_BSH = outputs_BXH[:, self.tasks * self.own :]
        mixtures_BTH = (gates_BTE[:, :, : self.own, None] * own_BTOH).sum(2)
        mixtures_BTH = mixtures_BTH + torch.bmm(gates_BTE[:, :, self.own :], shared_BSH)
        if shared_BX is None:
            return mixtures_BTH.transpose(0, 1)
        gate_B1X = shared_BX.softmax(-1).unsqueeze(1)
        return torch.cat([mixtures_BTH, torch.bmm(gate_B1X, outputs_BXH)], dim=1).transpose(0, 1)


class CGC(Backbone):
    """x_BI -> one mixture (B, output_width) per task.

    Without own experts it is MMoE; without shared ones, a network for each task.
    """

    def __init__(self, inputs: int, tasks: int, config: BackboneConfig) -> None:
        super().__init__(inputs, tasks, config)
        self.level = ExtractionLevel(inputs, tasks, config, shared_mixture=False)
        self.output_width = self.level.experts.output_width

    def forward(self, x_BI: Tensor) -> list[Tensor]:
        return list(self.level(x_BI).unbind(0))
