"""Logs with multi-valued fields through the stream, training and scoring; and a step against torch's own modules."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from data.encode import Encoder
from data.generate import generate_log
from data.log import open_log
from data.world import GeneratedLog
from distributed import train_loop
from distributed.config import StreamConfig
from distributed.stream import Batch, TrainStream
from distributed.trained import load_model
from jobs import score, train

CONFIG = StreamConfig(lanes=4, shuffle_rows=700, read_ahead=2)
SMALL = ("model.embedding_width=4", "model.backbone.expert_hidden=8", "model.tower_hidden=4", "batch_size=512")


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated log with users' histories, pooled by attention to an item of another width, so in two tables."""
    directory = tmp_path_factory.mktemp("logs") / "listed"
    shape = {"rows_per_file": 2000, "rows_per_group": 400, "users": 200, "items": 100, "history": 5}
    generate_log(GeneratedLog(rows=6000, seed=3, click_rate=0.2, conversion_rate=0.3, **shape), directory)
    schema = json.loads((directory / "schema.json").read_text())
    for entry in schema["categorical"]:
        if entry["name"] == "item_id":
            entry["width"] = 6
        if entry["name"] == "history":
            entry["many"]["query"] = "item_brand"
    (directory / "schema.json").write_text(json.dumps(schema))
    return directory


def stream(log_dir: Path, rank: int = 0, world_size: int = 1) -> TrainStream:
    log = open_log(log_dir)
    return TrainStream(log, log.part("train"), CONFIG, 130, seed=5, rank=rank, world_size=world_size)


def rows_of(batch: Batch) -> list[tuple]:
    """Every row with all that it holds, its list included, as a tuple."""
    (bag,) = batch.bags
    assert len(bag.offset_B1) == len(batch) + 1
    lists = [tuple(bag.ids_S[a:b].tolist()) for a, b in zip(bag.offset_B1, bag.offset_B1[1:], strict=False)]
    plain = torch.cat([batch.ids_BK.double(), batch.numeric_BN.double().nan_to_num(-1e9)], 1).tolist()
    labels = torch.stack([batch.labels.click_B, batch.labels.conversion_B], 1).tolist()
    return [(*p, *lab, values) for p, lab, values in zip(plain, labels, lists, strict=True)]


def test_an_epoch_is_every_row_once_with_its_own_list(listed: Path) -> None:
    log = open_log(listed)
    encoder = Encoder(log.schema)
    found = [row for batch in stream(listed).epoch(0) for row in rows_of(batch)]
    expected = [row for table in log.read(log.part("train")) for row in rows_of(Batch.of(encoder.encode(table)))]
    assert sorted(found) == sorted(expected)
    assert any(row[-1] for row in found)
    assert any(not row[-1] for row in found)


def test_lists_do_not_depend_on_the_number_of_workers_or_on_a_resume(listed: Path) -> None:
    alone = [rows_of(batch) for batch in stream(listed).epoch(1)]
    for world_size in (2, 3):
        together = [list(stream(listed, rank, world_size).epoch(1)) for rank in range(world_size)]
        assert [[row for batch in step for row in rows_of(batch)] for step in zip(*together, strict=True)] == alone
    assert [rows_of(batch) for batch in stream(listed).epoch(1, 17)] == alone[17:]


def figures(
    data: Path, out: Path, workers: int, tables: str = "replicated", settings: tuple[str, ...] = SMALL
) -> dict[str, float]:
    arguments = train.Arguments(data=str(data), out=out, workers=workers, epochs=1, set=settings)
    return train.run(dataclasses.replace(arguments, tables=tables))


@pytest.fixture(scope="module")
def trained(listed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    run = tmp_path_factory.mktemp("runs") / "alone"
    return run, figures(listed, run, 0)


def test_train_and_score_a_log_with_lists(listed: Path, trained: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    run, summary = trained
    assert 0 < summary["ctr.log_loss"] < 0.7
    score.run(score.Arguments(run=run, data=str(listed), out=tmp_path / "scored.parquet"))
    scored = pq.read_table(tmp_path / "scored.parquet")
    assert scored.num_rows == open_log(listed).part("test").rows
    assert np.isfinite(scored.column("pcvr").to_numpy()).all()


class Killed(Exception):
    """Stands for a process that dies between two steps."""


def test_resume_with_two_tables_gives_the_bits_of_the_unbroken_run(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = (*SMALL, "checkpoint_steps=3", "optimizer.embedding=adam")
    step = train_loop.Trainer.step

    def dying(self: train_loop.Trainer, batch: Batch, number: int) -> dict[str, torch.Tensor]:
        if number == 7:
            raise Killed
        return step(self, batch, number)

    whole = figures(listed, tmp_path / "whole", 0, settings=often)
    monkeypatch.setattr(train_loop.Trainer, "step", dying)
    with pytest.raises(Killed):
        figures(listed, tmp_path / "broken", 0, settings=often)
    monkeypatch.setattr(train_loop.Trainer, "step", step)
    again = figures(listed, tmp_path / "broken", 0, settings=often)
    assert {k: v for k, v in again.items() if not k.startswith("train.")} == {
        k: v for k, v in whole.items() if not k.startswith("train.")
    }
    models = [load_model(tmp_path / name)[0] for name in ("whole", "broken")]
    assert [table.width for table in models[0].embedding.tables] == [4, 6]
    one, two = (model.state_dict() for model in models)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("tables", ["replicated", "sharded"])
def test_two_workers_train_what_one_process_trains(
    listed: Path, trained: tuple[Path, dict[str, float]], tmp_path: Path, ray_cluster: None, tables: str
) -> None:
    together = figures(listed, tmp_path / "together", 2, tables)
    assert together["train.steps"] == trained[1]["train.steps"]
    for key in ("ctr.log_loss", "ctcvr.log_loss"):
        assert together[key] == pytest.approx(trained[1][key], rel=1e-4)
