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

    elapsed        [Yang et al., Capturing delayed feedback with elapsed-time sampling, AAAI 2021, ES-DFM]: a click
                   waits a window w for its conversion, is a negative where that has not come, and comes once more when
                   it comes after all. With p_dp = P(it comes after w) and p_rn = P(it never comes, given not by w),
                   weights (1 + p_dp) of positives and (1 + p_dp) p_rn of negatives; two towers learn p_dp and p_rn from
                   clicks that are `mature` days old

    measured       a click's conversion is known by now with probability p F(e): F, the share of conversions that come
                   within e days, is measured of the log (funnel/ranking/elapsed.py) and the same for all rows

Each is a loss of one click, so that an objective may weigh it by 1/q. The CTCVR term goes by the same law: with
l1 = -log(q p) and l0 = -log(1 - q p), what is not clicked adds l0 and a click

    exponential, measured   the loss of a conversion that is known by now with probability q p F(e); so do other rows
    fake_negative           c l1 + (1 - p) l0, the weights above over 1 + p, as other rows come once
    elapsed                 c l1 + (1 - early) p_rn l0, those above over 1 + p_dp, among exposures that have waited
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from models.objectives.terms import binary_cross_entropy, log_one_minus_product, log_product

RATE, LATE, NEVER = "delay", "late", "never"
"""Names of towers: log lambda in 1/days; logits of p_dp and p_rn."""
DELAYS: dict[str, tuple[str, ...]] = {
    "none": (),
    "exponential": (RATE,),
    "fake_negative": (),
    "elapsed": (LATE, NEVER),
    "measured": (),
}
"""The towers that each needs beside those of its objective."""


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


def elapsed_time(
    logits: Mapping[str, Tensor],
    logit_B: Tensor,
    label_B: Tensor,
    elapsed_B: Tensor,
    delay_B: Tensor,
    window: float,
    mature: float,
) -> Tensor:
    """What a click adds that has waited a window, and what it teaches LATE and NEVER if it is mature.

    logit_B is that of the conversion; a click that has not waited yet adds nothing.
    """
    known_B = label_B > 0.5
    early_B, late_B = (known_B & (delay_B <= window)).to(logit_B), (known_B & (delay_B > window)).to(logit_B)
    come_late_B, never_B = logits[LATE].detach().sigmoid(), logits[NEVER].detach().sigmoid()
    negative_B = (1 - early_B) * never_B
    loss_B = (1 + come_late_B) * (label_B * softplus(-logit_B) + negative_B * softplus(logit_B))
    taught_B = binary_cross_entropy(logits[LATE], late_B)
    taught_B = taught_B + (1 - early_B) * binary_cross_entropy(logits[NEVER], 1 - late_B)
    return (elapsed_B >= window) * loss_B + (elapsed_B >= mature) * taught_B


def log_known(log_rate_B: Tensor, elapsed_B: Tensor) -> Tensor:
    """log(1 - exp(-lambda e)): the share of a click's conversions that is known by now, held constant."""
    waited_B = (log_rate_B.detach().exp() * elapsed_B).clamp(min=1e-6)
    return (-torch.expm1(-waited_B)).log()


def measured(logit_B: Tensor, label_B: Tensor, known_B: Tensor) -> Tensor:
    """-log of the probability p F of a conversion that is known by now, or of the rest."""
    unknown_B = (1 - known_B).clamp(min=1e-30).log()
    waiting_B = -torch.logaddexp(logsigmoid(-logit_B), logsigmoid(logit_B) + unknown_B)
    known_log_B = -logsigmoid(logit_B) - known_B.clamp(min=1e-6).log()
    return torch.where(label_B > 0.5, known_log_B, waiting_B)


def known_product(a_B: Tensor, b_B: Tensor, log_known_B: Tensor, label_B: Tensor) -> Tensor:
    """The CTCVR loss where a conversion is known by now with probability q p F."""
    log_B = log_product(a_B, b_B) + log_known_B
    return -label_B * log_B - (1 - label_B) * (-log_B.expm1()).clamp(min=1e-30).log()


def weighed_product(a_B: Tensor, b_B: Tensor, click_B: Tensor, label_B: Tensor, negative_B: Tensor) -> Tensor:
    """The CTCVR loss with a click's negative weighed: c l1 + weight l0; l0 of what is not clicked."""
    weight_B = torch.where(click_B > 0.5, negative_B, torch.ones_like(negative_B))
    return -label_B * log_product(a_B, b_B) - weight_B * log_one_minus_product(a_B, b_B)


def negative_weight(logits: Mapping[str, Tensor], early_B: Tensor) -> Tensor:
    """(1 - early) p_rn, held constant."""
    return (1 - early_B) * logits[NEVER].detach().sigmoid()
