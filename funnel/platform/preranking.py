"""Pre-ranking: a cheap score for every candidate. The plain one is two towers whose item side knows content alone, and
a number of the item (popularity, early view, freshness) that is made once a day.

    score = affinity (taste + w centre of the intent) . content + popularity log(1 + positives) + quality + freshness
"""

from dataclasses import dataclass

import numpy as np

from data.errors import UserError
from funnel.platform.matching import recency
from funnel.platform.numbers import inner, on_grid
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policy
from funnel.platform.view import Requests, View


@dataclass(frozen=True)
class PreRankingSettings:
    popularity: float = 0.2
    """Weight of log(1 + positives) up to yesterday."""
    freshness: float = 0.2
    """Weight of exp(-age / 3 days)."""
    intent: float = 1.0
    """How much of what the intent is worth is seen."""
    keep: int = 0
    """How many go on to ranking; 0: as many as the world's settings say."""


def checked_keep(keep: int, world: PlatformSettings) -> int:
    """Raises UserError for fewer than a page has slots."""
    if keep and keep < world.slots:
        raise UserError(f"keep is {keep}: a page of {world.slots} slots cannot be filled (0: the world's {world.kept})")
    return keep


class PlainPreRanking(Policy):
    settings_type = PreRankingSettings

    def __init__(self, settings: PreRankingSettings, world: PlatformSettings, seed: int) -> None:
        super().__init__(settings, world, seed)
        self.keep = checked_keep(settings.keep, world)

    def refresh(self, view: View) -> None:
        settings: PreRankingSettings = self.settings
        fresh_I = settings.freshness * recency(view.items.upload_I, view.now, 3.0)
        self.worth_I = on_grid(settings.popularity * view.popularity_I + view.quality_I + fresh_I, 2.0**-10)

    def score(self, requests: Requests, item_RC: np.ndarray, view: View) -> np.ndarray:
        world = self.world
        share = self.settings.intent * world.intent / world.affinity if world.affinity else 0.0
        query_RD = view.users.taste_UD[requests.user_R] + share * view.centre_KD[requests.intent_R]
        score_RC = inner(view.items.content_ID, item_RC, on_grid(query_RD))
        score_RC *= np.float32(world.affinity)
        score_RC += self.worth_I.take(item_RC, mode="clip")
        return score_RC
