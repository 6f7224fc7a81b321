"""A finished training run as other commands use it: checked, loaded, and what its problem lets them do with it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from data.errors import UserError
from distributed.checkpoint.read import MODEL_DIRECTORY, RECORD, read_record
from distributed.finished_run import load_run
from funnel.problem import Given
from funnel.registry import DEFAULT_PROBLEM, find_problem
from funnel.tools import GivenTo
from jobs.command.cli import glance
from jobs.command.trust import check_names
from jobs.run.directory import RUN_FILE, SUMMARY_FILE, read_json
from jobs.run.inputs import check_model
from jobs.run.start_from import about_model, changed_since


def device() -> torch.device:
    """A GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def read_finished(path: Path) -> dict[str, Any]:
    """run.json of a finished training run. Raises UserError: no such run, another kind, not finished."""
    if not path.is_dir():
        raise UserError(f"--run {path}: no such run directory")
    record = read_json(path / RUN_FILE)
    if record.get("kind") != "train":
        raise UserError(f"--run {path}: a {record.get('kind')} run; only a training run has a model")
    if not (path / SUMMARY_FILE).exists():
        raise UserError(f"--run {path}: not finished (no {SUMMARY_FILE}); repeat its jobs.train command to finish it")
    check_code(path)
    check_model(path, f"--run {path}")
    return record


def open_run(path: Path) -> Given:
    """The problem and the trained network of a run, on a GPU if there is one. Raises UserError for one that names code
    nobody has vouched for (jobs/command/trust.py)."""
    check_code(path)
    found = load_run(path)
    found.network.to(device())
    return found.given


def given_to(record: dict[str, Any]) -> GivenTo:
    """Opens the run that a training was given in a role, by its run.json. Raises UserError if it has gone, or holds
    another model since."""

    def given(role: str) -> Given | None:
        run = (record.get("config") or {}).get(role)
        if not run:
            return None
        where = f"{role}={run}"
        if changed_since(record.get(role), about_model(Path(str(run)), where)):
            raise UserError(f"{where}: holds another model now than when it was given to the training")
        return open_run(Path(str(run)))

    return given


def problem_of(words: Sequence[str]) -> Any:
    """Class of the problem of the run that the words name with --run; of the default one where there is no such run,
    which is for the command itself to say."""
    run = Path(glance(words, run="")["run"]).expanduser()
    check_code(run)
    path = run / MODEL_DIRECTORY / RECORD
    return find_problem(read_record(path).get("problem", DEFAULT_PROBLEM) if path.exists() else DEFAULT_PROBLEM)


def check_code(run: Path) -> None:
    """Raise UserError if the record of the run's model names code that nobody has vouched for."""
    path = run / MODEL_DIRECTORY / RECORD
    if path.exists():
        record = read_record(path)
        check_names({key: record.get(key) for key in ("problem", "config")}, str(path))
