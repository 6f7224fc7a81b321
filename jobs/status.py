"""Say where runs stand, from their files alone: no cluster is asked and nothing is written.

    python -m jobs.status runs/ips
    python -m jobs.status runs/all runs/fusion
    python -m jobs.status runs/ips --follow              again every five seconds, until it has ended
    python -m jobs.status runs/ips --json

State is new, running, finished, stopped or diverged. Whether a process is still at work is said where it can be known:
on the machine it runs on; elsewhere by when it last wrote. Exit code 2 for what is no run.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from data.errors import UserError
from jobs.command.call import Place, several
from jobs.command.cli import main
from jobs.command.console import Console
from jobs.command.output import unread
from jobs.run.process import FINISHED
from jobs.run.run_status import STATES_AT_AN_END, RunStatus, read_status


@dataclass
class Arguments:
    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories."""
    json: bool = False
    """Print a JSON list of one object a run."""
    follow: Annotated[bool, tyro.conf.arg(help="Print again and again until all runs have ended.")] = False
    every: float = 5.0
    """Seconds between two looks with --follow."""


def run(arguments: Arguments) -> list[RunStatus]:
    """Print where the runs stand; returns it. UserError for what is no run."""
    if not arguments.runs:
        raise UserError("no run given: python -m jobs.status RUN [RUN ...]")
    if not arguments.every > 0:
        raise UserError(f"--every must be positive, got {arguments.every}")
    console = Console()
    while True:
        found = [read_status(path) for path in arguments.runs]
        if arguments.json:
            print(json.dumps([asdict(one) for one in found], indent=1))
        else:
            for one in found:
                console.print(f"{one.run}: {one.kind}, [bold]{one.state}[/bold]", highlight=False, soft_wrap=True)
                console.print(table(one))
        if not arguments.follow or unread() or all(one.state in STATES_AT_AN_END for one in found):
            return found
        time.sleep(arguments.every)


def status(runs: Place | Sequence[Place]) -> list[RunStatus]:
    """Where runs stand, of one or several; nothing is printed. Raises UserError for what is no run."""
    return [read_status(Path(path)) for path in several(runs)]


def table(one: RunStatus) -> Table:
    """A line a fact, those that are not known left out."""
    grid = Table(show_header=False, box=None, padding=(0, 2))
    grid.add_column()
    grid.add_column(overflow="fold")
    if one.done is not None and one.total is not None:
        grid.add_row(one.unit, f"{one.done:.4g} of {one.total:g}" + (f" ({one.now})" if one.now else ""))
    elif one.now:
        grid.add_row(one.unit or "now", one.now)
    if one.rate and one.state != FINISHED:
        grid.add_row(
            "rate", f"{one.rate:.3g} {one.unit}/s" if one.rate >= 0.1 else f"{60 * one.rate:.3g} {one.unit}/min"
        )
    if one.eta_s is not None and one.state != FINISHED:
        grid.add_row("time left", f"at most {duration(one.eta_s)}" if one.eta_is_bound else duration(one.eta_s))
    for name, value in one.figures.items():
        grid.add_row(name, f"{value:.5g}" if isinstance(value, float) else str(value))
    if one.checkpoint_age_s is not None:
        grid.add_row("last checkpoint", f"{duration(one.checkpoint_age_s)} ago")
    if one.written_age_s is not None and one.state != FINISHED:
        grid.add_row("last written", f"{duration(one.written_age_s)} ago")
    grid.add_row("process", one.process)
    if one.note:
        grid.add_row("note", one.note)
    return grid


def duration(seconds: float) -> str:
    """95 -> 1 min 35 s"""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours // 24} d {hours % 24} h" if hours >= 48 else f"{hours} h {minutes} min"


if __name__ == "__main__":
    main(run, Arguments, __doc__ or "")
