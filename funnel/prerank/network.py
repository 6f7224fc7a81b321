"""The pre-ranker's network on batches of whole requests (models/pre_ranker.py)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from funnel.lists.units import ListBatch
from funnel.prerank.features import Sides
from funnel.prerank.settings import PreRankSettings
from funnel.prerank.units import PreRankBatch
from models.pre_ranker import PreRanker
from models.rows import EVERY_ROW, Share

POINTWISE = ("click", "purchase")


class PreRankNetwork(nn.Module):
    """{"score": z} of the sample's rows in training, of all rows otherwise; point-wise also the two logits.

    Point-wise: two pre-rankers, of the click and of the purchase after it, score = log of the product.
    """

    rankers: Sequence[PreRanker]

    def __init__(
        self,
        settings: PreRankSettings,
        rows: int,
        numerics: int,
        sides: Sides,
        seed: int,
        share: Share = EVERY_ROW,
    ) -> None:
        super().__init__()
        self.pointwise = settings.loss == "pointwise"
        seeds = (seed, seed + 1_000_003) if self.pointwise else (seed,)
        self.rankers = nn.ModuleList(  # type: ignore[assignment]
            [
                PreRanker(settings.model, rows, numerics, sides.query, sides.item, settings.scale, one, share)
                for one in seeds
            ]
        )
        self.bias_2 = nn.Parameter(torch.zeros(2)) if self.pointwise else None

    def forward(self, batch: PreRankBatch) -> dict[str, Tensor]:
        lists = self.seen(batch)
        rows = lists.rows
        found = [
            ranker(rows.ids_BK, rows.numeric_BN, rows.bags, lists.begin_L1, lists.list_B) for ranker in self.rankers
        ]
        if self.bias_2 is None:
            return {"score": found[0]}
        click_B, purchase_B = (logit_B + bias for logit_B, bias in zip(found, self.bias_2, strict=True))
        return {
            "score": logsigmoid(click_B) + logsigmoid(purchase_B),
            "click_logit": click_B,
            "purchase_logit": purchase_B,
        }

    def asked(self, batch: PreRankBatch) -> list[Tensor]:
        """The rows that each embedding table is asked for: workers exchange them ahead."""
        lists = self.seen(batch)
        return [ranker.asked(lists.rows.ids_BK, lists.rows.bags, lists.begin_L1) for ranker in self.rankers]

    def seen(self, batch: PreRankBatch) -> ListBatch:
        return batch.sample if self.training else batch
