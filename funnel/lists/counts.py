"""Figures of scores over whole requests: list-wise log-loss, and AUC within a request. Shapes: B rows, L requests."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from funnel.figures.grouped_auc import auc_by_user
from funnel.lists.units import ListBatch
from funnel.problem import Outputs
from models.objectives.listwise import listwise_terms


@dataclass
class ListCounts:
    """Sums over the requests that have a positive and a negative."""

    label: str
    score: str
    sums_4: Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.float64))
    """Requests that have both, their positives, sums of log-losses and of AUCs."""
    requests_1: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.int64))
    columns: tuple[str, ...] = ()

    def add(self, outputs: Outputs, batch: ListBatch, table: pa.Table) -> None:
        score_B, label_B, list_B = outputs[self.score].double(), batch.rows.labels[self.label].double(), batch.list_B
        _, term_P = listwise_terms(score_B, list_B, len(batch), label_B)
        auc_L, _ = auc_by_user(list_B.numpy(), score_B.numpy(), label_B.numpy())
        both = np.isfinite(auc_L)
        sums = [float(both.sum()), float(len(term_P)), float(term_P.sum()), float(auc_L[both].sum())]
        self.sums_4 += torch.tensor(sums, dtype=torch.float64)
        self.requests_1 += len(batch)

    def sums(self) -> list[Tensor]:
        return [self.sums_4, self.requests_1]

    def peaks(self) -> list[Tensor]:
        return []

    def figures(self) -> dict[str, Any]:
        """list.count (requests), list.both (those with both labels), list.log_loss, list.auc."""
        both, positives, loss, auc = self.sums_4.tolist()
        figures: dict[str, Any] = {"list.count": int(self.requests_1), "list.both": int(both)}
        if not both:
            reason = "no request has a positive and a negative"
            return figures | {"absent": dict.fromkeys(("list.log_loss", "list.auc"), reason)}
        return figures | {"list.log_loss": loss / positives, "list.auc": auc / both, "absent": {}}

    def curves(self) -> dict[str, Any]:
        return {}
