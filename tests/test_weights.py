"""Rows that weigh more or less than once: a figure is the one of a log in which rows stand as often as they weigh."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from support import CPU, arguments, change_column, change_schema, config, copy, job_of, learner_of, train_here

from data.errors import UserError
from data.log import Log, open_log
from distributed.context import Context
from distributed.finished_run import load_run
from distributed.training.validation import count
from funnel.batch import Batch
from funnel.figures.binary import BinaryMetrics
from funnel.figures.bootstrap import Replicates, chunks
from funnel.figures.grouped_auc import auc_by_user
from funnel.ranking.calibration_fit import FitData, fit, fit_calibration
from funnel.ranking.evaluation import Scored, activity_figures, figures_of
from funnel.ranking.scored_part import CLICK, CONVERSION, POTENTIAL, ScoredPart
from jobs import calibrate, evaluate, score, train


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def some_rows(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(logits with ties, labels, whole weights 0 to 4)"""
    rng = np.random.default_rng(seed)
    logit = np.round(rng.normal(-1, 1.5, rows), 1)
    return logit, (rng.random(rows) < sigmoid(0.6 * logit)).astype(np.float64), rng.integers(0, 5, rows).astype(float)


def test_figures_of_weighted_rows_are_those_of_repeated_rows() -> None:
    logit, label, weight = some_rows(4000)
    weighted, repeated = BinaryMetrics(weighted=True), BinaryMetrics()
    for half in (slice(0, 1500), slice(1500, None)):
        weighted.add(*(torch.from_numpy(column[half]) for column in (logit, label, weight)))
    again = np.repeat(np.arange(4000), weight.astype(int))
    repeated.add(torch.from_numpy(logit[again]), torch.from_numpy(label[again]))
    found, expected = weighted.figures()[0], repeated.figures()[0]
    for name in ("auc", "auc_error", "ks", "log_loss", "pcoc", "ece", "mean_prediction", "mean_label"):
        assert found[name] == pytest.approx(expected[name], rel=1e-12), name
    assert (found["count"], found["positives"], found["weight"]) == (4000, label.sum(), weight.sum())
    assert found["auc"] == pytest.approx(roc_auc_score(label, logit, sample_weight=weight), abs=1e-9)
    assert found["log_loss"] == pytest.approx(log_loss(label, sigmoid(logit), sample_weight=weight))
    groups = weighted.calibration()
    assert sum(group["weight"] for group in groups) == weight.sum()
    assert sum(group["count"] for group in groups) == (weight > 0)[np.isin(logit, logit[weight > 0])].size


def test_rows_that_all_weigh_nothing_have_no_figures() -> None:
    metrics = BinaryMetrics(weighted=True)
    metrics.add(torch.zeros(5), torch.tensor([1.0, 0, 0, 0, 0]), torch.zeros(5))
    figures, absent = metrics.figures()
    assert "auc" not in figures
    assert absent["log_loss"] == "all rows weigh 0"


def test_auc_by_user_is_that_of_scikit_learn_with_weights() -> None:
    logit, label, weight = some_rows(600, 1)
    weight += 0.25
    user = np.random.default_rng(2).integers(0, 30, 600)
    auc_U, weight_U = auc_by_user(user, logit, label, weight)
    assert len(auc_U) == 30
    for number in range(30):
        mine = user == number
        expected = roc_auc_score(label[mine], logit[mine], sample_weight=weight[mine])
        assert auc_U[number] == pytest.approx(expected, abs=1e-12)
        assert weight_U[number] == pytest.approx(weight[mine].sum())
    alone_U, rows_U = auc_by_user(user, logit, label)
    same_U, _ = auc_by_user(user, logit, label, np.ones(600))
    assert same_U == pytest.approx(alone_U, abs=1e-12)
    assert rows_U.sum() == 600


def test_replicates_of_weighted_rows() -> None:
    """Users' replicates are those of repeated rows; independent rows have the mean and spread of a Poisson each."""
    rng = np.random.default_rng(3)
    user, cell, weight = np.sort(rng.integers(0, 50, 900)), rng.integers(0, 4, 900), rng.integers(1, 6, 900)
    weighted, repeated = Replicates(4, 300, weighted=True), Replicates(4, 300)
    for piece, local, weight_UB in chunks(user.astype(np.uint64), 0, 7, 300):
        weighted.add(cell[piece], local, weight_UB, weight[piece])
        again = np.repeat(np.arange(len(local)), weight[piece])
        repeated.add(cell[piece][again], local[again], weight_UB)
    assert np.array_equal(weighted.counts_CB, repeated.counts_CB)
    drawn = Replicates(4, 20_000, weighted=True)
    sums, squares = np.bincount(cell, weight), np.bincount(cell, weight**2)
    drawn.draw(sums, rng, squares)
    assert drawn.counts_CB.mean(1) == pytest.approx(sums, rel=0.01)
    assert drawn.counts_CB.var(1) == pytest.approx(squares, rel=0.05)


def scored(folder: Path, repeat: bool, users: bool = True) -> Scored:
    rng = np.random.default_rng(4)
    user = np.sort(rng.integers(0, 80, 3000)).astype(np.uint64)
    ctr, cvr = np.round(rng.normal(-1, 1, 3000), 1), np.round(rng.normal(-0.5, 1, 3000), 1)
    click, potential = rng.random(3000) < sigmoid(ctr), rng.random(3000) < sigmoid(cvr)
    weight = rng.integers(1, 5, 3000)
    folder.mkdir()
    part = ScoredPart(folder, 1, users, has_truth=True, weighted=not repeat)
    rows = np.zeros(3000, part.dtype)
    rows["user"], rows["ctr"], rows["cvr"] = user if users else 0, ctr, cvr
    rows["labels"] = click * CLICK + (click & potential) * CONVERSION + potential * POTENTIAL
    if not repeat:
        rows["weight"] = weight
    part.add(np.repeat(rows, weight) if repeat else rows)
    return Scored(part, None, clip=0.05, replicates=60)


def test_an_evaluation_of_weighted_rows_is_that_of_repeated_rows(tmp_path: Path) -> None:
    """All figures by task and space, GAUC, propensities, both experiments, and all intervals."""
    one, other = (figures_of(scored(tmp_path / name, name == "repeated")) for name in ("weighted", "repeated"))
    different = ("count", "positives", "weight", "rows")
    for name, value in other.figures.items():
        if isinstance(value, str) or name.rsplit(".", 1)[-1] in different:
            continue
        if name.startswith("propensity.") and name not in ("propensity.clip", "propensity.ece"):
            continue  # a click that weighs 3 is one click
        assert one.figures[name] == pytest.approx(value, rel=1e-5, abs=1e-9), name
    assert {"ctr.auc.low", "cvr.entire.gauc.high", "pip.risk_ratio.low", "ieb.ratio.high"} <= one.figures.keys()


def test_intervals_without_users_are_as_wide_as_weights_make_them(tmp_path: Path) -> None:
    """A row that weighs 4 is one draw, not four: wider than the interval of four rows."""
    one, other = (figures_of(scored(tmp_path / name, name == "repeated", False)) for name in ("weighted", "repeated"))
    for name in ("ctr.auc", "ctcvr.log_loss", "cvr.click.pcoc", "ieb.ratio"):
        wide, narrow = (found.figures[f"{name}.high"] - found.figures[f"{name}.low"] for found in (one, other))
        assert 1.3 < wide / narrow < 2.2, name  # mean square over mean of 1 to 4: 3, so 1.73
        assert one.figures[name] == pytest.approx(other.figures[name], rel=1e-5)


def test_clicks_weigh_row_weight_times_inverse_propensity(tmp_path: Path) -> None:
    found = scored(tmp_path / "one", False)
    figures = figures_of(found).figures
    rows = next(iter(found.part.read()))
    clicked = rows[(rows["labels"] & CLICK) > 0]
    weight = clicked["weight"] / np.maximum(sigmoid(clicked["ctr"].astype(float)), 0.05)
    assert figures["propensity.effective_sample_size"] == pytest.approx(weight.sum() ** 2 / (weight**2).sum())
    assert figures["propensity.largest_weight"] == pytest.approx(weight.max())
    activity = activity_figures(found)
    assert sum(entry["rows"] for entry in activity) == 3000


@pytest.mark.parametrize("method", ["platt", "isotonic"])
@pytest.mark.parametrize("space", ["click", "entire"])
def test_calibrations_of_weighted_rows_are_those_of_repeated_rows(method: str, space: str) -> None:
    rng = np.random.default_rng(6)
    q, p = rng.normal(-1, 1, 8000), rng.normal(-0.5, 1, 8000)
    click, weight = rng.random(8000) < sigmoid(q - 0.5), rng.integers(1, 4, 8000)
    conversion = click & (rng.random(8000) < sigmoid(0.5 * p))
    columns = [torch.from_numpy(values) for values in (q, p, click * 1.0, conversion * 1.0, weight * 1.0)]
    weighted, repeated = FitData(weighted=True), FitData()
    weighted.add({"ctr": columns[0], "cvr": columns[1]}, columns[2], columns[3], weight_R=columns[4])
    q2, p2, click2, conversion2 = (column[np.repeat(np.arange(8000), weight)] for column in columns[:4])
    repeated.add({"ctr": q2, "cvr": p2}, click2, conversion2)
    at = {"ctr": torch.linspace(-4, 4, 50), "cvr": torch.linspace(-4, 4, 50)}
    one, other = (fit_calibration(data, method, space, 0.01).apply(at) for data in (weighted, repeated))
    for task in at:
        # Not to the bit: Platt's targets and the joining of steps count rows, of which one log has more.
        assert torch.allclose(one[task].sigmoid(), other[task].sigmoid(), atol=2e-3 if method == "platt" else 0.05)
    with pytest.raises(UserError, match="both would do it twice"):
        fit_calibration(weighted, method, space, negative_rate=0.1)


def test_isotonic_predicts_as_much_as_there_is_and_leaves_few_positives_to_platt() -> None:
    for rate, rows in ((0.002, 50_000), (0.05, 10_000)):
        rng = np.random.default_rng(8)
        logit = rng.normal(0, 2, rows) + np.log(rate)
        label = (rng.random(rows) < sigmoid(logit)).astype(float)
        found = fit("ctr", "isotonic", logit, label, np.ones(rows), np.ones(rows))
        assert found.method == "isotonic"
        assert len(found.knots) > 3
        after = found.apply_logit(torch.from_numpy(logit)).sigmoid().numpy()
        assert after.mean() == pytest.approx(label.mean(), rel=1e-6)
    few = np.concatenate([np.ones(49), np.zeros(5000)])
    logit = np.random.default_rng(9).normal(-4, 1, 5049) + few
    assert fit("cvr", "isotonic", logit, few, np.ones(5049), np.ones(5049)).method == "platt"
    assert fit("cvr", "isotonic", logit, 1 - few, np.ones(5049), np.ones(5049)).method == "platt"


def weigh(log: Path, weight: Any) -> Path:
    """Add a column of weights to every file, a number or made from the table."""
    for path in sorted(log.glob("*/*.parquet")):
        if path.parent.name in ("train", "valid", "test"):
            table = pq.read_table(path)
            values = weight(table) if callable(weight) else np.full(table.num_rows, float(weight))
            pq.write_table(table.append_column("w", pa.array(values)), path, row_group_size=400)
    change_schema(log, lambda schema: schema.update(weight="w"))
    return log


def test_a_batch_that_weighs_nothing_changes_nothing(small_log: Path, tmp_path: Path) -> None:
    log = weigh(copy(small_log, tmp_path), 1.0)
    for dropout in (0.0, 0.2):  # with and without a generator that is seeded for each step
        job = job_of(tmp_path / "run", log, config(optimizer__weight_decay=0.1, model__backbone__dropout=dropout))
        learner = learner_of(job, Context(), 10)
        opened = open_log(log)
        table = next(iter(opened.read(opened.part("train"))))
        batch: Batch = job.open_problem(CPU).encode(table).batch()
        learner.step(batch, 0)  # so that there is momentum
        before = {name: tensor.clone() for name, tensor in learner.network.state_dict().items()}
        terms = learner.step(Batch(**{**vars(batch), "weight_B": torch.zeros(len(batch))}), 1)
        assert terms["loss"].item() == 0
        for name, tensor in learner.network.state_dict().items():
            assert torch.equal(tensor, before[name]), name


def sampled_log(folder: Path, keep: float) -> Path:
    """Clicks of 120,000 exposures at 8%; of the others a share is kept and weighs 1/keep. The test part is whole."""
    rng = np.random.default_rng(0)
    for name, rows in (("train", 60_000), ("valid", 30_000), ("test", 30_000)):
        x = rng.normal(size=rows).astype(np.float32)
        click = rng.random(rows) < sigmoid(-3 + 1.2 * x)
        conversion = click & (rng.random(rows) < sigmoid(-1 + x))
        kept = click | (rng.random(rows) < (keep if name != "test" else 1))
        weight = np.where(click, 1.0, 1.0 if name == "test" else 1 / keep)
        (folder / name).mkdir(parents=True)
        table = {"u": rng.integers(0, 5, rows), "x": x, "click": click * 1, "conversion": conversion * 1, "w": weight}
        pq.write_table(pa.table({key: values[kept] for key, values in table.items()}), folder / name / "0.parquet")
    fields = {"categorical": [{"name": "u", "kind": "range", "size": 5}], "numeric": ["x"], "weight": "w"}
    about = {"format": "counterpoint.schema", "version": 1, "name": "w", "click": "click", "conversion": "conversion"}
    (folder / "schema.json").write_text(json.dumps(about | fields))
    return folder


WORDS = ("--batch-size", "500", "--objective.name", "naive", "--optimizer.learning-rate", "0.003")


@pytest.mark.slow
def test_a_log_of_sampled_negatives_is_worth_the_whole_one(tmp_path: Path) -> None:
    """Trained, calibrated, evaluated and scored with negatives kept at 1/10 that weigh 10: CTR of the whole traffic."""
    runs = {}
    for name, keep in (("whole", 1.0), ("sampled", 0.1)):
        log, run = sampled_log(tmp_path / name, keep), tmp_path / f"run-{name}"
        runs[name] = train.run(arguments(log, run, *WORDS, "--epochs", 4 if keep == 1 else 24))
        if name == "sampled":
            facts = load_run(run).problem.facts
            assert facts["click_rate"] == pytest.approx(0.081, abs=0.003)  # of the kept rows it is .46
            calibrated = calibrate.run(calibrate.arguments_of("--run", str(run), "--method", "isotonic"))
            assert calibrated["calibrated.ctr.pcoc"] == pytest.approx(1, abs=0.05)  # 4.58 where weights are ignored
            found = evaluate.run(evaluate.Arguments(run=run, data=str(log), part="valid", out=tmp_path / "valid"))
            assert found["ctr.pcoc"] == pytest.approx(1, abs=0.02)
            assert found["ctr.pcoc.low"] < 1 < found["ctr.pcoc.high"]
            assert found["raw.ctr.mean_label"] == pytest.approx(0.081, abs=0.005)
            score.run(score.Arguments(run=run, data=str(log), part="valid", out=tmp_path / "scored.parquet"))
            table = pq.read_table(tmp_path / "scored.parquet").to_pandas()
            assert set(table.weight) == {1.0, 10.0}
            assert np.average(table.pctr, weights=table.weight) == pytest.approx(0.081, abs=0.005)
    for name in ("ctr.auc", "ctr.log_loss", "cvr.click.auc", "ctcvr.auc"):
        assert runs["sampled"][name] == pytest.approx(runs["whole"][name], abs=0.012), name
    for summary in runs.values():
        assert summary["ctr.pcoc"] == pytest.approx(1, abs=0.08)


def weighted_log(small_log: Path, tmp_path: Path) -> tuple[Log, Path]:
    log = weigh(copy(small_log, tmp_path), lambda table: 1.0 + 2 * (table["click"].to_numpy() == 0))
    return open_log(log), log


def test_the_epoch_is_chosen_by_weighted_figures(small_log: Path, tmp_path: Path) -> None:
    log, place = weighted_log(small_log, tmp_path)
    run = tmp_path / "run"
    summary = train_here(run, place, config(epochs=1))
    found = load_run(run)
    counts = count(found.problem, found.network, log, log.part("test"), found.problem.counts(log, log.part("test")))
    table = pa.concat_tables(list(log.read(log.part("test"))))
    weight = table["w"].to_numpy()
    click = table["click"].to_numpy()
    with torch.no_grad():
        logit = found.network(found.problem.encode(table).batch())["ctr"].double().numpy()
    assert summary["ctr.log_loss"] == pytest.approx(log_loss(click, sigmoid(logit), sample_weight=weight), rel=1e-5)
    assert counts.figures()["ctr.mean_label"] == pytest.approx(np.average(click, weights=weight))
    assert found.problem.clip == pytest.approx(0.25 * found.problem.facts["click_rate"])


def test_weights_that_say_nothing_are_refused(small_log: Path, tmp_path: Path) -> None:
    log = weigh(copy(small_log, tmp_path), lambda table: 1.0 * (table["click"].to_numpy() == 0))
    with pytest.raises(UserError, match=r"/train: all clicks weigh 0"):
        job_of(tmp_path / "run", log, config())
    change_column(log, "train", "w", lambda values: values - 1)
    with pytest.raises(UserError, match="a weight is a finite number of at least 0"):
        job_of(tmp_path / "run", log, config())
