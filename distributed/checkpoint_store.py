"""Writing checkpoints: every worker its own shard, in a background thread, from a copy taken between two steps.

A checkpoint is written into a hidden directory, all its files are synced, and only then does worker 0 give it its
name: what a crash leaves behind is never read, and what stands there under its name is whole. Workers tell worker 0 by
a small file beside their shard that it is done, so that no collective runs beside those of training.
"""

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

from safetensors.torch import save_file
from torch import Tensor

from distributed.checkpoint import FORMAT, MODEL, OPTIMIZER, RECORD, VERSION, Progress, State, checksum
from distributed.checkpoint_rows import shard_name, snapshot
from distributed.collectives import broadcast_object

STEP, DONE = "step-", ".done"
PATIENCE_S = 900
"""How long worker 0 waits for the others' shards once its own is written."""


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
            for path in directory.glob(".*.tmp") if directory.exists() else ():
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)

    def steps(self) -> list[Path]:
        """Whole checkpoints by step."""
        return sorted(path for path in self.directory.glob(f"{STEP}*") if (path / RECORD).exists())

    def latest(self) -> Path | None:
        steps = self.steps()
        return steps[-1] if steps else None

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
        temporary.mkdir(parents=True, exist_ok=True)
        checksums = {}
        for name in list(files):
            save_file(files.pop(name), temporary / name)
            checksums[name] = checksum(temporary / name)
            sync(temporary / name)
        if self.rank != 0:
            done = temporary / (shard_name(self.rank, self.workers) + DONE)
            done.with_suffix(".part").write_text(json.dumps(checksums))
            os.replace(done.with_suffix(".part"), done)
            return
        checksums |= self._others(temporary)
        (temporary / RECORD).write_text(json.dumps({**record, "checksums": checksums}, indent=1) + "\n")
        sync(temporary / RECORD)
        sync(temporary)
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        sync(final.parent)

    def _others(self, temporary: Path) -> dict[str, str]:
        """Checksums of the other workers' shards, once they are written."""
        checksums: dict[str, str] = {}
        deadline = time.monotonic() + PATIENCE_S
        for rank in range(1, self.workers):
            done = temporary / (shard_name(rank, self.workers) + DONE)
            while not done.exists():
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{temporary}: worker {rank} did not write its shard in {PATIENCE_S} s")
                if self._abandoned.wait(0.02):
                    raise InterruptedError(f"{temporary}: given up while worker {rank} was writing")
            checksums |= json.loads(done.read_text())
            done.unlink()
        return checksums


def plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
