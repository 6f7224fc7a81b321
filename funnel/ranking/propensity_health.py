"""What the inverse propensities of clicked rows are like. Shapes: B rows, N bins."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class PropensityHealth:
    """What the inverse propensities of clicked rows are like: few large weights mean few rows carry the estimate.

    Where rows weigh more or less than once, what counts is row weight x inverse propensity, as in the loss.
    """

    clip: float
    sums_4: Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.float64))
    """Clicks, sum of weights, sum of squared weights, clipped clicks."""
    histogram_N: Tensor = field(default_factory=lambda: torch.zeros(40, dtype=torch.int64))
    """Clicks by log10 of the weight, in 40 bins over [0, 4]."""
    largest_1: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.float64))

    def add(self, click_logit_B: Tensor, click_B: Tensor, row_weight_B: Tensor | None = None) -> None:
        """`click_logit_B`: of the propensities that weigh the clicks in training."""
        clicked = click_B.cpu() > 0.5
        q_B = click_logit_B.detach().cpu().double().sigmoid()[clicked]
        if not len(q_B):
            return
        weight_B = 1 / q_B.clamp(min=max(self.clip, 1e-12))
        if row_weight_B is not None:
            weight_B = weight_B * row_weight_B.cpu().double()[clicked]
        clipped = (q_B < self.clip).sum().double()
        self.sums_4 += torch.stack([weight_B.new_tensor(len(q_B)), weight_B.sum(), weight_B.square().sum(), clipped])
        self.largest_1 = torch.maximum(self.largest_1, weight_B.max().view(1))
        bin_B = (weight_B.log10() * 10).clamp(0, 39).long()
        self.histogram_N += torch.bincount(bin_B, minlength=40)

    def sums(self) -> list[Tensor]:
        """Counters that add up over workers."""
        return [self.sums_4, self.histogram_N]

    def peaks(self) -> list[Tensor]:
        """The counter of which the largest over workers counts."""
        return [self.largest_1]

    def figures(self) -> dict[str, float]:
        """Effective sample size (sum w)^2 / sum w^2 and its share of the clicks, largest weight, share clipped."""
        clicks, total, squares, clipped = self.sums_4.tolist()
        if not total:
            return {"clicks": int(clicks), "clip": self.clip}
        size = total**2 / squares
        return {
            "clicks": int(clicks),
            "clip": self.clip,
            "effective_sample_size": size,
            "effective_share": size / clicks,
            "largest_weight": self.largest_1.item(),
            "share_clipped": clipped / clicks,
        }

    def weight_histogram(self) -> dict[str, list[float]]:
        """Edges (40 bins + 1) of the weight and counts, cut to the bins in use."""
        used = torch.nonzero(self.histogram_N).flatten()
        if not len(used):
            return {"edges": [], "counts": []}
        low, high = int(used[0]), int(used[-1]) + 1
        edges = [10 ** (edge / 10) for edge in range(low, high + 1)]
        return {"edges": edges, "counts": self.histogram_N[low:high].tolist()}
