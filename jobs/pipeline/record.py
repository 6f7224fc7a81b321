"""pipeline.json: what each stage read, what it wrote, how long it took; and whether all of that still holds.

    {"format": "counterpoint.pipeline", "version": 1,
     "stages": {"score": {"state": "done", "made": 1, "seconds": 2.1, "finished": "2026-01-01T10:00:00+0000",
                          "inputs": {"train": "5f0c...#1", "data": "77ab..."},
                          "outputs": {"scored/valid.parquet": "sha256:...", ...}, "facts": {...}}},
     "files": {"/data/log/train/part-00000.parquet": [size, mtime_ns, "sha256:..."]}}

A stage is done and valid if its inputs are what they were and every output has its checksum. `made` counts how often a
stage was done; it is part of what later stages take in, so these are done again too.
"""

import hashlib
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from data.errors import UserError
from data.log import TRUTH, Log, parquet_files
from data.schema import SCHEMA_FILE
from jobs.command.console import Console
from jobs.run.directory import inside, read_json, write_json
from jobs.run.process import Process

PIPELINE_FILE = "pipeline.json"
FORMAT, VERSION = "counterpoint.pipeline", 1
DONE, RUNNING = "done", "running"


@dataclass(frozen=True)
class Stage:
    """One step of a pipeline. `work` goes on where a kill left it and returns facts to record and to show."""

    name: str
    inputs: dict[str, str]
    """What it depends on -> fingerprint."""
    owns: tuple[Path, ...]
    """Files and directories that are its own: removed before it is done again."""
    outputs: Callable[[], Iterable[Path]]
    """The files it is judged by, once it is done."""
    work: Callable[[], dict[str, Any]]


class Record:
    """The stages of a pipeline in `out`."""

    def __init__(self, out: Path, console: Console, process: Process | None = None) -> None:
        """`process`: gets the stage at which the pipeline is."""
        self.out, self.console, self.path, self.process = out, console, out / PIPELINE_FILE, process
        self.stages: dict[str, dict[str, Any]] = {}
        self.files: dict[str, list[Any]] = {}
        self.days: dict[str, dict[str, Any]] = {}
        """Of the continuing mode: the figures of each day that is done."""
        if self.path.exists():
            content = read_json(self.path)
            if content.get("format") != FORMAT or not isinstance(content.get("version"), int):
                raise UserError(f"{self.path}: not a pipeline's record")
            if content["version"] > VERSION:
                raise UserError(f"{self.path}: version {content['version']}; this program reads version {VERSION}")
            for name in ("stages", "files", "days"):
                if not isinstance(content.get(name) or {}, dict):
                    raise UserError(f"{self.path}: its {name!r} is no object of key: value")
            self.stages, self.files = dict(content.get("stages") or {}), dict(content.get("files") or {})
            self.days = dict(content.get("days") or {})
            for name, entry in self.stages.items():
                self.check(name, entry)

    def check(self, name: str, entry: Any) -> None:
        """Raise UserError for a stage that no pipeline writes, or whose outputs lie outside the directory."""
        kinds = {"state": str, "made": int, "seconds": int | float, "inputs": dict, "outputs": dict, "facts": dict}
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), kind) for key, kind in kinds.items()):
            raise UserError(f"{self.path}: stage {name!r} is not what a pipeline's record has there")
        for path in entry["outputs"]:
            inside(self.out, path)

    def save(self) -> None:
        content = {"format": FORMAT, "version": VERSION, "stages": self.stages, "days": self.days}
        write_json(self.path, {**content, "files": self.files})

    def do(self, stage: Stage) -> dict[str, Any]:
        """Have a stage done, unless it is done and valid. Returns its facts."""
        entry = self.stages.get(stage.name)
        why = self.invalid(stage.name, stage.inputs)
        if why is None and entry is not None:
            self.say(f"{stage.name}: done already, inputs and outputs checked")
            return dict(entry["facts"])
        goes_on = entry is not None and entry["state"] == RUNNING and entry["inputs"] == stage.inputs
        made = 1
        if entry is not None and not goes_on:
            self.say(f"{stage.name}: {why}; it is done again, and what follows from it", "yellow")
            made = entry["made"] + 1
        if not goes_on:
            self.remove(stage.owns)
        before = entry["seconds"] if goes_on and entry is not None else 0.0
        now: dict[str, Any] = {
            "state": RUNNING,
            "made": made,
            "seconds": before,
            "inputs": dict(stage.inputs),
            "outputs": {},
            "facts": {},
        }
        self.stages[stage.name] = now
        self.save()
        self.at(stage.name)
        began = time.monotonic()
        try:
            facts = stage.work()
        finally:
            now["seconds"] = before + time.monotonic() - began
            self.save()
        now["outputs"] = {str(path.relative_to(self.out)): sha256(path) for path in sorted(stage.outputs())}
        now |= {"state": DONE, "facts": facts, "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        self.save()
        text = in_words(facts)
        self.say(f"{stage.name}: {text + ', ' if text else ''}{now['seconds']:.1f} s")
        return facts

    def at(self, name: str) -> None:
        """Note for jobs.status what the pipeline is at, and how many stages are done."""
        if self.process is not None:
            done = sum(entry["state"] == DONE for entry in self.stages.values())
            self.process.update("stages", done, None, now=name)

    def invalid(self, name: str, inputs: dict[str, str] | None = None) -> str | None:
        """Why a stage has to be done, None if it is done and valid. Without inputs only the outputs are looked at."""
        entry = self.stages.get(name)
        if entry is None:
            return "not done"
        if inputs is not None and entry["inputs"] != inputs:
            before = entry["inputs"]
            changed = sorted(key for key in before.keys() | inputs.keys() if before.get(key) != inputs.get(key))
            return f"its input changed ({', '.join(changed)})"
        if entry["state"] != DONE:
            return "not finished"
        for path, expected in entry["outputs"].items():
            if not (self.out / path).is_file():
                return f"its output {path} is gone"
            if sha256(self.out / path) != expected:
                return f"its output {path} is damaged"
        return None

    def result(self, name: str) -> str:
        """A fingerprint of what a done stage has written, for the stages that take it in."""
        entry = self.stages[name]
        assert entry["state"] == DONE, name
        return f"{digest(entry['outputs'])}#{entry['made']}"

    def remove(self, paths: Sequence[Path]) -> None:
        for path in paths:
            assert path.is_relative_to(self.out), path
            assert path != self.out
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def say(self, text: str, style: str | None = None) -> None:
        self.console.print(text, style=style, highlight=False, soft_wrap=True)

    def data(self, log: Log, parts: Sequence[str]) -> str:
        """A fingerprint of parts of a log: schema, names and contents of the files, the truth's among them.

        Contents of local files are read once and again where size or time changed; of remote ones size and time count.
        """
        found = [f"{log.root}/{SCHEMA_FILE}"]
        for part in parts:
            for directory in (f"{log.root}/{part}", f"{log.root}/{TRUTH}/{part}"):
                found += parquet_files(log.filesystem, directory) or []
        local = isinstance(log.filesystem, pafs.LocalFileSystem)
        facts = {}
        for info in log.filesystem.get_file_info(found):
            known = self.files.get(info.path)
            stamp = [info.size, info.mtime_ns or 0]
            if known is None or known[:2] != stamp:
                self.files[info.path] = known = [*stamp, sha256(Path(info.path)) if local else str(stamp)]
            facts[info.path.removeprefix(log.root)] = known[2]
        return digest(facts)


def digest(facts: dict[str, str]) -> str:
    """16 hex digits that change with any name or value."""
    return hashlib.sha256("\n".join(f"{key}\t{facts[key]}" for key in sorted(facts)).encode()).hexdigest()[:16]


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def in_words(facts: dict[str, Any]) -> str:
    """The facts that fit a line: numbers and words."""
    plain = {key: value for key, value in facts.items() if not isinstance(value, list | dict) and value != ""}
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in plain.items()
    )
