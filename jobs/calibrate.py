"""Calibrate a finished training run on its validation part, and show what that does on its test part.

    python -m jobs.calibrate --run runs/ips --space entire        # pCVR right over all exposures
    python -m jobs.calibrate --run runs/ips --method isotonic     # on clicks, and so pCTCVR on the logged traffic
    python -m jobs.calibrate --run runs/ips --method none --negative-rate 0.1     # only undo negative sampling

Writes RUN/model/calibration.json, which jobs.score, jobs.evaluate and jobs.export apply from then on, and adds the
calibrated figures to RUN/summary.json. The weights stay as they are: calibrating again starts from the raw scores, and
`--method none` takes the calibration away. `jobs.train --calibrate METHOD` does the same at the end of a training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from data.files import restored_on_error
from data.log import Log, Part, open_log
from distributed.training.recorder import EVALUATION
from distributed.training.validation import count
from funnel.problem import Counts, Problem
from funnel.registry import DEFAULT_PROBLEM, find_problem, tool
from funnel.settings import changed
from funnel.tools import Calibrating
from jobs.command.call import Place, Result, call
from jobs.command.cli import main, parse, with_settings
from jobs.command.console import Console
from jobs.command.finished import device, given_to, open_run, problem_of, read_finished
from jobs.command.tables import print_table
from jobs.run.directory import RUN_FILE, SUMMARY_FILE, location_of, read_json, write_json
from jobs.run.owner import owned

PREFIXES = ("calibrated.", "calibration.")


@dataclass
class Arguments:
    run: Path
    """Directory of a finished training run."""
    data: str | None = None
    """The run's log, if it is no longer where it was."""
    settings: Any = None
    """The problem's own; None: its defaults."""


def options(words: Sequence[str]) -> type:
    """Arguments with the settings that the problem of the named run has for its calibration."""
    return with_settings(Arguments, settings=settings_of(problem_of(words)))


def arguments_of(*words: str) -> Arguments:
    """What the command line would give; raises UserError for an unknown option."""
    parsed: Arguments = parse(options, words)
    return parsed


def settings_of(problem: Any, **values: Any) -> Any:
    """The problem's settings of a calibration, with these values. Raises UserError: it cannot be calibrated, or so."""
    return changed(tool(problem, "calibrate").Settings(), values, "--calibrate" if values else "")


def run(arguments: Arguments) -> dict[str, Any]:
    """Fit, count, write; returns the new summary."""
    record = read_finished(arguments.run)
    with owned(arguments.run):
        return calibrated(arguments, record)


def calibrated(arguments: Arguments, record: dict[str, Any]) -> dict[str, Any]:
    path = arguments.run
    finished = open_run(path)
    calibrating: Calibrating = tool(finished.problem, "calibrate")
    settings = calibrating.Settings() if arguments.settings is None else arguments.settings
    log = open_log(arguments.data or location_of(path, record))

    def count_part(problem: Problem, network: nn.Module, log: Log, part: Part, counts: Counts) -> Counts:
        return count(problem, network, log, part, counts, None, device())

    # A calibration is in force where the summary says so, and nowhere else.
    with restored_on_error(path, finished.directory):
        found = calibrating.calibrate(finished, given_to(record), log, settings, count_part)
        before, curves = read_json(path / SUMMARY_FILE), read_json(path / EVALUATION)
        summary = {key: value for key, value in before.items() if not key.startswith(PREFIXES)} | dict(found.figures)
        curves.pop("calibrated", None)
        write_json(path / EVALUATION, {**curves, "calibrated": found.curves} if found.figures else curves)
        write_json(path / SUMMARY_FILE, summary)
    console = Console()
    if found.figures:
        print_table(console, calibrating.results(summary, summary["part"]))
    else:
        console.print(f"{path}: not calibrated")
    return summary


COMMAND = run
"""Where `run` is a run."""


def calibrate(run: Place, **options_: Any) -> Result:
    """Calibrate a finished training as `python -m jobs.calibrate` does; returns its new figures (docs/notebook.md).

    run: of `train`. method="isotonic", space="entire" and so on.
    """
    return call("calibrate", COMMAND, options, {"run": run, **options_}, lambda given, found: (given.run, found))


def following(given: Arguments) -> tuple[object, ...]:
    """Its figures with intervals, on the run's log; the page, where its problem has no evaluation of its own."""
    if "evaluate" not in find_problem(read_json(given.run / RUN_FILE).get("problem", DEFAULT_PROBLEM)).tools:
        return "report", given.run, "--out", given.run / "report.html"
    data = given.data or location_of(given.run, read_json(given.run / RUN_FILE))
    return ("evaluate", "--run", given.run, "--data", data)


if __name__ == "__main__":
    main(
        run,
        options,
        __doc__ or "",
        then=following,
    )
