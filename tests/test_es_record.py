"""What a run leaves in its directory: safe on the disk before a checkpoint says so, and cut to it when it goes on."""

import os
from pathlib import Path

import numpy as np
import pytest

from es.checkpoint import Checkpoint
from es.record import RunRecord

PAIRS = 3


def returns(generation: int) -> np.ndarray:
    return np.arange(2.0 * PAIRS).reshape(PAIRS, 2) + 100 * generation


def saved(generation: int) -> Checkpoint:
    return Checkpoint({"generation": np.asarray([generation], np.int64)}, {"evaluations": 6 * generation})


def record(out: Path, checkpoint_at: int, generations: int) -> RunRecord:
    found = RunRecord(out, {"name": "x"}, PAIRS)
    for generation in range(generations):
        found.generation({"generation": generation}, returns(generation))
        if generation + 1 == checkpoint_at:
            found.checkpoint(saved(checkpoint_at))
    return found


def test_returns_and_metrics_are_on_disk_before_the_checkpoint_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, done, sync = record(tmp_path, 0, 2), list[str](), os.fsync

    def note(descriptor: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        assert (len(done) > 3) == (tmp_path / "checkpoint.safetensors").exists()
        sync(descriptor)

    monkeypatch.setattr("os.fsync", note)
    found.checkpoint(saved(2))
    assert done[:2] == ["returns.f64", "metrics.jsonl"]
    assert len(done) == 4  # the checkpoint and its name


def test_a_resume_keeps_nothing_beyond_its_checkpoint(tmp_path: Path) -> None:
    record(tmp_path, checkpoint_at=2, generations=5)
    again = RunRecord(tmp_path, {"name": "x"}, PAIRS)
    checkpoint = again.resume(saved(0).tensors)
    assert checkpoint is not None
    assert checkpoint.tensors["generation"].tolist() == [2]
    assert again.lost == 3
    assert np.array_equal(again.returns(), np.stack([returns(0), returns(1)]))
    assert (tmp_path / "returns.f64").stat().st_size == 2 * PAIRS * 16
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == ['{"generation": 0}', '{"generation": 1}']
    again.generation({"generation": 2}, returns(7))
    assert np.array_equal(again.returns(), np.stack([returns(0), returns(1), returns(7)]))


def test_without_a_checkpoint_it_begins_afresh(tmp_path: Path) -> None:
    record(tmp_path, checkpoint_at=0, generations=2)
    again = RunRecord(tmp_path, {"name": "x"}, PAIRS)
    assert again.resume({}) is None
    assert len(again.returns()) == 0
