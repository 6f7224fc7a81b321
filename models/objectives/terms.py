"""Per-row loss terms, from logits, finite and with finite gradients at any logit. Shapes: B rows.

With q = sigmoid(a) and p = sigmoid(b), the click-and-convert probability q*p is never formed:
    log(q p)     = logsigmoid(a) + logsigmoid(b)
    log(1 - q p) = log[(1-q) + q (1-p)] = logaddexp(logsigmoid(-a), logsigmoid(a) + logsigmoid(-b))
A clamp at 1 - 1e-15, as published code has it, is exactly 1 in float32 and lets log(0) through.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus


def binary_cross_entropy(logit_B: Tensor, label_B: Tensor) -> Tensor:
    """delta(label, sigmoid(logit)) = softplus(logit) - label * logit."""
    return softplus(logit_B) - label_B * logit_B


def log_product(a_B: Tensor, b_B: Tensor) -> Tensor:
    """log(sigmoid(a) sigmoid(b))."""
    return logsigmoid(a_B) + logsigmoid(b_B)


def log_one_minus_product(a_B: Tensor, b_B: Tensor) -> Tensor:
    """log(1 - sigmoid(a) sigmoid(b))."""
    return torch.logaddexp(logsigmoid(-a_B), logsigmoid(a_B) + logsigmoid(-b_B))


def product_logit(a_B: Tensor, b_B: Tensor) -> Tensor:
    """The logit of sigmoid(a) sigmoid(b)."""
    return log_product(a_B, b_B) - log_one_minus_product(a_B, b_B)


def product_cross_entropy(a_B: Tensor, b_B: Tensor, label_B: Tensor) -> Tensor:
    """delta(label, sigmoid(a) sigmoid(b)): the CTCVR term."""
    return -(label_B * log_product(a_B, b_B) + (1 - label_B) * log_one_minus_product(a_B, b_B))
