"""What every benchmark records beside its figures: when, on what, with which command; and where results go."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from jobs.command.cli import command
from jobs.run.directory import git_commit, hardware, versions

RESULTS = Path(__file__).resolve().parent / "results"


def write_result(name: str, figures: dict[str, Any], tables: str) -> Path:
    """Write results/DATE-name.json and .md; the table is what the README quotes."""
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"{time.strftime('%Y-%m-%d')}-{name}"
    about: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join([command(), *sys.argv[1:]]),
        "git": git_commit(),
        "hardware": hardware(),
        "versions": versions(),
        "load_average_at_end": os.getloadavg()[0],
    }
    stem.with_suffix(".json").write_text(json.dumps({**about, **figures}, indent=1) + "\n")
    machine = f"{about['hardware']['cores']} cores of {about['hardware']['cpu']}"
    software = ", ".join(f"{package} {version}" for package, version in about["versions"].items())
    head = f"# {name}\n\n{about['date']}, {machine}; {software}; commit {about['git']}.\n\n    {about['command']}\n\n"
    stem.with_suffix(".md").write_text(head + tables)
    print(tables)
    print(stem.with_suffix(".md"))
    return stem.with_suffix(".md")


def markdown(header: list[str], rows: list[list[Any]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
