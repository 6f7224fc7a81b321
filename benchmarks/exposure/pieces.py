"""Results of a benchmark piece by piece: what is there is not computed again, so a stopped run goes on."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Pieces:
    """Results by key in a file of JSON lines; no file: nothing is kept. After `seconds` no new piece is begun."""

    def __init__(self, path: Path | None, seconds: float) -> None:
        self.path, self.until = path, time.process_time() + seconds
        self.known: dict[str, Any] = {}
        self.begun = False
        if path is not None and path.exists():
            self.known = {each["key"]: each["found"] for each in map(json.loads, path.read_text().splitlines())}

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        """The result of a piece; None where it is not there and time is up."""
        if key in self.known:
            return self.known[key]
        if self.begun and time.process_time() > self.until:
            return None
        self.begun = True
        found = compute()
        self.known[key] = found
        print(key, found, flush=True)
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps({"key": key, "found": found}) + "\n")
        return found
