"""Odd records of a run: every command that reads them ends in one line that names the file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import arguments

from data.errors import UserError
from jobs import calibrate, evaluate, export, report, score, status, train
from jobs.run.directory import read_json


def commands(run: Path, log: Path, out: Path) -> dict[str, Callable[[], Any]]:
    data = str(log)
    return {
        "status": lambda: status.run(status.Arguments((run,))),
        "report": lambda: report.run(report.Args(runs=[run], out=out / "report.html")),
        "train": lambda: train.run(arguments(log, run)),
        "calibrate": lambda: calibrate.run(calibrate.Arguments(run=run)),
        "evaluate": lambda: evaluate.run(evaluate.Arguments(run=run, data=data, out=out / "judged", replicates=40)),
        "score": lambda: score.run(score.Arguments(run=run, data=data, out=out / "scored.parquet")),
        "export": lambda: export.run(export.Arguments(run=run, out=out / "served", formats=("pt2",), rows=20)),
    }


ALL = ("status", "report", "train", "calibrate", "evaluate", "score", "export")
SUMMARISED = tuple(name for name in ALL if name != "status")
ODD: list[tuple[str, Any, tuple[str, ...]]] = [
    ("run.json", "", ALL),
    ("run.json", "[]", ALL),
    ("run.json", "{}", ALL),
    ("run.json", {"kind": [1]}, ALL),
    ("run.json", {"config": "x"}, ALL),
    ("run.json", {"data": [1]}, ALL),
    ("run.json", {"versions": "x"}, ALL),
    ("run.json", {"data": None}, ("calibrate", "export")),
    ("run.json", {"data": {}}, ("calibrate", "export")),
    ("summary.json", "", SUMMARISED),
    ("summary.json", "{}", SUMMARISED),
    ("summary.json", {"ctr.auc": "high"}, SUMMARISED),
    ("summary.json", {"train.steps": [1]}, SUMMARISED),
    ("summary.json", {"part": 5}, SUMMARISED),
    ("summary.json", {"absent": "x"}, SUMMARISED),
    ("evaluation.json", "", ("report", "calibrate")),
    ("evaluation.json", {"calibration": {"ctr": "x"}}, ("report", "calibrate")),
    ("evaluation.json", {"calibration": {"ctr": [{"count": "many"}]}}, ("report", "calibrate")),
    ("process.json", "[1]", ("status",)),
    ("process.json", '{"pid": 1', ("status",)),
    ("process.json", {"done": "half"}, ("status",)),
    ("process.json", {"ended": "well"}, ("status",)),
    ("process.json", {"figures": [1]}, ("status",)),
]


@pytest.mark.parametrize(("name", "odd", "readers"), ODD, ids=[f"{name} {odd!r:.40}" for name, odd, _ in ODD])
def test_an_odd_record(
    trained_run: Path, small_log: Path, tmp_path: Path, name: str, odd: Any, readers: tuple[str, ...]
) -> None:
    run = Path(shutil.copytree(trained_run, tmp_path / "run"))
    path = run / name
    content = odd if isinstance(odd, str) else json.dumps({**json.loads(path.read_text()), **odd})
    path.write_text(content)
    own = commands(run, small_log, tmp_path)
    for reader in readers:
        with pytest.raises(UserError) as refused:
            own[reader]()
        assert str(path) in str(refused.value), reader
        assert "\n" not in str(refused.value), reader
    assert path.read_text() == content


@pytest.mark.parametrize("end", ["garbage\n", '{"event": "st', "\0\0\0\n", "5\n", "[1]\n", "a\nb\n"])
def test_garbage_at_the_end_of_the_metrics(trained_run: Path, small_log: Path, tmp_path: Path, end: str) -> None:
    """Shown as half-written, or refused by file and line; a run that goes on cuts it off."""
    run = Path(shutil.copytree(trained_run, tmp_path / "run"))
    with (run / "metrics.jsonl").open("a") as file:
        file.write(end)
    status.run(status.Arguments((run,)))
    shown = report.Args(runs=[run], out=tmp_path / "report.html")
    if end == "a\nb\n":
        with pytest.raises(UserError, match=r"metrics\.jsonl, line \d+: not readable as JSON"):
            report.run(shown)
    else:
        report.run(shown)
    (run / "summary.json").unlink()
    train.run(arguments(small_log, run))
    for line in (run / "metrics.jsonl").read_text().splitlines():
        assert json.loads(line)["event"]


def test_what_a_record_may_hold_beside(trained_run: Path, tmp_path: Path) -> None:
    """Keys of a system's own, or of a later version."""
    path = Path(shutil.copy(trained_run / "summary.json", tmp_path))
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, "mine": {"a": [1]}, "my.words": "x", "ctr.gauc": None}))
    assert read_json(path)["my.words"] == "x"
