"""jobs/command/trust.py: a directory or file that was handed over runs no code that it names, whichever command reads
it. Every case would write a marker if the code ran."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from support import TINY_SEARCH, error_line

import jobs.evolve
import jobs.report
import jobs.tune
from data.errors import UserError
from distributed.checkpoint.read import MODEL_DIRECTORY, RECORD, model_checksum, read_record, sealed
from jobs import calibrate, evaluate, export, score, status, train
from jobs.command import trust
from jobs.command.cli import parse
from jobs.run.inputs import TRAINED


@pytest.fixture
def evil(trained_run, tmp_path, monkeypatch):
    """A copy of a run with evil.py in it, which Python finds from there; nothing is trusted yet."""
    run = Path(shutil.copytree(trained_run, tmp_path / "handed"))
    (run / "evil.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'marker')!r}).write_text('ran')\n"
        "from funnel.ranking.problem import EntireSpace\nfrom models.objectives.esmm import Esmm\n"
        "class Evil(EntireSpace): pass\nclass Loss(Esmm): pass\n"
        "from dataclasses import dataclass\n@dataclass\nclass Sphere:\n    width: int = 2\n"
    )
    monkeypatch.syspath_prepend(run)
    monkeypatch.chdir(run)
    monkeypatch.setattr(trust, "trusted", set())
    yield run
    for name in [name for name in sys.modules if name.endswith("evil")]:
        del sys.modules[name]


NAMED = {
    "problem": {"problem": "evil:Evil"},
    "problem as a file": {"problem": "evil.py:Evil"},
    "objective": {"objective": "evil.py:Loss"},
    "objective as a module": {"objective": "evil:Loss"},
    "two colons": {"problem": "evil:sys:path"},
    "a colon alone": {"problem": "evil:"},
}


def hand_over(run, problem="", objective=""):
    """Let the run's files name code."""
    path = run / MODEL_DIRECTORY / RECORD
    record = json.loads(path.read_text())
    if problem:
        record["problem"] = problem
    if objective:
        record["config"]["objective"]["name"] = objective
    path.write_text(json.dumps(sealed(record)))
    path = run / "run.json"
    record = json.loads(path.read_text())
    record |= {"problem": problem} if problem else {}
    path.write_text(json.dumps(record))
    path = run / "summary.json"  # as whoever hands it over would, so that it passes for the run's own
    path.write_text(
        json.dumps(
            json.loads(path.read_text()) | {TRAINED: model_checksum(read_record(run / MODEL_DIRECTORY / RECORD))}
        )
    )


@pytest.mark.parametrize("named", NAMED)
def test_a_run_that_names_code_is_refused_by_every_command(evil, tmp_path, small_log, named, monkeypatch, capsys):
    hand_over(evil, **NAMED[named])
    log, new = str(small_log), str(tmp_path / "new")
    commands = {
        score: ("--run", evil, "--data", log, "--out", new),
        evaluate: ("--run", evil, "--data", log, "--out", new),
        calibrate: ("--run", evil),
        export: ("--run", evil, "--out", new, "--formats", "pt2"),
    }
    for command, words in commands.items():
        line = error_line(command, words, monkeypatch, capsys)
        assert f"names code, '{next(iter(NAMED[named].values()))}'" in line
        assert "--trust" in line
    for option in (("--start-from", evil), ("--given", f"propensities={evil}")):
        words = ("--data", log, "--out", new, "--workers", 0, *option)
        assert "names code" in error_line(train, words, monkeypatch, capsys)
    status.run(status.Arguments(runs=[evil]))
    jobs.report.run(jobs.report.Args(runs=[evil], out=tmp_path / "page.html"))
    assert ("--trust" in (tmp_path / "page.html").read_text()) == ("problem" in NAMED[named])
    assert not (tmp_path / "marker").exists()
    assert not Path(new).exists()


@pytest.mark.parametrize("way", ["--trust", "an option"])
def test_what_the_user_names_too_is_run(evil, tmp_path, small_log, way):
    hand_over(evil, objective="evil.py:Loss", problem="evil:Evil")
    words = ["--run", str(evil), "--data", str(small_log), "--out", str(tmp_path / "scored.parquet")]
    if way == "--trust":
        words += ["--trust", "evil.py:Loss", "--trust=evil:Evil"]
    else:
        trust.trust({"objective": "evil.py:Loss", "problem": "evil:Evil"})
    score.run(parse(score.Arguments, words))
    assert (tmp_path / "marker").exists()


PRESETS = (
    {"preset": "train", "settings": {"objective.name": "evil.py:Loss"}},
    {"preset": "train", "settings": {"objective": {"name": "evil:Loss"}}},
    {"objective.name": "evil:Loss"},
)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_that_names_code_is_refused(evil, tmp_path, small_log, preset, monkeypatch, capsys):
    (evil / "best.json").write_text(json.dumps(preset))
    words = ("--data", small_log, "--out", tmp_path / "new", "--workers", 0, "--preset", evil / "best.json")
    assert "best.json: objective.name names code" in error_line(train, words, monkeypatch, capsys)
    assert not (tmp_path / "marker").exists()
    named = parse(train.options, [*map(str, words), "--trust", next(iter(dict(trust.code_in(preset)).values()))])
    assert named.settings.objective.name.startswith("evil")


@pytest.mark.parametrize("objective", ["evil.py:Sphere", "evil:Sphere", "./evil.py:Sphere", "{run}/evil.py:Sphere"])
def test_an_evolution_that_goes_on_runs_no_code_that_its_record_names(evil, tmp_path, objective, monkeypatch, capsys):
    run = tmp_path / "evolved"
    jobs.evolve.run(
        jobs.evolve.arguments_of(
            "--objective", "sphere", "--out", run, "--workers", 0, "--generations", 2, "--pairs", 2
        )
    )
    record = json.loads((run / "run.json").read_text())
    record["config"]["objective"] = objective.format(run=evil)
    (run / "run.json").write_text(json.dumps(record))
    assert "objective names code" in error_line(jobs.evolve, ("--resume", run), monkeypatch, capsys)
    with pytest.raises(UserError, match="objective names code"):
        jobs.evolve.run(jobs.evolve.Arguments(resume=run))
    jobs.report.run(jobs.report.Args(runs=[run], out=tmp_path / "page.html"))
    assert not (tmp_path / "marker").exists()


def test_an_environment_of_gymnasium_is_code(evil, monkeypatch):
    with pytest.raises(UserError, match="env names code, 'evil:Walker-v1'"):
        trust.check_names({"env": "evil:Walker-v1"}, "run.json")


@pytest.mark.parametrize("key", ["problem", "objective"])
def test_a_search_that_goes_on_runs_no_code_that_its_record_names(evil, tmp_path, key, monkeypatch, capsys):
    config = {"problem": "", "objective": "", "config": {}, "settings": {}} | {key: "evil:Evil"}
    record = {"kind": "tune", "config": {**config, "config": TINY_SEARCH}}
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "run.json").write_text(json.dumps(record))
    line = error_line(jobs.tune, ("--resume", tmp_path / "search"), monkeypatch, capsys)
    assert f"{key} names code, 'evil:Evil'" in line
    assert not (tmp_path / "marker").exists()


def test_ordinary_settings_name_no_code():
    trust.check_names({"data": "s3://bucket/a:b", "started": "2026-01-01T10:00:00", "out": "/runs/a:1"}, "run.json")
    trust.check_names({"problem": "funnel.lists.problem:ListWise", "objective": "fusion"}, "run.json")
