"""Checkpoints: whole or not at all, and refused with a reason when they are not ours or not intact."""

import json
import os
from pathlib import Path

import pytest
import torch

from distributed.checkpoint.read import (
    MODEL,
    OPTIMIZER,
    RECORD,
    Progress,
    State,
    check_tensors,
    load_optimizer_tensors,
    load_state,
    optimizer_tensors,
    read_checkpoint,
)
from distributed.checkpoint.rows import RowTensor, shard_name
from distributed.checkpoint.store import CheckpointStore
from models.rows import EVERY_ROW, Share

IDENTITY = {"config": {"a": 1}, "schema": {}, "tasks": ["ctr"], "click_rate": 0.1}
SHARD = shard_name(0, 1)


def whole(rows: int = 11) -> dict[str, torch.Tensor]:
    return {"t.weight": torch.arange(rows * 3.0).view(rows, 3), "rows.0.total": torch.arange(float(rows))}


def state(share: Share = EVERY_ROW, rows: int = 11) -> State:
    """What a worker holds: the dense tensors, and its share of a table."""
    model = {"w": torch.arange(6.0).view(2, 3), "n": torch.tensor(4)}
    tables = {
        name: RowTensor(tensor[share.first :: share.every].clone(), rows, share) for name, tensor in whole(rows).items()
    }
    return State(model, {"dense.0.step": torch.tensor(3.0)}, tables)


def empty(share: Share = EVERY_ROW, rows: int = 11) -> State:
    filled = state(share, rows)
    for tensor in [*filled.model.values(), *(table.tensor for table in filled.rows.values())]:
        tensor.fill_(-1)
    return filled


def save(directory: Path, step: int = 3, best: int = 3) -> Path:
    with CheckpointStore(directory) as store:
        return store.save(state(), Progress(step=step, best_step=best, best_score=0.5), IDENTITY)


def test_round_trip(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(save(tmp_path))
    assert torch.equal(checkpoint.model["w"], torch.arange(6.0).view(2, 3))
    assert torch.equal(checkpoint.model["t.weight"], whole()["t.weight"])
    assert torch.equal(checkpoint.optimizer["dense.0.step"], torch.tensor(3.0))
    assert torch.equal(checkpoint.optimizer["rows.0.total"], whole()["rows.0.total"])
    assert checkpoint.progress == Progress(step=3, best_step=3, best_score=0.5)
    assert checkpoint.identity == IDENTITY


@pytest.mark.parametrize("writers", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("held", ["replicated", "sharded"])
@pytest.mark.parametrize("rows", [1, 11, 24])
def test_any_number_of_workers_reads_what_any_number_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writers: int, held: str, rows: int
) -> None:
    """Every share of every world size gets its rows, in small blocks, whatever each writer held."""
    monkeypatch.setattr("distributed.checkpoint.rows.BLOCK_ROWS", 4)
    progress = Progress(step=3, best_step=3)
    stores = [CheckpointStore(tmp_path, rank, writers) for rank in range(writers)]
    for rank, store in enumerate(stores):
        share = Share(rank, writers) if held == "sharded" else EVERY_ROW
        path = store.save(state(share, rows), progress, IDENTITY)
    for store in stores:
        store.wait()
    assert not list(tmp_path.glob(".*"))
    assert len(list(path.glob("tables-*"))) == writers
    assert torch.equal(read_checkpoint(path).model["t.weight"], whole(rows)["t.weight"])
    for workers in (1, 2, 3, 4):
        for rank in range(workers):
            target = empty(Share(rank, workers), rows)
            found, optimizer = load_state(path, target, rank, workers)
            assert found == progress
            assert set(optimizer) == {"dense.0.step"}
            assert torch.equal(target.model["w"], state().model["w"])
            for name, tensor in whole(rows).items():
                assert torch.equal(target.rows[name].tensor, tensor[rank::workers])


def test_a_save_is_of_its_moment(tmp_path: Path) -> None:
    """What training does to the tensors after save has returned does not reach the file; nor does the next progress."""
    own, progress = state(), Progress(step=3, best_step=3)
    with CheckpointStore(tmp_path) as store:
        path = store.save(own, progress, IDENTITY)
        for tensor in [*own.model.values(), *(table.tensor for table in own.rows.values())]:
            tensor.fill_(-1)
        progress.step = 4
    checkpoint = read_checkpoint(path)
    assert torch.equal(checkpoint.model["t.weight"], whole()["t.weight"])
    assert checkpoint.progress.step == 3


def test_a_checkpoint_with_a_shard_missing_is_none(tmp_path: Path) -> None:
    """Worker 1 dies before its shard is written: worker 0 gives up, and the checkpoint before is still the latest."""
    save(tmp_path, 1)
    with CheckpointStore(tmp_path, 0, 2) as store:
        store.save(state(), Progress(step=2, best_step=1), IDENTITY)
    assert store.latest() == tmp_path / "step-00000001"
    with pytest.raises(InterruptedError, match="worker 1 was writing"):
        store.wait()
    store.clean()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_what_keeps_a_checkpoint_from_being_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file in the way")
    with CheckpointStore(tmp_path / "checkpoints") as store:
        store.save(state(), Progress(step=2, best_step=1), IDENTITY)
        with pytest.raises(ValueError, match=r"checkpoints: cannot be written \((File exists|Not a directory)\)"):
            store.wait()


def test_a_worker_that_cannot_write_its_shard_keeps_nobody_waiting(tmp_path: Path) -> None:
    """Worker 1 finds a directory where its file goes; worker 0 hears of it, and the checkpoint before stands."""
    save(tmp_path, 1)
    (tmp_path / ".step-00000002.0.tmp" / shard_name(1, 2)).mkdir(parents=True)
    stores = [CheckpointStore(tmp_path, rank, 2) for rank in range(2)]
    for store in stores:
        store.save(state(), Progress(step=2, best_step=1), IDENTITY)
    with pytest.raises(ValueError, match=r"step-00000002: cannot be written .*; step-00000001 stands"):
        stores[1].wait()
    with pytest.raises(ValueError, match="worker 1 could not write its shard"):
        stores[0].wait()
    assert stores[0].latest() == tmp_path / "step-00000001"


@pytest.mark.parametrize("stands", [False, True])
def test_all_of_a_checkpoint_is_on_disk_before_its_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stands: bool
) -> None:
    """By what the system is asked for: fsync of each file, of their directory, the name, fsync of where that stands."""
    store, final = CheckpointStore(tmp_path, background=False), tmp_path / "step-00000003"
    if stands:
        store.save(state(), Progress(step=3), IDENTITY)
    done: list[str] = []
    sync, rename = os.fsync, os.rename

    def note_sync(descriptor: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        sync(descriptor)

    def note_rename(source: Path, target: Path) -> None:
        done.append(f"{Path(source).name} -> {Path(target).name}")
        rename(source, target)

    monkeypatch.setattr("os.fsync", note_sync)
    monkeypatch.setattr("os.rename", note_rename)
    store.save_as(final, state(), Progress(step=3), IDENTITY)
    hidden = ".step-00000003.0.tmp"
    moved_away = ["step-00000003 -> .step-00000003.old"] if stands else []
    assert sorted(done[:4]) == sorted(path.name for path in final.iterdir())
    assert done[3:] == ["checkpoint.json", hidden, *moved_away, f"{hidden} -> step-00000003", tmp_path.name]


def test_a_crash_while_one_checkpoint_replaces_another_loses_neither(tmp_path: Path) -> None:
    """The old one is moved away, the new one given its name; between the two there is a moment."""
    path = save(tmp_path, 3)
    path.rename(tmp_path / ".step-00000003.old")
    assert CheckpointStore(tmp_path).begin() == path
    assert read_checkpoint(path).progress.step == 3
    save(tmp_path, 3, best=0)
    assert read_checkpoint(path).progress.best_step == 0
    assert not list(tmp_path.glob(".*"))


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
    assert store.begin() == tmp_path / "step-00000001"
    assert not (tmp_path / ".step-00000002.77.tmp").exists()
    assert CheckpointStore(tmp_path / "absent").begin() is None


@pytest.mark.parametrize("name", [MODEL, OPTIMIZER, SHARD])
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
    with pytest.raises(ValueError, match=name):
        load_state(path, empty(), 0, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 4}, "version 4; this program reads version 3"),
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


def test_tables_of_another_model_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path)
    with pytest.raises(ValueError, match=r"tensor 'rows.0.total' is \(11,\), this model has \(12,\)"):
        load_state(path, empty(rows=12), 0, 1)
    target = empty()
    target.rows["rows.0.mean"] = target.rows.pop("rows.0.total")
    with pytest.raises(ValueError, match=r"tensor 'rows\.0\.mean' is in only one of them"):
        load_state(path, target, 0, 1)


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
