"""What a policy on the simplex is worth on rows that it was not learnt from: figures of --problem joint_shares.

The value of shares pi is mean_r mu(x_r, pi_r) + sum_r w_r (y_r - mu(x_r, t_r)) / sum_r w_r, with weights
w = K((t - pi)/h) / f(t | x) (value.py): the network's promise, corrected by rows that were shown nearly such shares.
The gain is that of the policy less that of the log's mean shares, paired over rows. All of it, the interval too,
follows from sums of five numbers a row and of their products. Shapes: B rows, K categories.
"""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from data.kinds import number
from funnel.exposure.dose_units import DoseBatch
from funnel.exposure.reading import BEST
from funnel.problem import Outputs

AIMS = {"mse": True, "gain": False}
"""Figures by which an epoch may be chosen, and whether smaller is better."""
WATCHED = {"mse": "squared error of the outcome", "gain": "gain over the log's mean shares, doubly robust"}
LARGEST = 300.0
"""Of a weight's logarithm: its square is still a float64."""
NORMAL = 2.2414
"""Standard errors to the ends of a 95% interval: the normal quantile of half of the misses that 95% allows, as in
funnel/figures/intervals.py; the other half is for what a normal interval misses."""


class JointCounts:
    """Sums over a part (funnel/problem.py: Counts)."""

    def __init__(
        self, mean: float, scale: float, width: float, typical: float, start_K: Tensor, categories: Sequence[str],
        best: bool,
    ) -> None:  # fmt: skip
        """mean, scale: of the outcome; width: of the kernels; typical: a log density of shown shares, which weights are
        in units of; best: whether the log has the best shares of each row."""
        self.mean, self.scale, self.width, self.typical, self.best = mean, scale, width, typical, best
        self.start_K, self.categories = start_K.double(), tuple(categories)
        # y, y^2, (y - mu)^2, promise of the policy, whether it was drawn in, its and the start's L1 and squared
        # distance from the best
        self.plain_10 = torch.zeros(10, dtype=torch.float64)
        self.given_K = torch.zeros(len(self.categories), dtype=torch.float64)
        # of each row its gain by the network, and w (y - mu) and w of the policy's shares and of the start's
        self.sum_5, self.product_55 = torch.zeros(5, dtype=torch.float64), torch.zeros(5, 5, dtype=torch.float64)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(f"{BEST}{name}" for name in self.categories) if self.best else ()

    def add(self, outputs: Outputs, batch: DoseBatch, table: pa.Table) -> None:
        found = {name: value.double() for name, value in outputs.items()}
        outcome_B, shown_BK, given_BK = batch.outcome_B.double(), batch.dose_B.double(), found["given"]
        start_BK = self.start_K.expand_as(given_BK)
        gap_B = outcome_B - found["mu"]
        parts = [torch.ones_like(gap_B), outcome_B, outcome_B.square(), gap_B.square(), found["promised"],
                 found["drawn_in"]]  # fmt: skip
        if self.best:
            best_BK = torch.stack([torch.from_numpy(number(table, name).astype("float64")) for name in self.columns], 1)
            for share_BK in (given_BK, start_BK):
                parts += [(share_BK - best_BK).abs().sum(1), (share_BK - best_BK).square().sum(1)]
        self.plain_10[: len(parts)] += torch.stack(parts).sum(1)
        self.given_K += given_BK.sum(0)
        policy_B, start_B = (self.weight(shown_BK, each_BK, found["density"]) for each_BK in (given_BK, start_BK))
        row_B5 = torch.stack(
            [found["promised"] - found["plain"], policy_B * gap_B, policy_B, start_B * gap_B, start_B], 1
        )
        self.sum_5 += row_B5.sum(0)
        self.product_55 += row_B5.T @ row_B5

    def weight(self, shown_BK: Tensor, share_BK: Tensor, density_B: Tensor) -> Tensor:
        square_B = (shown_BK - share_BK).square().sum(1)
        return (self.typical - density_B - square_B / (2 * self.width**2)).clamp(max=LARGEST).exp()

    def sums(self) -> list[Tensor]:
        return [self.plain_10, self.given_K, self.sum_5, self.product_55]

    def peaks(self) -> list[Tensor]:
        return []

    def figures(self) -> dict[str, Any]:
        """rows, mse, r2; policy.model (the network's promise), policy.value (doubly robust), mean.value (of the log's
        mean shares), gain with .low and .high (95%), policy.effective (rows that the correction comes to),
        policy.drawn_in (part of the users), and l1 and mtse where the best shares are known."""
        rows, y, y2, error, promised, moved, *distances = self.plain_10.tolist()
        if not rows:
            return {"rows": 0, "absent": dict.fromkeys(AIMS, "no rows")}
        spread = y2 / rows - (y / rows) ** 2
        found: dict[str, Any] = {"rows": int(rows), "mse": error / rows * self.scale**2}
        found["r2"] = 1 - error / rows / spread if spread > 0 else 0.0
        found["policy.model"] = self.mean + self.scale * promised / rows
        found["policy.drawn_in"] = moved / rows
        gain, policy, policy_w, start, start_w = self.sum_5.tolist()
        absent: dict[str, str] = {}
        if min(policy_w, start_w) > 0:
            own, other = policy / policy_w, start / start_w
            found["policy.value"] = found["policy.model"] + self.scale * own
            value = gain / rows + own - other
            # a ratio's parts: w (residual - ratio) / mean w
            a, b = rows / policy_w, rows / start_w
            factor_5 = torch.tensor([1.0, a, -a * own, -b, b * other], dtype=torch.float64)
            square = float(factor_5 @ self.product_55 @ factor_5) / rows - (gain / rows) ** 2
            error_of = NORMAL * (max(square, 0.0) / rows) ** 0.5
            found["mean.value"] = found["policy.value"] - self.scale * value
            for end, shift in (("", 0.0), (".low", -error_of), (".high", error_of)):
                found[f"gain{end}"] = self.scale * (value + shift)
            found["policy.effective"] = policy_w**2 / float(self.product_55[2, 2])
        else:
            absent["gain"] = "no row was shown anything like the policy's shares"
        if self.best:
            for name, total in zip(("policy.l1", "policy.mtse", "mean.l1", "mean.mtse"), distances, strict=True):
                found[name] = total / rows
        return found | {"absent": absent}

    def curves(self) -> dict[str, Any]:
        """{"categories", "given", "mean"}: the policy's mean shares beside the log's."""
        rows = max(float(self.plain_10[0]), 1.0)
        given = (self.given_K / rows).tolist()
        return {"categories": list(self.categories), "given": given, "mean": self.start_K.tolist()}
