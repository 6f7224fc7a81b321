"""Checkpoints: whole or not at all, and refused with a reason when they are not ours or not intact."""

import json
from pathlib import Path

import pytest
import torch

from distributed.checkpoint import (
    MODEL,
    OPTIMIZER,
    RECORD,
    CheckpointStore,
    Progress,
    check_tensors,
    load_optimizer_tensors,
    optimizer_tensors,
    read_checkpoint,
)

IDENTITY = {"config": {"a": 1}, "schema": {}, "tasks": ["ctr"], "click_rate": 0.1}


def save(directory: Path, step: int = 3, best: int = 3) -> Path:
    model = {"w": torch.arange(6.0).view(2, 3), "n": torch.tensor(4)}
    progress = Progress(step=step, best_step=best, best_score=0.5)
    return CheckpointStore(directory).save(model, {"dense.0.step": torch.tensor(3.0)}, progress, IDENTITY)


def test_round_trip(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(save(tmp_path))
    assert torch.equal(checkpoint.model["w"], torch.arange(6.0).view(2, 3))
    assert torch.equal(checkpoint.optimizer["dense.0.step"], torch.tensor(3.0))
    assert checkpoint.progress == Progress(step=3, best_step=3, best_score=0.5)
    assert checkpoint.identity == IDENTITY


def test_latest_and_best_are_kept(tmp_path: Path) -> None:
    for step, best in ((1, 1), (2, 2), (3, 2), (4, 2)):
        save(tmp_path, step, best)
    assert [path.name for path in CheckpointStore(tmp_path).steps()] == ["step-00000002", "step-00000004"]
    assert CheckpointStore(tmp_path).latest() == tmp_path / "step-00000004"


def test_leftovers_of_a_crash_are_not_checkpoints(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / ".step-00000002.77.tmp").mkdir()
    (tmp_path / "step-00000005").mkdir()  # no record: not whole
    store = CheckpointStore(tmp_path)
    assert store.latest() == tmp_path / "step-00000001"
    store.clean()
    assert not (tmp_path / ".step-00000002.77.tmp").exists()
    assert CheckpointStore(tmp_path / "absent").latest() is None


@pytest.mark.parametrize("name", [MODEL, OPTIMIZER])
@pytest.mark.parametrize("fault", ["truncate", "flip", "remove"])
def test_damaged_tensors_are_refused(tmp_path: Path, name: str, fault: str) -> None:
    path = save(tmp_path)
    content = bytearray((path / name).read_bytes())
    if fault == "truncate":
        (path / name).write_bytes(content[:-5])
    elif fault == "flip":
        content[-1] ^= 1
        (path / name).write_bytes(content)
    else:
        (path / name).unlink()
    with pytest.raises(ValueError, match=name):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2; this program reads version 1"),
        ({"format": "other"}, "not a Counterpoint checkpoint"),
        ({"config": None}, "key 'config' is missing"),
        ("{", "not readable as JSON"),
    ],
)
def test_foreign_records_are_refused(tmp_path: Path, change: dict | str, message: str) -> None:
    path = save(tmp_path)
    if isinstance(change, str):
        (path / RECORD).write_text(change)
    else:
        record = json.loads((path / RECORD).read_text())
        record.update(change)
        (path / RECORD).write_text(json.dumps({k: v for k, v in record.items() if v is not None}))
    with pytest.raises(ValueError, match=message):
        read_checkpoint(path)


def test_tensors_of_another_model_are_refused(tmp_path: Path) -> None:
    ours = {"w": torch.zeros(2, 3)}
    with pytest.raises(ValueError, match=r"of another model \(tensor 'v'"):
        check_tensors({"w": torch.zeros(2, 3), "v": torch.zeros(1)}, ours, tmp_path)
    with pytest.raises(ValueError, match=r"tensor 'w' is \(3, 2\), this model has \(2, 3\)"):
        check_tensors({"w": torch.zeros(3, 2)}, ours, tmp_path)


def test_optimizer_state_travels_as_tensors() -> None:
    def trained(steps: int, state: dict[str, torch.Tensor] | None, weight: torch.Tensor) -> torch.optim.Optimizer:
        optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
        if state:
            load_optimizer_tensors(optimizer, state)
        for _ in range(steps):
            weight.grad = weight.detach() ** 2 + 1
            optimizer.step()
        return optimizer

    whole, parts = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    trained(5, None, whole)
    state = {name: tensor.clone() for name, tensor in optimizer_tensors(trained(2, None, parts)).items()}
    assert set(state) == {"0.step", "0.exp_avg", "0.exp_avg_sq"}
    trained(3, state, parts)
    assert torch.equal(whole, parts)
