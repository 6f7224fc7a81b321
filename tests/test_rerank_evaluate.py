"""Evaluation of list scorers: intervals, slices, what searches find in a log, what is refused; and likeness by hand."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from support import error_line

from data.log import open_log
from distributed.finished_run import load_run
from funnel.figures.unit_bootstrap import weights
from funnel.rerank.calibration import load
from funnel.rerank.evaluating import JudgedCounts, RerankFigures
from funnel.rerank.judged_lists import LISTED, searched
from funnel.rerank.list_value import Chances, SearchSettings, list_value
from funnel.trained_log import user_keys
from funnel.unit_evaluation import UnitCounts, plan
from jobs import calibrate, evaluate, report, train
from models.list_scorer import HEADS, Before, ListScorer, ListScorerConfig
from models.two_tower import Side
from tests.support_rerank import write_sessions
from tests.test_jobs_report import Page

QUICK = ("--epochs", "1", "--batch-size", "16", "--optimizer.learning-rate", "0.01", "--model.before", "6",
         "--workers", "0")  # fmt: skip


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sessions(tmp_path_factory.mktemp("sessions") / "log", train=300, other=120, group=200)


@pytest.fixture(scope="module")
def finished(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "one"
    train.run(train.arguments_of("--problem", "rerank", "--data", str(log), "--out", str(out), *QUICK))
    calibrate.run(calibrate.Arguments(run=out))
    return out


def judged(run: Path, log: Path, out: Path, **more: Any) -> dict[str, Any]:
    return evaluate.run(evaluate.Arguments(run=run, data=str(log), out=out, **{"replicates": 60, **more}))


@pytest.mark.slow
def test_figures_are_those_of_training_and_calibration(finished: Path, log: Path, tmp_path: Path) -> None:
    before = json.loads((finished / "summary.json").read_text())
    raw = judged(finished, log, tmp_path / "raw", raw=True, by=("user_group", "item_category"))
    whole = judged(finished, log, tmp_path / "whole")
    for name in ("log_loss", "view.auc", "like.log_loss", "next.pcoc", "reward.ratio", "view.log_loss.3-5", "sessions"):
        assert raw[name] == before[name], name
        assert whole[name] == before.get(f"calibrated.{name}"), name
    for name in ("log_loss", "view.auc", "view.log_loss.3-5", "reward.ratio", "list.greedy", "list.adaptive"):
        assert raw[f"{name}.low"] < raw[name] < raw[f"{name}.high"], name
    assert raw["list.adaptive"] > raw["list.greedy"] > raw["list.shown"]
    assert raw["list.evaluations"] < 0.6
    curves = json.loads((tmp_path / "raw" / "evaluation.json").read_text())
    slices = {entry["column"]: entry["slices"] for entry in curves["slices"]}
    assert sum(one["units"] for one in slices["user_group"]) == raw["sessions"]
    assert sum(one["rows"] for one in slices["item_category"]) == raw["rows"]
    assert all("list.greedy" in one["figures"] for one in slices["user_group"])
    assert all("list.greedy" in one["absent"] for one in slices["item_category"]), "a session has several categories"
    page = Page((tmp_path / "raw" / "report.html").read_text())
    assert "What searches find" in page.text
    both = report.run(report.Args(runs=[tmp_path / "raw", tmp_path / "whole"], out=tmp_path / "both.html"))
    told = Page(both.read_text()).row("whole − raw")[0].split()[0]
    gap = whole["view.log_loss"] - raw["view.log_loss"]
    assert float(told.replace("−", "-")) == pytest.approx(gap, abs=6e-5), "the same users, resampled alike"


def counted(finished: Path, log: Path, seed: int = 5) -> tuple[UnitCounts, Any, pa.Table, Any]:
    found, data = load_run(finished), open_log(log)
    problem, maps = found.problem, load(found.directory, found.checksum)
    figures = RerankFigures(problem, found.network.scorer, JudgedCounts(1.0, 4.0, maps=maps))
    slicings = plan(data, data.part("test"), ["user_group"], figures.begins, [problem.session], "sessions")
    counts = UnitCounts(figures, "user_id", slicings, 30, seed)
    table = pa.concat_tables(list(data.read(data.part("test"), list({*problem.columns, *counts.columns}))))
    batch = problem.encode(table).batch()
    with torch.inference_mode():
        counts.add(found.network.eval()(batch), batch, table)
    return counts, found, table, batch


def test_replicates_are_the_figures_of_users_that_stand_so_often(finished: Path, log: Path) -> None:
    """Against scikit-learn, every row weighed by how often its user counts."""
    counts, found, table, batch = counted(finished, log)
    with torch.inference_mode():
        outputs = found.network(batch)
    maps = load(found.directory, found.checksum)
    values = counts.of.figures(counts.cells[0].of(0))
    weight_RB = weights(user_keys(table, "user_id"), 5, 30)
    for h, head in enumerate(HEADS):
        chance = (outputs[head].double() * maps[head][0] + maps[head][1]).sigmoid().numpy()
        label = batch.label_B3[:, h].numpy()
        for b in (0, 1, 30):
            weight = weight_RB[:, b]
            assert values[f"{head}.log_loss"][b] == pytest.approx(log_loss(label, chance, sample_weight=weight))
            assert values[f"{head}.pcoc"][b] == pytest.approx((weight @ chance) / (weight @ label))
            exact = roc_auc_score(label, chance, sample_weight=weight)
            assert values[f"{head}.auc"][b] == pytest.approx(exact, abs=0.01)
    reward = [values[f"reward.{name}"][1] for name in ("predicted", "observed")]
    assert values["reward.ratio"][1] == pytest.approx(reward[0] / reward[1])


def test_a_slice_has_the_figures_of_its_sessions_alone(finished: Path, log: Path) -> None:
    counts, found, table, _ = counted(finished, log)
    first = counts.slices(0)[0]
    group = np.array([str(value) for value in table.column("user_group").to_pylist()])
    some = table.filter(pa.array(group == first["label"]))
    alone = JudgedCounts(1.0, 4.0, maps=load(found.directory, found.checksum))
    batch = found.problem.encode(some).batch()
    with torch.inference_mode():
        alone.add(found.network(batch), batch, some)
    expected = alone.figures()
    assert first["rows"] == expected["rows"]
    for name in ("log_loss", "view.log_loss", "next.pcoc", "reward.ratio", "like.log_loss.2"):
        assert first["figures"][name] == pytest.approx(expected[name])
    assert first["figures"]["view.auc"] == pytest.approx(expected["view.auc"], abs=0.01)


def test_a_logged_list_is_worth_what_the_network_says_of_planned_items(finished: Path, log: Path) -> None:
    """Against the training's own network, in which the feedback of the planned items is hidden."""
    counts, found, _, batch = counted(finished, log)
    begin_L1 = batch.lists.begin_L1.numpy()
    session_S = np.flatnonzero(np.diff(begin_L1) >= LISTED)
    assert len(session_S) == counts.of.counts.figures()["lists"] > 5
    settings = SearchSettings(alpha=1.0, beta=4.0)
    values = searched(found.network.scorer, None, batch, session_S, settings)
    chances = []
    for planned in range(LISTED):
        hidden = torch.full_like(batch.hide_B, planned)
        network = found.network.train()
        with torch.inference_mode():
            outputs = network(type(batch)(batch.lists, batch.feedback_BF, batch.label_B3, hidden))
        rows = begin_L1[session_S + 1] - LISTED + planned
        chances.append([outputs[head].sigmoid().numpy()[rows] for head in HEADS])
    found.network.eval()
    expected = list_value(Chances(*(np.stack([one[h] for one in chances], 1) for h in range(3))), 1.0, 4.0)
    np.testing.assert_allclose(values["shown"], expected, rtol=1e-4)
    assert (values["beam"] >= values["greedy"] - 1e-4).mean() > 0.8
    assert values["beam.evaluations"].max() <= sum(m + 4 * sum(range(1, m)) for m in range(1, LISTED + 1))
    assert (values["greedy.evaluations"] == sum(range(1, LISTED + 1))).all()


def test_sessions_out_of_order_are_one_line(
    finished: Path, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(log, other)
    path = next((other / "test").glob("*.parquet"))
    table = pq.read_table(path)
    pq.write_table(table.take(pa.array([1, 0, *range(2, table.num_rows)])), path)
    words = ["--run", finished, "--data", other, "--out", tmp_path / "a"]
    line = error_line(evaluate, words, monkeypatch, capsys)
    assert "sessions are out of order" in line


def test_likeness_carries_feedback_from_items_to_items_like_them() -> None:
    """By loops: what came of an item counts by the cosine; planned items have no feedback, absent ones nothing."""
    side = Side((), (0, 1), ())
    scorer = ListScorer(ListScorerConfig(kernels=2, output=4), 0, 2, side, side, feedback=2, seed=3)
    torch.manual_seed(0)
    target, item = torch.randn(1, 3, 4), torch.randn(1, 5, 4)
    item[0, 0] = target[0, 2]
    there = torch.tensor([[True, True, True, True, False]])
    known = torch.tensor([[False, True, True, True, False]])
    told = torch.rand(1, 5, 2)
    with torch.no_grad():
        found = scorer.alike(target, Before(item, there, known, told))[0].view(3, 2, 2 + 2 + 3)
        for m in range(3):
            for h in range(2):
                rows = slice(8 * h, 8 * h + 8)
                own, old = ((x @ scorer.match.weight[rows].T) for x in (target[0, m], item[0]))
                like = torch.cosine_similarity(own[None], old, dim=1)
                sums = [sum(float(like[n] * told[0, n, f]) for n in (1, 2, 3)) / 4 for f in range(2)]
                counts = [float(like[1:4].sum()) / 4, float(like[:4].sum()) / 4]
                expected = torch.tensor([*sums, *counts, *like[:3].tolist()])
                torch.testing.assert_close(found[m, h], expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found[2, :, 4], torch.ones(2))  # an item is wholly like itself
        none = Before(item[:, :0], there[:, :0], known[:, :0], told[:, :0])
        assert not scorer.alike(target, none).any()
