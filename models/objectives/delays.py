"""Conversions that are known late: what a click without a conversion by now says of one to come. Shapes: B rows.

With p = sigmoid(b) the probability that a click converts at all, d the days from click to conversion, e those from
click to now:

    none           delta(c, p), c = 1 only if the conversion is known by now: too low where e is short
    exponential    [Chapelle, Modeling delayed feedback in display advertising, KDD 2014]  d ~ Exp(lambda(x)):
                   converted      -log p - log lambda + lambda d
                   not yet        -log(1 - p + p exp(-lambda e))
    fake_negative  [Ktena et al., Addressing delayed feedback for continuous training, RecSys 2019, FNW]: every click is
                   a negative at first and comes once more when it converts, so that of what is seen a share p/(1 + p)
                   is positive; weights 1 + p of positives and (1 - p)(1 + p) of negatives, held constant, undo that

Each is a loss of one click, so that an objective may weigh it by 1/q.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

DELAYS = ("none", "exponential", "fake_negative")
RATE = "delay"
"""Name of the tower that gives log lambda, in 1/days."""


def exponential(logit_B: Tensor, log_rate_B: Tensor, label_B: Tensor, elapsed_B: Tensor, delay_B: Tensor) -> Tensor:
    """-log of the density of what is known of each click."""
    rate_B = log_rate_B.exp()
    converted_B = -logsigmoid(logit_B) - log_rate_B + rate_B * delay_B
    waiting_B = -torch.logaddexp(logsigmoid(-logit_B), logsigmoid(logit_B) - rate_B * elapsed_B)
    return torch.where(label_B > 0.5, converted_B, waiting_B)


def fake_negative(logit_B: Tensor, label_B: Tensor) -> Tensor:
    """What a click adds: the negative that it was at first, and the positive that it is by now, if it is."""
    p_B = logit_B.detach().sigmoid()
    return label_B * (1 + p_B) * softplus(-logit_B) + (1 - p_B) * (1 + p_B) * softplus(logit_B)


def log_known(log_rate_B: Tensor, elapsed_B: Tensor) -> Tensor:
    """log(1 - exp(-lambda e)): the share of a click's conversions that is known by now, held constant."""
    waited_B = (log_rate_B.detach().exp() * elapsed_B).clamp(min=1e-6)
    return (-torch.expm1(-waited_B)).log()
