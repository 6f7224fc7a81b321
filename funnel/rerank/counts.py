"""Figures of the list scorer: log-loss, AUC and PCOC of three heads, also by place in the session, and list reward.

Scores fall into 4,096 bins of the logit over [-12, 12]: counts are whole numbers and add up over workers exactly; those
of one bin (.006 wide) count as tied. PCOC: mean prediction / mean label. Reward: alpha view + beta like of every item
that was watched; predicted / observed says whether list values mean what they say.

Shapes: B rows, H = 3 heads, P groups of places, N bins.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn.functional import softplus

from funnel.problem import Outputs
from funnel.rerank.units import SessionBatch
from models.list_scorer import HEADS

Maps = Mapping[str, tuple[float, float]]
"""By head: (slope, intercept) of its logit."""
BINS, LIMIT = 4096, 12.0
PLACES = (0, 1, 2, 5, 10, 20)
"""Places at which groups begin."""
PLACE_NAMES = ("1", "2", "3-5", "6-10", "11-20", "21+")
TITLES = {"view": "effective view", "like": "like", "next": "looks on"}
AIMS = {"log_loss": True, **{f"{head}.auc": False for head in HEADS}, **{f"{head}.log_loss": True for head in HEADS}}
"""Figures by which an epoch may be chosen, and whether smaller is better."""
WATCHED = {"log_loss": "mean log-loss of the heads", "view.auc": "AUC, effective view", "like.auc": "AUC, like",
           "next.auc": "AUC, looks on"}  # fmt: skip


@dataclass
class SessionCounts:
    """funnel/problem.py: Counts."""

    alpha: float
    beta: float
    bins_HP2N: Tensor = field(default_factory=lambda: torch.zeros(len(HEADS), len(PLACES), 2, BINS, dtype=torch.int64))
    sums_HP2: Tensor = field(default_factory=lambda: torch.zeros(len(HEADS), len(PLACES), 2, dtype=torch.float64))
    """Sums of log-losses and of predictions."""
    sessions_1: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.int64))
    columns: tuple[str, ...] = ()
    maps: Maps | None = None
    """Applied to the logits first: a calibration."""

    def add(self, outputs: Outputs, batch: SessionBatch, table: pa.Table) -> None:
        group_B = torch.bucketize(batch.place_B.cpu(), torch.tensor(PLACES), right=True) - 1
        for h, head in enumerate(HEADS):
            logit_B, label_B = outputs[head].detach().cpu().double(), batch.label_B3[:, h].cpu().double()
            if self.maps is not None:
                logit_B = self.maps[head][0] * logit_B + self.maps[head][1]
            bin_B = ((logit_B + LIMIT) * (BINS / (2 * LIMIT))).clamp_(0, BINS - 1).long()
            index_B = (group_B * 2 + (label_B > 0.5).long()) * BINS + bin_B
            counted = torch.bincount(index_B, minlength=2 * len(PLACES) * BINS)
            self.bins_HP2N[h] += counted.view(len(PLACES), 2, BINS)
            for n, value_B in enumerate((softplus(logit_B) - label_B * logit_B, logit_B.sigmoid())):
                self.sums_HP2[h, :, n] += torch.bincount(group_B, value_B, minlength=len(PLACES))
        self.sessions_1 += len(batch)

    def sums(self) -> list[Tensor]:
        return [self.bins_HP2N, self.sums_HP2, self.sessions_1]

    def peaks(self) -> list[Tensor]:
        return []

    def figures(self) -> dict[str, Any]:
        """sessions, rows, log_loss, HEAD.FIGURE and HEAD.FIGURE.PLACE, reward.observed, .predicted (of an item
        watched) and .ratio."""
        bins_HP2N, sums_HP2 = self.bins_HP2N.numpy(), self.sums_HP2.numpy()
        rows = int(bins_HP2N[0].sum())
        figures: dict[str, Any] = {"sessions": int(self.sessions_1), "rows": rows}
        absent: dict[str, str] = {}
        for h, head in enumerate(HEADS):
            parts = [("", bins_HP2N[h].sum(0), sums_HP2[h].sum(0))]
            parts += [(f".{name}", bins_HP2N[h, p], sums_HP2[h, p]) for p, name in enumerate(PLACE_NAMES)]
            for suffix, bins_2N, sums_2 in parts:
                found, missing = binary(bins_2N, sums_2)
                figures |= {f"{head}.{name}{suffix}": value for name, value in found.items()}
                absent |= {f"{head}.{name}{suffix}": reason for name, reason in missing.items()}
        if rows:
            figures["log_loss"] = float(np.mean([figures[f"{head}.log_loss"] for head in HEADS]))
            positive_H, predicted_H = bins_HP2N[:, :, 1].sum((1, 2)) / rows, sums_HP2[:, :, 1].sum(1) / rows
            weight_H = np.array([self.alpha, self.beta, 0.0])
            figures["reward.observed"] = float(weight_H @ positive_H)
            figures["reward.predicted"] = float(weight_H @ predicted_H)
            if figures["reward.observed"]:
                figures["reward.ratio"] = figures["reward.predicted"] / figures["reward.observed"]
        return figures | {"absent": absent}

    def curves(self) -> dict[str, Any]:
        """Reliability: by head, groups of equal count with their mean prediction and mean label."""
        return {"calibration": {head: reliability(self.bins_HP2N[h].sum(0).numpy()) for h, head in enumerate(HEADS)}}


def binary(bins_2N: np.ndarray, sums_2: np.ndarray) -> tuple[dict[str, float], dict[str, str]]:
    """(log_loss, auc, pcoc; reasons for those that cannot be)."""
    negative, positive = bins_2N.astype(np.float64)
    total = negative.sum() + positive.sum()
    if not total:
        return {}, dict.fromkeys(("log_loss", "auc", "pcoc"), "no rows")
    figures, absent = {"log_loss": float(sums_2[0] / total)}, {}
    if positive.sum() and negative.sum():
        below = np.cumsum(negative) - negative
        figures["auc"] = float((positive * (below + 0.5 * negative)).sum() / (positive.sum() * negative.sum()))
    else:
        absent["auc"] = "no positives" if negative.sum() else "no negatives"
    if positive.sum():
        figures["pcoc"] = float(sums_2[1] / positive.sum())
    else:
        absent["pcoc"] = "no positives"
    return figures, absent


def centres() -> np.ndarray:
    """The logit in the middle of each bin."""
    return np.asarray((np.arange(BINS) + 0.5) * (2 * LIMIT / BINS) - LIMIT)


def reliability(bins_2N: np.ndarray, groups: int = 20) -> list[dict[str, float]]:
    """Groups of rows by score, about equal in count."""
    total_N, chance_N = bins_2N.sum(0).astype(np.float64), 1 / (1 + np.exp(-centres()))
    if not total_N.sum():
        return []
    group_N = np.minimum((np.cumsum(total_N) - total_N) * groups / total_N.sum(), groups - 1).astype(int)
    found = []
    for group in np.unique(group_N[total_N > 0]):
        here = group_N == group
        mass = float(total_N[here].sum())
        mean = float((total_N[here] * chance_N[here]).sum() / mass)
        found.append({"mean_prediction": mean, "mean_label": float(bins_2N[1, here].sum() / mass), "count": int(mass)})
    return found
