"""Ranking: what a user will do with an item, as logits. The plain ranker stands for a model trained once a day on what
was shown: it knows users' tastes, and of an item the more, the more often it was shown (view.py: learnt_ID).

    good      affinity taste . learnt + quality + intent * fit
    purchase  .5 of it - .5 (log price - budget)^2 / 2
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from funnel.platform.numbers import inner
from funnel.platform.stages import Policy
from funnel.platform.view import Requests, View


@dataclass(frozen=True)
class RankingSettings:
    quality: float = 1.0
    """Weight of the quality as learnt so far."""
    intent: float = 1.0
    """How much of what the intent is worth is seen."""


class PlainRanking(Policy):
    settings_type = RankingSettings

    def predict(self, requests: Requests, item_RC: np.ndarray, view: View) -> Mapping[str, np.ndarray]:
        settings: RankingSettings = self.settings
        good_RC = inner(view.learnt_ID, item_RC, view.users.taste_UD[requests.user_R])
        good_RC *= np.float32(self.world.affinity)
        good_RC += np.float32(settings.quality) * view.quality_I.take(item_RC, mode="clip")
        if settings.intent:
            fit_RC = intent_fit(view.items.content_ID, item_RC, view.centre_KD[requests.intent_R])
            good_RC += np.float32(settings.intent * self.world.intent) * fit_RC
        off_RC = view.items.log_price_I.take(item_RC, mode="clip") - view.users.budget_U[requests.user_R, None]
        return {"good": good_RC, "purchase": np.float32(0.5) * (good_RC - off_RC * off_RC)}


def intent_fit(content_ID: np.ndarray, item_RC: np.ndarray, centre_RD: np.ndarray) -> np.ndarray:
    """float32_RC in -1 .. 1: how well items go with what the user has come for; twice the inner product, saturated."""
    fit_RC = inner(content_ID, item_RC, centre_RD)
    fit_RC *= np.float32(2)
    return np.clip(fit_RC, -1, 1, out=fit_RC)
