"""Losses of outcomes under several treatments, as sums over the rows of a global batch (models/dragonnet.py).

    dragonnet  (1/n) sum [ (Q_t - y)^2 + alpha CE(g, t) + beta (y - Q_t - eps H_t)^2 ]      [Shi et al. 2019]
               H_t = 1 / g_t for an arm t; with two arms t / g - (1 - t) / (1 - g)
    cfr        (1/n) sum w_t (Q_t - y)^2 + alpha mean_a |mean z of arm a - mean z of arm 0|^2   [Shalit et al. 2017]
               the linear MMD; w_t = n / (A n_t), so that each arm counts alike

A distance between means over a global batch is no sum over rows. Its gradient is: each worker gets the means of all
rows as numbers and multiplies the difference with its own rows' share of the means. Shapes: B rows, A arms, Z width.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

SMALLEST = 0.01
"""A propensity below it counts as this much where it divides."""


def squared_errors(outcome_BA: Tensor, arm_B: Tensor, y_B: Tensor) -> Tensor:
    """(Q_t - y)^2 of every row, (B,)."""
    own_B = outcome_BA.gather(1, arm_B.unsqueeze(1)).squeeze(1)
    return (own_B - y_B).square()


def targeted(outcome_BA: Tensor, logit_BA: Tensor, epsilon_B: Tensor, arm_B: Tensor, y_B: Tensor) -> Tensor:
    """(y - Q_t - eps H_t)^2 of every row, (B,)."""
    own_B = outcome_BA.gather(1, arm_B.unsqueeze(1)).squeeze(1)
    share_B = logit_BA.softmax(1).gather(1, arm_B.unsqueeze(1)).squeeze(1).clamp(min=SMALLEST)
    step_B = 1 / share_B
    if outcome_BA.shape[1] == 2:
        step_B = torch.where(arm_B == 1, step_B, -step_B)
    return (y_B - own_B - epsilon_B * step_B).square()


def treatment_error(logit_BA: Tensor, arm_B: Tensor) -> Tensor:
    """Cross-entropy of the arm that was given, (B,)."""
    return cross_entropy(logit_BA, arm_B, reduction="none")


def sums_by_arm(representation_BZ: Tensor, arm_B: Tensor, arms: int) -> Tensor:
    """Counts and sums of representations of each arm, flat: (A + A * Z,) float64; workers add them up."""
    count_A = torch.bincount(arm_B, minlength=arms).double()
    sum_AZ = representation_BZ.new_zeros(arms, representation_BZ.shape[1]).index_add(0, arm_B, representation_BZ)
    return torch.cat([count_A, sum_AZ.double().flatten()])


def distance_share(representation_BZ: Tensor, arm_B: Tensor, totals: Tensor, arms: int) -> tuple[Tensor, Tensor]:
    """(a number whose gradient is these rows' share of the distance's, the distance itself); `totals` of all workers,
    as `sums_by_arm` has them. An arm that no row of the batch got is left out."""
    count_A, sum_AZ = totals[:arms], totals[arms:].reshape(arms, -1)
    mean_AZ = (sum_AZ / count_A.clamp(min=1).unsqueeze(1)).to(representation_BZ.dtype)
    there_A = (count_A > 0) & (count_A[0] > 0)
    compared = max(int(there_A[1:].sum()), 1)
    apart_AZ = torch.where(there_A.unsqueeze(1), mean_AZ - mean_AZ[:1], torch.zeros_like(mean_AZ))
    # d/dz_r of sum_a |m_a - m_0|^2 is 2 (m_t - m_0) / n_t for a row of arm t, and -2 sum_a (m_a - m_0) / n_0 for arm 0.
    pull_AZ = apart_AZ.clone()
    pull_AZ[0] = -apart_AZ.sum(0)
    weight_A1 = (2 / count_A.clamp(min=1)).to(representation_BZ.dtype).unsqueeze(1)
    share = (representation_BZ * (pull_AZ * weight_A1)[arm_B]).sum() / compared
    return share, apart_AZ.square().sum() / compared
