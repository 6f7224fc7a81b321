"""VCNet: the response to a dose whose network's weights are themselves functions of the dose [Nie, Ye, Nicolae and Liu,
ICLR 2021].

    h(x)        ReLU layers
    pi(t | x)   softmax over a grid of G + 1 doses 0, 1/G, ..., 1, linear between them: the density head
    mu(t, x)    layers whose weights are theta(t) = sum_l a_l phi_l(t), phi = 1, t, ..., t^p, (t - k)_+^p at the knots
    eps(t)      a spline of the same kind, for targeted regularisation; 0 without it

Doses lie in [0, 1]. Shapes: B rows, F features, H hidden units, L basis functions, G grid intervals, D doses.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from data.errors import UserError
from models.layers import Standardise


@dataclass(frozen=True)
class DoseConfig:
    hidden: tuple[int, ...] = (50, 50)
    """Widths of the layers that see the features alone."""
    head: tuple[int, ...] = (50,)
    """Widths of the layers of mu before its last one."""
    grid: int = 10
    """Intervals of the density head."""
    degree: int = 2
    """Of VCNet's basis."""
    knots: tuple[float, ...] = (1 / 3, 2 / 3)
    """Of VCNet's basis."""
    blocks: int = 5
    """DRNet: heads, one an equal part of the doses."""
    targeted_knots: int = 9
    """Inner knots of eps, equally far apart."""
    targeted_rate: float = 1.0
    """Step size of eps as a share of the others'; a density near 0 makes its gradients large."""
    standardise: bool = True
    """Centre and scale the features; without, they enter as they are."""
    head_scale: float = 1.0
    """Standard deviation of the initial weights of VCNet's head, and of the dose's in the heads of DRNet, whose other
    weights begin at a hundredth of it."""
    hidden_scale: float = 0.01
    """Standard deviation of the initial weights of the layers that see the features."""

    def __post_init__(self) -> None:
        for key in ("grid", "degree", "blocks", "targeted_knots"):
            if getattr(self, key) < 1:
                raise UserError(f"model.{key} must be at least 1, got {getattr(self, key)}")
        if not self.hidden or any(width < 1 for width in (*self.hidden, *self.head)):
            raise UserError(f"model.hidden and model.head need positive widths, got {self.hidden} and {self.head}")
        if not all(0 < knot < 1 for knot in self.knots):
            raise UserError(f"model.knots must lie between 0 and 1, got {self.knots}")
        for key in ("head_scale", "hidden_scale", "targeted_rate"):
            if not getattr(self, key) > 0:
                raise UserError(f"model.{key} must be positive, got {getattr(self, key)}")


def truncated_powers(dose_B: Tensor, degree: int, knots: tuple[float, ...]) -> Tensor:
    """(B, L): 1, t, ..., t^p and max(t - k, 0)^p for every knot."""
    powers = [dose_B**power for power in range(degree + 1)]
    hinges = [(dose_B - knot).clamp(min=0) ** degree for knot in knots]
    return torch.stack([*powers, *hinges], dim=1)


class VaryingLayer(nn.Module):
    """(B, I) at doses (B,) -> (B, O): weights and biases are splines of the dose."""

    def __init__(self, inputs: int, outputs: int, config: DoseConfig) -> None:
        super().__init__()
        self.degree, self.knots = config.degree, config.knots
        count = config.degree + 1 + len(config.knots)
        self.weight = nn.Parameter(config.head_scale * torch.randn(count, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(count, outputs))

    def forward(self, x_BI: Tensor, dose_B: Tensor) -> Tensor:
        basis_BL = truncated_powers(dose_B, self.degree, self.knots)
        each_BLO = torch.einsum("bi,lio->blo", x_BI, self.weight)
        return (each_BLO * basis_BL.unsqueeze(2)).sum(1) + basis_BL @ self.bias


class DoseHead(nn.Module):
    """mu from hidden units."""

    def forward(self, hidden_BH: Tensor, dose_B: Tensor) -> Tensor:
        """(B,): each row at its own dose."""
        raise NotImplementedError

    def curve(self, hidden_BH: Tensor, dose_D: Tensor) -> Tensor:
        """(B, D): every row at every dose."""
        raise NotImplementedError


class VaryingHead(DoseHead):
    """mu of VCNet: varying layers, ReLU between them."""

    def __init__(self, inputs: int, config: DoseConfig) -> None:
        super().__init__()
        widths = (inputs, *config.head, 1)
        self.layers = nn.ModuleList([VaryingLayer(a, b, config) for a, b in pairwise(widths)])

    def forward(self, hidden_BH: Tensor, dose_B: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            # as published, every layer after the first is given the dose through its weights alone
            hidden_BH = layer(hidden_BH, dose_B).relu()
        found: Tensor = self.layers[-1](hidden_BH, dose_B).squeeze(1)
        return found

    def curve(self, hidden_BH: Tensor, dose_D: Tensor) -> Tensor:
        """(B, D): every row at every dose. The first layer's products do not depend on the dose, and the weights of the
        others are made once a dose."""
        value_BDI = hidden_BH.new_empty(0)
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, VaryingLayer)
            basis_DL = truncated_powers(dose_D, layer.degree, layer.knots)
            if number:
                weight_DIO = torch.einsum("dl,lio->dio", basis_DL, layer.weight)
                value_BDI = torch.einsum("bdi,dio->bdo", value_BDI.relu(), weight_DIO)
            else:
                each_BLO = torch.einsum("bi,lio->blo", hidden_BH, layer.weight)
                value_BDI = torch.einsum("blo,dl->bdo", each_BLO, basis_DL)
            value_BDI = value_BDI + basis_DL @ layer.bias
        return value_BDI.squeeze(2)


class Density(nn.Module):
    """log pi(t | x) from hidden units: a softmax over G + 1 doses, the probability linear between neighbours."""

    def __init__(self, inputs: int, grid: int, scale: float) -> None:
        super().__init__()
        self.grid, self.linear = grid, nn.Linear(inputs, grid + 1)
        nn.init.normal_(self.linear.weight, std=scale)
        nn.init.zeros_(self.linear.bias)

    def curve(self, hidden_BH: Tensor, dose_D: Tensor) -> Tensor:
        """(B, D): every row at every dose."""
        place_D1 = (dose_D.clamp(0, 1) * self.grid).unsqueeze(1)
        part_DG = (1 - (place_D1 - torch.arange(self.grid + 1, device=dose_D.device)).abs()).clamp(min=0)
        found: Tensor = self.linear(hidden_BH).softmax(1) @ part_DG.T
        return found

    def forward(self, hidden_BH: Tensor, dose_B: Tensor) -> Tensor:
        share_BG = self.linear(hidden_BH).softmax(1)
        place_B = dose_B.clamp(0, 1) * self.grid
        below_B = place_B.floor().clamp(max=self.grid - 1)
        part_B = place_B - below_B
        index_B = below_B.long()
        low_B, high_B = (share_BG.gather(1, (index_B + k).unsqueeze(1)).squeeze(1) for k in (0, 1))
        return low_B + (high_B - low_B) * part_B


class DoseNetwork(nn.Module):
    """{"mu", "pi", "eps"}, each (B,), at each row's dose; `head` makes it VCNet or DRNet."""

    def __init__(self, features: int, config: DoseConfig, head: DoseHead) -> None:
        super().__init__()
        self.config = config
        self.standardise = Standardise(features)
        layers: list[nn.Module] = []
        width = features
        for outputs in config.hidden:
            linear = nn.Linear(width, outputs)
            nn.init.normal_(linear.weight, std=config.hidden_scale)
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.ReLU()]
            width = outputs
        self.body = nn.Sequential(*layers)
        self.density = Density(width, config.grid, config.hidden_scale)
        self.head = head
        spaces = config.targeted_knots + 1
        self.targeted_knots = tuple(k / spaces for k in range(1, spaces))
        self.targeted = nn.Parameter(torch.zeros(3 + len(self.targeted_knots)))

    def eps(self, dose_B: Tensor) -> Tensor:
        """The spline of targeted regularisation, of degree 2."""
        # a coefficient that is multiplied by s has s^2 times the step
        return self.config.targeted_rate**0.5 * (truncated_powers(dose_B, 2, self.targeted_knots) @ self.targeted)

    def forward(self, numeric_BF: Tensor, dose_B: Tensor) -> dict[str, Tensor]:
        hidden_BH = self.body(self.standardise(numeric_BF))
        pi_B = self.density(hidden_BH, dose_B)
        return {"mu": self.head(hidden_BH, dose_B), "pi": pi_B, "eps": self.eps(dose_B)}

    def curve(self, numeric_BF: Tensor, dose_D: Tensor, targeted: bool) -> Tensor:
        """(B, D): the response of every row to every dose; `targeted`: mu + eps/pi, else mu."""
        hidden_BH = self.body(self.standardise(numeric_BF))
        found_BD: Tensor = self.head.curve(hidden_BH, dose_D)
        if targeted:
            found_BD = found_BD + self.eps(dose_D) / (self.density.curve(hidden_BH, dose_D) + TINY)
        return found_BD


TINY = 1e-6
"""Added to densities that are divided by or logged, as in the published code."""


def varying_coefficient(features: int, config: DoseConfig, seed: int) -> DoseNetwork:
    """VCNet with the weights that the seed draws."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DoseNetwork(features, config, VaryingHead(config.hidden[-1], config))
