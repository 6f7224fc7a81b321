"""A cause of both click and conversion that no column shows: v ~ N(0, 1), one draw an exposure.

    P(o = 1 | x, z, v) = sigmoid(a(x, z) + h v)        P(r = 1 | x, v) = sigmoid(b(x) + s h v),   o and r apart given v

so that click and conversion go together (s = 1) or against each other (s = -1) beyond what the features say. It is a
selection model [Heckman, Econometrica 1979] with a logistic link. Integrals over v are sums over Gauss-Hermite nodes
v_k of weight w_k:

    P(o = 1, r | x, z) = sum_k w_k sigmoid(a + h v_k) Ber(r; sigmoid(b + s h v_k))
    P(o = 0 | x, z)    = sum_k w_k sigmoid(-a - h v_k)
    pCVR               = sum_k w_k sigmoid(b + s h v_k)

What is learnt is theta = s h^2, the covariance that the cause gives the two logits: h and -h are the same model, so h
has a stationary point at 0, where theta has a slope. All sums are of logarithms. Shapes: B rows, K nodes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from models.objectives.terms import log_product, product_logit

NODES = 15
SCALE = 20.0
"""theta is this times the parameter: an optimizer whose steps are some thousandths a step finds a theta of 1."""
LEAST = 1e-6
"""Added to |theta| below the root, whose slope at 0 would be infinite."""
CAUSE, LIFT = "cause", "lift"
"""Names of a network's outputs: theta for each row, in training; log P(o, r = 1) - log(q p) elsewhere."""


def nodes(count: int = NODES) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(v_k, log w_k) of the standard normal law: sums of w_k f(v_k) are exact for polynomials of degree 2 count - 1.

    Eigenvalues and first components of the law's Jacobi matrix [Golub and Welsch, Math. Comp. 1969].
    """
    beside_K = torch.arange(1, count, dtype=torch.float64).sqrt()
    node_K, vector_KK = torch.linalg.eigh(torch.diag(beside_K, 1) + torch.diag(beside_K, -1))
    return tuple(node_K.tolist()), tuple(vector_KK[0].square().log().tolist())


NODE_K, LOG_WEIGHT_K = nodes()


def grid(like: Tensor) -> tuple[Tensor, Tensor]:
    """(v_K1, log w_K1) of the tensor's type and device."""
    node_K, log_K = (like.new_tensor(values).unsqueeze(1) for values in (NODE_K, LOG_WEIGHT_K))
    return node_K, log_K


def loadings(theta: Tensor) -> tuple[Tensor, Tensor]:
    """(h, s h) of theta = s h^2."""
    strength = (torch.where(theta < 0, -theta, theta) + LEAST).sqrt()  # abs() has no slope at 0, where it begins
    return strength, torch.where(theta < 0, -strength, strength)


def log_clicked(a_B: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """(log P(o = 1), log P(o = 0)) of every row."""
    node_K1, log_K1 = grid(a_B)
    shifted_KB = a_B + loadings(theta)[0] * node_K1
    return (log_K1 + logsigmoid(shifted_KB)).logsumexp(0), (log_K1 + logsigmoid(-shifted_KB)).logsumexp(0)


def log_clicked_and(a_B: Tensor, b_B: Tensor, theta: Tensor, label_B: Tensor) -> Tensor:
    """log P(o = 1, r = label) of every row."""
    node_K1, log_K1 = grid(a_B)
    click, conversion = loadings(theta)
    sign_B = 2 * label_B - 1
    return (log_K1 + logsigmoid(a_B + click * node_K1) + logsigmoid(sign_B * (b_B + conversion * node_K1))).logsumexp(0)


def marginal_logit(logit_B: Tensor, theta: Tensor) -> Tensor:
    """The logit of sum_k w_k sigmoid(logit + h v_k): of pCTR from a, of pCVR from b."""
    one_B, zero_B = log_clicked(logit_B, theta)
    return one_B - zero_B


def log_both(logits: Mapping[str, Tensor]) -> Tensor:
    """log P(o = 1, r = 1) from logits of q and p, and LIFT if the model has a hidden cause; at most log q and log p,
    which a calibration may have moved."""
    product_B = log_product(logits["ctr"], logits["cvr"])
    if LIFT not in logits:
        return product_B
    most_B = torch.minimum(logsigmoid(logits["ctr"]), logsigmoid(logits["cvr"]))
    return torch.minimum(product_B + logits[LIFT], most_B)


def both_logit(logits: Mapping[str, Tensor]) -> Tensor:
    """The same as a logit: that of pCTCVR."""
    if LIFT not in logits:
        return product_logit(logits["ctr"], logits["cvr"])
    log_B = log_both(logits)
    return log_B - (-log_B.expm1()).clamp(min=1e-30).log()


class HiddenCause(nn.Module):
    """Holds theta, one number for all rows: 0 at first and learnt, or a number that is given and held."""

    scaled: Tensor

    def __init__(self, theta: float | None = None) -> None:
        super().__init__()
        if theta is None:
            self.scaled = nn.Parameter(torch.zeros(()))
        else:
            self.register_buffer("scaled", torch.tensor(theta / SCALE))

    @property
    def theta(self) -> Tensor:
        return SCALE * self.scaled

    def marginal(self, a_B: Tensor, b_B: Tensor) -> dict[str, Tensor]:
        """What the towers' logits come to over the cause: {"ctr", "cvr": logits of q and p, LIFT: log P(o, r = 1) -
        log(q p)}."""
        theta = self.theta
        (click_B, other_B), (one_B, zero_B) = log_clicked(a_B, theta), log_clicked(b_B, theta)
        both_B = log_clicked_and(a_B, b_B, theta, torch.ones_like(b_B))
        return {"ctr": click_B - other_B, "cvr": one_B - zero_B, LIFT: both_B - click_B - one_B}
