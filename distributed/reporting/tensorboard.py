"""A run's figures as TensorBoard events in its directory, beside metrics.jsonl: `tensorboard --logdir runs`."""

import math
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

FLUSH_S = 10


class Events:
    """Writes scalars by step. Nothing where tensorboardX is not installed; no file before the first figure.

    A run that goes on from a step hides the points that an earlier start made beyond it. With `every_s`, a call that
    comes sooner after the one before is left out.
    """

    def __init__(self, out: Path, every_s: float = 0.0, leave_out: Collection[str] = ()) -> None:
        self.out, self.every_s, self.leave_out = out, every_s, frozenset(leave_out)
        self._writer: Any = None
        self._last = -math.inf
        try:
            import tensorboardX

            self._make: Any = tensorboardX.SummaryWriter
        except ImportError:
            self._make = None

    def add(self, step: int, figures: Mapping[str, Any], under: str = "") -> None:
        """Numbers only; what else is among the figures is left out. A name's first dot becomes its TensorBoard group,
        unless `under` names one."""
        if self._make is None or time.monotonic() - self._last < self.every_s:
            return
        self._last = time.monotonic()
        if self._writer is None:
            self._writer = self._make(logdir=str(self.out), purge_step=step, flush_secs=FLUSH_S)
        for name, value in figures.items():
            if name not in self.leave_out and is_number(value):
                self._writer.add_scalar(f"{under}/{name}" if under else name.replace(".", "/", 1), value, step)

    def close(self) -> None:
        if self._writer is not None:
            with suppress(OSError):  # on a full disk: what the run cannot do without says so
                self._writer.close()
            self._writer = None


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
