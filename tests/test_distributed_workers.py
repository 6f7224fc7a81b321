"""Several workers against one: collectives and the whole loop over plain gloo processes, then Ray Train itself."""

import dataclasses
from pathlib import Path

import pytest
import ray.train
import torch
import torch.distributed as dist
from conftest import gang
from ray.train import ScalingConfig
from support import Settings, config, events, final_tensors, job_of, learner_of, stream_of, train_here

from data.log import open_log
from distributed.context import Context
from distributed.finished_run import load_run
from distributed.tables.collectives import sum_gradients
from distributed.tables.replicated import Replicated
from distributed.training.job import TrainJob
from distributed.training.launch import run_training
from distributed.training.loop import train
from jobs import train as train_job
from models.embedding import EmbeddingTable

WORKERS = 3
OBJECTIVES = ("escm2_dr", "escm2_snips")
OWN = "tests/test_jobs_train_objective.py:Normalised"


def worker(rank: int, rendezvous: str, jobs: dict[str, TrainJob]) -> None:
    """One process of a gloo group. What it asserts fails the spawn, and so the fixture below."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=WORKERS)
    check_collectives(rank)
    check_same_weights_everywhere(rank, jobs["escm2_snips"])
    for job in jobs.values():
        assert train(job, Context(rank, WORKERS))["train.workers"] == WORKERS
    dist.barrier()
    dist.destroy_process_group()


def check_collectives(rank: int) -> None:
    """Row gradients and dense gradients summed over ranks, against the sum formed in one place."""
    generator = torch.Generator().manual_seed(0)
    everyone = []
    for number in range(WORKERS):
        count = 0 if number == 1 else 20 + number  # rank 1 touched nothing
        ids = torch.unique(torch.randint(0, 60, (count,), generator=generator))
        everyone.append((ids, torch.randn(len(ids), 3, generator=generator)))
    expected = torch.zeros(60, 3)
    for ids, values in everyone:
        expected.index_add_(0, ids, values)
    table = EmbeddingTable(60, 3)
    placed, (own, gradient) = Replicated(table), everyone[rank]
    (table(own) * gradient).sum().backward()
    assert table.touched is not None
    ids, values, _ = placed.collect(table.touched)
    assert ids.tolist() == sorted({row for ids, _ in everyone for row in ids.tolist()})
    torch.testing.assert_close(torch.zeros(60, 3).index_copy_(0, ids, values), expected)

    first, second, resting = (torch.zeros(shape, requires_grad=True) for shape in ((2, 3), (4,), (5,)))
    first.grad = torch.full((2, 3), float(rank + 1))
    if rank == 0:
        second.grad = torch.arange(4.0)
    sum_gradients([first, resting, second])
    assert resting.grad is None  # no worker's loss reached it
    assert torch.equal(first.grad, torch.full((2, 3), WORKERS * (WORKERS + 1) / 2))
    assert second.grad is not None
    assert torch.equal(second.grad, torch.arange(4.0))


def check_same_weights_everywhere(rank: int, job: TrainJob) -> None:
    """After some steps every rank holds rank 0's bits: nobody drifts."""
    trainer = learner_of(job, Context(rank, WORKERS), steps=24)
    stream = stream_of(job, open_log(job.location), rank, WORKERS)
    for step, batch in zip(range(6), stream.epoch(0), strict=False):
        trainer.step(batch, step)
    state = trainer.state()
    rows = {name: table.tensor for name, table in state.rows.items()}
    for name, tensor in sorted((state.model | state.optimizer | rows).items()):
        reference = tensor.clone()
        dist.broadcast(reference, src=0)
        assert torch.equal(reference, tensor), name


def settings_of(objective: str) -> Settings:
    return config(epochs=1, objective__name=objective)


@pytest.fixture(scope="module")
def three_workers(small_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of three plain gloo processes, by objective (one spawn for all: starting Python is what takes time)."""
    directory = tmp_path_factory.mktemp("three")
    jobs = {}
    for objective in OBJECTIVES:
        (directory / objective).mkdir()
        jobs[objective] = job_of(directory / objective, small_log, settings_of(objective))
    gang(worker, (str(directory / "rendezvous"), jobs), WORKERS)
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_three_workers_train_what_one_trains(
    three_workers: Path, small_log: Path, tmp_path: Path, objective: str
) -> None:
    """The same global batches, the same normalisation: equal weights to float32 tolerance after 24 steps."""
    alone = train_here(tmp_path, small_log, settings_of(objective))
    one, three = final_tensors(tmp_path), final_tensors(three_workers / objective)
    assert one.keys() == three.keys()
    for name in one:
        torch.testing.assert_close(three[name], one[name], rtol=2e-3, atol=2e-5, msg=name)
    (valid,) = events(three_workers / objective, "valid")
    (expected,) = events(tmp_path, "valid")
    assert valid["ctr.auc"] == pytest.approx(expected["ctr.auc"], abs=2e-4)
    assert valid["ctr.count"] == expected["ctr.count"]
    assert alone["train.steps"] == valid["step"]
    losses = [[event["loss"] for event in events(run, "step")] for run in (tmp_path, three_workers / objective)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.ray
@pytest.mark.slow
def test_ray_workers_train_what_one_process_trains(ray_cluster: None, listed_log: Path, tmp_path: Path) -> None:
    """With all that workers have to find themselves: a log behind a URI, an objective in a file of the user's, with a
    total of its own and a tower that rests every second step; lists, and tables that the workers share."""
    settings = config(epochs=1, objective__name=OWN, objective__alternate_every=1)
    figures, weights = [], []
    for workers, data, tables in ((0, str(listed_log), "replicated"), (2, f"file://{listed_log}", "node")):
        placed = dataclasses.replace(settings.config, tables=tables)
        given = train_job.Arguments(
            data, tmp_path / str(workers), workers=workers, config=placed, settings=settings.settings
        )
        figures.append(train_job.run(given))
        weights.append(load_run(given.out).network.state_dict())
    assert figures[1]["train.workers"] == 2
    assert figures[1]["train.steps"] == figures[0]["train.steps"]
    for key in ("ctr.auc", "ctr.log_loss", "cvr.click.log_loss", "cvr.entire.log_loss", "ctcvr.log_loss", "ctcvr.auc"):
        assert figures[1][key] == pytest.approx(figures[0][key], rel=1e-4 if "ctc" in key else 1e-3), key
    assert len(weights[0]) > 10
    for name, expected in weights[0].items():
        torch.testing.assert_close(weights[1][name], expected, rtol=2e-3, atol=2e-5, msg=name)


@pytest.mark.ray
def test_a_users_mistake_in_a_worker_reaches_the_driver(
    ray_cluster: None, small_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray Train's local mode: its context and its result, and a worker in this process."""
    monkeypatch.setattr(ray.train, "ScalingConfig", lambda **given: ScalingConfig(num_workers=0))
    job = job_of(tmp_path, small_log, config(optimizer__learning_rate=1e30))
    with pytest.raises(ValueError, match="training diverged"):
        run_training(job, workers=1)
