"""Runs that were evaluated on the same rows are compared in pairs: differences with intervals of their own."""

import json

import numpy as np
import pytest
from support import arguments
from test_jobs_report import report

from funnel.panels import Figure, Table
from jobs import train
from jobs.evaluate import evaluate
from jobs.report.compare import difference, table

RNG = np.random.default_rng(3)
SHARED = RNG.normal(0, 0.02, 400)
"""What both runs owe to which users were drawn."""


def figure(value, own, sample="one log, seed 0", seed=0):
    draws = value + SHARED + np.random.default_rng(seed).normal(0, own, 400)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Figure(value, 4, float(low), float(high), badness=-value, draws=tuple(draws.tolist()), sample=sample)


def shown(*figures):
    tables = [Table("", ("Task", "AUC", "Rows"), (("CTR", each, "500"),), alike=("Rows",)) for each in figures]
    return table([(at, f"run{at}", panel) for at, panel in enumerate(tables)])


def test_a_difference_has_the_interval_of_the_differences():
    one, other = figure(0.71, 0.001, seed=1), figure(0.70, 0.001, seed=2)
    found = difference(one, other)
    expected = np.quantile(np.subtract(one.draws, other.draws), [0.025, 0.975])
    assert (found.value, found.low, found.high) == pytest.approx((0.01, *expected))
    assert found.high - found.low < 0.01 < 0.06 < one.high - one.low, "what both share is gone"


def test_what_intervals_leave_open_a_pair_can_tell():
    grid = shown(figure(0.70, 0.001, seed=2), figure(0.71, 0.001, seed=1))
    ((title, rows),) = grid.groups
    assert title == "CTR"
    assert [row[0].text for row in rows] == ["run0", "run1", "run1 − run0"]
    assert [row[1].best for row in rows] == [False, True, False]
    assert rows[2][1].text == "+0.0100"
    assert rows[2][2].text == "\u00a0", "rows are no figure"
    assert rows[2][0].difference
    assert "resampled alike" in grid.note


def test_a_difference_that_may_be_none_is_said():
    grid = shown(figure(0.70, 0.01, seed=2), figure(0.701, 0.01, seed=1))
    rows = grid.groups[0][1]
    assert rows[2][1].small[0] == "no difference to tell:"
    assert not any(row[1].best for row in rows)


@pytest.mark.parametrize("other", [figure(0.71, 0.001, sample="another part"), Figure(0.71, 4, 0.7, 0.72)])
def test_runs_on_other_rows_are_not_paired(other):
    assert difference(other, figure(0.70, 0.001)) is None
    grid = shown(figure(0.70, 0.001), other)
    assert len(grid.groups[0][1]) == 2


def test_of_three_runs_the_later_ones_are_compared_with_the_first():
    grid = shown(*(figure(value, 0.001, seed=seed) for seed, value in enumerate((0.70, 0.71, 0.69))))
    assert [row[0].text for row in grid.groups[0][1]][3:] == ["run1 − run0", "run2 − run0"]


def test_replicates_that_could_not_be_computed_are_left_out():
    one, other = figure(0.71, 0.001, seed=1), figure(0.70, 0.001, seed=2)
    holes = Figure(0.71, 4, one.low, one.high, draws=(None, *one.draws[1:]), sample=one.sample)
    assert difference(holes, other).low == pytest.approx(difference(one, other).low, abs=1e-3)
    most = Figure(0.71, 4, one.low, one.high, draws=(*[None] * 50, *one.draws[50:]), sample=one.sample)
    assert difference(most, other) is None


@pytest.mark.slow
def test_evaluations_keep_the_replicates_that_their_intervals_are_of(small_log, tmp_path):
    runs = []
    for name in ("one", "two"):
        train.run(arguments(small_log, tmp_path / name, "--seed", len(runs)))
        runs.append(evaluate(tmp_path / name, small_log, replicates=200, out=tmp_path / f"{name}_test"))
    kept = [json.loads((run.path / "evaluation.json").read_text()) for run in runs]
    assert kept[0]["sample"] == kept[1]["sample"]
    for run, record in zip(runs, kept, strict=True):
        assert {"ctr.auc", "ctr.gauc", "ctcvr.log_loss", "cvr.entire.pcoc"} <= record["replicates"].keys()
        for name, draws in record["replicates"].items():
            known = [value for value in draws if value is not None]
            bounds = [run.figures[f"{name}.low"], run.figures[f"{name}.high"]]
            assert np.quantile(known, [0.025, 0.975]) == pytest.approx(bounds, rel=1e-5), name
    page = report(tmp_path, *(run.path for run in runs))
    gain = page.row("two_test − one_test")[0].split()[0]
    assert float(gain.replace("−", "-")) == pytest.approx(
        runs[1].figures["ctr.auc"] - runs[0].figures["ctr.auc"], abs=6e-5
    )
    same = report(tmp_path, runs[0].path, evaluate(tmp_path / "one", small_log, replicates=200, part="valid").path)
    assert " − one_test" not in same.text, "other rows"
