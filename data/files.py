"""Writing a file whole or not at all: whoever opens `path` finds what stood there before, or all of the new content."""

import os
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace `path` by `content` (text is UTF-8), safe on disk when this returns.

    Raises ValueError of one line if the disk is full or closed to us; what stood at `path` stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise ValueError(unwritable(path, error)) from error


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
