"""Files written whole or not at all: whoever opens one finds what stood there before, or all of the new content."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data.errors import UserError


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace `path` by `content` (text is UTF-8), safe on disk when this returns.

    Raises UserError of one line if the disk is full or closed to us; what stood at `path` stays.
    """
    with whole_file(path) as temporary, temporary.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A hidden path to write to, which takes the place of `path` when the block ends; removed if it ends in an error.

    Raises UserError of one line in place of an OSError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        # In this order: a name that a power cut leaves behind must never lead to content that it took away.
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(unwritable(path, error)) from error
        raise


def unwritable(path: Path, error: OSError) -> str:
    """What keeps `path` from being written, in one line."""
    return f"{path}: cannot be written ({os.strerror(error.errno) if error.errno else str(error).splitlines()[0]})"


def _sync(path: Path) -> None:
    """Make a file's content, or the names in a directory, safe on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some network filesystems cannot sync a directory; the rename itself has been made
            raise
    finally:
        os.close(descriptor)
