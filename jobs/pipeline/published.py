"""What the continuing mode of jobs.pipeline shows others: figures of all days, and the last day as what is served."""

import json
from pathlib import Path
from typing import Any

from data.files import hidden, sync_directory, write_whole

CURRENT = "current"


def write_days(path: Path, days: dict[str, dict[str, Any]]) -> None:
    """days.jsonl, a line a day in their order, whole or not at all."""
    lines = [{key: value for key, value in days[day].items() if key != "pruned"} for day in sorted(days)]
    write_whole(path, "".join(json.dumps(line) + "\n" for line in lines))


def serve(out: Path, place: Path) -> None:
    """OUT/current leads to the last day that was learned from; it changes at once."""
    temporary = hidden(out / CURRENT, "tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(place.relative_to(out))
    temporary.replace(out / CURRENT)
    sync_directory(out)
