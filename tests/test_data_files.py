"""Files and directories that are there whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from data import files
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


def test_a_file_is_replaced_whole_or_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    files.write_whole(path, "före")
    assert path.read_bytes() == "före".encode()

    def fail() -> None:
        with files.whole_file(path) as temporary:
            temporary.write_text("half")
            assert path.read_text() == "före"
            raise KeyError("cut short")

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "före"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with files.whole_file(tmp_path / "a.txt"):
            raise OSError(errno.ENOSPC, "x")

    with pytest.raises(ValueError, match=r"a\.txt: cannot be written \(No space left on device\)$"):
        fail()
    assert not os.listdir(tmp_path)


def test_what_is_durable_is_synced_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []

    def sync(path: Path) -> None:
        synced.append(path.name)
        if path.is_file():
            assert not (tmp_path / "a.txt").exists()

    monkeypatch.setattr(files, "sync", sync)
    files.write_whole(tmp_path / "a.txt", b"1")
    assert synced == [f".a.txt.{os.getpid()}.tmp", tmp_path.name]
    files.write_whole(tmp_path / "b.txt", b"1", durable=False)
    assert len(synced) == 2


def test_a_directory_is_put_in_place_with_all_its_files_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, out, synced = tmp_path / ".out.partial", tmp_path / "out", []
    (made / "part").mkdir(parents=True)
    (made / "part" / "0.parquet").write_bytes(b"1")
    (made / "schema.json").write_text("{}")
    monkeypatch.setattr(files, "sync", lambda path: synced.append(path.name))
    files.put_in_place(made, out)
    assert sorted(synced[:-2]) == ["0.parquet", "part", "schema.json"]
    assert synced[-2:] == [".out.partial", tmp_path.name]
    assert (out / "part" / "0.parquet").read_bytes() == b"1"
    assert not made.exists()
