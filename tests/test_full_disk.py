"""A disk without room: every command says so in one line that names the file, and leaves nothing half-written.

Stood for by a limit on the size of files, which any user may set: writes beyond it fail as on a full disk.
"""

import gc
import json
import re
import resource
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import as_command, forking
from support import error_line

import jobs.evolve
import jobs.report
from jobs import calibrate, evaluate, export, make_data, score, train

LINE = re.compile(r"error: (\S+): cannot be written \(File too large\).*\n")


@contextmanager
def room(size: int) -> Iterator[None]:
    """No file may become larger than this many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Path]:
    """The file that a command's one line names, with room for so many bytes a file."""

    def run(size: int, command: Any, *words: object) -> Path:
        with room(size):
            line = error_line(command, words, monkeypatch, capsys)
        # A writer whose file could not be closed tries again when it is collected. In the midst of parsing (tyro reads
        # the next command's source) Python 3.11 takes that for a fault of its parser: so it is collected here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()
        found = LINE.fullmatch(line)
        assert found, line
        return Path(found[1])

    return run


def left(directory: Path) -> list[str]:
    """All names below, but for the lock of a run directory, which is empty."""
    return sorted(path.name for path in directory.rglob("*") if path.name != ".lock")


@pytest.mark.parametrize(("size", "name"), [(100, "run.json"), (6000, "step-00000012"), (30000, "step-00000012")])
def test_train(small_log, tmp_path, said, size, name):
    words = ("--data", small_log, "--out", tmp_path / "run", "--workers", 0, "--epochs", 1, "--batch-size", 400)
    assert said(size, train, *words).name == name
    assert not list(tmp_path.rglob("*.safetensors"))
    assert not list(tmp_path.rglob(".*.tmp"))
    assert train.run(train.arguments_of(*map(str, words)))["train.steps"] > 0  # once there is room, it goes on


def test_score(trained_run, small_log, tmp_path, said):
    out = tmp_path / "scored.parquet"
    assert said(4000, score, "--run", trained_run, "--data", small_log, "--out", out) == out
    assert not left(tmp_path)


@pytest.mark.parametrize(("size", "name"), [(100, "run.json"), (4000, "evaluation.json")])
def test_evaluate(trained_run, small_log, tmp_path, said, size, name):
    out = tmp_path / "out"
    assert said(size, evaluate, "--run", trained_run, "--data", small_log, "--out", out).name == name
    assert left(tmp_path) == ["out"] + ["run.json"] * (size > 100)


def test_report(trained_run, tmp_path, said):
    class Report:
        Arguments, run, __doc__ = jobs.report.Args, staticmethod(jobs.report.run), ""

    assert said(1000, Report, trained_run, "--out", tmp_path / "page.html") == tmp_path / "page.html"
    assert not left(tmp_path)


def test_make_data(tmp_path, said):
    class Make:
        Arguments, run, __doc__ = make_data.MakeData, staticmethod(make_data.run), ""

    assert said(1000, Make, "--out", tmp_path / "log", "--rows", 2000) == tmp_path / "log"
    assert not left(tmp_path)


@pytest.mark.parametrize("earlier", [False, True])
def test_a_calibration_is_in_force_where_the_summary_says_so(trained_run, tmp_path, said, earlier):
    """calibration.json fits, evaluation.json does not: neither is changed."""
    run = Path(shutil.copytree(trained_run, tmp_path / "run"))
    if earlier:
        calibrate.run(calibrate.Arguments(run=run, settings=calibrate.settings_of(problem(), method="isotonic")))
    before = {path: path.read_bytes() for path in run.rglob("*.json")}
    assert said(2500, calibrate, "--run", run, "--method", "platt").name == "evaluation.json"
    assert {path: path.read_bytes() for path in run.rglob("*.json")} == before
    assert ("calibration.method" in json.loads((run / "summary.json").read_text())) is earlier
    assert (run / "model" / "calibration.json").exists() is earlier
    assert said(10, calibrate, "--run", run, "--method", "platt").name == "calibration.json"
    assert {path: path.read_bytes() for path in run.rglob("*.json")} == before
    assert not [path for path in run.rglob(".*") if path.suffix == ".tmp"]


def problem() -> Any:
    return calibrate.problem_of(())


def test_evolve(tmp_path, said):
    words = ("--objective", "sphere", "--out", tmp_path / "run", "--workers", 0, "--generations", 40)
    assert said(100, jobs.evolve, *words).name == "run.json"
    assert said(3000, jobs.evolve, *words).name in ("metrics.jsonl", "returns.f64")
    jobs.evolve.run(jobs.evolve.arguments_of(*words))  # once there is room, it goes on
    assert (tmp_path / "run" / "summary.json").exists()


def exports_without_room(commands: list[list[str]], said: list[Path]) -> None:
    """In this process, which was forked for them: one for both, as each takes seconds to import what it needs."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, -1))
    for words, errors in zip(commands, said, strict=True):
        with pytest.raises(SystemExit) as ended:
            as_command("jobs.export", words, errors, {}, f"{errors}.out")
        assert ended.value.code == 2


@pytest.mark.slow
def test_export(trained_run, tmp_path, tmp_path_factory):
    """In a process of its own, which torch's writer used to end by SIGABRT."""
    kinds, folder = ("pt2", "onnx"), tmp_path_factory.mktemp("said")
    commands = [["--run", str(trained_run), "--out", str(tmp_path / kind), "--formats", kind] for kind in kinds]
    process = forking().Process(target=exports_without_room, args=(commands, [folder / kind for kind in kinds]))
    process.start()
    process.join()
    said = [(folder / kind).read_text() for kind in kinds]
    assert process.exitcode == 0, said
    for kind, line in zip(kinds, said, strict=True):
        found = LINE.fullmatch(line)
        assert found, line
        assert Path(found[1]) == tmp_path / kind / f"ranker.{kind}"
        assert (folder / f"{kind}.out").read_text() == ""
    assert not left(tmp_path)


@pytest.mark.slow
def test_export_of_the_description(trained_run, tmp_path, said, monkeypatch):
    """serving.json is one of the files: without it nothing is exported."""

    def full(*_: object) -> None:
        raise OSError(27, "File too large")

    monkeypatch.setattr(export, "write_json", full)
    assert said(10**9, export, "--run", trained_run, "--out", tmp_path / "out", "--formats", "pt2") == tmp_path / "out"
    assert not left(tmp_path)
