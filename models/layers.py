"""The small parts every model is made of. Shapes: B rows, I input width, X experts, H output width."""

from itertools import pairwise

import torch
from torch import Tensor, nn

STANDARDISED_LIMIT = 10.0


class Standardise(nn.Module):
    """(x - mean) / std per numeric feature, with statistics of the training part that travel with the model.

    A missing value (NaN) becomes 0, the mean. Values beyond 10 standard deviations are cut there, so that one
    broken row cannot throw a batch.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def forward(self, numeric_BN: Tensor) -> Tensor:
        standardised_BN = (numeric_BN - self.mean) / self.std
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


class Experts(nn.Module):
    """X experts, each the same MLP with weights of its own; x_BI -> outputs_BXH.

    All experts read the same input, so their first layers are one matrix product of width X * hidden[0]; the later
    layers are one batched product each.
    """

    def __init__(self, inputs: int, experts: int, hidden: tuple[int, ...], dropout: float = 0.0) -> None:
        super().__init__()
        self.experts = experts
        self.output_width = hidden[-1]
        self.first = nn.Linear(inputs, experts * hidden[0])
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for wide, narrow in pairwise(hidden):
            bound = wide**-0.5  # nn.Linear's own initialisation
            self.weights.append(nn.Parameter(torch.empty(experts, wide, narrow).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.empty(experts, 1, narrow).uniform_(-bound, bound)))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BI: Tensor) -> Tensor:
        first_BXH = torch.relu(self.first(x_BI)).view(len(x_BI), self.experts, self.first.out_features // self.experts)
        h_XBH = self.dropout(first_BXH).transpose(0, 1)
        for weight_XIH, bias_X1H in zip(self.weights, self.biases, strict=True):
            h_XBH = self.dropout(torch.relu(torch.baddbmm(bias_X1H, h_XBH, weight_XIH)))
        return h_XBH.transpose(0, 1)
