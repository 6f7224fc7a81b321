"""Learnt shares in the platform's closed loop: watch time against uniform shares, the logging ones and none at all.

    python -m benchmarks.exposure.closed_loop --worlds 12

Worlds of 6 categories. In each a log of drawn mixes (jobs.make_data --world platform_shares) makes a forest and a
network, and the same world is then lived from a day that the log does not reach, under every policy with common random
numbers (funnel/platform/episodes.py): what a category is worth differs between worlds, so shares are used where they
were learnt. Differences are in percent of the control's figure, intervals over worlds (Student's t). `as ranked` keeps
no shares: what keeping any costs.
"""

import contextlib
import dataclasses
import io
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.exposure.pieces import Pieces
from funnel.exposure.platform_log import MixLog, MixLogs
from funnel.platform.episodes import Episodes, EpisodeSettings, interval
from funnel.platform.settings import PlatformSettings
from jobs import fit, train

SHOWN = ("dwell", "good_ctr", "visit_length")


@dataclass
class Options:
    worlds: int = 12
    users: int = 600
    items: int = 500
    kept: int = 60
    """Items that pre-ranking leaves: few hold few categories, and a mix can only be kept of what is there."""
    rows: int = 30_000
    """Days of users in the log."""
    first: int = 60
    """Days of a world under uniform shares before policies begin: more than its log has."""
    days: int = 8
    epochs: int = 6
    """Of the network."""
    cache: Path | None = None
    """File that keeps results: the same command again goes on."""


POLICIES: dict[str, dict[str, Any]] = {
    "learnt shares": {},
    "learnt by a network of all shares": {},
    "shares by taste, a rule": {"kind": "shares", "taste": 1.5},
    "shares drawn at random (the logging policy)": {"kind": "shares", "random": 1.0},
    "as ranked, no shares kept": {"kind": "none"},
}


def one_world(options: Options, number: int) -> dict[str, Any]:
    """{policy: changes of figures} of a world, and "fit": what is said of its forest."""
    settings = PlatformSettings(users=options.users, items=options.items, uploads=30.0, categories=6, kept=options.kept)
    with tempfile.TemporaryDirectory() as folder:
        log, run, network = (Path(folder) / name for name in ("log", "forest", "network"))
        MixLogs.write(settings, MixLog(rows=options.rows, seed=number), {}, "", log)
        with contextlib.redirect_stdout(io.StringIO()):
            fitted = fit.run(fit.arguments_of("--system", "exposure", "--data", log, "--out", run))
            words = ("--problem", "joint_shares", "--preset", "thorough", "--data", log, "--out", network)
            trained = train.run(train.arguments_of(*map(str, (*words, "--epochs", options.epochs, "--workers", 0))))
        episode = EpisodeSettings(first=options.first, days=options.days, settle=1)
        episodes = Episodes(settings, episode, {"reranking": {"kind": "shares"}})
        trees = {
            **POLICIES,
            "learnt shares": {"kind": "shares", "model": str(run)},
            "learnt by a network of all shares": {"kind": "shares", "model": str(network)},
        }
        found: dict[str, Any] = {
            name: dict(episodes.changes({"reranking": tree}, number)) for name, tree in trees.items()
        }
    of_policy = ("exposure.share.", "exposure.evidence", "exposure.policy.drawn_in")
    told = {key: value for key, value in fitted.items() if key.startswith(of_policy)}
    return found | {"fit": told | {f"network.{key}": trained[key] for key in ("r2", "gain", "gain.low", "gain.high")}}


def main(options: Options) -> None:
    assert options.first > 3 + 1.1 * options.rows / options.users, "the log reaches into the days that judge"
    pieces = Pieces(options.cache, 1e9)
    worlds = [
        pieces.get(f"{options.rows} {options.kept} {number}", partial(one_world, options, number))
        for number in range(88_000, 88_000 + options.worlds)
    ]
    found = {name: [world[name] for world in worlds] for name in POLICIES}
    fits = [world["fit"] for world in worlds]
    shown = [figure for figure in SHOWN if figure in found["learnt shares"][0]]
    rows = []
    for name, each in found.items():
        cells = []
        for figure in shown:
            told = interval([one[figure] for one in each])
            cells.append(f"{told.mean:+.2f} ({told.low:+.2f} to {told.high:+.2f})")
        rows.append([name, *cells])
    ahead = interval([a["dwell"] - b["dwell"] for a, b in zip(found["learnt shares"],
                    found["shares drawn at random (the logging policy)"], strict=True)])  # fmt: skip
    table = f"Percent of uniform shares; {options.worlds} worlds of {options.users} users, {options.days - 1} days\n\n"
    table += markdown(["re-ranking", *shown], rows)
    table += f"\nLearnt less drawn shares: dwell {ahead.mean:+.2f} ({ahead.low:+.2f} to {ahead.high:+.2f}) points.\n"
    evidence = ", ".join(f"{each['exposure.evidence']:+.1f}" for each in fits)
    moved = sum(each["exposure.policy.drawn_in"] for each in fits) / len(fits)
    gains = ", ".join(f"{each['network.gain']:+.3f}" for each in fits)
    table += f"\nEvidence of the logs for the forests' directions, standard errors: {evidence}; of the users' shares "
    table += f"{moved:.0%} are drawn in. Gain of the network on its test rows, doubly robust: {gains}.\n"
    for what, own in (("of 2 or more", True), ("below 2, where all get the log's mean shares", False)):
        chosen = [world for world in worlds if (world["fit"]["exposure.evidence"] >= 2) == own]
        if len(chosen) > 1:
            some = interval([world["learnt shares"]["dwell"] for world in chosen])
            table += f"\nLearnt shares in the {len(chosen)} worlds with evidence {what}: dwell {some.mean:+.2f} "
            table += f"({some.low:+.2f} to {some.high:+.2f}).\n"
    name = f"exposure-closed-loop{'' if options.kept == 60 else f'-kept-{options.kept}'}"
    kept = {key: value for key, value in dataclasses.asdict(options).items() if key != "cache"}
    write_result(name, {"changes": found, "fits": fits, "options": kept}, table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
