"""The files that policies name (weights of networks, say): an experiment goes on only with the same bytes."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from funnel.settings import flat


def digests(policies: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """{"files": {ARM.STAGE.KEY: digest}} of every setting that is the path of a file or folder; {} if there is none."""
    named = {
        key: Path(value).expanduser()
        for key, value in flat(policies).items()
        if isinstance(value, str) and value and not key.endswith(".kind")
    }
    found = {key: digest(path) for key, path in named.items() if path.exists()}
    return {"files": found} if found else {}


def digest(path: Path) -> str:
    """sha256 of a file, or of the names and bytes of all files in a folder."""
    if path.is_file():
        return of_file(path)
    inside = sorted(one for one in path.rglob("*") if one.is_file())
    lines = [f"{one.relative_to(path)} {of_file(one)}" for one in inside]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
