"""MRDR in ESCM2 [Guo et al., Enhanced Doubly Robust Learning for Debiasing Post-Click CVR Estimation, SIGIR 2021].

As escm2_dr, but the imputation minimises what it contributes to the variance of the doubly robust estimate:

L_imp = (1/|D|) sum_D o (1 - q~) / q~^2 (delta(r, p) - d^)^2,

an inverse-propensity estimate of mean_D (1 - q)/q (delta - d^)^2, which is |D| times that variance. `imputation: label`
and `alternate_every` work as they do there.
"""

from torch import Tensor

from models.objectives.escm2_dr import Escm2Dr


class Escm2Mrdr(Escm2Dr):
    def imputation_weight(self, weight_B: Tensor) -> Tensor:
        return weight_B * (weight_B - 1)  # (1 - q~)/q~^2 where clicked, 0 where not
