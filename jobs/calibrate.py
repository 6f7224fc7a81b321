"""Calibrate a finished training run on its validation part, and show what that does on its test part.

    python -m jobs.calibrate --run runs/ips
    python -m jobs.calibrate --run runs/ips --method isotonic --space entire
    python -m jobs.calibrate --run runs/ips --method none --negative-rate 0.1     # only undo negative sampling

Writes RUN/model/calibration.json, which jobs.score, jobs.evaluate and jobs.export apply from then on, and adds the
calibrated figures to RUN/summary.json. The weights stay as they are: calibrating again starts from the raw scores, and
`--method none` takes the calibration away. `jobs.train --calibrate METHOD` does the same at the end of a training.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table

from data.log import open_log
from distributed.checkpoint.read import MODEL_DIRECTORY
from distributed.finished_run import load_run
from distributed.training.recorder import EVALUATION
from distributed.training.validation import count
from funnel.problem import Given
from funnel.ranking.calibration import CALIBRATION
from funnel.ranking.calibration_fit import fit_calibration, gather
from funnel.ranking.click_model import ClickModel
from funnel.ranking.scoring import for_scoring
from jobs.command.cli import main
from jobs.run.directory import RUN_FILE, SUMMARY_FILE, read_json, write_json

Method = Literal["platt", "isotonic", "none"]
Space = Literal["entire", "click"]
PREFIXES = ("calibrated.", "calibration.")
NAMES = {
    "ctr": "CTR, exposures",
    "cvr.click": "CVR, clicks",
    "cvr.entire": "CVR, exposures (truth)",
    "ctcvr": "CTCVR, exposures",
}


@dataclass
class Arguments:
    run: Path
    """Directory of a finished training run."""
    method: Method = "platt"
    """platt: two numbers a task; isotonic: any increasing curve, which wants some hundred conversions or more."""
    space: Space = "click"
    """What pCVR shall be right for: click (clicked exposures, and so pCTCVR; clicks weigh 1) or entire (every exposure;
    clicks weigh 1/propensity, which costs variance). docs/math.md says why it cannot be both."""
    negative_rate: float = 1.0
    """Share of the unclicked exposures that the log kept, if it was sampled: pCTR is corrected to the full traffic."""
    data: str | None = None
    """The run's log, if it is no longer where it was."""


def run(arguments: Arguments) -> dict[str, Any]:
    """Fit, judge, write; returns the new summary."""
    path = arguments.run.expanduser().absolute()
    record = read_finished(path)
    trained = load_run(path)
    location = arguments.data or str((record.get("data") or {}).get("location"))
    log = for_scoring(open_log(location), trained.schema, truth=True)
    parts = log.part_names()
    valid, judged = log.part("valid"), log.part("test" if "test" in parts else "valid")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = trained.network.to(device)
    given = str((record.get("config") or {}).get("propensities") or "") if arguments.space == "entire" else ""
    click_model = click_model_of(Path(given), device) if given else None
    calibration = fit_calibration(
        gather(model, log, valid, device, click_model),
        arguments.method,
        arguments.space,
        trained.problem.clip,
        arguments.negative_rate,
    )
    summary = {k: v for k, v in read_json(path / SUMMARY_FILE).items() if not k.startswith(PREFIXES)}
    evaluation = read_json(path / EVALUATION)
    evaluation.pop("calibrated", None)
    console = Console()
    if arguments.method == "none" and arguments.negative_rate == 1:
        (path / MODEL_DIRECTORY / CALIBRATION).unlink(missing_ok=True)
        console.print(f"{path}: not calibrated")
    else:
        problem = trained.problem
        counts = problem.counts(log, judged, truth=True, calibration=calibration)
        after = count(problem, model, log, judged, counts, None, device)
        calibration.save(path / MODEL_DIRECTORY)
        figures = {key: value for key, value in after.figures().items() if key != "absent"}
        summary |= {f"calibrated.{key}": value for key, value in figures.items()}
        summary |= {f"calibration.{key}": value for key, value in calibration.about.items()}
        evaluation["calibrated"] = after.curves()
        show(console, summary, judged.name)
    write_json(path / EVALUATION, evaluation)
    write_json(path / SUMMARY_FILE, summary)
    return summary


def click_model_of(run: Path, device: torch.device) -> ClickModel:
    found = load_run(run)
    return ClickModel(Given(found.problem, found.network.to(device), found.directory))


def read_finished(path: Path) -> dict[str, Any]:
    """run.json of a finished training run. Raises ValueError: no such run, another kind, not finished."""
    if not path.is_dir():
        raise ValueError(f"--run {path}: no such run directory")
    record = read_json(path / RUN_FILE)
    if record.get("kind") != "train":
        raise ValueError(f"--run {path}: a {record.get('kind')} run; only a training run has a model")
    if not (path / SUMMARY_FILE).exists():
        raise ValueError(f"--run {path}: not finished (no {SUMMARY_FILE}); repeat its jobs.train command to finish it")
    return record


def show(console: Console, summary: dict[str, Any], part: str) -> None:
    """Log-loss, PCOC and ECE before and after."""
    method, space = summary["calibration.method"], summary["calibration.space"]
    where = "all exposures" if space == "entire" else "clicks"
    title = f"{part} part, calibrated on valid ({method}, CVR for {where})"
    table = Table("task", "log-loss", "", "PCOC", "", "ECE", "", title=title, title_style="")
    for key, name in NAMES.items():
        cells = [name]
        for figure, form in (("log_loss", ".5f"), ("pcoc", ".3f"), ("ece", ".5f")):
            values = [summary.get(f"{prefix}{key}.{figure}") for prefix in ("", "calibrated.")]
            cells += ["-" if value is None else format(value, form) for value in values]
        if any(cell != "-" for cell in cells[1:]):
            table.add_row(*cells)
    for column in (2, 4, 6):
        table.columns[column].header = "after"
    console.print(table)


if __name__ == "__main__":
    main(run, Arguments, __doc__ or "")
