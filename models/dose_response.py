"""DRNet: the response to a dose by a head of its own for each block of doses [Schwab et al., AAAI 2020; as published
beside VCNet].

Every layer of a head sees the dose beside its inputs. Equal blocks of [0, 1]: head k answers for [k/E, (k+1)/E).
Shapes: B rows, H hidden units, E heads.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from models.varying_coefficient import DoseConfig, DoseHead, DoseNetwork

DRNET_SCALE = 0.01
"""Of the heads' initial weights of hidden units, as a share of those of the dose."""


class BlockHead(DoseHead):
    """All heads are computed for all rows, and each row keeps its block's: E is small, and rows stay in one product."""

    def __init__(self, inputs: int, config: DoseConfig) -> None:
        super().__init__()
        widths = (inputs, *config.head, 1)
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for a, b in pairwise(widths):
            weight = config.head_scale * torch.randn(config.blocks, a + 1, b)
            weight[:, 1:] *= DRNET_SCALE  # row 0 is the dose's, which begins large, as published
            self.weights.append(weight)
            self.biases.append(torch.zeros(config.blocks, 1, b))
        self.blocks = config.blocks

    def forward(self, hidden_BH: Tensor, dose_B: Tensor) -> Tensor:
        value_EBH = hidden_BH.expand(self.blocks, *hidden_BH.shape)
        dose_EB1 = dose_B.unsqueeze(1).expand(self.blocks, len(dose_B), 1)
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            value_EBH = torch.baddbmm(bias, torch.cat([dose_EB1, value_EBH], 2), weight)
            if layer < last:
                value_EBH = value_EBH.relu()
        block_B = self.block(dose_B)
        return value_EBH[block_B, torch.arange(len(dose_B), device=dose_B.device), 0]

    def block(self, dose_B: Tensor) -> Tensor:
        """The head that answers for each dose."""
        return (dose_B * self.blocks).long().clamp(0, self.blocks - 1)

    def curve(self, hidden_BH: Tensor, dose_D: Tensor) -> Tensor:
        """(B, D): every row at every dose, each by its block's head alone. The product of a head's first layer with
        the hidden units is the same for all its doses."""
        found_BD = hidden_BH.new_empty(len(hidden_BH), len(dose_D))
        block_D = self.block(dose_D)
        for block in block_D.unique().tolist():
            own = (block_D == block).nonzero().squeeze(1)
            value_BDI = hidden_BH.unsqueeze(1)
            for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
                value_BDI = value_BDI.relu() if layer else value_BDI
                value_BDI = value_BDI @ weight[block, 1:] + dose_D[own].unsqueeze(1) * weight[block, 0] + bias[block]
            found_BD[:, own] = value_BDI.squeeze(2)
        return found_BD


def dose_response(features: int, config: DoseConfig, seed: int) -> DoseNetwork:
    """DRNet with the weights that the seed draws."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DoseNetwork(features, config, BlockHead(config.hidden[-1], config))
