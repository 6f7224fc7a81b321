"""The small parts every model is made of. Shapes: B rows, I input width, X experts, G groups, H output width."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.expert_layers import ExpertLayers

STANDARDISED_LIMIT = 10.0
FAR = 2048.0
"""Standard deviations from 0 beyond which float32 tells apart no more than 1/4000 of a deviation."""


class Standardise(nn.Module):
    """(x - mean) / std per numeric feature, with statistics of the training part that travel with the model.

    A missing value (NaN) becomes 0, the mean. Values beyond 10 standard deviations are cut there, so that one
    broken row cannot throw a batch. Where the mean is so many deviations away from 0 that float32 would round the
    differences between rows (FAR; epoch milliseconds), it is taken away in float64, if the values come as float64.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features, dtype=torch.float64))
        self.register_buffer("std", torch.ones(features, dtype=torch.float64))

    def far(self) -> Tensor:
        """bool_N: features that need float64."""
        return self.mean.abs() > FAR * self.std

    def forward(self, numeric_BN: Tensor) -> Tensor:
        standardised_BN = (numeric_BN.float() - self.mean.float()) / self.std.float()
        if numeric_BN.dtype == torch.float64:
            exact_BN = ((numeric_BN - self.mean) / self.std).float()
            standardised_BN = torch.where(self.far(), exact_BN, standardised_BN)
        return torch.nan_to_num(standardised_BN, nan=0.0).clamp(-STANDARDISED_LIMIT, STANDARDISED_LIMIT)


class MLP(nn.Sequential):
    """Linear, ReLU (and dropout) per hidden width; with `output`, a last linear layer of that width."""

    def __init__(self, inputs: int, hidden: tuple[int, ...], output: int | None = None, dropout: float = 0.0) -> None:
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(inputs, width), nn.ReLU()]
            if dropout:
                layers.append(nn.Dropout(dropout))
            inputs = width
        if output is not None:
            layers.append(nn.Linear(inputs, output))
        super().__init__(*layers)
        self.output_width = output if output is not None else inputs


class GroupLinear(nn.Linear):
    """G linear layers side by side, x -> (G, B, outputs) in one product.

    x_BI is read by every group (one matrix product of width G * outputs); of x_GBI each group reads its own slice (one
    batched product).
    """

    def __init__(self, groups: int, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, groups * outputs, bias=bias)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        width = self.out_features // self.groups
        if x.dim() == 2:
            return super().forward(x).view(len(x), self.groups, width).transpose(0, 1)
        weight_GIH = self.weight.view(self.groups, width, self.in_features).transpose(1, 2)
        if self.bias is None:
            return torch.bmm(x, weight_GIH)
        return torch.baddbmm(self.bias.view(self.groups, 1, width), x, weight_GIH)


class Experts(nn.Module):
    """X experts, each the same MLP with weights of its own; x -> outputs_BXH.

    All read the same x_BI, or each its own slice of x_XBI. A layer is one product for all experts (see GroupLinear).
    """

    def __init__(self, inputs: int, experts: int, hidden: tuple[int, ...], dropout: float = 0.0) -> None:
        super().__init__()
        self.experts = experts
        self.output_width = hidden[-1]
        self.first = GroupLinear(experts, inputs, hidden[0])
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for wide, narrow in pairwise(hidden):
            bound = wide**-0.5  # nn.Linear's own initialisation
            self.weights.append(nn.Parameter(torch.empty(experts, wide, narrow).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.empty(experts, 1, narrow).uniform_(-bound, bound)))
        self.dropout = nn.Dropout(dropout)
        self.one_node = True
        """Whether `with_gates` may be one node of the graph; torch.func's transforms cannot see into it."""

    def forward(self, x: Tensor) -> Tensor:
        h_XBH = self.dropout(torch.relu(self.first(x)))
        for weight_XIH, bias_X1H in zip(self.weights, self.biases, strict=True):
            h_XBH = self.dropout(torch.relu(torch.baddbmm(bias_X1H, h_XBH, weight_XIH)))
        return h_XBH.transpose(0, 1)

    def with_gates(self, x_BI: Tensor, gates_GI: Tensor) -> tuple[Tensor, Tensor]:
        """(outputs_BXH of experts that all read x_BI, logits_BG = x gates^T), in training as one node of the graph."""
        if not self.one_node or self.dropout.p or not torch.is_grad_enabled():
            return self(x_BI), functional.linear(x_BI, gates_GI)
        rest = [tensor for pair in zip(self.weights, self.biases, strict=True) for tensor in pair]
        tensors = [x_BI, gates_GI, self.first.weight, self.first.bias, *rest]
        if torch.is_autocast_enabled(x_BI.device.type):
            low = torch.get_autocast_dtype(x_BI.device.type)
            tensors = [tensor.to(low) for tensor in tensors]
        outputs_BXH, logits_BG = ExpertLayers.apply(self.experts, *tensors)
        return outputs_BXH, logits_BG
