"""Writing checkpoints: every worker its own shard, in a background thread, from a copy taken between two steps.

A checkpoint is written into a hidden directory, all its files are synced, and only then does worker 0 give it its
name: what a crash leaves behind is never read, and what stands there under its name is whole. Workers tell worker 0 by
a small file beside their shard that it is done (or that it cannot be), so that no collective runs beside those of
training.
"""

import contextlib
import dataclasses
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from data.errors import UserError
from data.files import make_directory, sync, write_whole
from distributed.checkpoint.read import FORMAT, MODEL, OPTIMIZER, RECORD, VERSION, Progress, State, checksum, sealed
from distributed.checkpoint.rows import shard_name, snapshot
from distributed.tables.collectives import broadcast_object

STEP, DONE, FAILED, OLD = "step-", ".done", ".failed", ".old"
PATIENCE_S = 900
"""How long worker 0 waits for the others' shards once its own is written."""


class CannotWrite(UserError):
    """A file of a checkpoint cannot be written. What stood before stands."""


class CheckpointStore:
    """The checkpoints of one run, as one of its workers sees it: the latest (to go on from) and the best are kept.

    All workers call save for the same steps. `attempt` names this start of the run, the same on all workers: what a
    worker of an earlier one may still be writing is not taken for ours. In the background, a save returns once the
    tensors are copied and the checkpoint before is finished; its memory is one more copy of what the worker writes.
    """

    def __init__(self, directory: Path, rank: int = 0, workers: int = 1, background: bool = True) -> None:
        self.directory, self.rank, self.workers, self.background = directory, rank, workers, background
        self.attempt = "0"
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._abandoned = threading.Event()
        self._checksums: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """After an error too: finish this worker's own files, but wait for nobody else's."""
        self._abandoned.set()
        if self._thread is not None:
            self._thread.join()

    def begin(self) -> Path | None:
        """Clear up after earlier starts and return the checkpoint to go on from. All workers call it."""
        if self.rank == 0:
            self.clean()
        latest, self.attempt = broadcast_object((self.latest(), secrets.token_hex(4)))
        return latest

    def save(self, state: State, progress: Progress, identity: dict[str, Any]) -> Path:
        """Write a checkpoint of this step, then delete those that are neither latest nor best."""
        final = self.directory / f"{STEP}{progress.step:08d}"
        keep = {final.name, f"{STEP}{progress.best_step:08d}"}
        self._save(final, state, progress, identity, lambda: self._keep(keep), self.background)
        return final

    def save_as(self, final: Path, state: State, progress: Progress, identity: dict[str, Any]) -> None:
        """Write the directory `final`; one that stands there already is replaced. Returns when it is there."""
        self._save(final, state, progress, identity, lambda: None, False)

    @property
    def failed(self) -> str | None:
        """What has kept the last checkpoint from being written, if that is known by now."""
        return str(self._error) if isinstance(self._error, CannotWrite) else None

    def wait(self) -> None:
        """Until the checkpoint in writing is finished. Raises what kept it from being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def clean(self) -> None:
        """Remove what a crash left half-written, here and beside it. Call while nobody writes."""
        for directory in (self.directory, self.directory.parent):
            for path in directory.glob(f".*{OLD}") if directory.exists() else ():
                final = path.with_name(path.name.removeprefix(".").removesuffix(OLD))
                if final.exists():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.rename(final)  # the crash came between the two renames of a replacement
            for path in directory.glob(".*.tmp") if directory.exists() else ():
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)

    def steps(self) -> list[Path]:
        """Whole checkpoints by step."""
        return sorted(path for path in self.directory.glob(f"{STEP}*") if (path / RECORD).exists())

    def latest(self) -> Path | None:
        steps = self.steps()
        return steps[-1] if steps else None

    def holds(self, step: int) -> bool:
        return (self.at(step) / RECORD).exists()

    def at(self, step: int) -> Path:
        return self.directory / f"{STEP}{step:08d}"

    def _keep(self, names: set[str]) -> None:
        for path in self.steps():
            if path.name not in names:
                shutil.rmtree(path, ignore_errors=True)

    def _save(
        self,
        final: Path,
        state: State,
        progress: Progress,
        identity: dict[str, Any],
        afterwards: Callable[[], None],
        background: bool,
    ) -> None:
        self.wait()
        files: dict[str, dict[str, Tensor]] = {}
        if self.rank == 0:
            files[MODEL] = dict(state.model)
            if state.optimizer:
                files[OPTIMIZER] = dict(state.optimizer)
        shard = shard_name(self.rank, self.workers)
        files[shard] = {name: table.shard(self.rank, self.workers) for name, table in state.rows.items()}
        copied = {
            file: {name: snapshot(tensor) if background else plain(tensor) for name, tensor in tensors.items()}
            for file, tensors in files.items()
        }
        record = {
            "format": FORMAT,
            "version": VERSION,
            "progress": dataclasses.asdict(progress),
            "shards": self.workers,
            "tables": {name: [table.rows, *table.tensor.shape[1:]] for name, table in state.rows.items()},
            **identity,
        }
        if not background:
            self._write(final, copied, record)
            afterwards()
            return

        def work() -> None:
            try:
                self._write(final, copied, record)
                if self.rank == 0:
                    afterwards()
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=work, name="checkpoint", daemon=True)
        self._thread.start()

    def _write(self, final: Path, files: dict[str, dict[str, Tensor]], record: dict[str, Any]) -> None:
        """This worker's files; worker 0 then waits for the others' and gives the directory its name."""
        temporary = final.parent / f".{final.name}.{self.attempt}.tmp"
        names = list(files)
        try:
            self._write_own(temporary, files)
        except (OSError, SafetensorError) as error:
            self._clear(temporary, names)
            raise CannotWrite(f"{unwritable(error, final)}; {self._stands()}") from error
        if self.rank != 0:
            return
        checksums = self._checksums | self._others(temporary)
        try:
            (temporary / RECORD).write_text(json.dumps(sealed({**record, "checksums": checksums}), indent=1) + "\n")
            sync(temporary / RECORD)
            sync(temporary)
            replace(temporary, final)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise CannotWrite(f"{unwritable(error, final)}; {self._stands()}") from error

    def _write_own(self, temporary: Path, files: dict[str, dict[str, Tensor]]) -> None:
        make_directory(temporary)
        self._checksums = {}
        for name in list(files):
            save_file(files.pop(name), temporary / name)
            self._checksums[name] = checksum(temporary / name)
            sync(temporary / name)
        if self.rank != 0:
            self._leave_note(temporary, DONE, json.dumps(self._checksums))

    def _leave_note(self, temporary: Path, suffix: str, text: str) -> None:
        """A small file beside the shard for worker 0, whole or not at all."""
        write_whole(temporary / (shard_name(self.rank, self.workers) + suffix), text)

    def _clear(self, temporary: Path, names: list[str]) -> None:
        """Make room again, and let worker 0 know that it need not wait."""
        for name in names:
            with contextlib.suppress(OSError):
                (temporary / name).unlink()
        if self.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with contextlib.suppress(UserError):
                self._leave_note(temporary, FAILED, "")

    def _stands(self) -> str:
        latest = self.latest()
        return f"{latest.name} stands" if latest else "there is none before it"

    def _others(self, temporary: Path) -> dict[str, str]:
        """Checksums of the other workers' shards, once they are written."""
        checksums: dict[str, str] = {}
        deadline = time.monotonic() + PATIENCE_S
        for rank in range(1, self.workers):
            done = temporary / (shard_name(rank, self.workers) + DONE)
            while not done.exists():
                if done.with_suffix(FAILED).exists():
                    raise CannotWrite(f"{temporary}: worker {rank} could not write its shard")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{temporary}: worker {rank} did not write its shard in {PATIENCE_S} s")
                if self._abandoned.wait(0.02):
                    raise InterruptedError(f"{temporary}: given up while worker {rank} was writing")
            checksums |= json.loads(done.read_text())
            done.unlink()
        return checksums


def replace(temporary: Path, final: Path) -> None:
    """Give a directory its name. One that had it is moved away first: `clean` finds it if a crash comes between."""
    if final.exists():
        old = final.with_name(f".{final.name}{OLD}")
        final.rename(old)
        temporary.rename(final)
        sync(final.parent)
        shutil.rmtree(old, ignore_errors=True)
    else:
        temporary.rename(final)
        sync(final.parent)


def unwritable(error: Exception, place: Path | str | None = None) -> str:
    """One line: which file, and why it cannot be written."""
    if isinstance(error, OSError) and error.errno:
        return f"{place or error.filename}: cannot be written ({os.strerror(error.errno)})"
    reason = str(error).splitlines()[0].removeprefix("Error while serializing: ").removeprefix("I/O error: ")
    reason = reason.split(" (os error")[0]
    return f"{place}: cannot be written ({reason})" if place else reason


def plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()
