"""Files and directories that are there whole or not at all."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data import files
from data.errors import UserError
from data.files import write_whole

ROOT = Path(__file__).resolve().parent.parent


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
    assert synced == [f".a.txt.{files.host()}-{os.getpid()}.tmp", tmp_path.name]
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


@pytest.mark.parametrize("write", ["whole", "directory"])
def test_what_is_written_is_synced_then_renamed_then_its_name_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    """By what the system is asked for, in order: a missing fsync, or a file written in place, changes it."""
    done: list[str] = []
    sync, replace = os.fsync, os.replace

    def note(descriptor: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        sync(descriptor)

    monkeypatch.setattr("os.fsync", note)
    monkeypatch.setattr("os.replace", lambda *names: (done.append("rename"), replace(*names)))
    own = f"{files.host()}-{os.getpid()}"
    if write == "whole":
        write_whole(tmp_path / "a", b"new")
        assert done == [f".a.{own}.tmp", "rename", tmp_path.name]
    else:
        with files.whole_directory(tmp_path / "a") as directory:
            (directory / "part").mkdir()
            (directory / "part" / "0.parquet").write_bytes(b"1")
        assert sorted(done[:2]) == ["0.parquet", "part"]
        assert done[2:] == [f".a.{own}.partial", "rename", tmp_path.name]


def test_new_files_and_directories_are_their_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def modes() -> dict[str, int]:
        return {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}

    before = os.umask(0)
    try:
        files.make_directory(tmp_path / "parents" / "run")
        write_whole(tmp_path / "json", "{}")
        with files.open_to_add(tmp_path / "lines") as file:
            file.write("1\n")
        with files.whole_directory(tmp_path / "log"):
            assert all(mode & 0o077 == 0 for mode in modes().values())
        with files.scratch_directory() as scratch:
            assert scratch.stat().st_mode & 0o777 == 0o700
        assert modes() == {"parents": 0o700, "run": 0o700, "json": 0o600, "lines": 0o600, "log": 0o700}
        monkeypatch.setenv("COUNTERPOINT_UMASK", "027")
        write_whole(tmp_path / "json", "{}")
        files.make_directory(tmp_path / "open")
        assert (modes()["json"], modes()["open"]) == (0o640, 0o750)
        files.keep_private()
        assert os.umask(0) == 0o027
        monkeypatch.setenv("COUNTERPOINT_UMASK", "private")
        with pytest.raises(UserError, match="COUNTERPOINT_UMASK=private: want an octal number"):
            files.keep_private()
    finally:
        os.umask(before)


def test_what_a_kill_left_is_removed_by_the_next_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    program = (
        "import os, signal; from pathlib import Path; from data import files\n"
        f"with files.whole_file(Path({str(tmp_path / 'a')!r})) as one, "
        f"files.whole_directory(Path({str(tmp_path / 'b')!r})) as two, files.scratch_directory() as three:\n"
        "    one.write_text('half'); (two / 'c').write_text('half'); (three / 'd').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, check=False)
    assert len(list(tmp_path.iterdir())) == 3
    elsewhere = tmp_path / f".a.{'0' * 8}-{2**22 - 1}.tmp"  # another machine's: it may live
    living = tmp_path / f".a.{files.host()}-{os.getppid()}.tmp"
    own = tmp_path / ".a.tmp"
    for path in (elsewhere, living, own):
        path.write_text("x")
    write_whole(tmp_path / "new", "1")
    assert set(tmp_path.iterdir()) == {tmp_path / "new", elsewhere, living, own}


def test_changes_that_belong_together_are_taken_back_together(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("1")
    inode = (tmp_path / "summary.json").stat().st_ino

    def change(fails: bool) -> None:
        with files.restored_on_error(tmp_path):
            write_whole(tmp_path / "calibration.json", "2")
            write_whole(tmp_path / "summary.json", "2")
            if fails:
                raise UserError("full")

    with pytest.raises(UserError, match="full"):
        change(fails=True)
    assert (tmp_path / "summary.json").read_text() == "1"
    assert (tmp_path / "summary.json").stat().st_ino == inode  # not a copy, for which there may be no room
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
    change(fails=False)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "summary.json": "2",
        "calibration.json": "2",
    }
