"""A checkpoint has its name only once all of it is on the disk: by what the system is asked for, in order."""

import os
from pathlib import Path

import pytest
from support import config, train_here

from distributed.checkpoint.read import RECORD
from distributed.training.recorder import CHECKPOINTS


def test_every_file_is_synced_before_the_checkpoint_has_its_name(
    small_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, Path]] = []
    sync, rename = os.fsync, os.rename

    def note_sync(descriptor: int) -> None:
        done.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}"))))
        sync(descriptor)

    def note_rename(source: Path, target: Path) -> None:
        done.append(("rename", Path(source)))
        rename(source, target)
        done.append(("named", Path(target)))

    monkeypatch.setattr("os.fsync", note_sync)
    monkeypatch.setattr("os.rename", note_rename)
    run = tmp_path / "run"
    train_here(run, small_log, config(epochs=1))
    for final in (*(run / CHECKPOINTS).glob("step-*"), run / "model"):
        named = done.index(("named", final))
        kind, hidden = done[named - 1]
        assert (kind, hidden.name.startswith(".")) == ("rename", True)
        before = [path for kind, path in done[:named] if kind == "sync"]
        files = {path.name for path in final.iterdir()}
        assert files == {path.name for path in before if path.parent == hidden}
        assert RECORD in files
        assert before[-1] == hidden  # the names in it, last
        assert ("sync", final.parent) in done[named:]
