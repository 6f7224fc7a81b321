"""Evaluation of requests: the bootstrap over users against resampling by hand, slices, pairs, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support import change_schema, error_line

from data.hashing import splitmix64
from data.log import open_log
from distributed.finished_run import load_run
from funnel.figures.unit_bootstrap import Entries, UnitSums, ratios, weights, with_intervals
from funnel.prerank.evaluating import PreRankFigures
from funnel.unit_evaluation import UnitCounts, plan
from jobs import evaluate, report, train
from tests.support_prerank import QUICK, TINY, by_hand, cascade, problem_of, row
from tests.test_jobs_report import Page


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cascade(tmp_path_factory.mktemp("cascade") / "stages", negatives=40)


@pytest.fixture(scope="module")
def finished(stages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(stages, tmp_path_factory.mktemp("finished") / "one")


def trained(log: Path, out: Path, *more: str) -> Path:
    train.run(train.arguments_of("--problem", "prerank", "--data", str(log), "--out", str(out), *QUICK, *more))
    return out


def judged(run: Path, log: Path, out: Path, **more: Any) -> dict[str, Any]:
    return evaluate.run(evaluate.Arguments(run=run, data=str(log), out=out, **{"replicates": 100, **more}))


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_users_count_poisson_one_times_whatever_block_they_are_in() -> None:
    user_U = splitmix64(np.arange(20_000, dtype=np.uint64))
    weight_UB = weights(user_U, 3, 40)
    assert (weight_UB[:, 0] == 1).all()
    drawn = weight_UB[:, 1:]
    assert drawn.mean() == pytest.approx(1, abs=0.005)
    assert drawn.var() == pytest.approx(1, abs=0.01)
    assert (drawn == 0).mean() == pytest.approx(np.exp(-1), abs=0.003)
    between = np.corrcoef(drawn.T)
    assert np.abs(between - np.eye(40)).max() < 0.05
    some = np.array([5, 5, 19_000, 2])
    assert (weights(user_U[some], 3, 40) == weight_UB[some]).all()
    assert (weights(user_U[some], 4, 40) != weight_UB[some]).any()


def test_replicates_are_the_figures_of_users_that_stand_so_often() -> None:
    rng = np.random.default_rng(0)
    units, users = 60, 11
    user_U = splitmix64(rng.integers(0, users, units).astype(np.uint64))
    value_U, slice_U = rng.random(units), rng.integers(0, 2, units)
    weight_UB = weights(user_U, 1, 50)
    sums = UnitSums(2, 2, 50)
    for block in (np.arange(25), np.arange(25, units)):
        local = np.arange(len(block))
        one = Entries(local, slice_U[block], np.zeros(len(block), int), value_U[block])
        other = Entries(local, slice_U[block], np.ones(len(block), int), np.ones(len(block)))
        sums.add(Entries.join([one, other]), weights(user_U[block], 1, 50))
    for number in (0, 1):
        found = ratios(["mean"], sums.of(number))["mean"]
        here = slice_U == number
        assert found[0] == pytest.approx(value_U[here].mean())
        for b in (1, 7, 50):
            repeated = np.repeat(value_U[here], weight_UB[here, b].astype(int))
            assert found[b] == pytest.approx(repeated.mean())
    keep: dict[str, np.ndarray] = {}
    bounds = with_intervals({"mean": float(found[0]) + 0.5}, {"mean": found}, keep)
    assert [bounds["mean.low"], bounds["mean.high"]] == pytest.approx(np.quantile(found[1:] + 0.5, [0.025, 0.975]))
    assert keep["mean"] == pytest.approx(found[1:] + 0.5)


def test_intervals_cover_as_often_as_they_say() -> None:
    """Users of several requests each, whose hit rates go together: 95% of the intervals hold the true mean."""
    covered, worlds = 0, 200
    for seed in range(worlds):
        rng = np.random.default_rng(seed)
        own_V = rng.random(150)
        user_U = np.repeat(np.arange(150), rng.integers(1, 6, 150))
        value_U = (rng.random(len(user_U)) < own_V[user_U]).astype(float)
        sums, unit_U = UnitSums(1, 2, 200), np.arange(len(user_U))
        zero, one = np.zeros(len(user_U), int), np.ones(len(user_U), int)
        entries = Entries.join([Entries(unit_U, zero, zero, value_U), Entries(unit_U, zero, one, one.astype(float))])
        sums.add(entries, weights(splitmix64(user_U.astype(np.uint64)), seed, 200))
        found = ratios(["mean"], sums.of(0))
        bounds = with_intervals({"mean": float(found["mean"][0])}, found)
        covered += bounds["mean.low"] <= 0.5 <= bounds["mean.high"]
    assert covered / worlds > 0.9


def test_figures_are_those_of_the_training_with_intervals(finished: Path, stages: Path, tmp_path: Path) -> None:
    summary = judged(finished, stages, tmp_path / "test", by=("query_id", "@activity", "item_popularity"))
    before, curves = read(finished / "summary.json"), read(tmp_path / "test" / "evaluation.json")
    for name in ("asph", "isph", "recall", "pauc", "pauc.true", "asph.5", "requests"):
        assert summary[name] == before[name], name
    for name in ("asph", "isph.10", "recall", "pauc"):
        assert summary[f"{name}.low"] < summary[name] < summary[f"{name}.high"]
        known = [value for value in curves["replicates"][name] if value is not None]
        bounds = [summary[f"{name}.low"], summary[f"{name}.high"]]
        assert np.quantile(known, [0.025, 0.975]) == pytest.approx(bounds, rel=1e-5)
    assert summary["bootstrap.units"] == "users"
    assert summary["users"] <= summary["requests"]
    sliced = {entry["column"]: entry["slices"] for entry in curves["slices"]}
    assert sum(one["units"] for one in sliced["query_id"]) == summary["requests"]
    assert sum(one["units"] for one in sliced["@activity"]) == summary["requests"]
    assert sum(one["rows"] for one in sliced["item_popularity"]) == sum(one["rows"] for one in sliced["query_id"])
    assert all("pauc" in one["figures"] or "pauc" in one["absent"] for one in sliced["query_id"])
    assert all("pauc" not in one["figures"] for one in sliced["item_popularity"]), "a page has items of several slices"
    first = sliced["query_id"][0]
    assert summary[f"by.query_id.{first['label']}.asph"] == first["figures"]["asph"]
    page = Page((tmp_path / "test" / "report.html").read_text())
    assert "Evaluation: test part" in page.text
    assert "By query_id" in page.text


def test_a_slice_has_the_figures_of_its_requests_alone(finished: Path, stages: Path) -> None:
    found = load_run(finished)
    log = open_log(stages)
    part, problem = log.part("test"), found.problem
    figures = PreRankFigures(problem.counts(log, part, truth=True), problem.request)
    slicings = plan(log, part, ["query_id"], figures.begins, [problem.request], "requests")
    counted = UnitCounts(figures, "user_id", slicings, 40, 0)
    whole = pa.concat_tables(list(log.read(part, list(dict.fromkeys([*problem.columns, *counted.columns])))))

    def outputs(table: pa.Table) -> tuple[Any, Any]:
        batch = problem.encode(table).batch()
        with torch.inference_mode():
            return found.network.eval()(batch), batch

    counted.add(*outputs(whole), whole)
    label = counted.slicings[0].labels[0]
    query_R = np.array([str(value) for value in whole.column("query_id").to_pylist()])
    some = whole.filter(pa.array(query_R == label))
    alone = problem.counts(log, part, truth=True)
    alone.add(*outputs(some), some)
    wanted, one = alone.figures(), counted.slices(0)[0]
    assert one["label"] == label
    assert one["units"] == wanted["requests"]
    for name in ("asph", "isph", "recall", "pauc", "pauc.true", "asph.10"):
        if name in wanted:
            assert one["figures"][name] == pytest.approx(wanted[name], abs=1e-9), name


def test_targets_of_a_slice_of_items_by_hand(tmp_path: Path) -> None:
    """One request, candidates 0 .. 5 in the order of their scores, k = 3. Bought elsewhere: 1 and 4, of category a and
    b, and 2 of category a; category a has both among the first three, b has its one not."""
    rows = [row(0, i, "shown" if i < 3 else "cut", x=-float(i), kind="ab"[i in (0, 4)]) for i in range(6)]
    for i in (1, 2, 4):
        rows[i] |= {"elsewhere_click": 1, "elsewhere_purchase": 1}
    rows[0] |= {"click": 1, "purchase": 1}
    log_dir = by_hand(tmp_path / "log", rows)
    problem, log = problem_of(log_dir, ranked=0), open_log(log_dir)
    part = log.part("test")
    figures = PreRankFigures(problem.counts(log, part, truth=True), problem.request)
    slicings = plan(log, part, ["kind"], figures.begins, [problem.request], "requests")
    counted = UnitCounts(figures, "user_id", slicings, 40, 0)
    table = next(log.read(part, list(dict.fromkeys([*problem.columns, *counted.columns]))))
    score = torch.from_numpy(table.column("item_x").to_numpy().copy())
    counted.add({"score": score}, problem.encode(table).batch(), table)
    assert counted.figures()["asph"] == pytest.approx(2 / 3)
    found = {one["label"]: one for one in counted.slices(0)}
    assert found["a"]["figures"]["asph"] == 1.0
    assert found["b"]["figures"]["asph"] == 0.0
    assert found["b"]["figures"]["isph"] == 1.0
    assert "isph" in found["a"]["absent"]
    assert "several slices" in found["a"]["absent"]["pauc"]


@pytest.mark.slow
def test_two_runs_on_one_log_are_paired(finished: Path, stages: Path, tmp_path: Path) -> None:
    other = trained(stages, tmp_path / "two", "--ranked", "0", "--cut", "0", "--seed", "3")
    figures = [judged(run, stages, tmp_path / f"{run.name}_test") for run in (finished, other)]
    kept = [read(tmp_path / f"{name}_test" / "evaluation.json") for name in ("one", "two")]
    assert kept[0]["sample"] == kept[1]["sample"]
    out = report.run(report.Args(runs=[tmp_path / "one_test", tmp_path / "two_test"], out=tmp_path / "both.html"))
    page = Page(out.read_text())
    told = page.row("two_test − one_test")[0].split()[0]
    assert float(told.replace("−", "-")) == pytest.approx(figures[1]["asph"] - figures[0]["asph"], abs=6e-5)
    again = judged(finished, stages, tmp_path / "again_test", by=("query_id",))
    assert again["asph.low"] == figures[0]["asph.low"]
    assert read(tmp_path / "again_test" / "evaluation.json")["replicates"] == kept[0]["replicates"]
    judged(finished, stages, tmp_path / "luck_test", seed=1)
    luck = read(tmp_path / "luck_test" / "evaluation.json")
    assert luck["sample"] != kept[0]["sample"]
    assert luck["replicates"] != kept[0]["replicates"]


def test_a_log_without_other_scenarios_says_what_is_absent(finished: Path, stages: Path, tmp_path: Path) -> None:
    log = open_log(stages)
    lean = shutil.copytree(stages, tmp_path / "lean")
    for file in log.part("test").files:
        path = lean / "test" / Path(file.path).name
        table = pq.read_table(path)
        groups = list(file.row_groups)
        kept = table.drop_columns(["elsewhere_click", "elsewhere_purchase", "rank_score"])
        with pq.ParquetWriter(path, kept.schema) as writer:
            start = 0
            for rows in groups:
                writer.write_table(kept.slice(start, rows), row_group_size=rows)
                start += rows
    summary = judged(finished, lean, tmp_path / "out")
    assert "asph" not in summary
    assert "no request has a purchase elsewhere" in summary["absent"]["asph"]
    assert summary["isph.low"] <= summary["isph"] <= summary["isph.high"]


def test_a_part_that_holds_a_draw_is_told(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = cascade(tmp_path / "drawn", negatives=5)  # of the train part
    for part, told in (("train", True), ("test", False)):
        judged(finished, drawn, tmp_path / part, part=part)
        assert ("easier question" in capsys.readouterr().out) == told


def test_what_cannot_be_judged_is_refused(
    finished: Path, stages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(log: Path, *more: str) -> str:
        words = ("--run", finished, "--out", tmp_path / "out", "--replicates", 50, "--data", log, *more)
        return error_line(evaluate, words, monkeypatch, capsys)

    assert "not calibrated" in refused(stages, "--raw")
    assert "no such column" in refused(stages, "--by", "nothing")
    assert "other" in refused(stages, "--part", "other")
    few = cascade(tmp_path / "few", replace(TINY, candidates=16, looked_at=10))
    assert "take a smaller --k, or log all candidates" in refused(few)
    other = shutil.copytree(stages, tmp_path / "other")
    change_schema(other, lambda schema: schema.pop("request"))
    assert "names no 'request'" in refused(other)
    assert not (tmp_path / "out").exists()
