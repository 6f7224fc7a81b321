"""What a pre-ranker learns from, and which columns it sees."""

from dataclasses import dataclass, field
from typing import Literal

from data.errors import UserError
from models.two_tower import TowerConfig


@dataclass(frozen=True)
class PreRankSettings:
    """Defaults: ASMOL's (arXiv 2305.13647). Every part of it can be left out, to see what it brings."""

    loss: Literal["listwise", "softmax", "pointwise", "survival"] = "listwise"
    """listwise: each positive against the negatives of its request; softmax: against all rows of it; pointwise: clicks
    and purchases of what was shown, each with towers of its own, and their product; survival: a lower bound of
    surviving all stages (LCRON)."""
    labels: Literal["all", "in"] = "all"
    """all: what was bought or clicked in other scenarios is positive too; in: in this one only."""
    exposure_weight: float = 0.1
    """Of the loss in which what was shown is positive; 0 leaves it out."""
    click_weight: float = 0.5
    """Of the loss in which what was clicked is positive, and of the teacher's pCTR."""
    purchase_weight: float = 1.0
    """Of the loss in which what was bought is positive, and of the teacher's pCTCVR."""
    ranked: int = 10
    """Rows of a request that were ranked and not shown: so many are drawn; 0: none."""
    cut: int = 40
    """Rows of a request that pre-ranking cut: so many are drawn; 0: none."""
    keep: bool = False
    """Take rows that were bought or clicked elsewhere whether they are drawn or not."""
    distill: Literal["exposed", "all", "none"] = "exposed"
    """Rows on which a teacher (--given teacher=RUN) is listened to; it knows best what was shown."""
    draw_seed: int = 0
    """Of the rows that are drawn."""
    query: tuple[str, ...] = ("user_*", "query_*", "intent", "page", "hour", "history")
    """Patterns of the features that describe who asks and for what; * stands for anything."""
    item: tuple[str, ...] = ("item_*", "content_*", "price")
    """Patterns of the features that describe the item. Features of neither side are the teacher's alone."""
    click: str = "click"
    """Label of what was clicked, a name of the schema's labels."""
    purchase: str = "conversion"
    """Label of what was bought."""
    item_id: str = "item_id"
    """Column of the item's id."""
    k: int = 60
    """What pre-ranking hands on: hit rates are of the first k."""
    shown: int = 10
    """What ranking hands on: end-to-end recall is of the first so many."""
    rank_score: str = "rank_score"
    """Column of the ranker's score of every candidate, for end-to-end recall; a log may lack it."""
    scale: float = 10.0
    """What the cosine is multiplied by at first; the scale is learnt."""
    tau: float = 50.0
    """survival: how soft the order of a request is; it goes with the rows of a request."""
    model: TowerConfig = field(default_factory=TowerConfig)

    def __post_init__(self) -> None:
        for name in ("exposure_weight", "click_weight", "purchase_weight"):
            if not 0 <= getattr(self, name) < 1e6:
                raise UserError(f"{name} must be a number of at least 0, got {getattr(self, name)}")
        if not self.exposure_weight + self.click_weight + self.purchase_weight:
            raise UserError("exposure_weight, click_weight and purchase_weight are 0: there is nothing to learn")
        for name in ("ranked", "cut"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("k", "shown"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.shown > self.k:
            raise UserError(f"shown is {self.shown}, but ranking is handed {self.k} (k)")
        for name in ("scale", "tau"):
            if not 0 < getattr(self, name) < 1e6:
                raise UserError(f"{name} must be positive, got {getattr(self, name)}")
