"""How far up a nominator puts the item that was taken: recall@k, by the age of the item.

The candidates of a row are all distinct items of its row group (`candidates` of them on average): a nominator that
knows nothing has recall k / candidates. Shapes: P taken rows, C candidates, O width of the vectors, A ages, K cut-offs.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from funnel.fresh.units import NominationBatch
from funnel.problem import Outputs

KS = (10, 50)
AGES = (1.0, 3.0, 7.0)
"""Days at which one age ends and the next begins."""
AGE_NAMES = (*(f"{low:g}-{high:g}d" for low, high in zip((0.0, *AGES), AGES, strict=False)), f"{AGES[-1]:g}d+")
AIMS = {f"recall.{k}": False for k in KS}
"""Figures by which an epoch may be chosen, and whether smaller is better."""
WATCHED = {f"recall.{k}": f"recall@{k}" for k in KS}
ROWS_AT_ONCE = 1024


@dataclass
class RecallCounts:
    """Sums over the taken rows of a part (funnel/problem.py: Counts). `age`: the log's column of days since upload."""

    age: str = ""
    found_AK: Tensor = field(default_factory=lambda: torch.zeros(len(AGE_NAMES) + 1, len(KS), dtype=torch.int64))
    """Taken items among the first k, by age; the last line: of unknown age."""
    rows_A: Tensor = field(default_factory=lambda: torch.zeros(len(AGE_NAMES) + 1, dtype=torch.int64))
    groups_2: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.int64))
    """Taken rows, and the sum over them of how many candidates there were."""

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.age,) if self.age else ()

    def add(self, outputs: Outputs, batch: NominationBatch, table: pa.Table) -> None:
        taken_P = batch.taken_B.nonzero().squeeze(1)
        if not len(taken_P):
            return
        _, first_C, candidate_B = np.unique(batch.item_B.numpy(), return_index=True, return_inverse=True)
        vectors_CO = outputs["item"][torch.from_numpy(first_C)]
        own_P = torch.from_numpy(candidate_B)[taken_P]
        rank_P = torch.cat(
            [
                ranks(query_PO, vectors_CO, own)
                for query_PO, own in zip(
                    outputs["query"][taken_P].split(ROWS_AT_ONCE), own_P.split(ROWS_AT_ONCE), strict=True
                )
            ]
        )
        group_P = np.full(len(taken_P), len(AGE_NAMES))
        if self.age:
            days_P = table.column(self.age).to_numpy().astype(np.float64)[taken_P.numpy()]
            group_P = np.where(np.isnan(days_P), len(AGE_NAMES), np.searchsorted(AGES, days_P, side="right"))
        age_P = torch.from_numpy(group_P)
        self.rows_A += torch.bincount(age_P, minlength=len(self.rows_A))
        for column, k in enumerate(KS):
            self.found_AK[:, column] += torch.bincount(age_P[rank_P < k], minlength=len(self.rows_A))
        self.groups_2 += torch.tensor([len(taken_P), len(taken_P) * len(first_C)])

    def sums(self) -> list[Tensor]:
        return [self.found_AK, self.rows_A, self.groups_2]

    def peaks(self) -> list[Tensor]:
        return []

    def figures(self) -> dict[str, Any]:
        """taken (rows), candidates (mean), recall.K and recall.K.AGE."""
        rows, candidates = self.groups_2.tolist()
        figures: dict[str, Any] = {"taken": rows, "candidates": candidates / max(rows, 1)}
        absent: dict[str, str] = {}
        for column, k in enumerate(KS):
            if rows:
                figures[f"recall.{k}"] = int(self.found_AK[:, column].sum()) / rows
            else:
                absent[f"recall.{k}"] = "nothing was taken"
            for line, name in enumerate(AGE_NAMES):
                if n := int(self.rows_A[line]):
                    figures[f"recall.{k}.{name}"] = int(self.found_AK[line, column]) / n
                else:
                    absent[f"recall.{k}.{name}"] = "nothing of this age was taken"
        return figures | {"absent": absent}

    def curves(self) -> dict[str, Any]:
        return {}


def ranks(query_PO: Tensor, vectors_CO: Tensor, own_P: Tensor) -> Tensor:
    """How many other candidates fit each query at least as well as its own item; ties count against it, so that equal
    vectors find nothing."""
    score_PC = query_PO @ vectors_CO.T
    own_P1 = score_PC.gather(1, own_P.unsqueeze(1))
    return (score_PC >= own_P1).sum(1) - 1
