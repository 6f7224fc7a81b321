"""Logs with multi-valued fields through the stream, training and scoring; and a step against torch's own modules."""

import json
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
from conftest import gang
from support import Killed, row_stream

from data.encode import Encoder
from data.log import open_log
from distributed.config import StreamConfig
from distributed.context import Context
from distributed.finished_run import load_run
from distributed.input.stream import TrainStream
from distributed.training import loop as train_loop
from distributed.training.job import TrainJob
from distributed.training.launch import prepare
from distributed.training.learner import Learner
from funnel.batch import Batch
from jobs import score, train

CONFIG = StreamConfig(lanes=4, shuffle_rows=700, read_ahead=2)
SMALL = ("--model.embedding-width", "4", "--model.backbone.expert-hidden", "8", "--model.tower-hidden", "4",
         "--batch-size", "512")  # fmt: skip


def stream(log_dir: Path, rank: int = 0, world_size: int = 1) -> TrainStream:
    log = open_log(log_dir)
    return row_stream(log, log.part("train"), CONFIG, 130, rank, world_size)


def rows_of(batch: Batch) -> list[tuple]:
    """Every row with all that it holds, its list included, as a tuple."""
    (bag,) = batch.bags
    assert len(bag.offset_B1) == len(batch) + 1
    lists = [tuple(bag.ids_S[a:b].tolist()) for a, b in zip(bag.offset_B1, bag.offset_B1[1:], strict=False)]
    plain = torch.cat([batch.ids_BK.double(), batch.numeric_BN.double().nan_to_num(-1e9)], 1).tolist()
    labels = torch.stack([batch.labels["click"], batch.labels["conversion"]], 1).tolist()
    return [(*p, *lab, values) for p, lab, values in zip(plain, labels, lists, strict=True)]


def test_an_epoch_is_every_row_once_with_its_own_list(listed_log: Path) -> None:
    log = open_log(listed_log)
    encoder = Encoder(log.schema)
    found = [row for batch in stream(listed_log).epoch(0) for row in rows_of(batch)]
    expected = [row for table in log.read(log.part("train")) for row in rows_of(Batch.of(encoder.encode(table)))]
    assert sorted(found) == sorted(expected)
    assert any(row[-1] for row in found)
    assert any(not row[-1] for row in found)


def test_lists_do_not_depend_on_the_number_of_workers_or_on_a_resume(listed_log: Path) -> None:
    alone = [rows_of(batch) for batch in stream(listed_log).epoch(1)]
    for world_size in (2, 3):
        together = [list(stream(listed_log, rank, world_size).epoch(1)) for rank in range(world_size)]
        assert [[row for batch in step for row in rows_of(batch)] for step in zip(*together, strict=True)] == alone
    assert [rows_of(batch) for batch in stream(listed_log).epoch(1, 17)] == alone[17:]


def arguments(data: Path, out: Path, settings: tuple[str, ...] = SMALL) -> train.Arguments:
    return train.arguments_of("--data", str(data), "--out", str(out), "--workers", "0", "--epochs", "1", *settings)


@pytest.fixture(scope="module")
def trained(listed_log: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    run = tmp_path_factory.mktemp("runs") / "alone"
    return run, train.run(arguments(listed_log, run))


def test_train_and_score_a_log_with_lists(
    listed_log: Path, trained: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    run, summary = trained
    assert 0 < summary["ctr.log_loss"] < 0.7
    score.run(score.Arguments(run=run, data=str(listed_log), out=tmp_path / "scored.parquet"))
    scored = pq.read_table(tmp_path / "scored.parquet")
    assert scored.num_rows == open_log(listed_log).part("test").rows
    assert np.isfinite(scored.column("pcvr").to_numpy()).all()


def test_resume_with_two_tables_gives_the_bits_of_the_unbroken_run(
    listed_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = (*SMALL, "--checkpoint-steps", "3", "--optimizer.embedding", "adam")
    step = Learner.step

    def dying(self: Learner, batch: Batch, number: int) -> dict[str, torch.Tensor]:
        if number == 7:
            raise Killed
        return step(self, batch, number)

    whole = train.run(arguments(listed_log, tmp_path / "whole", often))
    monkeypatch.setattr(Learner, "step", dying)
    with pytest.raises(Killed):
        train.run(arguments(listed_log, tmp_path / "broken", often))
    monkeypatch.setattr(Learner, "step", step)
    again = train.run(arguments(listed_log, tmp_path / "broken", often))
    assert {k: v for k, v in again.items() if not k.startswith("train.")} == {
        k: v for k, v in whole.items() if not k.startswith("train.")
    }
    models = [load_run(tmp_path / name).network for name in ("whole", "broken")]
    assert [table.width for table in models[0].embedding.tables] == [4, 6]
    one, two = (model.state_dict() for model in models)
    assert all(torch.equal(one[name], two[name]) for name in one)


def beside(rank: int, rendezvous: str, job: TrainJob) -> None:
    """One of two plain gloo processes."""
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    found = train_loop.train(job, Context(rank, 2))
    (Path(job.run) / f"figures-{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_workers_train_what_one_process_trains(
    listed_log: Path, trained: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    """With all rows on both; test_distributed_workers.py has them dealt out over two workers of Ray Train."""
    given = arguments(listed_log, tmp_path)
    job = prepare(tmp_path, open_log(listed_log), given.config, given.settings, time.time())
    gang(beside, (str(tmp_path / "rendezvous"), job), 2)
    for rank in range(2):
        together = json.loads((tmp_path / f"figures-{rank}.json").read_text())
        assert together["train.steps"] == trained[1]["train.steps"]
        for key in ("ctr.log_loss", "ctcvr.log_loss"):
            assert together[key] == pytest.approx(trained[1][key], rel=1e-4)
