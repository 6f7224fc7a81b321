"""A log of shares from the platform: what each user saw of each category in a day, and for how long the user watched.

    python -m jobs.make_data --world platform_shares --rows 20000 --out runs/mixes

Every user draws a mix of categories anew each day (stage.py: random), so shares do not depend on who the user is. A row
is a user and a day with at least `least` impressions: how well the user's taste fits each category, group and activity
as the platform knows them, the mix that was asked for, and the time watched for each item seen ("watch", in tens of
seconds). Per item, as users who like what they see look on: with the day's total the number of items would stand on
both sides. The mix asked for is drawn by lot and is what a policy sets; the mix that was seen also depends on which
candidates a user had, and whoever has many of a category is who likes it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from data.errors import UserError
from data.schema import Schema
from data.treatment import TreatmentColumns
from data.write import PartFacts
from funnel.exposure.logs import write_parts
from funnel.exposure.stage import feature_names, user_features
from funnel.platform.behaviour import Walked
from funnel.platform.cascade import Passed
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policies
from funnel.platform.view import NOBODY, Requests, View
from funnel.platform.world import new_world
from funnel.registry import POLICIES

UNIT = 10.0
"""Seconds of a unit of watching."""


@dataclass(frozen=True)
class MixLog:
    rows: int = 20_000
    """Days of users in all; the first 80 per cent in time are train, then 10 valid and 10 test."""
    seed: int = 0
    """The same settings and seed give the same log."""
    warmup: int = 3
    """Days before the first row."""
    concentration: float = 1.0
    """Of the Dirichlet draws; 1: all mixes alike."""
    least: int = 10
    """Impressions of a day that is a row."""
    treatment: Literal["asked", "seen"] = "asked"
    """Whether shares are those that were asked for or those that were seen."""

    def __post_init__(self) -> None:
        if self.rows < 100:
            raise UserError(f"rows is {self.rows}, must be at least 100")
        if self.treatment not in ("asked", "seen"):
            raise UserError(f"treatment is {self.treatment!r}, must be asked or seen")
        if self.seed < 0 or self.warmup < 0 or self.least < 1:
            raise UserError(f"seed {self.seed}, warmup {self.warmup}, least {self.least}: want 0, 0 and 1 at least")


@dataclass
class DayBook:
    """Sums of one day by user: a watcher of a world."""

    users: int
    categories: int
    seen_UK: np.ndarray = field(init=False)
    watch_U: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.seen_UK, self.watch_U = np.zeros((self.users, self.categories)), np.zeros(self.users)

    def __call__(self, arm: int, view: View, requests: Requests, passed: Passed, done: Walked) -> None:
        feedback = done.feedback
        row, column = np.nonzero(feedback.seen_RS & (feedback.item_RS != NOBODY))
        category = view.items.category_I[feedback.item_RS[row, column]]
        np.add.at(self.seen_UK, (requests.user_R[row], category), 1.0)
        np.add.at(self.watch_U, requests.user_R, feedback.dwell_RS.sum(axis=1))


class MixLogs:
    """What jobs.make_data --world platform_shares writes (funnel/simulator.py: Logging)."""

    settings_type = PlatformSettings
    log_settings_type = MixLog
    presets = POLICIES
    leads_to: ClassVar[tuple[str, ...]] = ("fit", "--system", "exposure")

    @classmethod
    def write(
        cls,
        settings: PlatformSettings,
        asked: MixLog,
        policy: Mapping[str, Any],
        where: str,
        out: str | Path,
        progress: Callable[[int], None] = lambda rows: None,
    ) -> dict[str, PartFacts]:
        """The log of one world. Raises UserError for a policy that re-ranks itself, or if `out` is not empty."""
        if "reranking" in policy:
            raise UserError(f"{where}: re-ranks pages itself; a log of shares needs shares that are drawn")
        if settings.categories < 2:
            raise UserError(f"categories is {settings.categories}: shares need at least 2")
        drawn = {**policy, "reranking": {"kind": "shares", "random": asked.concentration}}
        policies = Policies.of(drawn, settings, asked.seed, where)
        world = new_world(settings, asked.seed, [policies])
        world.run(asked.warmup)
        names = feature_names(settings.categories)
        categories = tuple(f"category_{k}" for k in range(settings.categories))
        schema = Schema(
            name="mixes of categories by user and day",
            categorical=(),
            numeric=names,
            labels={},
            treatment=TreatmentColumns(vector=categories),
            outcome={"watch": "watch"},
        )
        book, tables, written, idle = DayBook(settings.users, settings.categories), [], 0, 0
        while written < asked.rows:
            book.begin()
            world.watch = book
            world.run_day()
            kept = np.flatnonzero(book.seen_UK.sum(axis=1) >= asked.least)
            idle = 0 if len(kept) else idle + 1
            if idle > 3:
                raise UserError(f"no user of {settings.users} sees {asked.least} items in a day: a smaller --least")
            features = user_features(world.corpus.view(world.day, 0, float(world.day)))[kept]
            seen_RK = book.seen_UK[kept]
            shares_RK = seen_RK / seen_RK.sum(axis=1, keepdims=True)
            if asked.treatment == "asked":
                shares_RK = policies.reranking.share_UK[kept]
            columns = {
                **dict(zip(names, features.T, strict=True)),
                **dict(zip(categories, shares_RK.T, strict=True)),
                "watch": book.watch_U[kept] / seen_RK.sum(axis=1) / UNIT,
            }
            tables.append(pa.table(columns))
            written += len(kept)
            progress(min(len(kept), max(asked.rows - (written - len(kept)), 0)))
        return write_parts(out, schema, pa.concat_tables(tables).slice(0, asked.rows))
