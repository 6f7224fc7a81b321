"""Runs a world and writes what happens in it, until there are as many rows as were asked for.

Rows come in the order of time: the first 80% are train, the next 10% valid, the last test; a part ends where a block of
requests does. Memory holds the world, one block (of sessions: one part of a day) and one row group.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data.errors import UserError
from data.write import ROWS_PER_FILE, ROWS_PER_GROUP, PartFacts, PartWriter, new_log
from funnel.platform.behaviour import Walked
from funnel.platform.cascade import Passed
from funnel.platform.logs.columns import check_history
from funnel.platform.logs.exposures import Exposures, Tables
from funnel.platform.logs.sessions import Sessions
from funnel.platform.logs.stages import Stages
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policies
from funnel.platform.view import Requests, View
from funnel.platform.world import World, new_world
from funnel.registry import POLICIES

PARTS = (("train", 0.8), ("valid", 0.9), ("test", 1.0))


@dataclass(frozen=True)
class LogSettings:
    log: Literal["exposures", "stages", "sessions"] = "exposures"
    """exposures: what was looked at, for the ranker; stages: whole requests with what each stage left out, for
    pre-ranking; sessions: whole visits in order, for re-ranking."""
    rows: int = 1_000_000
    """Rows in all; the first 80 per cent in time are train, then 10 valid and 10 test."""
    seed: int = 0
    """The same settings and seed give the same log."""
    warmup: int = 3
    """Days before the first row."""
    history: int = 0
    """At most so many items that the user clicked before, with their dwell and age, as lists; 16 are kept."""
    negatives: int = 40
    """stages: candidates that pre-ranking cut, drawn at random from each request."""
    elsewhere: float = 0.6
    """stages: purchases in other scenarios after a request, on average."""
    rows_per_file: int = ROWS_PER_FILE
    """Rows of a parquet file."""
    rows_per_group: int = ROWS_PER_GROUP
    """Rows of a row group, the unit that training workers share out."""

    def __post_init__(self) -> None:
        if self.rows < 100:
            raise UserError(f"rows is {self.rows}, must be at least 100")
        for name in ("seed", "warmup", "negatives"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least 0")
        if not 0 <= self.elsewhere <= 50:
            raise UserError(f"elsewhere is {self.elsewhere}, must lie in 0..50")
        if wrong := check_history(self.history):
            raise UserError(wrong)


class Full(Exception):
    """There are as many rows as were asked for."""


class PlatformLogs:
    """What jobs.make_data --world platform writes (funnel/simulator.py: Logging)."""

    settings_type = PlatformSettings
    log_settings_type = LogSettings
    presets = POLICIES

    @classmethod
    def write(
        cls,
        settings: PlatformSettings,
        asked: LogSettings,
        policy: Mapping[str, Any],
        where: str,
        out: str | Path,
        progress: Callable[[int], None] = lambda rows: None,
    ) -> dict[str, PartFacts]:
        """The log of one world under a policy. Raises UserError for a policy that is none, or if `out` is not empty."""
        world = new_world(settings, asked.seed, [Policies.of(policy, settings, asked.seed, where)])
        recorder = recorder_of(settings, asked, world)
        facts: dict[str, PartFacts] = {}
        world.run(asked.warmup)
        with new_log(out, recorder.schema) as directory:
            rows = _Rows(asked, directory, recorder, facts, progress)
            world.watch = rows.take
            try:
                while True:
                    world.run_day()
                    if world.day > asked.warmup + 3 and not rows.written:
                        raise UserError(f"{settings.users} users at {settings.visits} visits a day make no log")
            except Full:
                pass
            finally:
                rows.close()
        return facts


def recorder_of(settings: PlatformSettings, asked: LogSettings, world: World) -> Exposures | Stages:
    name = f"platform-{asked.log}-{asked.rows}-seed{asked.seed}"
    if asked.log == "stages":
        return Stages(settings, name, asked.history, world.corpus, asked.negatives, asked.elsewhere)
    return (Sessions if asked.log == "sessions" else Exposures)(settings, name, asked.history)


class _Rows:
    """Takes blocks, and hands their rows to the writer of the part they belong to."""

    def __init__(
        self,
        asked: LogSettings,
        directory: Path,
        recorder: Exposures | Stages,
        facts: dict[str, PartFacts],
        progress: Callable[[int], None],
    ) -> None:
        self.asked, self.directory, self.recorder = asked, directory, recorder
        self.facts, self.progress = facts, progress
        self.written = self.part = 0
        self.writer: PartWriter | None = None

    def take(self, arm: int, view: View, requests: Requests, passed: Passed, walked: Walked) -> None:
        """Raises Full after the last row."""
        self.write(self.recorder.tables(view, requests, passed, walked))

    def write(self, tables: list[Tables]) -> None:
        request = self.recorder.schema.request or ""
        for table, truth in tables:
            while table.num_rows:
                name, share = PARTS[self.part]
                if self.writer is None:
                    self.writer = PartWriter(
                        self.directory, name, self.recorder.schema, self.asked.rows_per_file, self.asked.rows_per_group
                    )
                left = round(share * self.asked.rows) - self.written
                count = min(table.num_rows, left)
                if count == left:
                    count = whole_requests(table.column(request).to_numpy(), left)
                self.writer.write(table.slice(0, count), truth.slice(0, count) if truth is not None else None)
                self.written += count
                self.progress(count)
                table, truth = table.slice(count), truth.slice(count) if truth is not None else None
                if count >= left:
                    self.close()
                    self.part += 1
                if self.part == len(PARTS):
                    raise Full

    def close(self) -> None:
        if self.writer is not None:
            self.facts[PARTS[self.part][0]] = self.writer.close()
        self.writer = None


def whole_requests(request_R: Any, rows: int) -> int:
    """At least `rows`, and at least one, up to the end of a request."""
    rows = max(rows, 1)
    last = request_R[rows - 1]
    while rows < len(request_R) and request_R[rows] == last:
        rows += 1
    return rows
