"""Whole requests through the loop: units, loss and figures against slow references, any number of workers, resume."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
from conftest import gang
from sklearn.metrics import roc_auc_score
from support import CPU, Killed, Settings, events, final_tensors, same_bits, settings_of, stream_of

from data.encode import Encoder
from data.log import open_log
from distributed.context import Context
from distributed.finished_run import load_run
from distributed.training.job import TrainJob
from distributed.training.launch import prepare, run_training
from distributed.training.learner import Learner
from distributed.training.loop import train
from funnel.lists.counts import ListCounts
from funnel.lists.problem import SCORE, ListWise, ListWiseSettings
from funnel.lists.units import Lists, request_sizes
from models.objectives.listwise import listwise_terms

SMALL = {
    "batch_size": 16,
    "epochs": 2,
    "log_steps": 5,
    "stream.lanes": 6,
    "stream.shuffle_rows": 40,
    "model.embedding_width": 4,
    "model.backbone.experts": 2,
    "model.backbone.expert_hidden": (8,),
    "model.tower_hidden": (4,),
    "optimizer.learning_rate": 0.01,
}


def listwise(**more: object) -> Settings:
    return settings_of({**SMALL, **more}, ListWiseSettings)


def job_of(run: Path, log_dir: Path, given: Settings) -> TrainJob:
    run.mkdir(parents=True, exist_ok=True)
    return prepare(run, open_log(log_dir), *given, started=0.0, problem="listwise")


def some_lists(rng: np.random.Generator, lists: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(logit_B float64, label_B, list_B) of lists of 1 to 8 rows, some without a positive or without a negative."""
    list_B = torch.from_numpy(np.repeat(np.arange(lists), rng.integers(1, 9, lists)))
    label_B = torch.from_numpy((rng.random(len(list_B)) < 0.4).astype(np.float64))
    return torch.from_numpy(rng.normal(0, 3, len(list_B))), label_B, list_B


def slow_loss(logit_B: torch.Tensor, label_B: torch.Tensor, list_B: torch.Tensor, lists: int) -> torch.Tensor:
    total = logit_B.sum() * 0
    for number in range(lists):
        z, positive = logit_B[list_B == number], label_B[list_B == number] > 0.5
        for p in z[positive]:
            if (~positive).any():
                total = total - torch.log(p.exp() / (p.exp() + z[~positive].exp().sum()))
    return total


def test_the_loss_is_each_positive_against_the_negatives_of_its_list() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        logit_B, label_B, list_B = some_lists(rng, 7)
        logit_B.requires_grad_()
        index_P, term_P = listwise_terms(logit_B, list_B, 7, label_B)
        expected = slow_loss(logit_B, label_B, list_B, 7)
        torch.testing.assert_close(term_P.sum(), expected)
        (gradient,) = torch.autograd.grad(term_P.sum(), logit_B)
        (slow,) = torch.autograd.grad(expected, logit_B)
        torch.testing.assert_close(gradient, slow)
        with_negative = {int(number) for number in list_B[label_B == 0]}
        expected_P = [row for row in range(len(list_B)) if label_B[row] == 1 and int(list_B[row]) in with_negative]
        assert index_P.tolist() == expected_P


def test_the_loss_does_not_overflow() -> None:
    logit_B = torch.tensor([800.0, -800.0, 900.0, 0.0], requires_grad=True)
    _, term_P = listwise_terms(logit_B, torch.tensor([0, 0, 1, 1]), 2, torch.tensor([0.0, 1.0, 1.0, 0.0]))
    term_P.sum().backward()
    assert term_P.tolist() == [1600.0, 0.0]
    assert logit_B.grad is not None
    assert torch.isfinite(logit_B.grad).all()


def whole_lists(small_log: Path) -> Lists:
    log = open_log(small_log)
    problem = problem_of(small_log)
    return Lists.join([problem.encode(table) for table in log.read(log.part("train"), list(problem.columns))])


def problem_of(log_dir: Path) -> ListWise:
    schema = open_log(log_dir).schema
    numerics = len(schema.numeric)
    facts = {"label": "click", "numeric_mean": [0.0] * numerics, "numeric_std": [1.0] * numerics}
    return ListWise(ListWiseSettings(label="click"), schema, facts)


def test_taking_requests_takes_all_their_rows(small_log: Path) -> None:
    lists = whole_lists(small_log)
    assert len(lists) == 160
    index = np.array([3, 0, 3, 159])
    rows = [np.arange(lists.begin_L1[i], lists.begin_L1[i + 1]) for i in index]
    for taken, expected in (
        (lists.take(index), np.concatenate(rows)),
        (lists.take(slice(2, 5)), np.arange(lists.begin_L1[2], lists.begin_L1[5])),
        (lists.take(slice(7, 7)), np.arange(0)),
        (lists.take(np.array([], np.int64)), np.arange(0)),
    ):
        np.testing.assert_array_equal(taken.rows.ids_RK, lists.rows.ids_RK[expected])
        np.testing.assert_array_equal(taken.rows.labels["click"], lists.rows.labels["click"][expected])
        assert taken.begin_L1[0] == 0
        assert taken.begin_L1[-1] == len(taken.rows)
    again = Lists.join([lists.take(slice(0, 50)), lists.take(slice(50, None))])
    np.testing.assert_array_equal(again.begin_L1, lists.begin_L1)
    np.testing.assert_array_equal(again.rows.ids_RK, lists.rows.ids_RK)


def test_figures_are_those_of_slow_references(small_log: Path) -> None:
    lists, rng = whole_lists(small_log), np.random.default_rng(1)
    score = torch.from_numpy(rng.normal(size=len(lists.rows)).round(1))  # with ties
    counts = ListCounts("click", SCORE)
    cut = int(lists.begin_L1[70])
    for part, share in ((lists.take(slice(0, 70)), score[:cut]), (lists.take(slice(70, None)), score[cut:])):
        counts.add({SCORE: share}, part.batch(), pa.table({}))
    batch = lists.batch()
    label = batch.rows.labels["click"].double()
    aucs = []
    for number in range(len(lists)):
        here = batch.list_B == number
        if 0 < label[here].sum() < here.sum():
            aucs.append(roc_auc_score(label[here], score[here]))
    figures = counts.figures()
    assert figures["list.count"] == 160
    assert figures["list.both"] == len(aucs) > 100
    assert figures["list.auc"] == pytest.approx(np.mean(aucs), rel=1e-12)
    negatives = [int((label[batch.list_B == number] == 0).sum()) for number in range(len(lists))]
    positives = sum(label[row] == 1 and negatives[batch.list_B[row]] > 0 for row in range(len(label)))
    assert figures["list.log_loss"] == pytest.approx(float(slow_loss(score, label, batch.list_B, 160) / positives))


# ---- requests are never torn


def rewrite(source: Path, target: Path, change: object) -> Path:
    """A copy of a log whose first training file holds other rows."""
    import shutil

    shutil.copytree(source, target)
    path = sorted((target / "train").glob("*.parquet"))[0]
    table = change(pq.read_table(path))  # type: ignore[operator]
    pq.write_table(table, path, row_group_size=390)
    return target


def torn(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table.slice(10), table.slice(0, 10)])


def missing(table: pa.Table) -> pa.Table:
    index = table.schema.get_field_index("request_id")
    values = table.column("request_id").to_pylist()
    values[33] = None
    return table.set_column(index, "request_id", pa.array(values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (torn, r"part-00000\.parquet: row \d+: its request \(column 'request_id'\) has rows before"),
        (missing, r"part-00000\.parquet: row 33: column 'request_id' is missing"),
    ],
)
def test_a_log_whose_requests_are_torn_is_refused(
    small_log: Path, tmp_path: Path, change: object, message: str
) -> None:
    log = rewrite(small_log, tmp_path / "log", change)
    with pytest.raises(ValueError, match=message) as raised:
        job_of(tmp_path / "run", log, listwise(label="click"))
    assert "\n" not in str(raised.value)


def test_row_groups_that_cut_a_request_are_refused(small_log: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    rewrite(small_log, log, lambda table: table)
    path = sorted((log / "train").glob("*.parquet"))[0]
    pq.write_table(pq.read_table(path), path, row_group_size=100)
    with pytest.raises(ValueError, match=r"part-00000\.parquet: row 100: its request"):
        request_sizes(open_log(log), open_log(log).part("train"), "request_id")


def test_a_log_without_requests_or_the_label_is_refused(small_log: Path, tmp_path: Path) -> None:
    log = open_log(small_log)
    bare = dataclasses.replace(log, schema=dataclasses.replace(log.schema, request=None))
    with pytest.raises(ValueError, match="names no 'request'"):
        prepare(tmp_path, bare, *listwise(), started=0.0, problem="listwise")
    with pytest.raises(ValueError, match="no label 'like'; it has click, conversion"):
        prepare(tmp_path, log, *listwise(label="like"), started=0.0, problem="listwise")
    with pytest.raises(ValueError, match=r"stop_metric 'ctr\.auc': want one of list\.auc, list\.log_loss"):
        prepare(tmp_path, log, *listwise(stop_metric="ctr.auc"), started=0.0, problem="listwise")


# ---- any number of workers


def requests_of(batch: object) -> list[tuple]:
    """Each request's rows as one comparable tuple."""
    rows, begins = batch.rows, batch.begin_L1.tolist()  # type: ignore[attr-defined]
    lines = torch.cat([rows.ids_BK.double(), rows.numeric_BN.nan_to_num(-1.0).double()], 1).tolist()
    return [tuple(map(tuple, lines[a:b])) for a, b in itertools.pairwise(begins)]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_see_the_same_requests_once_an_epoch(small_log: Path, tmp_path: Path, workers: int) -> None:
    job, log = job_of(tmp_path, small_log, listwise(label="click")), open_log(small_log)
    alone = [requests_of(batch) for batch in stream_of(job, log).epoch(1)]
    assert sorted(request for batch in alone for request in batch) == sorted(
        requests_of(whole_lists(small_log).batch())
    )
    together = [list(stream_of(job, log, rank, workers).epoch(1)) for rank in range(workers)]
    assert [
        [request for batch in step for request in requests_of(batch)] for step in zip(*together, strict=True)
    ] == alone


@pytest.mark.parametrize("workers", [2, 3])
def test_gradients_of_workers_add_up_to_those_of_one(small_log: Path, tmp_path: Path, workers: int) -> None:
    job, log = job_of(tmp_path, small_log, listwise(label="click")), open_log(small_log)
    problem = job.open_problem(CPU)
    network = problem.network(seed=0)
    steps = zip(*(stream_of(job, log, rank, workers).epoch(0) for rank in range(workers)), strict=True)
    for one, shares in zip(stream_of(job, log).epoch(0), steps, strict=True):
        gradients = []
        for batches in ([one], list(shares)):
            network.zero_grad()
            outputs = [network(batch) for batch in batches]
            totals = sum(problem.totals(o, b) for o, b in zip(outputs, batches, strict=True))
            for output, batch in zip(outputs, batches, strict=True):
                problem.loss(output, batch, totals, 0)["loss"].backward()
            gradients.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
        for whole, parts in zip(*gradients, strict=True):
            torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


def test_training_learns_and_resumes_to_the_same_bits(
    small_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = listwise(label="click", checkpoint_steps=3)
    figures = run_training(job_of(tmp_path / "whole", small_log, given), workers=0)
    assert figures["list.auc"] > 0.55
    step = Learner.step

    def dying(self: Learner, batch: object, number: int) -> dict[str, torch.Tensor]:
        if number == 7:
            raise Killed
        return step(self, batch, number)

    monkeypatch.setattr(Learner, "step", dying)
    with pytest.raises(Killed):
        run_training(job_of(tmp_path / "broken", small_log, given), workers=0)
    monkeypatch.setattr(Learner, "step", step)
    again = run_training(job_of(tmp_path / "broken", small_log, given), workers=0)
    same_bits(tmp_path / "whole", tmp_path / "broken")
    assert again["list.log_loss"] == figures["list.log_loss"]
    found = load_run(tmp_path / "whole")
    assert found.problem.name == "listwise"
    assert found.settings == given.settings


def beside(rank: int, rendezvous: str, job: TrainJob) -> None:
    """One of three plain gloo processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=3)
    train(job, Context(rank, 3))
    dist.destroy_process_group()


@pytest.mark.slow
def test_three_workers_train_what_one_trains(small_log: Path, tmp_path: Path) -> None:
    given = listwise(label="click", epochs=1)
    run_training(job_of(tmp_path / "one", small_log, given), workers=0)
    gang(beside, (str(tmp_path / "meet"), job_of(tmp_path / "three", small_log, given)), 3)
    one, three = final_tensors(tmp_path / "one"), final_tensors(tmp_path / "three")
    assert one.keys() == three.keys()
    for name in one:
        # What shifts a whole request's scores does not change the loss: Adam makes steps of rounding noise there.
        if "towers" not in name and not name.startswith("dense."):
            torch.testing.assert_close(three[name], one[name], rtol=2e-3, atol=1e-4, msg=name)
    (valid,), (expected,) = events(tmp_path / "three", "valid"), events(tmp_path / "one", "valid")
    assert valid["list.auc"] == pytest.approx(expected["list.auc"], abs=2e-3)
    assert valid["list.log_loss"] == pytest.approx(expected["list.log_loss"], rel=1e-4)
    losses = [[event["loss"] for event in events(tmp_path / name, "step")] for name in ("one", "three")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert valid["list.count"] == expected["list.count"] == 20


def test_rows_are_encoded_as_for_any_problem(small_log: Path) -> None:
    log = open_log(small_log)
    table = next(log.read(log.part("train"), [*log.schema.columns, "request_id"]))
    np.testing.assert_array_equal(
        problem_of(small_log).encode(table).rows.ids_RK, Encoder(log.schema).encode(table).ids_RK
    )
