"""What a run leaves in its directory: metrics.jsonl, the returns, and the checkpoint.

    start.f32                theta before the first generation
    metrics.jsonl            one line per generation
    returns.f64              2n float64 per generation (pair by pair, plus then minus): with the seed, they replay it
    checkpoint.safetensors   the latest, whole
Lines and returns are written before the checkpoint that follows them; after a crash those beyond it are cut off again.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import UserError
from data.files import make_directory, open_to_add, unwritable, write_whole
from es.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

METRICS_FILE, RETURNS_FILE, CHECKPOINT_FILE = "metrics.jsonl", "returns.f64", "checkpoint.safetensors"
START_FILE = "start.f32"
CHECKPOINT_SHARE = 0.05  # of a run's time that checkpoints may take where nothing else is asked for


class RunRecord:
    """`every`: generations between checkpoints; None: as few as keep their share of the time below 5%."""

    def __init__(self, out: Path, identity: dict[str, Any], pairs: int, every: int | None = None) -> None:
        self.out, self.identity, self.pairs, self.every = out, identity, pairs, every
        self.next_checkpoint = 0.0  # on the monotonic clock
        self.saved = -1
        self.lost = 0
        """Generations beyond the checkpoint that the run went on from: they are made again."""
        make_directory(out)

    def start(self, theta_D: np.ndarray) -> None:
        """Keep theta as it was before the first generation: with it, seed and returns replay the run."""
        write_whole(self.out / START_FILE, theta_D.astype("<f4").tobytes())

    def resume(self, like: dict[str, np.ndarray]) -> Checkpoint | None:
        """The checkpoint to continue from, or None for a start from the beginning; what lies beyond it is cut off."""
        path = self.out / CHECKPOINT_FILE
        checkpoint = load_checkpoint(path, self.identity, like) if path.exists() else None
        generations = int(checkpoint.tensors["generation"][0]) if checkpoint else 0
        returns = self.out / RETURNS_FILE
        size = returns.stat().st_size if returns.exists() else 0
        if size < generations * self.pairs * 16:
            raise UserError(f"{returns}: holds {size} bytes, fewer than {generations} generations' returns")
        self.lost = size // (self.pairs * 16) - generations
        with writing(returns), open_to_add(returns, "ab") as file:
            file.truncate(generations * self.pairs * 16)
        self._cut_metrics(generations)
        self.saved = generations if checkpoint else -1
        return checkpoint

    def _cut_metrics(self, generations: int) -> None:
        """Keep the lines of the generations before the checkpoint's."""
        path = self.out / METRICS_FILE
        kept = []
        for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
            try:
                if json.loads(line).get("generation", -1) < generations:
                    kept.append(line)
            except (ValueError, AttributeError, TypeError, RecursionError):
                continue  # a line that a crash cut short, or that is damaged
        write_whole(path, "".join(line + "\n" for line in kept))

    def generation(self, metrics: dict[str, Any], returns_n2: np.ndarray) -> None:
        """Append a generation. Not synced, which is slow: `checkpoint` makes what lies before it safe."""
        with writing(self.out / RETURNS_FILE), open_to_add(self.out / RETURNS_FILE, "ab") as file:
            file.write(np.ascontiguousarray(returns_n2, np.float64).tobytes())
        with writing(self.out / METRICS_FILE), open_to_add(self.out / METRICS_FILE) as lines:
            lines.write(json.dumps(metrics, allow_nan=False) + "\n")

    def checkpoint_is_due(self, generation: int) -> bool:
        if self.every is not None:
            return generation % self.every == 0
        return time.monotonic() >= self.next_checkpoint

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Save, after what lies before it in the other files is safe on the disk too."""
        began = time.monotonic()
        for name in (RETURNS_FILE, METRICS_FILE):
            with writing(self.out / name), open_to_add(self.out / name, "ab") as file:
                os.fsync(file.fileno())
        save_checkpoint(self.out / CHECKPOINT_FILE, self.identity, checkpoint)
        ended = time.monotonic()
        self.saved = int(checkpoint.tensors["generation"][0])
        self.next_checkpoint = ended + (ended - began) / CHECKPOINT_SHARE

    def returns(self) -> np.ndarray:
        """All returns so far, (generations, n, 2) float64."""
        return np.fromfile(self.out / RETURNS_FILE, np.float64).reshape(-1, self.pairs, 2)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A full or read-only disk is a UserError of one line; the last checkpoint is whole whatever happens here."""
    try:
        yield
    except OSError as error:
        raise UserError(unwritable(path, error)) from error
