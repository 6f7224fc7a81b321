"""AUC, KS, log-loss, PCOC, ECE and calibration of any number of predictions in fixed memory, added up over workers.

Scores fall into 2^18 equal bins of the logit over [-20, 20] (a bin is 1.5e-4 wide, relative in probability where it is
small). Counts are integers and add exactly, so the AUC of a part is the same bits however the rows were dealt. The only
approximation is that scores of one bin count as tied; `auc_error` bounds what that can change.

Rows may weigh more or less than once (negatives kept at 1/10 weigh 10). Then a figure is the one of a log in which
every row stands as often as it weighs; sums of weights are float64, the same over workers but for their last bits.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from funnel.figures.threshold import NAMES, at_threshold, first_bin

BINS = 2**18
LIMIT = 20.0
ECE_GROUPS = 20
FIGURES = ("auc", "ks", "log_loss", "pcoc", "ece", *NAMES)


@dataclass
class BinaryMetrics:
    """Figures of one prediction in one space: `add` rows, add up the `sums` of workers, read `figures`."""

    weighted: bool = False
    """Whether rows have weights."""
    counts_2N: Tensor = field(default_factory=lambda: torch.zeros(2, BINS, dtype=torch.int64))
    """Rows by label (0, 1) and bin."""
    sums_2: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.float64))
    """Weighted sum of the log-losses and of the predictions."""
    threshold: float | None = None
    """From which prediction on a row is called positive, for precision, recall and F1; None: from the mean label on."""
    weights_2N: Tensor = field(init=False)
    """What those rows weigh, float64; the counts themselves where rows have no weights."""

    def __post_init__(self) -> None:
        self.weights_2N = torch.zeros(2, BINS, dtype=torch.float64) if self.weighted else self.counts_2N

    def add(self, logit_B: Tensor, label_B: Tensor, weight_B: Tensor | None = None) -> None:
        """Rows with their weights, if they have any."""
        assert self.weighted == (weight_B is not None)
        logit_B, label_B = logit_B.detach().cpu().double(), label_B.detach().cpu().double()
        bin_B = ((logit_B + LIMIT) * (BINS / (2 * LIMIT))).clamp_(0, BINS - 1).long()
        index_B = bin_B + BINS * (label_B > 0.5).long()
        self.counts_2N += torch.bincount(index_B, minlength=2 * BINS).view(2, BINS)
        loss_B, prediction_B = softplus(logit_B) - label_B * logit_B, logit_B.sigmoid()
        if weight_B is not None:
            weight_B = weight_B.detach().cpu().double()
            self.weights_2N += torch.bincount(index_B, weight_B, minlength=2 * BINS).view(2, BINS)
            loss_B, prediction_B = weight_B * loss_B, weight_B * prediction_B
        self.sums_2 += torch.stack([loss_B.sum(), prediction_B.sum()])

    def sums(self) -> list[Tensor]:
        """The counters: with those of other workers added in place, every figure is that of all rows."""
        return [self.counts_2N, self.sums_2, *([self.weights_2N] if self.weighted else [])]

    def used(self) -> tuple[np.ndarray, np.ndarray]:
        """(bins in use, float64 weights by label of their rows): what every figure follows from."""
        weights_2N = self.weights_2N.numpy()
        bins = np.flatnonzero(weights_2N.any(axis=0))
        return bins, weights_2N[:, bins].astype(np.float64)

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
        errors = [group[self.mass] * abs(group["mean_prediction"] - group["mean_label"]) for group in groups]
        return sum(errors) / float(self.weights_2N.sum())

    def figures(self) -> tuple[dict[str, float], dict[str, str]]:
        """(figures by name, reasons for those that cannot be computed)."""
        figures: dict[str, float] = {"count": self.count, "positives": self.positives}
        absent: dict[str, str] = {}
        if self.count == 0:
            return figures, dict.fromkeys(FIGURES, "no rows")
        negative, positive = self.weights_2N.sum(1).tolist()
        total = negative + positive
        if self.weighted:
            figures["weight"] = total
            if total == 0:
                return figures, dict.fromkeys(FIGURES, "all rows weigh 0")
        log_loss, prediction = (self.sums_2 / total).tolist()
        figures |= {"log_loss": log_loss, "mean_prediction": prediction, "mean_label": positive / total}
        figures["ece"] = self.ece()
        if positive and negative:
            figures |= {"auc": self.auc(), "auc_error": self.auc_error(), "ks": self.ks()}
        else:
            absent |= dict.fromkeys(("auc", "ks"), "no negatives" if positive else "no positives")
        if positive:
            figures["pcoc"] = prediction * total / positive
        else:
            absent["pcoc"] = "no positives"
        threshold = figures["mean_label"] if self.threshold is None else self.threshold
        bins, (negative, positive) = self.used()
        found, missing = at_threshold(bins >= first_bin(threshold, BINS, LIMIT), negative, positive)
        return {**figures, "threshold": threshold, **found}, absent | missing

    @property
    def mass(self) -> str:
        """What the groups of `calibration` are equal in."""
        return "weight" if self.weighted else "count"

    def calibration(self, groups: int = ECE_GROUPS) -> list[dict[str, float]]:
        """Groups of rows by score, equal in count (in weight, if rows have any): mean prediction (from bin centres),
        mean label, count, and the weight if rows have any."""
        used, (negative, positive) = self.used()
        if not len(used):
            return []
        total, centre = negative + positive, 1 / (1 + np.exp(LIMIT - (used + 0.5) * (2 * LIMIT / BINS)))
        group_V = np.minimum((np.cumsum(total) - total) * groups / total.sum(), groups - 1).astype(int)
        result = []
        for group in np.unique(group_V):
            here = group_V == group
            mass = float(total[here].sum())
            mean = float((total[here] * centre[here]).sum() / mass)
            label = float(positive[here].sum() / mass)
            count = int(self.counts_2N[:, torch.from_numpy(used[here])].sum()) if self.weighted else int(mass)
            result.append({"mean_prediction": mean, "mean_label": label, "count": count})
            if self.weighted:
                result[-1]["weight"] = mass
        return result
