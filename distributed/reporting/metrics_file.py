"""metrics.jsonl: one JSON object a line, in the order of steps, without the lines that a crash made untrue."""

import json
import math
from pathlib import Path
from typing import IO, Any

from data.files import open_to_add, write_whole


class RunLog:
    """Appends events. On a resume from `step`, events of later steps are dropped first: they will be made again."""

    def __init__(self, path: Path, step: int) -> None:
        if path.exists():
            kept = [
                line for line in path.read_text(errors="replace").splitlines(keepends=True) if is_before(line, step)
            ]
            write_whole(path, "".join(kept))
        self.file: IO[str] = open_to_add(path)

    def write(self, event: str, step: int, **values: Any) -> None:
        # JSON has no NaN: a figure that is not a number is not there
        finite = {k: v for k, v in values.items() if not (isinstance(v, float) and not math.isfinite(v))}
        self.file.write(json.dumps({"event": event, "step": step, **finite}) + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()


def is_before(line: str, step: int) -> bool:
    try:
        return line.endswith("\n") and json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError, RecursionError):
        return False  # the half line of a crash
