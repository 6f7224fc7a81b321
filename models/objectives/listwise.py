"""List-wise loss with several positives a list [as in ASMOL, Wang et al. 2023, arXiv 2305.13647].

Each positive competes with the negatives of its own list, not with the other positives:

    L = (1/W) sum_lists sum_positives w_p log(1 + sum_negatives exp(z_n - z_p)),   W = sum of w_p

A list without a negative, or without a positive, says nothing. Shapes: B rows of all lists, L lists.
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus


def counted(list_B: Tensor, lists: int, label_B: Tensor) -> Tensor:
    """bool_B: the positives whose list has a negative."""
    negatives_L = label_B.new_zeros(lists).index_add_(0, list_B, (label_B <= 0.5).to(label_B.dtype))
    return (label_B > 0.5) & (negatives_L[list_B] > 0)


def listwise_terms(logit_B: Tensor, list_B: Tensor, lists: int, label_B: Tensor) -> tuple[Tensor, Tensor]:
    """(index_P of the positives that count, their terms log(1 + sum exp(z_n - z_p)))."""
    index_P = counted(list_B, lists, label_B).nonzero().squeeze(1)
    negative_N = (label_B <= 0.5).nonzero().squeeze(1)
    of_N, z_N = list_B[negative_N], logit_B[negative_N]
    # The largest negative of a list is taken out of its sum, so that no exponential overflows.
    largest_L = logit_B.detach().new_full((lists,), -torch.inf).scatter_reduce(0, of_N, z_N.detach(), "amax")
    sum_L = logit_B.new_zeros(lists).index_add(0, of_N, (z_N - largest_L[of_N]).exp())
    of_P = list_B[index_P]
    return index_P, softplus(largest_L[of_P] + sum_L[of_P].log() - logit_B[index_P])
