"""List-wise softmax: the plain loss of each positive against its whole list, and what a teacher says of a list.

    plain      L = sum over positives i of -log softmax(z)_i                    the other positives are negatives too
    distilled  L = sum over i of -p_i log softmax(z)_i                          p: the teacher's probabilities

[ASMOL, arXiv 2305.13647, eq. 6 and 8.] The gradient of the latter for z_j is softmax(z)_j sum_i p_i - p_j: it teaches
the proportions of p within a list, weighted by their sum, and 0 where the student has them.
Shapes: B rows of all lists, L lists, P positives.
"""

import torch
from torch import Tensor

from models.objectives.listwise import counted


def log_softmax(logit_B: Tensor, list_B: Tensor, lists: int) -> Tensor:
    """log softmax of the logits within each list."""
    # The largest of a list is taken out of its sum, so that no exponential overflows.
    largest_L = logit_B.detach().new_full((lists,), -torch.inf).scatter_reduce(0, list_B, logit_B.detach(), "amax")
    shifted_B = logit_B - largest_L.index_select(0, list_B)
    sum_L = logit_B.new_zeros(lists).index_add(0, list_B, shifted_B.exp())
    return shifted_B - sum_L.index_select(0, list_B).log()


def softmax_terms(logit_B: Tensor, list_B: Tensor, lists: int, label_B: Tensor) -> tuple[Tensor, Tensor]:
    """(index_P of the positives whose list has a negative, their terms -log softmax)."""
    index_P = counted(list_B, lists, label_B).nonzero().squeeze(1)
    return index_P, -log_softmax(logit_B, list_B, lists).index_select(0, index_P)


def distilled_terms(logit_B: Tensor, list_B: Tensor, lists: int, taught_B: Tensor) -> Tensor:
    """-p_i log softmax(z)_i of every row; a list of one row says nothing."""
    return -taught_B * log_softmax(logit_B, list_B, lists)
