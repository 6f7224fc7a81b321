"""jobs.calibrate as a user meets it: figures before and after, its use by jobs.score, mistakes in one line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from support import arguments, error_line

from distributed.finished_run import load_run
from funnel.ranking.calibration import Calibration
from jobs import calibrate, score, train


@pytest.fixture
def finished(trained_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained_run, tmp_path / "run"))


def scored(run: Path, log: Path, out: Path, **changes: object) -> dict[str, np.ndarray]:
    score.run(score.Arguments(run=run, data=str(log), out=out, **changes))  # type: ignore[arg-type]
    table = pq.read_table(out)
    return {name: table.column(name).to_numpy() for name in ("click", "conversion", "pctr", "pcvr", "pctcvr")}


def test_a_calibrated_run_shows_before_and_after_and_scores_with_it(
    finished: Path, small_log: Path, tmp_path: Path
) -> None:
    before = json.loads((finished / "summary.json").read_text())
    plain = scored(finished, small_log, tmp_path / "plain.parquet")
    summary = calibrate.run(calibrate.Arguments(run=finished))
    assert {key: summary[key] for key in before} == before
    assert summary["calibration.method"] == "platt"
    assert json.loads((finished / "summary.json").read_text()) == summary
    curves = json.loads((finished / "evaluation.json").read_text())["calibrated"]["calibration"]
    assert curves.keys() == {"ctr", "cvr.click", "cvr.entire", "cvr.weighted", "ctcvr"}

    after = scored(finished, small_log, tmp_path / "after.parquet")
    again = scored(finished, small_log, tmp_path / "again.parquet", raw=True)
    assert all(np.array_equal(plain[name], again[name]) for name in plain)
    calibration = Calibration.load(finished / "model", load_run(finished).checksum)
    assert calibration is not None
    expected = calibration.tasks["ctr"].apply(torch.tensor(plain["pctr"]))
    assert np.allclose(after["pctr"], expected, rtol=1e-3)  # the slope of a run this short is over a hundred
    assert np.allclose(after["pctcvr"], after["pctr"] * after["pcvr"], rtol=1e-5)
    assert summary["calibrated.ctr.log_loss"] == pytest.approx(log_loss(after["click"], after["pctr"]), rel=1e-5)
    binned = before["ctr.auc_error"] + summary["calibrated.ctr.auc_error"]
    assert summary["calibrated.ctr.auc"] == pytest.approx(before["ctr.auc"], abs=binned)

    cleared = calibrate.run(calibrate.arguments_of("--run", str(finished), "--method", "none"))
    assert cleared == before
    assert Calibration.load(finished / "model", load_run(finished).checksum) is None


def test_it_is_fitted_on_the_validation_part_alone(finished: Path, small_log: Path, tmp_path: Path) -> None:
    """The clicks' map is scikit-learn's logistic regression of that part, and not that of the rows trained on."""
    summary = calibrate.run(calibrate.Arguments(run=finished))
    calibration = Calibration.load(finished / "model", load_run(finished).checksum)
    assert calibration is not None
    found, fits = calibration.tasks["ctr"], {}
    for part in ("train", "valid"):
        rows = scored(finished, small_log, tmp_path / f"{part}.parquet", raw=True, part=part)
        logit_R = (np.log(rows["pctr"]) - np.log1p(-rows["pctr"].astype(np.float64)))[:, None]
        fit = LogisticRegression(C=np.inf, tol=1e-10, max_iter=5000, solver="newton-cholesky").fit(
            logit_R, rows["click"]
        )
        fits[part] = fit.predict_proba(logit_R)[:, 1] if part == "valid" else fit
    after = found.apply(torch.from_numpy(rows["pctr"])).numpy()
    assert np.allclose(after, fits["valid"], atol=4e-3)  # Platt's targets and binned scores
    assert not np.allclose(fits["train"].predict_proba(logit_R)[:, 1], fits["valid"], atol=8e-3)
    assert summary["calibration.rows"] == len(rows["click"])


def test_figures_are_of_the_test_part(finished: Path, small_log: Path, tmp_path: Path) -> None:
    summary = calibrate.run(calibrate.Arguments(run=finished))
    rows = scored(finished, small_log, tmp_path / "test.parquet", part="test")
    assert summary["calibrated.ctr.count"] == len(rows["click"])
    assert summary["calibrated.ctr.mean_label"] == rows["click"].mean()
    assert summary["calibrated.ctr.pcoc"] == pytest.approx(rows["pctr"].mean() / rows["click"].mean(), rel=1e-4)


def test_training_can_calibrate_at_its_end(small_log: Path, tmp_path: Path) -> None:
    given = arguments(small_log, tmp_path / "run", calibrate="isotonic")
    summary = train.run(given)
    assert summary["calibration.method"] == "isotonic"
    assert "calibrated.cvr.entire.pcoc" in summary
    assert (tmp_path / "run" / "model" / "calibration.json").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--run /nowhere/at/all", "/nowhere/at/all: no such run directory"),
        ("--negative-rate 1.5", "must be in (0, 1], got 1.5"),
        ("--data /nowhere/at/all", "/nowhere/at/all: no such directory"),
        ("--method magic", "'magic'"),
        ("--nonsense 1", "unknown option '--nonsense'; valid: --run, --data, --method, --space, --negative-rate"),
    ],
)
def test_mistakes_are_named_and_change_nothing(
    finished: Path, more: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    assert message in error_line(calibrate, ["--run", finished, *more.split()], monkeypatch, capsys)
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_a_run_without_a_model_is_refused(finished: Path) -> None:
    (finished / "summary.json").unlink()
    with pytest.raises(ValueError, match="not finished"):
        calibrate.run(calibrate.Arguments(run=finished))
    (finished / "run.json").write_text('{"kind": "evolve"}')
    with pytest.raises(ValueError, match="a evolve run; only a training run has a model"):
        calibrate.run(calibrate.Arguments(run=finished))
