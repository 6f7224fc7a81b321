"""One table of normals per node: generated there from the seed, mapped read-only by every process that uses it.

A process that has the table open holds a shared lock (flock) on its file; the kernel drops it when the process ends,
however it ends. So the last process to close removes the file, and a file left by a crash, which nobody holds, is
removed by the next process that opens a table. One lock file makes opening and closing take turns.

The content is made in chunks, each from its own stream of the seed, so it does not depend on who makes it or with how
many threads; a digest at the end of the file is the fingerprint by which nodes check that theirs are the same bytes.
"""

import fcntl
import hashlib
import mmap
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from filelock import FileLock

from data.errors import UserError
from data.files import whole_file

VERSION = 1
CHUNK = 2**20  # floats per stream
DIGEST_BYTES = 32
_THREADS = 4


class SharedTable:
    """`size` float32 standard normals of a seed. `.array` is a read-only view of the shared pages."""

    def __init__(self, seed: int, size: int, directory: Path | None = None) -> None:
        self.size = size
        self._directory = directory or table_directory(size)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = self._directory / f"noise-v{VERSION}-{seed}-{size}.f32"
        with self._turn():
            _remove_unused(self._directory, keep=self.path)
            if not self.path.exists() or self.path.stat().st_size != 4 * size + DIGEST_BYTES:
                _generate(self.path, seed, size)
            self._descriptor = os.open(self.path, os.O_RDONLY)
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
        self._map = mmap.mmap(self._descriptor, 4 * size + DIGEST_BYTES, access=mmap.ACCESS_READ)
        self.array = np.frombuffer(self._map, np.float32, count=size)
        self.fingerprint = f"table-v{VERSION}-{size}-{self._map[4 * size :].hex()[:32]}"

    def _turn(self) -> FileLock:
        return FileLock(self._directory / "lock", mode=0o600)

    def close(self) -> None:
        """Let go of the table; the last one to do so removes it. Views already taken stay valid."""
        if self._descriptor < 0:
            return
        with self._turn():
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = -1
            if self.path.exists() and not _in_use(self.path):
                self.path.unlink()


def table_directory(size: int) -> Path:
    """Shared memory where it has the room, else the directory for temporary files; one per user."""
    needed, name = 4 * size + DIGEST_BYTES, f"counterpoint-{os.getuid()}"
    shared = Path("/dev/shm")
    if shared.is_dir() and os.access(shared, os.W_OK):
        present = shared / name
        used = sum(file.stat().st_size for file in present.glob("noise-*.f32")) if present.is_dir() else 0
        if shutil.disk_usage(shared).free + used > needed * 1.1:
            return present
    return Path(tempfile.gettempdir()) / name


def _generate(path: Path, seed: int, size: int) -> None:
    """Make the table in place, through a map of the file: written from memory it would need its size twice."""
    with whole_file(path) as temporary:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            # Asks for the space now: a full shared memory is an error here and not a SIGBUS at the first write.
            os.posix_fallocate(descriptor, 0, 4 * size + DIGEST_BYTES)
            with mmap.mmap(descriptor, 4 * size + DIGEST_BYTES) as mapped:
                table = np.frombuffer(mapped, np.float32, count=size)
                digest = fill_normals(table, seed)
                del table
                mapped[4 * size :] = digest
        except OSError as error:
            raise UserError(f"no room for a noise table of {4 * size >> 20} MiB in {path.parent}: {error}") from error
        finally:
            os.close(descriptor)


def fill_normals(table: np.ndarray, seed: int, threads: int = _THREADS) -> bytes:
    """Fill with standard normals, chunk c from the stream (seed, c) whatever the number of threads; return a digest."""

    def fill(chunk: int) -> bytes:
        part = table[chunk * CHUNK : (chunk + 1) * CHUNK]
        generator = np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(0, chunk))))
        generator.standard_normal(dtype=np.float32, out=part)
        return hashlib.sha256(part.data).digest()

    with ThreadPoolExecutor(threads) as executor:
        digests = executor.map(fill, range(-(-len(table) // CHUNK)))
        return hashlib.sha256(b"".join(digests)).digest()


def _remove_unused(directory: Path, keep: Path) -> None:
    """Remove what ended processes left: half-made files, and tables nobody holds (other than the one asked for)."""
    for file in (*directory.glob("noise-*"), *directory.glob(".noise-*.tmp")):
        if file.suffix == ".tmp" or (file != keep and not _in_use(file)):
            file.unlink(missing_ok=True)


def _in_use(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
