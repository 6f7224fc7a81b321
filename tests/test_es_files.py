"""A file is written whole or not at all, and nothing of a failed attempt stays behind."""

import errno
import os

import pytest

from es.files import whole_file, write_whole


@pytest.mark.parametrize(("content", "expected"), [("grün\n", b"gr\xc3\xbcn\n"), (b"\x00\xff", b"\x00\xff"), ("", b"")])
def test_content_replaces_what_stood_there(tmp_path, content, expected):
    path = tmp_path / "file"
    path.write_bytes(b"a longer content that stood here before")
    write_whole(path, content)
    assert path.read_bytes() == expected
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_on_disk_before_its_name_is(tmp_path, monkeypatch):
    """fsync of the content, rename, fsync of the directory: in this order."""
    done, sync, replace = [], os.fsync, os.replace
    path = tmp_path / "file"

    def note_sync(descriptor):
        done.append("directory" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "content")
        sync(descriptor)

    monkeypatch.setattr("os.fsync", note_sync)
    monkeypatch.setattr("os.replace", lambda *names: (done.append("rename"), replace(*names)))
    write_whole(path, b"new")
    assert done == ["content", "rename", "directory"]
    assert path.read_bytes() == b"new"


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "whatever")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ValueError, match=r"^.*/file: cannot be written \(No space left on device\)$"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_that_is_absent_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"^.*/gone/file: cannot be written \(No such file or directory\)$"):
        write_whole(tmp_path / "gone" / "file", "new")


def test_an_error_of_the_writer_is_its_own_and_leaves_nothing(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(KeyboardInterrupt), whole_file(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
