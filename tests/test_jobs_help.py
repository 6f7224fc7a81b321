"""The index of the commands, their help at 80 columns, nearest names, and the page of all settings."""

import importlib
import itertools
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data.nearest import correction, meant
from jobs import __main__ as index
from jobs import evaluate, evolve, make_data, pipeline, train
from jobs.command import cli
from jobs.command.help import help_page
from jobs.command.options import options_of

ROOT = Path(__file__).resolve().parent.parent
JOBS = [name for name in index.COMMANDS if name != "submit"]


def kind_of(command: str, *words: str) -> Any:
    module: Any = importlib.import_module(f"jobs.{command}")
    if hasattr(module, "options"):
        return module.options(words)
    return next(getattr(module, name) for name in ("Arguments", "MakeData", "Args") if hasattr(module, name))


def test_the_index_lists_every_command_in_one_line_of_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert index.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in lines[2:]]
    runnable = {path.stem for path in (ROOT / "jobs").glob("*.py") if "__main__" in path.read_text()} - {"__main__"}
    runnable |= {path.parent.name for path in (ROOT / "jobs").glob("*/__main__.py")}
    assert set(listed) == runnable
    assert listed[:5] == ["make_data", "check", "train", "ensemble", "calibrate"], "the order of use"
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("trian", "did you mean train?"),
        ("make-dta", "did you mean make_data?"),
        ("xyzzy", "there are: make_data, check, train"),
    ],
)
def test_an_unknown_command_is_answered_by_the_nearest(
    word: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert index.main([word]) == 2
    assert f"error: no command {word!r}; {said}" in capsys.readouterr().err


@pytest.mark.slow
def test_the_index_runs_the_command_that_it_is_given() -> None:
    command = [sys.executable, "-m", "jobs", "status", "--help"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.startswith("usage: python -m jobs.status RUNS [options]\n")


@pytest.mark.parametrize("command", JOBS)
def test_help_keeps_to_80_columns_and_leaves_no_word_alone(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    module: Any = importlib.import_module(f"jobs.{command}")
    page = help_page(f"python -m jobs.{command}", kind_of(command), module.__doc__ or "")
    for line in page.splitlines():
        assert len(line) <= 80 or line.startswith("  python -m"), line  # an example is one line, to be copied
    for option in options_of(kind_of(command)):
        assert option.meaning, f"{option.name} has no docstring"
        assert page.count(f"  {option.name}") >= 1
    # Only the last line of a meaning is short: no line end of the source is left in it.
    for line, after in itertools.pairwise(page.splitlines()):
        if line.startswith(" " * 6) and after.startswith(" " * 6):
            assert len(line) + 1 + len(after.split()[0]) > 80, (line, after)


@pytest.mark.parametrize(
    ("command", "groups"),
    [
        ("evolve", ["what is tuned", "the search", "steps and shaping", "workers, faults, checkpoints"]),
        ("pipeline", ["what is done", "judging and serving", "day by day", "training", "optimizer", "es: the search"]),
        ("tune", ["what is searched", "how", "what for", "where", "training", "model.backbone"]),
    ],
)
def test_long_lists_are_grouped(command: str, groups: list[str]) -> None:
    titles = list(dict.fromkeys(one.group for one in options_of(kind_of(command))))
    assert [title for title in titles if title.split(" (")[0] in groups] == groups
    assert max(sum(one.group == title for one in options_of(kind_of(command))) for title in titles) <= 20


def test_options_that_follow_a_name_are_in_the_help() -> None:
    names = [one.name for one in options_of(evolve.options(["--objective", "sphere"]))]
    assert "--dimension" in names
    assert "--scored" not in names


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--epoch", "3"], "unknown option '--epoch'; did you mean --epochs?"),
        (["--optimiser.learning-rate", "3"], "did you mean --optimizer.learning-rate?"),
        (["--learning_rate=3"], "unknown option '--learning_rate'; did you mean --optimizer.learning-rate?"),
        (["--lanes", "3"], "did you mean --stream.lanes?"),
        (["--backbone.experts", "3"], "did you mean --model.backbone.experts?"),
        (["--zzz"], "unknown option '--zzz'; valid: --data, --out, --problem"),
    ],
)
def test_an_unknown_option_is_answered_by_the_nearest_before_what_is_missing(words: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        train.arguments_of(*words)


def test_options_may_be_written_in_every_way_that_is_understood() -> None:
    given = pipeline.arguments_of("--out=a", "--data", "b", "--no-background-checkpoints", "--es.learning_rate", "0.5")
    assert given.config.background_checkpoints is False
    assert given.es.learning_rate == 0.5


def test_the_nearest_name() -> None:
    assert meant("optimizer.learnig_rate", ["epochs", "optimizer.learning_rate"]) == "optimizer.learning_rate"
    assert meant("learning_rat", ["epochs", "optimizer.learning_rate"]) == "optimizer.learning_rate"
    assert correction("x", ["epochs", "seed"], "valid keys") == "valid keys: epochs, seed"


def test_the_settings_page_is_the_settings() -> None:
    """docs/settings.md is what docs/settings.py writes of the dataclasses."""
    written = runpy.run_path(str(ROOT / "docs" / "settings.py"))["page"]()
    assert (ROOT / "docs" / "settings.md").read_text() == written, "run python docs/settings.py"


def test_each_step_ends_with_the_next(tmp_path, small_log, capsys):
    """The line can be copied: its words are those that the next command takes."""
    log, run = tmp_path / "a log", tmp_path / "run"
    cli.main(
        make_data.run, make_data.MakeData, "", words=["--rows", "400", "--out", str(log)], then=make_data.following
    )
    assert capsys.readouterr().out.splitlines()[-1] == f"next: python -m jobs.check --data '{log}'"
    given = train.arguments_of("--data", str(small_log), "--out", str(run))
    assert train.following(given) == ("evaluate", "--run", run, "--data", str(small_log))
    evaluate.Arguments(run=run, data=str(small_log))
    lists = train.arguments_of("--data", str(small_log), "--out", str(run), "--problem", "listwise")
    assert train.following(lists) == ("report", run, "--out", run / "report.html")
    days = make_data.MakeData(out=log, days=3)
    assert make_data.following(days)[:2] == ("pipeline", "--watch")
