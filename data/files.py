"""Writing files and directories whole or not at all: who opens one finds what stood there before, or all of the new.

Everything is written under a hidden name beside its place, synced, renamed, and the rename synced. What a kill leaves
under a hidden name is removed by whoever next writes in that directory on that machine. New files and directories are
for their owner alone (0600, 0700), as runs and logs hold labels and scores; COUNTERPOINT_UMASK=027 opens them to the
group, 022 to all.
"""

import errno
import os
import platform
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from data.errors import UserError

UMASK = "COUNTERPOINT_UMASK"
HIDDEN = re.compile(r"(?:\..+\.|counterpoint-)([0-9a-f]{8})-(\d+)(?:\.tmp|\.partial|-\w+)")
"""Names of what is being written, and of scratch directories: machine and process stand in them."""
STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)
"""What a disk may answer that only the user can mend."""


def umask() -> int:
    """What is taken from the modes of new files: by default all that is not the owner's. Raises UserError if what the
    environment says is no octal number."""
    text = os.environ.get(UMASK) or "077"
    if not re.fullmatch(r"[0-7]{1,4}", text):
        raise UserError(
            f"{UMASK}={text}: want an octal number such as 077 (the owner alone) or 027 (the group may read)"
        )
    return int(text, 8) & 0o777


def keep_private() -> None:
    """From now on this process and those it starts make files and directories for their owner alone. For entry points:
    logs, and what libraries write, are made without the functions below."""
    os.umask(umask())


def write_whole(path: Path, content: str | bytes, durable: bool = True) -> None:
    """Replace `path` by `content` (text is UTF-8), safe on disk when this returns (unless not `durable`).

    Raises UserError of one line if the disk is full or closed to us; what stood at `path` stays.
    """
    with whole_file(path, durable) as temporary, temporary.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def whole_file(path: Path, durable: bool = True) -> Iterator[Path]:
    """Give a hidden path to write to, for what is written piece by piece; on a clean exit it becomes `path`.

    Raises UserError of one line for an OSError; after any error the hidden file is gone and what stood at `path`
    stays. Not `durable`: without fsync, for a file that nobody misses after a power cut; it may be empty then.
    """
    temporary = hidden(path, "tmp")
    try:
        remove_leftovers(path.parent)
        # Made here, so that it is closed to others from its first byte, whatever library writes to it.
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666 & ~umask()))
        yield temporary
        # In this order: a name that a power cut leaves behind must never lead to content that it took away.
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


def open_to_add(path: Path, mode: str = "a") -> IO[Any]:
    """Open a file to write at its end ("a", "ab"); a new one is for its owner alone."""
    return open(path, mode, opener=lambda name, flags: os.open(name, flags, 0o666 & ~umask()))


@contextmanager
def whole_directory(out: Path) -> Iterator[Path]:
    """Give a hidden directory to fill; on a clean exit it becomes `out` (absent or empty), safe on disk.

    Raises UserError of one line for an OSError; after any error the hidden directory is gone.
    """
    directory = hidden(out, "partial")
    try:
        make_directory(out.parent)
        remove_leftovers(out.parent)
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o777 & ~umask())
        yield directory
        put_in_place(directory, out)
    except OSError as error:
        if error.errno not in STORAGE:  # what is written may be read from elsewhere
            raise
        file = Path(str(error.filename or directory))
        place = out / file.relative_to(directory) if file.is_relative_to(directory) else out
        raise UserError(unwritable(place, error)) from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """A directory among the temporary files, gone at the end; what a kill left of others is removed first."""
    remove_leftovers(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=f"counterpoint-{host()}-{os.getpid()}-") as folder:
        yield Path(folder)


@contextmanager
def restored_on_error(*directories: Path) -> Iterator[None]:
    """After an error the JSON files of these directories are as they were: some changes belong together. What stood is
    kept by a second name, as a full disk has no room for a copy."""
    before = {path: hidden(path.with_name(f"{path.name}.kept"), "tmp") for one in directories for path in jsons(one)}
    try:
        for path, kept in before.items():
            kept.unlink(missing_ok=True)
            os.link(path, kept)
        yield
    except BaseException:
        for path in (path for one in directories for path in jsons(one)):
            if path not in before:
                path.unlink()
        for path, kept in before.items():
            if kept.exists():
                kept.replace(path)
        raise
    finally:
        for kept in before.values():
            kept.unlink(missing_ok=True)


def jsons(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("*.json") if path.is_file() and not path.is_symlink())


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


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an OSError of the body the name of the file that it writes, where it has none."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def make_directory(path: Path) -> None:
    """With its parents, unless it is there. Raises UserError of one line if that cannot be."""
    try:
        if not path.is_dir():
            if not path.parent.is_dir():
                make_directory(path.parent)
            path.mkdir(mode=0o777 & ~umask(), exist_ok=True)
    except OSError as error:
        raise UserError(unwritable(path, error)) from error


def hidden(path: Path, suffix: str) -> Path:
    """The name beside `path` under which this process writes it."""
    return path.with_name(f".{path.name}.{host()}-{os.getpid()}.{suffix}")


def host() -> str:
    """This machine, as hidden names have it: on a shared disk lie those of others, whose processes we cannot see."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


def remove_leftovers(directory: Path) -> None:
    """Remove what processes of this machine that have ended left half-written in a directory."""
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            found = HIDDEN.fullmatch(entry.name)
            if not found or found[1] != host() or is_alive(int(found[2])):
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                with suppress(OSError):
                    os.unlink(entry.path)


def is_alive(pid: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


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
