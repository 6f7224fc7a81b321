"""One self-contained HTML page about one or more finished runs.

    python -m jobs.report runs/train --out report.html
    python -m jobs.report runs/train runs/evolve --out report.html
    python -m jobs.report runs/naive runs/esmm runs/escm2_ips runs/escm2_dr --out objectives.html

What is shown is what the run's system names (funnel/NAME/panels.py); runs that show the same thing stand beside each
other. What a run did not measure is shown as absent, with the reason. The file needs no network, is written whole or
not at all, and replaces an earlier report but nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from jobs.command.call import Place, Result, call, several
from jobs.report.page import check_target, write
from jobs.report.runs import load_runs
from jobs.run.records import reading_from


@dataclass
class Args:
    runs: tyro.conf.Positional[list[Path]]
    """Finished run directories, in the order to show them."""
    out: Path
    """The HTML file to write."""


def run(args: Args) -> Path:
    """Write the report and return its absolute path; UserError if a run or the target is not what it should be."""
    out = write_page(args.runs, args.out.resolve())
    print(out)
    return out


def report(runs: Place | Sequence[Place], out: Place) -> Result:
    """The page of one or more finished runs, as `python -m jobs.report` writes it; a notebook shows it.

    runs: a run, or several in the order to show them; out: the HTML file.
    """
    return call("report", run, Args, {"out": out}, lambda _, out: (out, {}), several(runs))


def write_page(runs: Sequence[Path], out: Path) -> Path:
    """The page of these runs at `out`. Prints nothing, so that commands can write their report before they show it."""
    check_target(out)
    with reading_from(*runs):
        write(out, load_runs(runs))
    return out
