"""A run directory that the version before the problem's protocol wrote is read, and its figures come out to the bit.

tests/previous_run/ was trained for two epochs on the log that `log` generates again: ESCM2-DR on MMoE, no Ray, seed 1.
"""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data.generate import generate_log
from data.log import open_log
from data.world import GeneratedLog
from distributed.finished_run import load_run
from distributed.training.validation import count
from funnel.trained_log import for_scoring
from jobs import calibrate, evaluate, report, score

PREVIOUS = Path(__file__).resolve().parent / "previous_run"


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("previous") / "log"
    shape = {"rows_per_file": 2000, "rows_per_group": 400, "users": 200, "items": 100}
    rates = {"click_rate": 0.2, "conversion_rate": 0.3}
    generate_log(GeneratedLog(world="aligned", rows=6000, seed=3, **rates, **shape), directory)
    # Row groups of exactly 400 rows, as logs had them then: products of other numbers of rows round differently.
    (file,) = (directory / "test").glob("*.parquet")
    pq.write_table(pq.read_table(file), file, row_group_size=400)
    return directory


def test_its_figures_come_out_to_the_bit(log: Path) -> None:
    run = load_run(PREVIOUS)
    assert run.settings.objective.name == "escm2_dr"
    assert run.settings.model.backbone.expert_hidden == (8, 4)
    opened = for_scoring(open_log(log), run.schema, truth=True)
    part = opened.part("test")
    counts = count(run.problem, run.network, opened, part, run.problem.counts(opened, part, truth=True))
    figures = counts.figures()
    kept = json.loads((PREVIOUS / "summary.json").read_text())
    compared = {name for name in kept if name.startswith(("ctr.", "cvr.", "ctcvr.", "propensity."))}
    assert len(compared) > 20
    assert {name: figures[name] for name in compared} == {name: kept[name] for name in compared}
    curves = json.loads((PREVIOUS / "evaluation.json").read_text())
    assert json.loads(json.dumps(counts.curves()))["calibration"] == curves["calibration"]


def test_commands_take_it(log: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(PREVIOUS, tmp_path / "run"))
    scored = score.run(score.Arguments(run=run, data=str(log), out=tmp_path / "scored.parquet"))
    assert pq.read_metadata(scored).num_rows == 600
    summary = calibrate.run(calibrate.arguments_of("--run", str(run), "--data", str(log)))
    assert summary["calibration.method"] == "platt"
    evaluated = evaluate.run(evaluate.Arguments(run=run, data=str(log), replicates=40))
    assert evaluated["ctr.log_loss"] == pytest.approx(summary["calibrated.ctr.log_loss"], rel=1e-6)
    page = report.run(report.Args(runs=[run], out=tmp_path / "report.html"))
    assert "escm2_dr" in page.read_text()
