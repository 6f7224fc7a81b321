"""Surviving all stages of a cascade, as a loss [after LCRON: Learning Cascade Ranking as One Network, ICML 2025, arXiv
2503.09492].

An item that is among the first k_m of the *whole* list by the scores of stage m is among the first k_m of whatever
part of the list reaches that stage. So the product over stages of "among the first k_m of the whole list" is a lower
bound of surviving all of them. "Among the first k" is made differentiable by a relaxed permutation matrix (NeuralSort,
Grover et al., ICLR 2019):

    row i of the matrix = softmax(((n + 1 - 2 i) s - A 1) / tau),  A_jm = |s_j - s_m|,   n: items of the list
    m_j                 = min(1, sum of the first k rows in column j)
    L                   = sum_j -y_j (1 + m2_j) log m1_j

m1 is that of the scores being learnt, m2 that of the later stage. In the paper both stages are trained together, by
-log(m1 m2) and by each stage's own -log m. Here the later stage stands still: its log would be a constant, so a
positive counts by how far that stage would show it (-m2 log m1, a lower bound by Jensen's inequality), beside the own
stage's -log m1. Negatives need no term: the first k places are given once. A sum of n distances makes the logits
large: tau goes with the length of the lists. Shapes: B rows of all lists, L lists, N items of the longest list, I rows
of the matrix.
"""

import torch
from torch import Tensor

LEAST = 1e-6


def padded(value_B: Tensor, list_B: Tensor, lists: int, fill: float) -> tuple[Tensor, Tensor]:
    """(value_LN with `fill` where there is no item, place_B of each row in the flat matrix)."""
    length_L = torch.bincount(list_B, minlength=lists)
    width = int(length_L.max()) if lists else 0
    begin_L = length_L.cumsum(0) - length_L
    place_B = list_B * width + torch.arange(len(list_B), device=list_B.device) - begin_L.index_select(0, list_B)
    flat = value_B.new_full((lists * width,), fill).index_copy(0, place_B, value_B)
    return flat.view(lists, width), place_B


def membership(score_B: Tensor, list_B: Tensor, lists: int, first_L: Tensor, tau: float) -> Tensor:
    """m_B in 0 .. 1: how far each row is among the first_L rows of its list by the scores."""
    score_LN, place_B = padded(score_B, list_B, lists, 0.0)
    there_LN, _ = padded(torch.ones_like(score_B), list_B, lists, 0.0)
    length_L = there_LN.sum(1)
    distance_LN = ((score_LN.unsqueeze(2) - score_LN.unsqueeze(1)).abs() * there_LN.unsqueeze(1)).sum(2)
    most = int(first_L.max()) if lists else 0
    rank_I = torch.arange(1, most + 1, device=score_B.device, dtype=score_B.dtype)
    factor_LI = length_L.unsqueeze(1) + 1 - 2 * rank_I
    logit_LIN = (factor_LI.unsqueeze(2) * score_LN.unsqueeze(1) - distance_LN.unsqueeze(1)) / tau
    logit_LIN = logit_LIN.masked_fill(there_LN.unsqueeze(1) == 0, -1e9)
    taken_LI = (rank_I <= first_L.unsqueeze(1)).to(score_B.dtype)
    found_LN = (logit_LIN.softmax(2) * taken_LI.unsqueeze(2)).sum(1)
    return found_LN.reshape(-1).index_select(0, place_B).clamp(max=1.0)


def survival_terms(own_B: Tensor, later_B: Tensor, label_B: Tensor) -> Tensor:
    """The loss of every row, from the memberships of the own stage and of the later one."""
    return -label_B * (1 + later_B) * own_B.clamp(min=LEAST).log()
