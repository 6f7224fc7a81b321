"""Requests a second of the platform on one core: the default world, cost against requests, and a very large world.

    python -m benchmarks.platform.speed
    python -m benchmarks.platform.speed --large     # one day of 1e6 users and 1e5 items

CPU seconds of the process with one thread, after a warm-up day; everything is counted: uploads, the daily refresh, all
stages, users, counters.
"""

import resource
import time
from dataclasses import dataclass
from typing import Any

import tyro

from benchmarks.bench import markdown, write_result
from funnel.platform.figures import DAILY
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policies
from funnel.platform.world import new_world

SLOT = {"slot": {"kind": "random"}}


def measured(settings: PlatformSettings, tree: dict[str, Any], warmup: int, days: int) -> dict[str, float]:
    begin = time.process_time()
    world = new_world(settings, 1, [Policies.of(tree, settings, 1)])
    made = time.process_time() - begin
    world.run(warmup)
    begin, wall = time.process_time(), time.perf_counter()
    world.run(days)
    cpu, wall = time.process_time() - begin, time.perf_counter() - wall
    total = dict(zip(DAILY, world.ledger.table()[warmup:, :, 0].sum(0), strict=True))
    return {
        "users": settings.users,
        "items": len(world.corpus.items),
        "visits": settings.visits,
        "requests": total["requests"],
        "exposures": total["exposures"],
        "cpu_s": cpu,
        "wall_s": wall,
        "made_s": made,
        "requests_per_cpu_s": total["requests"] / cpu,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


@dataclass
class Arguments:
    large: bool = False
    """One day of a million users and 100,000 items instead."""


Case = tuple[str, PlatformSettings, dict[str, Any], int, int]
"""(name, world, policy, days before, days measured)"""


def main(arguments: Arguments) -> None:
    """Measure and write the table."""
    large = arguments.large
    cases: list[Case]
    if large:
        settings = PlatformSettings(users=1_000_000, items=100_000, providers=20_000, uploads=8_000.0, visits=0.5)
        cases = [("a million users, one day", settings, {}, 0, 1)]
    else:
        base = PlatformSettings()
        cases = [("default", base, {}, 2, 8), ("default, fresh slot", base, SLOT, 2, 8)]
        cases += [
            (f"{factor} times the visits", PlatformSettings(visits=factor * base.visits), {}, 1, 4)
            for factor in (0.25, 0.5, 2.0)
        ]
        for factor in (2, 8):
            grown = PlatformSettings(
                users=2_000 * factor, items=900 * factor, providers=150 * factor, uploads=80.0 * factor
            )
            cases.append((f"{factor} times users, items and providers", grown, {}, 1, 2))
    found = {name: measured(settings, tree, warmup, days) for name, settings, tree, warmup, days in cases}
    rows = [
        [
            name, f"{one['users']:,}", f"{one['items']:,}", f"{one['requests']:,.0f}", f"{one['cpu_s']:.2f}",
            f"{one['requests_per_cpu_s']:,.0f}", f"{one['peak_gib']:.2f}",
        ]
        for name, one in found.items()
    ]  # fmt: skip
    table = markdown(["world", "users", "items", "requests", "CPU s", "requests/s", "peak GiB so far"], rows)
    write_result("platform-large" if large else "platform-speed", {"cases": found}, table)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
