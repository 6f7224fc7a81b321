"""jobs.evaluate as a user meets it: figures, slices, the report, another log, and mistakes in one line."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score
from support import arguments, change_column, change_schema, copy, error_line
from test_jobs_report import Page

from jobs import calibrate, evaluate, report, score, train
from jobs.run import progress


@pytest.fixture(scope="module")
def finished(small_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluate") / "run"
    train.run(arguments(small_log, out, calibrate="platt"))
    return out


@pytest.fixture(scope="module")
def judged(finished: Path, small_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("judged") / "test"
    evaluate.run(given(finished, small_log, out, by=("channel", "price", "@activity")))
    return out


def given(run: Path, log: Path, out: Path | None, **changes: object) -> evaluate.Arguments:
    return evaluate.Arguments(**{"run": run, "data": str(log), "out": out, "replicates": 40, **changes})


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_figures_are_those_of_the_scored_file(judged: Path, finished: Path, small_log: Path, tmp_path: Path) -> None:
    summary = read(judged / "summary.json")
    out = score.run(score.Arguments(run=finished, data=str(small_log), out=tmp_path / "scored.parquet"))
    read_back = pq.read_table(out)
    table = {name: read_back.column(name).to_numpy() for name in read_back.column_names}
    assert summary["ctr.auc"] == pytest.approx(roc_auc_score(table["click"], table["pctr"]), abs=1e-4)
    assert summary["ctcvr.auc"] == pytest.approx(roc_auc_score(table["conversion"], table["pctcvr"]), abs=1e-3)
    assert summary["ctr.pcoc"] == pytest.approx(table["pctr"].mean() / table["click"].mean(), rel=1e-4)
    assert summary["ieb.mean_prediction"] == pytest.approx(table["pcvr"].mean(), rel=1e-3)
    assert summary["users"] == len(set(table["user"]))
    assert summary["calibration.method"] == "platt"
    trained = read(finished / "summary.json")
    for name in ("ctr.log_loss", "cvr.entire.pcoc", "ctcvr.auc"):
        assert summary[f"raw.{name}"] == pytest.approx(trained[name], rel=1e-6)
        assert summary[name] == pytest.approx(trained[f"calibrated.{name}"], rel=1e-6)
    assert {"ctr.gauc", "ctr.ks", "ctr.ece", "propensity.ece", "pip.risk_ratio", "cvr.entire.auc.low"} <= summary.keys()


def test_slices_hold_all_rows_and_stand_in_the_summary(judged: Path) -> None:
    slices = {entry["column"]: entry["slices"] for entry in read(judged / "evaluation.json")["slices"]}
    assert list(slices) == ["channel", "price", "@activity"]
    for found in slices.values():
        assert sum(one["rows"] for one in found) == 600
    summary = read(judged / "summary.json")
    first = slices["channel"][0]
    assert summary[f"by.channel.{first['label']}.ctr.auc"] == first["figures"]["ctr.auc"]


@pytest.mark.slow
def test_the_report_shows_it(judged: Path, finished: Path, small_log: Path, tmp_path: Path) -> None:
    page = Page((judged / "report.html").read_text())
    assert "Evaluation: test part" in page.text
    assert "By channel" in page.text
    assert "IEB: mean pCVR and mean truth" in page.panels
    assert len(set(page.ids)) == len(page.ids)
    raw = tmp_path / "raw"
    evaluate.run(given(finished, small_log, raw, raw=True))
    both = report.run(report.Args(runs=[judged, raw, finished], out=tmp_path / "both.html"))
    page = Page(both.read_text())
    assert len(set(page.ids)) == len(page.ids)
    assert read(raw / "summary.json")["calibration.method"] == "none"


def test_another_log_without_users_or_truth(finished: Path, small_log: Path, tmp_path: Path) -> None:
    log = copy(small_log, tmp_path)
    change_schema(log, lambda schema: schema.update(user=None, truth=None))
    summary = evaluate.run(given(finished, log, tmp_path / "out", part="valid"))
    assert summary["part"] == "valid"
    assert summary["bootstrap.units"] == "rows"
    assert summary["absent"]["ctr.gauc"] == "the log's schema names no user"
    assert "no truth" in summary["absent"]["cvr.entire.auc"]
    again = evaluate.run(given(finished, log, tmp_path / "out", part="valid"))
    assert again == summary


def test_the_default_place_is_in_the_run(
    finished: Path,
    small_log: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(progress, "LINE_S", 0.001)  # lines come where no terminal is
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    evaluate.run(given(run, small_log, None))
    assert "figures of 600 rows and their intervals" in capsys.readouterr().out
    assert (run / "evaluations" / "test" / "report.html").exists()
    calibrate.run(calibrate.arguments_of("--run", str(run), "--method", "none"))
    again = evaluate.run(given(run, small_log, None))
    assert "the model or its calibration has changed; evaluated again" in capsys.readouterr().out
    assert again["calibration.method"] == "none"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--run /nowhere/at/all", "--run /nowhere/at/all: no such run directory"),
        ("--data /nowhere/at/all", "/nowhere/at/all: no such directory"),
        ("--part moon", "no part 'moon' (parts here: test, train, valid)"),
        ("--by colour", "--by colour: no such column; the log has "),
        ("--by price price", "--by names 'price' twice"),
        ("--replicates 3", "--replicates must be at least 40, got 3"),
        ("--seed -1", "--seed must be at least 0, got -1"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    more: str,
    message: str,
    finished: Path,
    small_log: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert message in error_line(evaluate, words(finished, small_log, out, *more.split()), monkeypatch, capsys)
    assert not out.exists()


def words(run: Path, log: Path, out: Path, *more: object) -> tuple[object, ...]:
    return ("--run", run, "--data", log, "--out", out, "--replicates", 40, *more)


def test_an_unfinished_run_and_a_log_without_the_features(
    finished: Path,
    small_log: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / "summary.json").unlink()
    assert "not finished" in error_line(evaluate, words(run, small_log, tmp_path / "out"), monkeypatch, capsys)
    log = copy(small_log, tmp_path)
    change_column(log, "test", "price", None)
    change_schema(log, lambda schema: schema["numeric"].remove("price"))
    assert "no column 'price'" in error_line(evaluate, words(finished, log, tmp_path / "out"), monkeypatch, capsys)
    change_column(log, "valid", "price", lambda values: pa.array([[1.0]] * len(values)))
    printed = error_line(evaluate, words(finished, log, tmp_path / "out", "--part", "valid"), monkeypatch, capsys)
    assert "column 'price'" in printed
