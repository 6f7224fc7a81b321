"""A log of items taken, from a platform in a closed loop: what both nominators learn from.

    python -m jobs.make_data --world fresh --rows 100000 --out runs/taken
    python -m jobs.train --problem fresh_sequence --data runs/taken --out runs/sequence --age age_days

A row is a good click with its user's history before the page (taken_log.py); rows come in the order of time, the first
80% are train, the next 10% valid, the last test. What is said of an item is as of the day's refresh.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from data.errors import UserError
from data.write import PartFacts, PartWriter, new_log
from funnel.fresh.taken_log import TakenLog
from funnel.fresh.trained import Recorder, items_of
from funnel.platform.corpus import PAST
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policies
from funnel.platform.world import new_world
from funnel.registry import POLICIES

PARTS = (("train", 0.8), ("valid", 0.9), ("test", 1.0))


@dataclass(frozen=True)
class TakenSettings:
    rows: int = 100_000
    """Good clicks in all; the first 80 per cent in time are train, then 10 valid and 10 test."""
    seed: int = 0
    """The same settings and seed give the same log."""
    warmup: int = 3
    """Days before the first row."""
    history: int = PAST
    """Items of a history, at most; 16 are kept."""
    fresh_only: bool = False
    """Keep what was taken of fresh items alone."""

    def __post_init__(self) -> None:
        if self.rows < 100:
            raise UserError(f"rows is {self.rows}, must be at least 100")
        for name in ("seed", "warmup"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least 0")
        if not 1 <= self.history <= PAST:
            raise UserError(f"history is {self.history}, must lie in 1..{PAST}: so many clicks are kept")


class TakenLogs:
    """What jobs.make_data --world fresh writes (funnel/simulator.py: Logging)."""

    settings_type = PlatformSettings
    log_settings_type = TakenSettings
    presets = POLICIES
    leads_to: ClassVar[tuple[str, ...]] = ("train", "--problem", "fresh_two_tower")

    @classmethod
    def write(
        cls,
        settings: PlatformSettings,
        asked: TakenSettings,
        policy: Mapping[str, Any],
        where: str,
        out: str | Path,
        progress: Callable[[int], None] = lambda rows: None,
    ) -> dict[str, PartFacts]:
        """The log of one world under a policy. Raises UserError for a policy that is none, or if `out` is not empty."""
        world = new_world(settings, asked.seed, [Policies.of(policy, settings, asked.seed, where)])
        world.run(asked.warmup)
        log = TakenLog(settings.categories, settings.dimensions, 4 * settings.items, asked.history)
        facts: dict[str, PartFacts] = {}
        ends = [round(share * asked.rows) for _, share in PARTS]
        written = part = idle = 0
        with new_log(out, log.schema()) as directory:
            writer = PartWriter(directory, PARTS[0][0], log.schema())
            while written < asked.rows:
                recorder = world.watch = Recorder()
                world.run_day()
                taken = recorder.since(-np.inf)
                idle = 0 if taken is not None else idle + 1
                if idle > 3:
                    raise UserError(f"{settings.users} users at {settings.visits} visits a day make no log")
                if taken is None:
                    continue
                items = items_of(world.corpus.view(world.day, 0, float(world.day)))
                if asked.fresh_only:
                    young_R = taken.day_R - items.uploaded_I[taken.item_R] <= settings.fresh_days
                    taken = taken.take(np.flatnonzero(young_R))
                begin = 0
                while begin < len(taken) and written < asked.rows:
                    count = min(len(taken) - begin, ends[part] - written)
                    rows = taken.take(np.arange(begin, begin + count))
                    writer.write(log.table(rows, world.corpus.user_facts.core_U, items))
                    begin, written = begin + count, written + count
                    progress(count)
                    if written == ends[part]:
                        facts[PARTS[part][0]] = writer.close()
                        part += 1
                        if part < len(PARTS):
                            writer = PartWriter(directory, PARTS[part][0], log.schema())
        return facts
