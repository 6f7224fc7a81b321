"""Which item belongs to this query: softmax over the items of a batch, corrected for how often items are sampled.

A row is a query q_i with the item v_i that was taken. Its loss is
    -log( exp(l_ii) / sum_{j in C_i} exp(l_ij) ),   l_ij = q_i . v_j / temperature - log Q_j,
where C_i are the rows of its group whose item is another one, and row i itself. Items stand in a batch as often as they
are taken, so without the correction popular items would be pushed away for being popular; Q_j is the share of item j in
the training rows [Bengio and Senecal 2008; Yi et al., Sampling-Bias-Corrected Neural Modeling, RecSys 2019, eq. 3-4].

Shapes: B rows, E width of the vectors, G rows of a group.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def sampled_softmax(
    query_BE: Tensor,
    item_BE: Tensor,
    item_B: Tensor,
    log_q_B: Tensor,
    counted_B: Tensor,
    groups: Sequence[int],
    temperature: float,
) -> Tensor:
    """The loss of every row, (B,), 0 where `counted_B` (bool) is False: neither a query nor anybody's negative.

    item_B: int64, rows of one item have one number; log_q_B: log of the item's share of the training rows; groups: how
    many consecutive rows are each other's negatives, adding up to B.
    """
    pieces = []
    sides = (query_BE, item_BE, item_B, log_q_B, counted_B)
    for query_GE, item_GE, item_G, log_q_G, counted_G in zip(
        *(side.split(list(groups)) for side in sides), strict=True
    ):
        logits_GG = query_GE @ item_GE.T / temperature - log_q_G
        # The same item again is no negative; nor is the item of a row that does not count.
        other_GG = (item_G.unsqueeze(1) != item_G) & counted_G
        other_GG |= torch.eye(len(item_G), dtype=torch.bool, device=item_G.device)
        logits_GG = logits_GG.masked_fill(~other_GG, -torch.inf)
        term_G = torch.logsumexp(logits_GG, 1) - logits_GG.diagonal()
        pieces.append(torch.where(counted_G, term_G, torch.zeros_like(term_G)))
    return torch.cat(pieces) if pieces else query_BE.sum(1)
