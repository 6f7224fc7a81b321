"""Run records are there whole or as they were, and safe on disk; what a command says of a mistake and of a fault."""

import os
from pathlib import Path

import pytest

from data.errors import UserError
from jobs.command import cli
from jobs.run.directory import read_json, write_json
from jobs.score import Arguments


def test_a_record_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsync of the content under another name, rename, fsync of the directory; until then the old one is read."""
    path, done = tmp_path / "run.json", list[str]()
    write_json(path, {"kind": "a", "a": 1})
    sync, rename = os.fsync, os.replace

    def note_sync(descriptor: int) -> None:
        synced = os.readlink(f"/proc/self/fd/{descriptor}")
        done.append("directory" if os.path.isdir(synced) else "content")
        assert Path(synced) != path
        assert read_json(path)["a"] == (1 if done == ["content"] else 2)
        sync(descriptor)

    def note_rename(*names: str) -> None:
        done.append("rename")
        rename(*names)

    monkeypatch.setattr("os.fsync", note_sync)
    monkeypatch.setattr("os.replace", note_rename)
    write_json(path, {"kind": "a", "a": 2})
    assert done == ["content", "rename", "directory"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]


def test_only_our_own_error_becomes_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A ValueError of a library is a fault of ours: it keeps its traceback."""

    def fail(error: Exception) -> object:
        raise error

    words = ["--run", "a", "--data", "b", "--out", "c"]
    for fault in (ValueError("inner"), KeyError("x"), UnicodeDecodeError("utf-8", b"x", 0, 1, "inner")):
        with pytest.raises(type(fault)):
            cli.main(lambda given, fault=fault: fail(fault), Arguments, "", words=words)
    with pytest.raises(SystemExit) as ended:
        cli.main(lambda given: fail(UserError("a.json: two\nlines")), Arguments, "", words=words)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: a.json: two lines\n"
