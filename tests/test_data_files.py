"""Files that are written whole or not at all."""

import os
from pathlib import Path

import pytest

from data.files import write_whole


def test_what_stands_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_whole(path, "one")
    write_whole(path, b"\x00two")
    assert path.read_bytes() == b"\x00two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_what_stood_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "a.json"
    write_whole(path, "one")

    def full(*arguments: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os if step == "fsync" else Path, step, full)
    with pytest.raises(ValueError, match=r"a\.json: cannot be written \(No space left on device\)") as raised:
        write_whole(path, "two")
    assert "\n" not in str(raised.value)
    assert path.read_text() == "one"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone/a\.json: cannot be written \(No such file or directory\)"):
        write_whole(tmp_path / "gone" / "a.json", "one")
