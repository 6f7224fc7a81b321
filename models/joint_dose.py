"""The response to the shares of all categories at once: VCNet's idea for a vector of doses [Schweisthal et al., NeurIPS
2023, arXiv 2305.19742; Nie et al., ICLR 2021].

    h(x)        SiLU layer
    mu(x, t)    layers whose weights are theta(t) = sum_l a_l psi_l(t),
                psi = 1 and, of every category, t_k, t_k^2 and (t_k - knot)_+^2 at its knots

The paper's basis is the product of all categories' bases, 5^2 or 5^3 functions for its two or three drugs. Of six
categories that would be 15,625, so ours adds them up; that a category's effect depends on the others' shares is left
to the ReLU between the layers. Shapes: B rows, F features, K categories, L functions of the basis, I inputs and O
outputs of a layer.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from data.errors import UserError


@dataclass(frozen=True)
class JointDoseConfig:
    hidden: int = 48
    """Units that see the features alone."""
    head: tuple[int, ...] = (32,)
    """Widths of the layers whose weights depend on the shares, before the last one."""

    def __post_init__(self) -> None:
        if self.hidden < 1 or any(width < 1 for width in self.head):
            raise UserError(f"network.hidden and network.head need positive widths, got {self.hidden} and {self.head}")


def basis(dose_BK: Tensor, knot_KN: Tensor) -> Tensor:
    """(B, 1 + K (2 + N)): psi of scaled shares."""
    hinge_BKN = (dose_BK.unsqueeze(2) - knot_KN).clamp(min=0).square()
    each = [dose_BK.new_ones(len(dose_BK), 1), dose_BK, dose_BK.square(), hinge_BKN.flatten(1)]
    return torch.cat(each, 1)


class JointLayer(nn.Module):
    """(B, I) under a basis (B, L) -> (B, O)."""

    def __init__(self, functions: int, inputs: int, outputs: int) -> None:
        super().__init__()
        # the constant function begins as a plain layer, the others as small changes of it
        weight = torch.randn(functions, inputs, outputs) * 0.3 / (functions * inputs) ** 0.5
        weight[0] = torch.randn(inputs, outputs) / inputs**0.5
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.randn(functions, outputs) * 0.3 / functions**0.5)

    def forward(self, x_BI: Tensor, basis_BL: Tensor) -> Tensor:
        both_BLI = basis_BL.unsqueeze(2) * x_BI.unsqueeze(1)
        return both_BLI.flatten(1) @ self.weight.flatten(0, 1) + basis_BL @ self.bias


class JointDose(nn.Module):
    """mu(x, t) of standardised features and shares."""

    knot_KN: Tensor

    def __init__(self, features: int, knot_KN: Tensor, config: JointDoseConfig, seed: int) -> None:
        super().__init__()
        self.register_buffer("knot_KN", knot_KN)
        functions = 1 + knot_KN.shape[0] * (2 + knot_KN.shape[1])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.body = nn.Sequential(nn.Linear(features, config.hidden), nn.SiLU())
            widths = (config.hidden, *config.head, 1)
            self.layers = nn.ModuleList([JointLayer(functions, a, b) for a, b in pairwise(widths)])

    def forward(self, numeric_BF: Tensor, dose_BK: Tensor) -> Tensor:
        """(B,)."""
        basis_BL, value = basis(dose_BK, self.knot_KN), self.body(numeric_BF)
        for layer in self.layers[:-1]:
            value = layer(value, basis_BL).relu()
        found: Tensor = self.layers[-1](value, basis_BL).squeeze(1)
        return found
