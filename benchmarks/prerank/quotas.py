"""Stage quotas under a cost limit: five numbers tuned by evolution, judged in worlds that were never tuned on.

    python -m benchmarks.prerank.quotas --limits 700 350

For each limit a run of jobs.evolve --objective quotas. It begins with the default quotas scaled down alike until a
request costs what it may: what a team does that has to save. Candidates cost 1 each, items that are ranked 10.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.bench import markdown, write_result
from funnel.platform.episodes import EpisodeSettings
from funnel.platform.settings import PlatformSettings
from funnel.prerank.quotas import COST, QuotaEpisodes, tree_of
from funnel.prerank.routes import ROUTES, RouteSettings
from funnel.settings import plain
from jobs import evolve

KEEP = 60
ENDS = ("", ".low", ".high")


@dataclass
class Arguments:
    limits: tuple[int, ...] = (700, 350)
    generations: int = 15
    pairs: int = 6
    users: int = 500
    worlds: int = 16
    """That are tuned on."""
    held_out: int = 32
    """That judge."""
    seed: int = 0
    place: Path = Path("runs/prerank-quotas")


def main(arguments: Arguments) -> None:
    rows: list[list[object]] = []
    found: dict[str, Any] = {}
    for limit in arguments.limits:
        start = scaled(arguments, limit)
        options = [f"--start.{name}={start[name]}" for name in ROUTES]
        words = ("--objective", "quotas", "--out", arguments.place / str(limit), "--generations", arguments.generations,
                 "--pairs", arguments.pairs, "--workers", 0, "--seed", arguments.seed, "--limit", limit,
                 "--world.users", arguments.users, "--worlds", arguments.worlds, "--held-out", arguments.held_out,
                 "--sigma", 0.4, "--learning-rate", 0.2, "--keep", start["keep"], *options)  # fmt: skip
        summary = evolve.run(evolve.arguments_of(*map(str, words)))
        found[str(limit)] = {key: value for key, value in summary.items() if str(key).startswith("quotas.")}

        def told(name: str, summary: dict[str, Any] = summary) -> str:
            return "{:+.1f} ({:+.1f} to {:+.1f})".format(*(summary[f"quotas.gain.{name}{end}"] for end in ENDS))

        rows.append([
            limit, quotas(start), quotas({name: summary[f"quotas.{name}"] for name in start}),
            f"{summary['quotas.start.cost']:.0f} / {summary['quotas.tuned.cost']:.0f}", told("positives"),
            told("purchases"), told("dwell"), told("return"),
        ])  # fmt: skip
    header = ["limit", f"start: {' / '.join(ROUTES)}, to the ranker", "tuned", "cost of a request", "good clicks, %",
              "purchases, %", "dwell, %", "return"]  # fmt: skip
    text = f"{arguments.generations} generations of {arguments.pairs} pairs in {arguments.worlds} worlds of "
    text += f"{arguments.users} users; judged in {arguments.held_out} others, tuned against start, 95% intervals.\n\n"
    write_result("prerank-quotas", {"found": found}, text + markdown(header, rows))


def quotas(given: dict[str, Any]) -> str:
    return f"{' / '.join(str(given[name]) for name in ROUTES)}, {given['keep']}"


def scaled(arguments: Arguments, limit: float) -> dict[str, int]:
    """The default quotas times the one number at which a request costs the limit, in one world."""
    world, begin = PlatformSettings(users=arguments.users, items=900, uploads=25), plain(RouteSettings())
    low, high = 0.05, 4.0
    for _ in range(9):
        share = (low * high) ** 0.5
        found = {name: round(share * value) for name, value in begin.items()}
        found["keep"] = max(round(share * KEEP), world.slots)
        episodes = QuotaEpisodes(world, EpisodeSettings(first=1, days=1, settle=0), tree_of(found, ""))
        low, high = (share, high) if episodes.run(episodes.control, 0)[COST] < limit else (low, share)
    return found


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
