"""Learnt shares in the platform's closed loop: watch time against uniform shares, the logging ones and none at all.

    python -m benchmarks.exposure.closed_loop --worlds 8

Worlds of 6 categories. A log of drawn mixes of one world (jobs.make_data --world platform_shares) makes a forest; its
shares re-rank pages in other worlds of the same law, each lived under every policy with common random numbers after the
same first days (funnel/platform/episodes.py). Differences are in percent of the control's figure, intervals over worlds
(Student's t). `as ranked` keeps no shares: what keeping any costs.
"""

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.bench import markdown, write_result
from funnel.exposure.platform_log import MixLog, MixLogs
from funnel.platform.episodes import Episodes, EpisodeSettings, interval
from funnel.platform.settings import PlatformSettings
from jobs import fit

SHOWN = ("dwell", "good_ctr", "visit_length")


@dataclass
class Options:
    worlds: int = 8
    users: int = 600
    items: int = 500
    kept: int = 60
    """Items that pre-ranking leaves: few hold few categories, and a mix can only be kept of what is there."""
    rows: int = 30_000
    """Days of users in the log."""
    first: int = 3
    days: int = 5


def main(options: Options) -> None:
    settings = PlatformSettings(users=options.users, items=options.items, uploads=30.0, categories=6, kept=options.kept)
    with tempfile.TemporaryDirectory() as folder:
        log, run = Path(folder) / "log", Path(folder) / "forest"
        MixLogs.write(settings, MixLog(rows=options.rows, seed=77_000), {}, "", log)
        fitted = fit.run(fit.arguments_of("--system", "exposure", "--data", log, "--out", run))
        policies: dict[str, dict[str, Any]] = {
            "learnt shares": {"reranking": {"kind": "shares", "model": str(run)}},
            "shares by taste, a rule": {"reranking": {"kind": "shares", "taste": 1.5}},
            "shares drawn at random (the logging policy)": {"reranking": {"kind": "shares", "random": 1.0}},
            "as ranked, no shares kept": {},
        }
        control = {"reranking": {"kind": "shares"}}
        episode = EpisodeSettings(first=options.first, days=options.days, settle=1)
        episodes = Episodes(settings, episode, control)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in policies}
        for number in range(88_000, 88_000 + options.worlds):
            for name, tree in policies.items():
                found[name].append(dict(episodes.changes(tree, number)))
            print(number, {name: round(each[-1]["dwell"], 2) for name, each in found.items()}, flush=True)
    shown = [figure for figure in SHOWN if figure in found["learnt shares"][0]]
    rows = []
    for name, each in found.items():
        cells = []
        for figure in shown:
            told = interval([one[figure] for one in each])
            cells.append(f"{told.mean:+.2f} ({told.low:+.2f} to {told.high:+.2f})")
        rows.append([name, *cells])
    gap = interval([a["dwell"] - b["dwell"] for a, b in zip(found["learnt shares"],
                    found["shares drawn at random (the logging policy)"], strict=True)])  # fmt: skip
    table = f"Percent of uniform shares; {options.worlds} worlds of {options.users} users, {options.days - 1} days\n\n"
    table += markdown(["re-ranking", *shown], rows)
    table += f"\nLearnt less drawn shares: dwell {gap.mean:+.2f} ({gap.low:+.2f} to {gap.high:+.2f}) points.\n"
    of_policy = ("exposure.share.", "exposure.evidence", "exposure.policy.drawn_in")
    kept = {key: value for key, value in fitted.items() if key.startswith(of_policy)}
    table += f"\nEvidence of the log for the forest's direction {fitted['exposure.evidence']:+.1f} standard errors; "
    table += f"{fitted['exposure.policy.drawn_in']:.0%} of the users' shares are drawn in.\n"
    name = f"exposure-closed-loop{'' if options.kept == 60 else f'-kept-{options.kept}'}"
    write_result(name, {"changes": found, "shares": kept, "options": dataclasses.asdict(options)}, table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
