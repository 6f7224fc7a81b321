"""The list scorer as one graph for a device that has none of this code: torch.export program and ONNX.

    ids_IK int64 (offsets added), numeric_IN float32 (NaN = missing): every item, candidates and watched ones
    asking_C int64: the item whose row has the request's features; before_CN int64: what stands before, the latest
    first, as places among the items, -1: none; known_CN float32: 1 where it was watched; feedback_CNF float32: log(1+x)
        -> view_CI, like_CI, next_CI float32: of every item, if it came next in that context

A step of a beam search is one call with a context for each list. Shapes: I items (from 1), C contexts (from 1), K
categorical and N numeric features; before: `model.before` places, as trained.
"""

import torch
from torch import Tensor

from funnel.graph_files import Exported
from funnel.rerank.counts import Maps
from models.list_scorer import HEADS, Before, ListScorer

EXAMPLE_ITEMS, EXAMPLE_CONTEXTS = 5, 3  # not 1, which a trace would take for a constant
INPUTS = ("ids", "numeric", "asking", "before", "known", "feedback")


class ListGraph(Exported):
    """What is exported: calibrated probabilities."""

    inputs = INPUTS
    outputs = HEADS
    slope_T: Tensor
    offset_T: Tensor

    def __init__(self, scorer: ListScorer, maps: Maps | None, fields: int, numerics: int) -> None:
        super().__init__()
        self.scorer, self.fields, self.numerics = scorer, fields, numerics
        pairs = [(maps or {}).get(head, (1.0, 0.0)) for head in HEADS]
        self.register_buffer("slope_T", torch.tensor([slope for slope, _ in pairs]))
        self.register_buffer("offset_T", torch.tensor([offset for _, offset in pairs]))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ids_IK, numeric_IN, asking_C, before_CN, known_CN, feedback_CNF = inputs
        query_IO, item_IO = self.scorer.vectors(ids_IK, numeric_IN)
        there_CN = before_CN >= 0
        before = Before(item_IO[before_CN.clamp(min=0)], there_CN, there_CN & (known_CN > 0.5), feedback_CNF)
        target_CIO = item_IO.unsqueeze(0).expand(asking_C.shape[0], -1, -1)
        logit_CIT = self.scorer.logits(query_IO[asking_C], target_CIO, before)
        view_CI, like_CI, next_CI = (logit_CIT * self.slope_T + self.offset_T).sigmoid().unbind(-1)
        return view_CI, like_CI, next_CI

    def example(self) -> tuple[Tensor, ...]:
        """Inputs of the right types and shapes."""
        places = self.scorer.config.before
        return (
            torch.zeros((EXAMPLE_ITEMS, self.fields), dtype=torch.int64),
            torch.zeros((EXAMPLE_ITEMS, self.numerics)),
            torch.zeros(EXAMPLE_CONTEXTS, dtype=torch.int64),
            torch.zeros((EXAMPLE_CONTEXTS, places), dtype=torch.int64),
            torch.ones((EXAMPLE_CONTEXTS, places)),
            torch.zeros((EXAMPLE_CONTEXTS, places, self.scorer.feedback)),
        )

    def dynamic_shapes(self) -> tuple[dict[int, torch.export.Dim], ...]:
        items, contexts = torch.export.Dim("items", min=1), torch.export.Dim("contexts", min=1)
        return ({0: items}, {0: items}, {0: contexts}, {0: contexts}, {0: contexts}, {0: contexts})
