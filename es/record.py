"""What a run leaves in its directory: metrics.jsonl, the returns, and the checkpoint.

    metrics.jsonl            one line per generation
    returns.f64              2n float64 per generation (pair by pair, plus then minus): with the seed, they replay it
    checkpoint.safetensors   the latest, whole
Lines and returns are written before the checkpoint that follows them; after a crash those beyond it are cut off again.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from es.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

METRICS_FILE, RETURNS_FILE, CHECKPOINT_FILE = "metrics.jsonl", "returns.f64", "checkpoint.safetensors"


class RunRecord:
    def __init__(self, out: Path, identity: dict[str, Any], pairs: int) -> None:
        self.out, self.identity, self.pairs = out, identity, pairs
        out.mkdir(parents=True, exist_ok=True)

    def resume(self, like: dict[str, np.ndarray]) -> Checkpoint | None:
        """The checkpoint to continue from, or None for a start from the beginning; what lies beyond it is cut off."""
        path = self.out / CHECKPOINT_FILE
        checkpoint = load_checkpoint(path, self.identity, like) if path.exists() else None
        generations = int(checkpoint.tensors["generation"][0]) if checkpoint else 0
        returns = self.out / RETURNS_FILE
        size = returns.stat().st_size if returns.exists() else 0
        if size < generations * self.pairs * 16:
            raise ValueError(f"{returns}: holds {size} bytes, fewer than {generations} generations' returns")
        with returns.open("ab") as file:
            file.truncate(generations * self.pairs * 16)
        self._cut_metrics(generations)
        return checkpoint

    def _cut_metrics(self, generations: int) -> None:
        path = self.out / METRICS_FILE
        kept = []
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                break  # a line the crash cut short
            if record.get("generation", -1) >= generations:
                break
            kept.append(line)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_text("".join(line + "\n" for line in kept))
        temporary.replace(path)

    def generation(self, metrics: dict[str, Any], returns_n2: np.ndarray) -> None:
        with (self.out / RETURNS_FILE).open("ab") as file:
            file.write(np.ascontiguousarray(returns_n2, np.float64).tobytes())
        with (self.out / METRICS_FILE).open("a") as lines:
            lines.write(json.dumps(metrics, allow_nan=False) + "\n")

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        save_checkpoint(self.out / CHECKPOINT_FILE, self.identity, checkpoint)

    def returns(self) -> np.ndarray:
        """All returns so far, (generations, n, 2) float64."""
        return np.fromfile(self.out / RETURNS_FILE, np.float64).reshape(-1, self.pairs, 2)
