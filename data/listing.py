"""The Parquet files of a part, in the order of their paths: beside each other or in folders, as Spark and Hive write.

Files and folders whose names begin with a dot or an underscore are not read, as everywhere (_SUCCESS, _temporary,
.crc). A name without any ending (part-0, 000000_0) is read if the file begins as Parquet does. Nothing else that is
Parquet is passed over silently, and neither is a link that leads nowhere: both are errors.
"""

import os
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from data.errors import UserError
from data.filesystems import reading

ENDINGS = (".parquet", ".parq", ".pq")
MAGIC = b"PAR1"


def parquet_files(filesystem: Any, directory: str) -> list[str] | None:
    """Paths of the directory's Parquet files at any depth, sorted; None if there is no such directory.

    Raises UserError naming it: a link that leads nowhere or around in a circle, a Parquet file of another ending.
    """
    with reading(directory):
        if filesystem.get_file_info(directory).type != pafs.FileType.Directory:
            return None
        if isinstance(filesystem, pafs.LocalFileSystem):
            found = local_files(directory)
        else:
            infos = filesystem.get_file_info(pafs.FileSelector(directory, recursive=True))
            found = [info.path for info in infos if info.type == pafs.FileType.File]
        base = directory.rstrip("/") + "/"
        shown = [path for path in found if not any(map(is_hidden, path.removeprefix(base).split("/")))]
        return sorted(path for path in shown if is_parquet(filesystem, path))


def is_hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def is_parquet(filesystem: Any, path: str) -> bool:
    """By its name; where that does not say, by its first bytes."""
    name = path.rpartition("/")[2]
    if name.lower().endswith(ENDINGS):
        return True
    with filesystem.open_input_file(path) as file:
        if file.read(len(MAGIC)) != MAGIC:
            return False
    if "." in name:
        raise UserError(
            f"{path}: is a Parquet file, but its name does not end in .parquet; rename it, or begin its name with an "
            "underscore to leave it out"
        )
    return True


def local_files(directory: str) -> list[str]:
    """All files below a directory; links are followed."""
    found: list[str] = []
    waiting: list[tuple[str, tuple[str, ...]]] = [(directory, (os.path.realpath(directory),))]
    while waiting:
        folder, above = waiting.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    continue
                path = Path(entry.path).as_posix()
                if entry.is_dir():
                    real = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(above[-1], entry.name)
                    if real in above:
                        raise UserError(f"{path}: is a link to a directory that it lies in")
                    waiting.append((path, (*above, real)))
                elif entry.is_file():
                    found.append(path)
                elif entry.is_symlink():
                    raise UserError(f"{path}: is a link to {os.readlink(entry.path)}, which is not there")
    return found
