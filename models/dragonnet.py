"""Networks of outcomes under several treatments: DragonNet, and CFR with its balanced representations.

DragonNet [Shi, Blei and Veitch 2019, arXiv 1906.02120]: a shared representation z(x), an outcome head Q_a(z) an arm,
and a propensity g(z) of every arm; with targeted regularisation one epsilon perturbs the outcome along
H_a = 1 / g_a for the arm that was given (two arms: t / g - (1 - t) / (1 - g)).
CFR [Shalit, Johansson and Sontag 2017, arXiv 1606.03976] (BNN's successor): the same without the propensity head; its
loss (models/objectives/treatment.py) draws the representations of the arms together. TARNet is CFR at weight 0.

Shapes: B rows, N features, Z width of the representation, A arms.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class DragonNetConfig:
    """Sizes of the network."""

    hidden: tuple[int, ...] = (200, 200, 200)
    """Layers of the shared representation."""
    head: tuple[int, ...] = (100, 100)
    """Layers of each outcome head."""
    propensity: bool = True
    """DragonNet's head of propensities; False: TARNet and CFR."""
    normalise: bool = False
    """Divide each representation by its length, as CFR's distances want it."""


class DragonNet(nn.Module):
    """{"outcome": (B, A), "representation": (B, Z), "propensity": (B, A) logits, "epsilon": (1,)}."""

    def __init__(self, config: DragonNetConfig, features: int, arms: int, seed: int) -> None:
        super().__init__()
        self.config, self.arms = config, arms
        self.mean_N: Tensor
        self.std_N: Tensor
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("mean_N", torch.zeros(features))
        self.register_buffer("std_N", torch.ones(features))
        self.shared = stack(features, config.hidden, generator)
        width = config.hidden[-1] if config.hidden else features
        self.heads = nn.ModuleList(
            nn.Sequential(stack(width, config.head, generator), linear(config.head[-1] if config.head else width, 1,
                                                                       generator))
            for _ in range(arms)
        )  # fmt: skip
        self.propensity = linear(width, arms, generator) if config.propensity else None
        self.epsilon = nn.Parameter(torch.zeros(1))

    def forward(self, numeric_BN: Tensor) -> dict[str, Tensor]:
        scaled_BN = torch.nan_to_num((numeric_BN - self.mean_N) / self.std_N)
        z_BZ = self.shared(scaled_BN)
        if self.config.normalise:
            z_BZ = z_BZ / z_BZ.norm(dim=1, keepdim=True).clamp(min=1e-6)
        found = {
            "outcome": torch.cat([head(z_BZ) for head in self.heads], 1),
            "representation": z_BZ,
            # One number for all rows, repeated so that outputs are all of one length.
            "epsilon": self.epsilon.expand(len(z_BZ)),
        }
        if self.propensity is not None:
            found["propensity"] = self.propensity(z_BZ)
        return found


def stack(inputs: int, widths: tuple[int, ...], generator: torch.Generator) -> nn.Sequential:
    """Layers of ELU, as the papers have them."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [linear(inputs, width, generator), nn.ELU()]
        inputs = width
    return nn.Sequential(*layers)


def linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Weights of standard deviation 1 / sqrt(inputs), drawn by the generator alone."""
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(outputs, inputs, generator=generator) / inputs**0.5)
        layer.bias.zero_()
    return layer
