"""Fusion: one score from what was predicted, from what is known of the item, and from chance (exploration).

score = good + purchase * logit of purchase + popularity log(1 + positives) + freshness exp(-age / 3) + noise Gumbel
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from data.errors import UserError
from funnel.platform.draws import bits
from funnel.platform.matching import recency
from funnel.platform.numbers import gumbel_table, on_grid
from funnel.platform.stages import Policy
from funnel.platform.view import Requests, View


@dataclass(frozen=True)
class FusionSettings:
    good: float = 1.0
    """Weight of the logit of a good click."""
    purchase: float = 0.0
    """Weight of the logit of a purchase."""
    popularity: float = 0.5
    """Weight of log(1 + positives) up to yesterday: the rich get richer."""
    freshness: float = 0.2
    """Weight of exp(-age / 3 days)."""
    noise: float = 0.5
    """Weight of Gumbel noise, drawn for each request and item."""

    def __post_init__(self) -> None:
        if self.noise < 0:
            raise UserError(f"noise is {self.noise}, must be at least 0")


class SumFusion(Policy):
    settings_type = FusionSettings

    def refresh(self, view: View) -> None:
        settings: FusionSettings = self.settings
        fresh_I = settings.freshness * recency(view.items.upload_I, view.now, 3.0)
        self.worth_I = on_grid(settings.popularity * view.popularity_I + fresh_I, 2.0**-10)

    def score(
        self, requests: Requests, item_RC: np.ndarray, predictions: Mapping[str, np.ndarray], view: View
    ) -> np.ndarray:
        settings: FusionSettings = self.settings
        score_RC = np.float32(settings.good) * predictions["good"]
        if settings.purchase:
            score_RC += np.float32(settings.purchase) * predictions["purchase"]
        score_RC += self.worth_I.take(item_RC, mode="clip")
        if settings.noise:
            word_RC = bits(requests.key_R, view.items.key_I.take(item_RC, mode="clip"))
            score_RC += np.float32(settings.noise) * gumbel_table().take(word_RC >> np.uint64(48))
        return score_RC
