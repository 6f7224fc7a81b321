"""What a death costs a training: steps that are made again, and seconds without one. Counted in metrics.jsonl.

A start's line has `lost_steps`: steps that were made after the checkpoint it begins with. The line "recovered" follows
its first step: `down_s` since the last step before.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

FILE = ".step"


class StepMark:
    """The last step and when it was made, in a file that a killed process leaves behind as it was."""

    def __init__(self, run: Path, writes: bool) -> None:
        self.step, self.time = 0, 0.0
        self.file: int | None = None
        if not writes:
            return
        try:
            self.file = os.open(run / FILE, os.O_RDWR | os.O_CREAT, 0o644)
            step, moment = os.pread(self.file, 100, 0).split()
            self.step, self.time = int(step), float(moment)
        except (OSError, ValueError):
            pass  # nothing there yet, or nowhere to keep it

    def write(self, step: int) -> None:
        """Two microseconds; into memory that outlives the process, not to the disk."""
        if self.file is not None:
            os.pwrite(self.file, b"%012d %017.3f\n" % (step, time.time()), 0)

    def lost(self, step: int) -> int:
        """Steps that were made beyond `step`, from which the run goes on."""
        return max(self.step - step, 0)

    def down_s(self) -> float | None:
        """Seconds since the last step of an earlier start, if there was one."""
        return time.time() - self.time if self.time else None


def totals(metrics: Path) -> dict[str, Any]:
    """Of a whole run: how often it was started, the steps that were made twice, the seconds between its starts."""
    figures: dict[str, Any] = {"train.starts": 0, "train.lost_steps": 0, "train.down_s": 0.0}
    for line in metrics.read_text().splitlines() if metrics.exists() else ():
        if '"start"' not in line and '"recovered"' not in line:
            continue
        event = json.loads(line)
        if event["event"] == "start":
            figures["train.starts"] += 1
            figures["train.lost_steps"] += event.get("lost_steps", 0)
        elif event["event"] == "recovered":
            figures["train.down_s"] += event["down_s"]
    return figures
