"""What is derived from a run: evaluations, scores, policies and exports of another model are refused or made again."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from support import arguments

from data.errors import UserError
from distributed.finished_run import load_run
from jobs import calibrate, evaluate, evolve, export, score, train

EVOLVE = ("--workers", 0, "--generations", 3, "--pairs", 4)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def swapped(path: Path) -> Path:
    """The same rows in another order, in the file's last row group."""
    file = sorted((path / "valid").glob("*.parquet"))[-1]
    table = pq.read_table(file)
    pq.write_table(table.take(np.arange(len(table))[::-1]), file)
    return path


def evaluated(place: Path) -> dict[str, Any]:
    return evaluate.run(evaluate.Arguments(run=place / "run", data=str(place / "log"), replicates=40))


def retrain(place: Path) -> None:
    """The run done again with another seed, under its path."""
    if (place / "run" / "evaluations").exists():
        (place / "run" / "evaluations").rename(place / "kept")
    shutil.rmtree(place / "run")
    train.run(arguments(place / "log", place / "run", "--seed", 9))
    if (place / "kept").exists():
        (place / "kept").rename(place / "run" / "evaluations")


@pytest.mark.slow
def test_an_evaluation_is_made_again_when_its_run_was(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = evaluated(place)
    assert evaluated(place) == first
    assert "is finished already" in capsys.readouterr().out
    retrain(place)
    second = evaluated(place)
    assert "the model or its calibration has changed; evaluated again" in capsys.readouterr().out
    assert second["ctr.auc"] != first["ctr.auc"]
    assert read(place / "run" / "evaluations" / "test" / "summary.json") == second
    calibrate.run(calibrate.Arguments(run=place / "run"))
    third = evaluated(place)
    assert third["calibration.method"] == "platt"
    swapped(place / "log")  # valid: not what is evaluated
    assert evaluated(place) == third
    rows_of_test = sorted((place / "log" / "test").glob("*.parquet"))[-1]
    pq.write_table(pq.read_table(rows_of_test).slice(0, 100), rows_of_test)
    capsys.readouterr()
    evaluated(place)
    assert "the log has changed; evaluated again" in capsys.readouterr().out


def test_a_model_that_is_another_runs(place: Path, tmp_path: Path) -> None:
    """Its directory copied in: not evaluated, scored, exported or calibrated as this run's."""
    train.run(arguments(place / "log", place / "other", "--objective.name", "naive"))
    shutil.rmtree(place / "run" / "model")
    shutil.copytree(place / "other" / "model", place / "run" / "model")
    log, out = str(place / "log"), tmp_path / "out"
    commands: list[Callable[[], Any]] = [
        lambda: evaluated(place),
        lambda: score.run(score.Arguments(run=place / "run", data=log, out=out)),
        lambda: export.run(export.Arguments(run=place / "run", out=out, formats=("pt2",))),
        lambda: calibrate.run(calibrate.Arguments(run=place / "run")),
    ]
    for command in commands:
        with pytest.raises(UserError, match="its model/ is another run's: not the model that this run has trained"):
            command()


def test_a_calibration_that_is_another_runs_or_edited(place: Path, tmp_path: Path) -> None:
    train.run(arguments(place / "log", place / "other", "--seed", 3, "--calibrate", "platt"))
    theirs, ours = (place / name / "model" / "calibration.json" for name in ("other", "run"))
    shutil.copy(theirs, ours)
    given = score.Arguments(run=place / "run", data=str(place / "log"), out=tmp_path / "scored.parquet")
    with pytest.raises(
        UserError, match=r"calibration\.json: was fitted on another model .*: run jobs\.calibrate again"
    ):
        score.run(given)
    calibrate.run(calibrate.Arguments(run=place / "run"))
    value = read(ours)
    value["tasks"]["ctr"]["slope"] = 50.0
    ours.write_text(json.dumps(value))
    for command in (
        lambda: score.run(given),
        lambda: evaluated(place),
        lambda: export.run(export.Arguments(run=place / "run", out=tmp_path / "served", formats=("pt2",))),
    ):
        with pytest.raises(UserError, match=r"calibration\.json: damaged or edited"):
            command()
    calibrate.run(calibrate.Arguments(run=place / "run"))
    score.run(given)


@pytest.mark.slow
def test_a_policy_knows_the_model_whose_scores_it_was_tuned_on(place: Path, tmp_path: Path) -> None:
    log, run = str(place / "log"), place / "run"
    scored = score.run(score.Arguments(run=run, data=log, out=tmp_path / "scored.parquet"))
    evolve.run(evolve.arguments_of("--scored", scored, "--out", tmp_path / "tuned", *EVOLVE))
    policy = read(tmp_path / "tuned" / "policy.json")
    model = load_run(run).checksum
    assert policy["made_from"]["settings.scored"]["model"] == model
    assert policy["made_from"]["settings.scored"]["with"] == {}
    given = export.Arguments(run=run, out=tmp_path / "served", policy=tmp_path / "tuned", formats=("pt2",))
    export.run(given)
    serving = read(tmp_path / "served" / "serving.json")
    assert serving["made_from"]["run"] == {"model": model, "with": {}}
    assert serving["made_from"]["data"] == read(run / "run.json")["made_from"]["data"]
    assert serving["model"]["objective"] == read(run / "run.json")["config"]["train"]["objective"]["name"]

    calibrate.run(calibrate.Arguments(run=run))
    again = dataclasses.replace(given, out=tmp_path / "again")
    with pytest.raises(UserError, match=r"calibrated otherwise \(not calibrated; --run is calibrated\)"):
        export.run(again)
    calibrate.run(calibrate.arguments_of("--run", str(run), "--method", "none"))
    retrain(place)
    with pytest.raises(UserError, match=r"--policy .*tuned: was tuned on the scores of another model"):
        export.run(again)
    assert not (tmp_path / "again").exists()


def test_a_scored_file_that_was_swapped(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tuned on, or judged on: neither goes on nor is finished with another one."""
    log, run, files = str(place / "log"), place / "run", [tmp_path / f"{name}.parquet" for name in ("valid", "test")]
    for file in files:
        score.run(score.Arguments(run=run, data=log, out=file, part=file.stem))
    words = ("--scored", files[0], "--judge", files[1], "--out", tmp_path / "tuned", *EVOLVE)
    evolve.run(evolve.arguments_of(*words))
    (tmp_path / "link.parquet").symlink_to(files[0])
    evolve.run(evolve.arguments_of("--scored", tmp_path / "link.parquet", *words[2:]))  # the same file
    for option, file in zip(("scored", "judge"), files, strict=True):
        kept = file.read_bytes()
        pq.write_table(pq.read_table(file).slice(1), file)
        for unfinished in (False, True):
            if unfinished:
                (tmp_path / "tuned" / "summary.json").unlink()
            with pytest.raises(UserError, match=rf"--out .* was begun with another --{option}: the file has changed"):
                evolve.run(evolve.arguments_of(*words))
        file.write_bytes(kept)
        evolve.run(evolve.arguments_of(*words))


MINE = """
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mine:
    width: int = 3

    def initial(self):
        return np.zeros(self.width, np.float32)

    def evaluate_batch(self, theta_PD, seeds_P):
        return -((theta_PD - 1.0) ** 2).sum(axis=1)

    def describe(self):
        return {"objective": "mine"}
"""


def test_an_objective_whose_file_has_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It may have been mended: said in one line, not refused."""
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    words = ("--objective", f"{file}:Mine", "--out", tmp_path / "out", "--workers", 0, "--generations", 2)
    evolve.run(evolve.arguments_of(*words))
    evolve.run(evolve.arguments_of(*words))
    assert "has changed since" not in capsys.readouterr().out
    file.write_text(MINE.replace("1.0", "2.0"))
    evolve.run(evolve.arguments_of(*words))
    assert "mine.py:Mine has changed since" in capsys.readouterr().out
