"""Compare two policies in a simulated world: pairs of worlds with common random numbers, paired intervals, a page.

    python -m jobs.experiment --treatment random_slot --out runs/slot
    python -m jobs.experiment --control plain --treatment my.json --pairs 32 --days 21 --out runs/mine
    python -m jobs.experiment --treatment random_slot --design user --out runs/user --workers 0    # no Ray
    python -m jobs.experiment --treatment random_slot --users 20000 --items 5000 --providers 800 --out runs/large

A policy is a named one or a JSON file of its stages' settings; a stage that is left out is the plain one. `--design
user_corpus` splits users and items between the arms, `user` the users alone (docs/platform.md). Effects are relative to
the control, with 95% intervals over pairs. OUT gets pairs/*.json, course.json, summary.json and report.html. The same
command again continues an experiment that was stopped; the result is the same to the bit for any number of workers.
"""

from typing import Any

from jobs.command.call import Place, Result, call
from jobs.command.console import Console
from jobs.experiment.conduct import conduct
from jobs.experiment.options import Arguments as Arguments
from jobs.experiment.options import arguments_of as arguments_of
from jobs.experiment.options import options as options


def run(arguments: Arguments) -> dict[str, Any]:
    """Run all pairs and return summary.json as a dict."""
    return conduct(arguments, Console())


def experiment(out: Place, **options_: Any) -> Result:
    """Compare as `python -m jobs.experiment` does; returns the run with its effects (docs/notebook.md).

    out: the run directory. treatment="random_slot" or a policy's JSON file; pairs=16, days=14 and so on.
    """
    return call("experiment", run, options, {"out": out, **options_}, lambda _, summary: (out, summary))
