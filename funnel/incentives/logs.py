"""A log of a rewarded world: what jobs.fit, jobs.operate and jobs.train --problem dragonnet learn from.

    python -m jobs.make_data --world incentives --rows 200000 --out runs/rewards
    python -m jobs.make_data --world incentives --rows 200000 --strategies grid --logging.hidden 1 --out runs/hidden
    python -m jobs.make_data --world incentives --days 14 --users 20000 --out runs/days      # day partitions

A row is a user on a day: features of the morning, the strategy that a logging policy gave, its propensity as the log
knows it, whether it was drawn evenly, the bill, and what came of it: back the next day or not, and minutes. Users are
dealt to parts whole, or with --days a part is a day of all users who come. What every strategy would have done to whom
is in no file: world.py computes it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from data.days import WHOLE_DAY, day_name
from data.errors import UserError
from data.schema import Schema
from data.treatment import TreatmentColumns
from data.write import PartFacts, PartWriter, new_log
from funnel.incentives.strategies import NUMBERS, STRATEGIES
from funnel.incentives.world import FEATURES, LoggingPolicy, World, WorldSettings
from funnel.platform.draws import key, uniforms

PARTS = ("train", "valid", "test")
SHARES = (0.6, 0.7)
"""Users below the first are train, below the second valid, the rest test."""
DEAL = 77


@dataclass(frozen=True)
class RewardLog:
    """How much is logged, and by whom."""

    rows: int = 200_000
    """User-days in all, dealt to train, valid and test."""
    days: int = 0
    """Write so many day partitions, 2026-01-01 and on, with all users who come; 0: `rows` of train, valid and test."""
    seed: int = 0
    """The same settings and seed give the same log."""
    strategies: Literal["ladder", "grid"] = "ladder"
    """ladder: six rewards from nothing to eight a day; grid: 27, three levels each of amount, interval and number."""
    logging: LoggingPolicy = field(default_factory=LoggingPolicy)

    def __post_init__(self) -> None:
        if self.rows < 100:
            raise UserError(f"rows is {self.rows}, must be at least 100")
        if self.days < 0:
            raise UserError(f"days is {self.days}, must be at least 0")
        if self.days and self.rows != RewardLog.rows:
            raise UserError("rows has no effect with days: a day has all users who come; set users")
        if not 0 <= self.seed < 2**31:
            raise UserError(f"seed is {self.seed}, must be from 0 to below 2**31")


def schema() -> Schema:
    return Schema(
        name="rewarded users",
        categorical=(),
        numeric=FEATURES,
        labels={"retained": "retained"},
        exposure="row_id",
        user="user_id",
        treatment=TreatmentColumns("arm", NUMBERS, "propensity", "randomised", "cost"),
        outcome={"retained": "retained_next_day", "minutes": "minutes"},
    )


def day_table(world: World, policy: LoggingPolicy, arms_A3: np.ndarray, first: int) -> tuple[pa.Table, np.ndarray]:
    """(rows of today, users), after which the world is a day older."""
    user_N = world.present()
    x_NF, day = world.features(user_N), world.day
    arm_N, propensity_N, slice_N = policy.draw(world, user_N, len(arms_A3))
    outcome = world.play(user_N, arm_N, arms_A3)
    columns: dict[str, Any] = {
        "row_id": first + np.arange(len(user_N)),
        "user_id": user_N,
        "day": np.full(len(user_N), day, np.int32),
        **dict(zip(FEATURES, x_NF.T, strict=True)),
        "arm": arm_N.astype(np.int32),
        **dict(zip(NUMBERS, arms_A3[arm_N].T, strict=True)),
        "propensity": propensity_N,
        "randomised": slice_N,
        "cost": outcome.cost_N,
        "retained": outcome.retained_N,
        "retained_next_day": outcome.retained_N.astype(np.float32),
        "minutes": outcome.minutes_N.astype(np.float32),
    }
    return pa.table(columns), user_N


class RewardLogs:
    """What jobs.make_data --world incentives writes (funnel/simulator.py: Logging)."""

    settings_type = WorldSettings
    log_settings_type = RewardLog
    presets: Mapping[str, str] = {}

    @classmethod
    def leads_to(cls, asked: RewardLog) -> tuple[str, ...]:
        return ("operate" if asked.days else "fit", "--system", "incentives")

    @classmethod
    def write(
        cls,
        settings: WorldSettings,
        asked: RewardLog,
        policy: Mapping[str, Any],
        where: str,
        out: str | Path,
        progress: Callable[[int], None] = lambda rows: None,
    ) -> dict[str, PartFacts]:
        """The log of one world. Raises UserError if `out` is not empty."""
        world, arms_A3 = World(settings, asked.seed), STRATEGIES[asked.strategies]()
        if asked.days:
            return cls.write_days(world, asked, arms_A3, out, progress)
        own, written = schema(), 0
        deal_U = uniforms(key(asked.seed, DEAL), world.users)
        part_U = np.searchsorted(SHARES, deal_U, side="right")
        with new_log(out, own) as directory:
            writers = [PartWriter(directory, part, own) for part in PARTS]
            idle = 0
            while written < asked.rows:
                table, user_N = day_table(world, asked.logging, arms_A3, written)
                idle = 0 if len(user_N) else idle + 1
                if idle > 30:
                    raise UserError(f"{settings.users} users make no log: nobody comes")
                table = table.slice(0, asked.rows - written)
                for number, writer in enumerate(writers):
                    kept_N = np.flatnonzero(part_U[user_N[: len(table)]] == number)
                    writer.write(table.take(pa.array(kept_N)))
                written += len(table)
                progress(len(table))
            return {part: writer.close() for part, writer in zip(PARTS, writers, strict=True)}

    @classmethod
    def write_days(
        cls, world: World, asked: RewardLog, arms_A3: np.ndarray, out: str | Path, progress: Callable[[int], None]
    ) -> dict[str, PartFacts]:
        """A part a day. Raises UserError for a day on which nobody comes."""
        own, written, facts = schema(), 0, {}
        with new_log(out, own) as directory:
            for name in map(day_name, range(asked.days)):
                table, user_N = day_table(world, asked.logging, arms_A3, written)
                if not len(user_N):
                    raise UserError(f"{world.settings.users} users make no log: nobody comes on {name}")
                with PartWriter(directory, name, own) as writer:
                    writer.write(table)
                (directory / name / WHOLE_DAY).touch()
                facts[name] = writer.facts
                written += len(table)
                progress(len(table))
        return facts
