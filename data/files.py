"""Writing a file whole or not at all: whoever opens `path` finds what stood there before, or all of the new content."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data.errors import UserError


def write_whole(path: Path, content: str | bytes, durable: bool = True) -> None:
    """Replace `path` by `content` (text is UTF-8), safe on disk when this returns (unless not `durable`).

    Raises UserError of one line if the disk is full or closed to us; what stood at `path` stays.
    """
    with whole_file(path, durable) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def whole_file(path: Path, durable: bool = True) -> Iterator[Path]:
    """Give a hidden path to write to, for what is written piece by piece; on a clean exit it becomes `path`.

    Raises UserError of one line for an OSError; after any error the hidden file is gone and what stood at `path`
    stays. Not `durable`: without fsync, for a file that nobody misses after a power cut; it may be empty then.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if durable:
            sync(temporary)
        temporary.replace(path)
        if durable:
            sync_directory(path.parent)
    except OSError as error:
        raise UserError(unwritable(path, error)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def put_in_place(directory: Path, out: Path) -> None:
    """Rename a finished directory to `out` (absent or empty), safe on disk with all its files when this returns."""
    for path in directory.rglob("*"):
        if path.is_file():
            sync(path)
        else:
            sync_directory(path)
    sync_directory(directory)
    directory.replace(out)
    sync_directory(out.parent)


def make_directory(path: Path) -> None:
    """With its parents, unless it is there. Raises UserError of one line if that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(unwritable(path, error)) from error


def unwritable(path: Path, error: OSError) -> str:
    """What keeps `path` from being written, in one line."""
    return f"{path}: cannot be written ({os.strerror(error.errno) if error.errno else str(error).splitlines()[0]})"


def sync_directory(directory: Path) -> None:
    """Make the names in a directory safe on disk: a renamed file is found after a power cut only then."""
    with suppress(OSError):  # some network filesystems cannot sync a directory; the rename itself has been made
        sync(directory)


def sync(path: Path) -> None:
    """Make a file's content (or a directory's names) safe on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
