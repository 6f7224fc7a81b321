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
            with suppress(AttributeError):  # another version may have its parts elsewhere
                records = self._writer.file_writer.event_writer._ev_writer._py_recordio_writer
                records._writer = Forgiving(records._writer)
        for name, value in figures.items():
            if name not in self.leave_out and is_number(value):
                self._writer.add_scalar(f"{under}/{name}" if under else name.replace(".", "/", 1), value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class Forgiving:
    """A file that a full disk cuts short without a word: a run says it of the files that it cannot do without, and
    tensorboardX, from a thread of its own and once more as Python ends, would fill the screen about this one."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def write(self, content: bytes) -> None:
        with suppress(OSError):
            self.file.write(content)

    def flush(self) -> None:
        with suppress(OSError):
            self.file.flush()

    def close(self) -> None:
        with suppress(OSError):
            self.file.close()


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
