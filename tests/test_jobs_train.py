"""jobs.train and jobs.score as a user meets them: results on disk, running again, and every mistake in one line."""

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import QUICK, arguments, change_column, change_schema, copy, error_line

from jobs import score, train
from jobs.command import cli
from jobs.run.inputs import SCORED

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def finished(small_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("jobs") / "run"
    train.run(arguments(small_log, out))
    return out


def test_a_run_directory_says_what_ran_and_how_it_ended(finished: Path, small_log: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    assert record["kind"] == "train"
    assert record["config"]["train"]["batch_size"] == 400
    assert record["data"]["parts"]["train"]["rows"] == 4800
    assert {"ray", "torch", "numpy", "pyarrow", "python"} <= record["versions"].keys()
    summary = json.loads((finished / "summary.json").read_text())
    for space in ("ctr", "ctcvr", "cvr.click", "cvr.entire"):
        assert {f"{space}.{figure}" for figure in ("auc", "log_loss", "pcoc")} <= summary.keys()
    assert summary["train.rows_per_s"] > 0
    assert summary["train.workers"] == 0
    evaluation = json.loads((finished / "evaluation.json").read_text())
    assert evaluation["part"] == "test"
    assert sum(group["count"] for group in evaluation["calibration"]["ctr"]) == 600


def test_running_again_says_it_is_finished(finished: Path, small_log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "summary.json").stat().st_mtime_ns
    train.run(arguments(small_log, finished))
    assert "is finished already" in capsys.readouterr().out
    assert (finished / "summary.json").stat().st_mtime_ns == before


def test_scores_are_probabilities_beside_their_labels(finished: Path, small_log: Path, tmp_path: Path) -> None:
    out = score.run(score.Arguments(run=finished, data=str(small_log), out=tmp_path / "scored.parquet"))
    table = pq.read_table(out)
    assert table.num_rows == 600
    expected = ["exposure_id", "user", "request", "click", "conversion", "pctr", "pcvr", "pctcvr"]
    assert table.column_names == expected
    for name in ("pctr", "pcvr", "pctcvr"):
        values = table.column(name).to_numpy()
        assert ((values > 0) & (values < 1)).all()
    about = json.loads(pq.read_schema(out).metadata[SCORED])
    assert about["part"] == "test"
    with pytest.raises(ValueError, match="exists already"):
        score.run(score.Arguments(run=finished, data=str(small_log), out=out))
    assert not list(tmp_path.glob(".*.tmp"))


def test_scoring_a_log_without_the_features_names_the_column(finished: Path, small_log: Path, tmp_path: Path) -> None:
    other = copy(small_log, tmp_path)
    change_column(other, "test", "price", None)
    schema = json.loads((other / "schema.json").read_text())
    schema["numeric"].remove("price")
    (other / "schema.json").write_text(json.dumps(schema))
    with pytest.raises(ValueError, match="no column 'price'"):
        score.run(score.Arguments(run=finished, data=str(other), out=tmp_path / "scored.parquet"))
    assert not (tmp_path / "scored.parquet").exists()


# --- mistakes ------------------------------------------------------------------------------------------------------


def set_at(row: int, value: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values = values.copy()
        values[row] = value
        return values

    return change


def corrupt(log: Path) -> None:
    path = sorted((log / "train").glob("*.parquet"))[1]
    path.write_bytes(path.read_bytes()[:-300])


def convert_without_click(log: Path) -> None:
    path = sorted((log / "train").glob("*.parquet"))[-1]
    row = int(np.flatnonzero(pq.read_table(path).column("click").to_numpy() == 0)[0])
    change_column(log, "train", "conversion", set_at(row, 1))


BROKEN_LOGS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing column": (lambda log: change_column(log, "train", "price", None), "no column 'price'"),
    "wrong type": (
        lambda log: change_column(log, "valid", "price", lambda values: pa.array(values.astype(str))),
        "column 'price' is of type string",
    ),
    "label outside 0 and 1": (
        lambda log: change_column(log, "train", "click", set_at(7, 3)),
        "row 7: column 'click' is 3",
    ),
    "conversion without click": (convert_without_click, "a conversion needs a click"),
    "label as feature": (
        lambda log: change_schema(log, lambda s: s["numeric"].append("conversion")),
        "'conversion' is the conversion label and cannot be a feature",
    ),
    "truth as feature": (
        lambda log: change_schema(log, lambda s: s["numeric"].append("potential_conversion")),
        "'potential_conversion' is the truth column",
    ),
    "unknown column": (lambda log: change_schema(log, lambda s: s["numeric"].append("colour")), "no column 'colour'"),
    "corrupted file": (corrupt, "not a whole parquet file"),
    "no files": (lambda log: [path.unlink() for path in (log / "train").glob("*")], "train: holds no parquet files"),
    "no schema": (lambda log: (log / "schema.json").unlink(), "schema.json: no such file"),
    "no part": (lambda log: shutil.rmtree(log / "valid"), "no part 'valid'"),
}


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake is found before Ray starts."""

    def reached(cpus: int) -> None:
        raise AssertionError("Ray was started before the input was checked")

    monkeypatch.setattr(train, "connect", reached)


def words(log: Path, out: Path, *more: object) -> tuple[object, ...]:
    return ("--data", log, "--out", out, *QUICK, *more)


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("name", sorted(BROKEN_LOGS))
def test_a_broken_log_is_one_line_and_writes_nothing(
    name: str,
    small_log: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = copy(small_log, tmp_path)
    breaks, message = BROKEN_LOGS[name]
    breaks(log)
    out = tmp_path / "run"
    printed = error_line(train, words(log, out, "--workers", 1), monkeypatch, capsys)
    assert message in printed
    assert str(log) in printed or "schema.json" in printed  # the place is named
    assert not out.exists()


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--model.depth 3", "unknown option '--model.depth'"),
        ("--workers 10000", "--workers 10000: this machine has"),
        ("--workers -1", "--workers must be at least 0"),
        ("--workers 2 --stream.lanes 1", "--workers 2 needs --stream.lanes 2"),
        ("--workers 2 --min-workers 3", "--min-workers 3 must be between 1 and --workers 2"),
        ("--epochs 0", "epochs must be at least 1"),
        ("--epochs many", "error: Error parsing --epochs: invalid"),
        ("--data /nowhere/at/all", "/nowhere/at/all: no such directory"),
        ("--problem moon", "no problem 'moon': choose entire_space, listwise"),
        ("--calibrate magic", "--calibrate: method is 'magic', which is not what this setting takes"),
        ("--stop-metric ctr.moon", "stop_metric 'ctr.moon': want one of ctr.auc"),
        ("--given propensities", "--given propensities: want ROLE=RUN with ROLE of propensities"),
    ],
)
def test_bad_settings_are_one_line_and_write_nothing(
    more: str,
    message: str,
    small_log: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    monkeypatch.setattr("jobs.cluster.connect.usable_cpus", lambda: 4)
    assert message in error_line(train, words(small_log, out, *more.split()), monkeypatch, capsys)
    assert not out.exists()


def test_what_cannot_be_calibrated_is_not_trained(small_log: Path, tmp_path: Path) -> None:
    given = arguments(small_log, tmp_path / "run", calibrate="platt")
    given = dataclasses.replace(given, problem="listwise", settings=None)
    with pytest.raises(ValueError, match="problem listwise has nothing to calibrate"):
        train.run(given)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_ray")
def test_a_directory_of_another_run_is_refused_and_kept(
    finished: Path,
    small_log: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    printed = error_line(train, words(small_log, finished, "--objective.name", "naive"), monkeypatch, capsys)
    assert "holds another run: train.objective.name was 'escm2_snips', now 'naive'" in printed
    (tmp_path / "thesis.txt").write_text("precious")
    printed = error_line(train, words(small_log, tmp_path), monkeypatch, capsys)
    assert "is not empty and holds no run.json" in printed
    printed = error_line(train, words(small_log, tmp_path / "thesis.txt"), monkeypatch, capsys)
    assert "is a file" in printed
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_help_teaches_with_examples(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["jobs.train", "--help"])
    with pytest.raises(SystemExit) as ended:
        cli.main(train.run, train.options, train.__doc__ or "")
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.index("python -m jobs.train --data") < shown.index("--objective.name")


@pytest.mark.slow
def test_the_command_itself(tmp_path: Path) -> None:
    """A mistake is exit code 2 and one line on stderr."""
    line = [sys.executable, "-m", "jobs.train", "--data", str(tmp_path / "absent"), "--out", str(tmp_path / "run")]
    failed = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: ")
    assert failed.stderr.count("\n") == 1
