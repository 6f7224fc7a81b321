"""Loss of a response to a dose: outcome, density of the dose, targeted regularisation [VCNet, Nie et al., ICLR 2021].

    L = mean (y - mu)^2 - alpha mean log(pi + 1e-6) + beta mean (y - mu - eps/(pi + 1e-6))^2

with mu and pi of each row's dose t and features x, and eps a spline of t. At the minimum over eps the mean of
(y - mu - eps/pi)/pi is 0 at every dose that the spline can tell apart: mu + eps/pi is doubly robust for the average
response. The published code steps eps by the last term alone; the first two do not depend on it, so that is the
gradient of L. Shapes: B rows.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

TINY = 1e-6


def dose_terms(outputs: Mapping[str, Tensor], outcome_B: Tensor, alpha: float, beta: float) -> dict[str, Tensor]:
    """Each term's rows (B,): "outcome", "density" and, with beta above 0, "targeted", all weighed."""
    error_B = outcome_B - outputs["mu"]
    pi_B = outputs["pi"] + TINY
    terms = {"outcome": error_B.square(), "density": -alpha * torch.log(pi_B)}
    if beta > 0:
        terms["targeted"] = beta * (error_B - outputs["eps"] / pi_B).square()
    return terms
