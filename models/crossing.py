"""Feature crossing: products of features, which sums and ReLUs of a backbone find only slowly.

Shapes: B rows, I input width (embeddings of all fields, then numerics), F fields of one width, E that width, T tasks,
L cross layers, R rank.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from data.errors import UserError

CROSSINGS = ("none", "fm", "dcn_v2")


class FactorisationMachine(nn.Module):
    """What a factorisation machine adds to each task's logit [Rendle, ICDM 2010], read from the shared embedding.

    x_BI -> (T, B):  w_t x + <a_t, 1/2 [(sum_f e_f)^2 - sum_f e_f^2]>,  e_f the row's vector of field f. The bracket is
    the sum over all pairs of fields of e_f * e_g. With a_t = 1, where it starts, that is the sum of their inner
    products; a_t [as the read-out of NFM, He and Chua, SIGIR 2017] lets tasks that share an embedding weigh its
    directions apart. w starts at 0. Fields of different widths are crossed with those of their own width alone.
    Raises UserError if no two fields have the same width.
    """

    def __init__(self, inputs: int, field_widths: Sequence[int], tasks: int) -> None:
        super().__init__()
        self.field_widths = tuple(field_widths)
        self.widths = tuple(width for width in dict.fromkeys(field_widths) if self.field_widths.count(width) > 1)
        if not self.widths:
            raise UserError("model.crossing fm: needs two categorical features of the same embedding width")
        self.first = nn.Parameter(torch.zeros(tasks, inputs))
        self.second = nn.Parameter(torch.ones(tasks, sum(self.widths)))

    def forward(self, x_BI: Tensor) -> Tensor:
        pairs_BE = torch.cat([self.pairs(x_BI, width) for width in self.widths], 1)
        weights_TI = torch.cat([self.first, self.second], 1)
        return weights_TI @ torch.cat([x_BI, pairs_BE], 1).t()

    def pairs(self, x_BI: Tensor, width: int) -> Tensor:
        """(B, width): the sum of e_f * e_g over all pairs of fields of this width."""
        fields = x_BI[:, : sum(self.field_widths)]
        if len(set(self.field_widths)) > 1:
            pieces = fields.split(self.field_widths, 1)
            fields = torch.cat([piece for piece in pieces if piece.shape[1] == width], 1)
        fields_BFE = fields.unflatten(1, (-1, width))
        return 0.5 * (fields_BFE.sum(1).square() - fields_BFE.square().sum(1))


class CrossNetwork(nn.Module):
    """The cross layers of DCN V2 [Wang et al., WWW 2021, eq. 1 and 2], below the backbone (the stacked form).

    x_BI -> x_L:  x_{l+1} = x_0 * (W_l x_l + b_l) + x_l, which holds products of up to L + 1 features. With a rank R
    W_l = U_l V_l^T, which costs 2 I R instead of I^2 products a row.
    """

    def __init__(self, inputs: int, layers: int, rank: int) -> None:
        super().__init__()
        down = [nn.Linear(inputs, rank, bias=False) for _ in range(layers)] if rank else []
        self.down = nn.ModuleList(down)
        self.layers = nn.ModuleList([nn.Linear(rank or inputs, inputs) for _ in range(layers)])

    def forward(self, x_BI: Tensor) -> Tensor:
        crossed_BI = x_BI
        for level, layer in enumerate(self.layers):
            below = self.down[level](crossed_BI) if len(self.down) else crossed_BI
            crossed_BI = torch.addcmul(crossed_BI, x_BI, layer(below))
        return crossed_BI
