"""run.json, summary.json and their like: there whole or as they were, and safe on disk when the call returns."""

import os
from pathlib import Path

import pytest

from jobs.run.directory import read_json, write_json


def test_a_record_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsync of the content under another name, rename, fsync of the directory; until then the old one is read."""
    path, done = tmp_path / "run.json", list[str]()
    write_json(path, {"a": 1})
    sync, rename = os.fsync, os.replace

    def note_sync(descriptor: int) -> None:
        synced = os.readlink(f"/proc/self/fd/{descriptor}")
        done.append("directory" if os.path.isdir(synced) else "content")
        assert Path(synced) != path
        assert read_json(path) == ({"a": 1} if done == ["content"] else {"a": 2})
        sync(descriptor)

    def note_rename(*names: str) -> None:
        done.append("rename")
        rename(*names)

    monkeypatch.setattr("os.fsync", note_sync)
    monkeypatch.setattr("os.replace", note_rename)
    write_json(path, {"a": 2})
    assert done == ["content", "rename", "directory"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]
