"""Click models that are taught balance: the mean over weighed clicks of what matters is to be its mean over exposures.

With q = sigmoid(f), u = o/q - 1 and any function phi of the features, E[phi u] = 0 where q is the true propensity.
Log-loss does not ask for that; two terms that do, either of them added to the CTR term:

    tailored   mean_D [(1 - o) f + o exp(-f)]           [Zhao, Covariate balancing propensity score by tailored loss
               functions, Annals of Statistics 2019]. Its slope in f is -u: at the optimum the weighed mean of every
               direction in which the network can move f, so of its whole last representation, is the plain one.
    slices     sum_k [(sum_i phi_ik u_i)^2 - sum_i (phi_ik u_i)^2] / (sum_i phi_ik  sum_j,i phi_ij)
               k: slices of features, with phi = 1 and phi = pCVR (held constant) in each. The second sum takes away
               what chance alone adds, so that its expectation is the squared imbalance and not a price on variance.

Below the clip the weight of a click stays what it is there. Sums of `slices` run over the global batch: a worker's
share of the gradient follows from the batch's sums, which are among the totals. Shapes: B rows, S features, K = slices
times functions.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from data.errors import UserError

TAILORED, SLICES = KINDS = ("tailored", "slices")
FUNCTIONS = 2
SUMS = 3


@dataclass(frozen=True)
class BalanceConfig:
    weight: float = 0.0
    """Weight of a term beside CTR's that asks for balance: that weighed clicks stand for all exposures
    (docs/propensities.md). For click models; 0 = none."""
    kind: str = TAILORED
    """Balance of what: tailored (whatever the network can express) or slices (rows and pCVR by slice of `by`)."""
    by: tuple[str, ...] = ()
    """Categorical features whose slices the kind slices takes; left out, all of at most 64 values."""

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise UserError(f"objective.balance.weight must be a number of at least 0, got {self.weight}")
        if self.kind not in KINDS:
            raise UserError(f"objective.balance.kind must be {' or '.join(map(repr, KINDS))}, got {self.kind!r}")

    @property
    def by_slice(self) -> bool:
        return self.weight > 0 and self.kind == SLICES


def tailored(logit_B: Tensor, click_B: Tensor, clip: float) -> Tensor:
    """(1 - o) f + o exp(-f) of every row; below logit(clip) its tangent there."""
    least = torch.logit(torch.tensor(max(clip, 1e-6), dtype=torch.float64)).to(logit_B)
    above_B = logit_B.clamp(min=least)
    heavy_B = (-above_B).exp() * (1 + above_B - logit_B)
    return (1 - click_B) * logit_B + click_B * heavy_B


def imbalances(logit_B: Tensor, cvr_B: Tensor, click_B: Tensor, weight_B: Tensor | None, clip: float) -> Tensor:
    """(B, 2, 2): by function [phi, phi u] of every row, its weight in both."""
    inverse_B = 1 / logit_B.double().sigmoid().clamp(min=max(clip, 1e-6))
    phi_B2 = torch.stack([torch.ones_like(inverse_B), cvr_B.detach().double().sigmoid()], 1)
    phi_B2 = phi_B2 if weight_B is None else phi_B2 * weight_B.double().unsqueeze(1)
    return torch.stack([phi_B2, phi_B2 * (click_B.double() * inverse_B - 1).unsqueeze(1)], 2)


def sums(found_B22: Tensor, code_BS: Tensor, slices: int) -> Tensor:
    """(3 K,): sums by slice and function of phi, phi u and (phi u)^2."""
    of_each_B3 = torch.cat([found_B22, found_B22[:, :, 1:].square()], 2).flatten(1)
    if slices <= 4096 // max(code_BS.shape[1], 1):  # a product is faster than adding up rows one by one
        member_BK = one_hot(code_BS, slices).sum(1).to(of_each_B3)
        return (member_BK.T @ of_each_B3).flatten()
    total = of_each_B3.new_zeros(slices, of_each_B3.shape[1])
    for code_B in code_BS.unbind(1):
        total = total.index_add(0, code_B, of_each_B3)
    return total.flatten()


def penalty(own_N: Tensor, total_N: Tensor) -> Tensor:
    """This worker's share of `slices`: its own sums, with gradients, and those of the global batch, held constant."""
    own_KF3, total_KF3 = (x_N.double().view(-1, FUNCTIONS, SUMS) for x_N in (own_N, total_N))
    phi_KF, imbalance_KF = total_KF3[:, :, 0], total_KF3[:, :, 1]
    mine_KF = own_KF3[:, :, 1]
    squares_KF = imbalance_KF * (2 * mine_KF - mine_KF.detach()) - own_KF3[:, :, 2]
    return (squares_KF / (phi_KF * phi_KF.sum(0)).clamp(min=1e-12)).sum() / FUNCTIONS
