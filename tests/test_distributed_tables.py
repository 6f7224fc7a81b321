"""Sharded tables: what 2 and 3 workers do with rows dealt out among them is what they do with all rows on each."""

import dataclasses
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from conftest import gang
from support import CPU, Killed, config, events, final_tensors, job_of, learner_of, stream_of, train_here, wait_until

from benchmarks.training.table_bytes import bytes_per_step, bytes_to_all
from data.log import open_log
from distributed.checkpoint.read import MODEL_DIRECTORY, read_checkpoint
from distributed.checkpoint.store import CheckpointStore
from distributed.context import Context
from distributed.finished_run import load_run
from distributed.tables import sharded
from distributed.tables.collectives import sent
from distributed.tables.node import NODE
from distributed.tables.placement import answering, share_of
from distributed.tables.replicated import Replicated
from distributed.tables.sharded import Route, Sharded
from distributed.training.job import TrainJob
from distributed.training.launch import run_training
from distributed.training.learner import Learner
from distributed.training.loop import train
from distributed.training.recorder import CHECKPOINTS
from distributed.training.validation import count
from funnel.batch import Batch
from models.embedding import EmbeddingTable
from models.row_kernels import distinct_ids

DIES_AT, RESUMES_FROM = 15, 14  # after the epoch's end at step 12; checkpoints are at every seventh step and there
OPTIMIZERS = ("adam", "adagrad")


def make_job(run: Path, log_dir: Path, **more: Any) -> TrainJob:
    """A job on the small log whose first field has a width of its own, so that there are two tables."""
    run.mkdir(parents=True, exist_ok=True)
    job = job_of(run, log_dir, config(batch_size=400, checkpoint_steps=7, patience=0, **more))
    first, *others = job.schema.categorical
    wide = dataclasses.replace(first, width=6)
    return dataclasses.replace(job, schema=dataclasses.replace(job.schema, categorical=(wide, *others)))


def in_process(rank: int, workers: int, folder: str, jobs: dict[str, TrainJob]) -> None:
    """One process of a gloo group, each on a machine of its own. What it asserts fails the spawn, and so the fixture
    below."""
    os.environ[NODE] = str(rank)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet-{workers}", rank=rank, world_size=workers)
    check_lookups(rank, workers)
    for name in OPTIMIZERS:
        check_same_as_replicated(rank, workers, jobs[name])
    if workers == 2:
        train(jobs["unbroken"], Context(rank, workers))
        die_at(DIES_AT, jobs["broken"], rank, workers)
        dist.barrier()  # all shards are written
        if rank == 0:
            for name in ("widened", "narrowed"):
                shutil.copytree(f"{folder}/broken", f"{folder}/{name}", dirs_exist_ok=True)
        dist.barrier()
        train(jobs["broken"], Context(rank, workers))
    else:
        seen = list[Batch]()
        train(noting(jobs["widened"], seen), Context(rank, workers))
        torch.save([rows_of(batch) for batch in seen], f"{folder}/seen-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def check_lookups(rank: int, workers: int) -> None:
    """Vectors, sums of gradients and bytes sent of single lookups, against one table in one place."""
    for rows in (2, 50):
        torch.manual_seed(1)
        whole = EmbeddingTable(rows, 4)
        torch.manual_seed(1)
        own = EmbeddingTable(rows, 4, share=share_of("sharded", rank))
        assert torch.equal(own.weight, whole.weight[rank::workers])
        placed, everywhere = Sharded(own), Replicated(whole)
        generator = torch.Generator().manual_seed(0)
        for counts in ([9, 0, 30], [0, 0, 0], [1, 12, 5]):
            asked = [torch.randint(0, rows, (count,), generator=generator) for count in counts]
            values = [torch.randn(count, 4, generator=generator) for count in counts]
            sent.clear()
            vectors = own(asked[rank])
            assert torch.equal(vectors, whole.weight[asked[rank]])
            (vectors * values[rank]).sum().backward()
            assert own.touched is not None
            ids, sums, _ = placed.collect(own.touched)
            expected = torch.zeros(rows, 4)
            for number in range(workers):
                expected.index_add_(0, asked[number], values[number])
            of_all = sorted({row for number in range(workers) for row in asked[number].tolist()})
            assert (ids * workers + rank).tolist() == [row for row in of_all if row % workers == rank]
            torch.testing.assert_close(sums, expected[ids * workers + rank])
            distinct = [{*ids.tolist()} for ids in asked[:workers]]
            mine = sum(row % workers == rank for row in distinct[rank])
            others = sum(row % workers == rank for n in range(workers) if n != rank for row in distinct[n])
            assert sum(sent.values()) == bytes_per_step(len(distinct[rank]), mine, others, 4, workers)
            sent.clear()
            (whole(asked[rank]) * values[rank]).sum().backward()
            assert whole.touched is not None
            all_ids, all_sums, _ = everywhere.collect(whole.touched)
            assert all_ids.tolist() == of_all
            assert torch.equal(all_sums[all_ids % workers == rank], sums)
            assert sum(sent.values()) == bytes_to_all(max(map(len, distinct)), 4, workers)


def check_same_as_replicated(rank: int, workers: int, job: TrainJob) -> None:
    """Eighteen steps over an epoch's end: the same weights, optimizer state, losses and figures."""
    context = Context(rank, workers)
    trainers = [
        learner_of(dataclasses.replace(job, config=dataclasses.replace(job.config, tables=tables)), context, steps=24)
        for tables in ("replicated", "sharded")
    ]
    log = dataclasses.replace(open_log(job.location), schema=job.schema)
    stream = stream_of(job, log, rank, workers)
    batches = [*stream.epoch(0), *[batch for _, batch in zip(range(6), stream.epoch(1), strict=False)]]
    for step, batch in enumerate(batches):
        terms = [trainer.step(batch, step) for trainer in trainers]
        torch.testing.assert_close(terms[0], terms[1], rtol=1e-5, atol=1e-7)
    states = [trainer.state() for trainer in trainers]
    assert len(trainers[0].tables) == 2
    for room in ("model", "optimizer"):
        torch.testing.assert_close(getattr(states[0], room), getattr(states[1], room), rtol=1e-4, atol=1e-6)
    for name, table in states[0].rows.items():
        part = states[1].rows[name]
        assert len(part.tensor) == share_of("sharded", rank).held(table.rows)
        torch.testing.assert_close(part.tensor, table.tensor[rank::workers], rtol=1e-4, atol=1e-6, msg=name)
    # 2 row groups: with three workers, one has nothing to look up
    problem, valid = job.open_problem(CPU), job.parts["valid"]
    figures = [
        count(problem, trainer.network, log, valid, problem.counts(log, valid), context).figures()
        for trainer in trainers
    ]
    assert figures[0].keys() == figures[1].keys()
    assert figures[1]["ctr.auc"] == pytest.approx(figures[0]["ctr.auc"], abs=1e-5)
    assert figures[1]["ctcvr.log_loss"] == pytest.approx(figures[0]["ctcvr.log_loss"], abs=1e-5)
    with answering(trainers[1].network), torch.no_grad():  # worker r applies the model r times
        for _ in range(rank):
            trainers[1].network.eval()(batches[0])


def die_at(step: int, job: TrainJob, rank: int, workers: int) -> None:
    """End before this step, once the checkpoint of the step before is whole: it is written beside the training, and
    who dies does not wait for the other worker's part."""
    proper, checkpoints = Learner.step, CheckpointStore(Path(job.run) / CHECKPOINTS)

    def dying(self: Learner, batch: Batch, number: int) -> dict:
        if number == step:
            wait_until(lambda: checkpoints.holds(step - 1))
            raise Killed
        return proper(self, batch, number)

    Learner.step = dying  # type: ignore[method-assign]
    with pytest.raises(Killed):
        train(job, Context(rank, workers))
    Learner.step = proper  # type: ignore[method-assign]


def noting(job: TrainJob, seen: list[Batch]) -> TrainJob:
    """Keep every batch that this process steps on from now on."""
    proper = Learner.step

    def step(self: Learner, batch: Batch, number: int) -> dict:
        seen.append(batch)
        return proper(self, batch, number)

    Learner.step = step  # type: ignore[method-assign]
    return job


def rows_of(batch: Batch) -> list[tuple]:
    numeric = batch.numeric_BN.nan_to_num(-1.0).tolist()
    return [(*ids, *own) for ids, own in zip(batch.ids_BK.tolist(), numeric, strict=True)]


@pytest.fixture(scope="module")
def sharded_runs(small_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of 2 and then of 3 gloo processes; each group is started once, for that is what takes time."""
    folder = tmp_path_factory.mktemp("sharded")
    jobs = {name: make_job(folder / name, small_log, optimizer__embedding=name) for name in OPTIMIZERS}
    jobs |= {
        name: make_job(folder / name, small_log, tables="sharded")
        for name in ("unbroken", "broken", "widened", "narrowed")
    }
    for workers in (2, 3):
        gang(in_process, (workers, str(folder), jobs), workers)
    return folder


def compare(run: Path, other: Path, same_bits: bool) -> None:
    one, two = final_tensors(run), final_tensors(other)
    assert one.keys() == two.keys()
    for name in one:
        if same_bits:
            assert torch.equal(one[name], two[name]), name
        else:
            torch.testing.assert_close(two[name], one[name], rtol=2e-3, atol=2e-5, msg=name)


@pytest.mark.slow
def test_a_killed_sharded_run_goes_on_to_the_same_bits(sharded_runs: Path) -> None:
    """Killed after the epoch's end, at the same number of workers; what it logged is what the unbroken run logged."""
    compare(sharded_runs / "unbroken", sharded_runs / "broken", same_bits=True)
    assert [event["step"] for event in events(sharded_runs / "broken", "start")] == [0, RESUMES_FROM]
    last = [events(sharded_runs / run, "step")[-1] for run in ("unbroken", "broken")]
    assert (last[0]["step"], last[0]["loss"]) == (last[1]["step"], last[1]["loss"])


@pytest.mark.slow
def test_another_number_of_workers_goes_on_with_every_remaining_row_once(sharded_runs: Path, small_log: Path) -> None:
    compare(sharded_runs / "unbroken", sharded_runs / "widened", same_bits=False)
    job = make_job(sharded_runs / "alone", small_log)
    log = dataclasses.replace(open_log(small_log), schema=job.schema)
    stream = stream_of(job, log)
    remaining = Counter(row for batch in stream.epoch(1, RESUMES_FROM - stream.steps) for row in rows_of(batch))
    seen = Counter[tuple]()
    for rank in range(3):
        for rows in torch.load(sharded_runs / f"seen-{rank}.pt"):
            seen.update(rows)
    assert seen == remaining
    assert 0 < remaining.total() < job.parts["train"].rows


@pytest.mark.slow
def test_a_sharded_run_of_two_goes_on_replicated_in_one_process(sharded_runs: Path, small_log: Path) -> None:
    """And ends as the unbroken one did, and as one that never saw a second worker, to tolerance."""
    latest = CheckpointStore(sharded_runs / "narrowed" / CHECKPOINTS).latest()
    assert latest is not None
    assert len(list(latest.glob("tables-*-of-00002.safetensors"))) == 2
    run_training(make_job(sharded_runs / "narrowed", small_log), workers=0)
    run_training(make_job(sharded_runs / "alone", small_log), workers=0)
    assert [event["step"] for event in events(sharded_runs / "narrowed", "start")] == [0, RESUMES_FROM]
    for name in ("narrowed", "alone"):
        compare(sharded_runs / "unbroken", sharded_runs / name, same_bits=False)


@pytest.mark.slow
def test_the_model_of_a_sharded_run_scores_in_one_process(sharded_runs: Path) -> None:
    model = load_run(sharded_runs / "unbroken").network
    best = read_checkpoint(sharded_runs / "unbroken" / MODEL_DIRECTORY, with_optimizer=False)
    assert torch.equal(model.state_dict()["embedding.tables.1.weight"], best.model["embedding.tables.1.weight"])
    assert [len(table.weight) for table in model.embedding.tables] == [table.rows for table in model.embedding.tables]


def test_one_worker_shards_as_it_replicates(small_log: Path, tmp_path: Path) -> None:
    for tables in ("sharded", "replicated"):
        train_here(tmp_path / tables, small_log, config(epochs=1, tables=tables, background_checkpoints=False))
    compare(tmp_path / "sharded", tmp_path / "replicated", same_bits=True)


def test_the_owner_adds_what_all_workers_found_for_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers ask for rows 3, 5 and 5, 2 of this one's weight, and their gradients come back in that order."""
    gradient_AE = torch.tensor([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0], [7.0, 8.0]])
    monkeypatch.setattr(sharded, "exchange", lambda values, out, back, kind, group: gradient_AE)
    owner = object.__new__(Sharded)
    owner.wire = torch.float32
    rows_A = torch.tensor([3, 5, 5, 2])
    route = Route([1, 0], [2, 2], rows_A, distinct_ids(rows_A, 6))
    ids_V, sum_VE, _ = owner.sum(route, torch.zeros(1, 2))
    assert ids_V.tolist() == [2, 3, 5]
    assert sum_VE.tolist() == [[7.0, 8.0], [1.0, 2.0], [110.0, 220.0]]
