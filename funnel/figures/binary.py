"""AUC, KS, log-loss, PCOC, ECE and calibration of any number of predictions in fixed memory, added up over workers.

Scores fall into 2^18 equal bins of the logit over [-20, 20] (a bin is 1.5e-4 wide, relative in probability where it is
small). Counts are integers and add exactly, so the AUC of a part is the same bits however the rows were dealt. The only
approximation is that scores of one bin count as tied; `auc_error` bounds what that can change.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

BINS = 2**18
LIMIT = 20.0
ECE_GROUPS = 20
FIGURES = ("auc", "ks", "log_loss", "pcoc", "ece")


@dataclass
class BinaryMetrics:
    """Figures of one prediction in one space: `add` rows, add up the `sums` of workers, read `figures`."""

    counts_2N: Tensor = field(default_factory=lambda: torch.zeros(2, BINS, dtype=torch.int64))
    """Rows by label (0, 1) and bin."""
    sums_2: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.float64))
    """Sum of the log-losses and of the predictions."""

    def add(self, logit_B: Tensor, label_B: Tensor) -> None:
        logit_B, label_B = logit_B.detach().cpu().double(), label_B.detach().cpu().double()
        bin_B = ((logit_B + LIMIT) * (BINS / (2 * LIMIT))).clamp_(0, BINS - 1).long()
        index_B = bin_B + BINS * (label_B > 0.5).long()
        self.counts_2N += torch.bincount(index_B, minlength=2 * BINS).view(2, BINS)
        self.sums_2 += torch.stack([(softplus(logit_B) - label_B * logit_B).sum(), logit_B.sigmoid().sum()])

    def sums(self) -> list[Tensor]:
        """The counters: with those of other workers added in place, every figure is that of all rows."""
        return [self.counts_2N, self.sums_2]

    def used(self) -> tuple[np.ndarray, np.ndarray]:
        """(bins that hold rows, float64 counts by label of those): what every figure follows from."""
        counts_2N = self.counts_2N.numpy()
        bins = np.flatnonzero(counts_2N.any(axis=0))
        return bins, counts_2N[:, bins].astype(np.float64)

    @property
    def count(self) -> int:
        return int(self.counts_2N.numpy().sum())

    @property
    def positives(self) -> int:
        return int(self.counts_2N[1].numpy().sum())

    def auc(self) -> float:
        """P(score of a positive > score of a negative) + half the ties; needs both labels."""
        negative, positive = self.used()[1]
        below = np.cumsum(negative) - negative
        return float((positive * (below + 0.5 * negative)).sum() / (positive.sum() * negative.sum()))

    def auc_error(self) -> float:
        """Largest distance between `auc` and the AUC of unbinned scores: half the share of pairs tied by a bin."""
        negative, positive = self.used()[1]
        return float(0.5 * (positive * negative).sum() / (positive.sum() * negative.sum()))

    def ks(self) -> float:
        """Kolmogorov-Smirnov: the largest distance between the score distributions of positives and negatives."""
        negative, positive = self.used()[1]
        return float(np.abs(np.cumsum(negative) / negative.sum() - np.cumsum(positive) / positive.sum()).max())

    def ece(self) -> float:
        """Expected calibration error over ECE_GROUPS groups of equal count: mean |mean prediction - mean label|."""
        groups = self.calibration(ECE_GROUPS)
        errors = [group["count"] * abs(group["mean_prediction"] - group["mean_label"]) for group in groups]
        return sum(errors) / self.count

    def figures(self) -> tuple[dict[str, float], dict[str, str]]:
        """(figures by name, reasons for those that cannot be computed)."""
        count, positives = self.count, self.positives
        figures: dict[str, float] = {"count": count, "positives": positives}
        absent: dict[str, str] = {}
        if count == 0:
            return figures, dict.fromkeys(FIGURES, "no rows")
        log_loss, prediction = (self.sums_2 / count).tolist()
        figures |= {"log_loss": log_loss, "mean_prediction": prediction, "mean_label": positives / count}
        figures["ece"] = self.ece()
        if 0 < positives < count:
            figures |= {"auc": self.auc(), "auc_error": self.auc_error(), "ks": self.ks()}
        else:
            absent |= dict.fromkeys(("auc", "ks"), "no positives" if positives == 0 else "no negatives")
        if positives:
            figures["pcoc"] = prediction * count / positives
        else:
            absent["pcoc"] = "no positives"
        return figures, absent

    def calibration(self, groups: int = ECE_GROUPS) -> list[dict[str, float]]:
        """Equal-count groups of rows by score: mean prediction (from bin centres), mean label, count."""
        used, (negative, positive) = self.used()
        if not len(used):
            return []
        total, centre = negative + positive, 1 / (1 + np.exp(LIMIT - (used + 0.5) * (2 * LIMIT / BINS)))
        group_V = np.minimum((np.cumsum(total) - total) * groups / total.sum(), groups - 1).astype(int)
        result = []
        for group in np.unique(group_V):
            here = group_V == group
            count = total[here].sum()
            mean = float((total[here] * centre[here]).sum() / count)
            label = float(positive[here].sum() / count)
            result.append({"mean_prediction": mean, "mean_label": label, "count": int(count)})
        return result
