"""python -m jobs.make_data: what it makes, what it refuses, and what a killed run leaves."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import wait_until

from data.errors import UserError
from data.files import host
from data.labels import check_labels
from data.log import open_log
from funnel.registry import LOGGED
from jobs import make_data
from jobs.command.cli import parse
from jobs.command.options import options_of
from jobs.make_data import MakeData, run

ROOT = Path(__file__).resolve().parent.parent


def start(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "jobs.make_data", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_the_command_makes_a_log_and_prints_what_is_in_it(tmp_path: Path) -> None:
    process = start(
        "--rows", "6000", "--click-rate", "0.2", "--users", "100", "--items", "100", "--out", f"{tmp_path}/log"
    )
    printed, errors = process.communicate()
    assert process.returncode == 0, errors
    log = open_log(tmp_path / "log")
    facts = check_labels(log, log.part("train"))
    assert facts.rows == 4800
    for cell in (
        "4,800",
        str(facts.positives["click"]),
        f"{facts.positives['click'] / facts.rows:.4f}",
        "E[r|all]",
        "E[r|click]",
    ):
        assert cell in printed


def test_run_returns_the_path_of_each_source(tmp_path: Path, shared_data: Path) -> None:
    for source, folder in (
        ("speed_dating", "speed_dating"),
        ("ali_ccp", "aliccp_sample"),
        ("ali_express", "aliexpress_sample"),
    ):
        args = MakeData(source=source, input=shared_data / folder, out=tmp_path / source)  # type: ignore[arg-type]
        assert run(args) == tmp_path / source
        assert open_log(tmp_path / source).part("test").rows > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "ali_ccp"}, "--source ali_ccp needs --input"),
        ({"input": Path("x")}, "--input goes with --source"),
        ({"fold": 1}, "--fold has no effect with --source generated"),
        (
            {"source": "ali_ccp", "input": Path("x"), "click_rate": 0.1},
            "--click-rate has no effect with --source ali_ccp",
        ),
        ({"rows": 5}, "rows is 5, must be at least 300"),
        ({"source": "ali_ccp", "input": Path("/nowhere")}, "/nowhere: no such file or directory"),
    ],
)
def test_a_mistake_is_named_and_leaves_nothing(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(MakeData(out=tmp_path / "log", **arguments))
    assert list(tmp_path.iterdir()) == []


def test_somebodys_directory_is_refused_with_one_line_and_code_2(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    process = start("--rows", "3000", "--out", str(tmp_path))
    _, errors = process.communicate()
    assert process.returncode == 2
    assert errors == f"error: {tmp_path}: is not empty; choose a new directory\n"


@pytest.mark.slow
def test_a_killed_run_leaves_no_log(tmp_path: Path) -> None:
    process = start("--rows", "100000000", "--out", str(tmp_path / "log"))
    wait_until(lambda: bool(list(tmp_path.glob(".log.*.partial/train/*.parquet"))))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    left = list(tmp_path.iterdir())
    assert [path.name for path in left] == [f".log.{host()}-{process.pid}.partial"]
    with pytest.raises(ValueError, match=r"schema\.json: no such file"):
        open_log(left[0])
    run(MakeData(out=tmp_path / "log", rows=3000))
    assert [path.name for path in tmp_path.iterdir()] == ["log"]  # the next one clears up


def test_logs_of_treatments_are_not_counted_by_clicks_and_lead_to_what_they_are_for(tmp_path, capsys) -> None:
    """What is printed last can be run as it stands; options without effect are refused."""
    for world, rows, words in (
        ("incentives", 300, ("fit", "--system", "incentives")),
        ("shares", 100, ("fit", "--system", "exposure")),
        ("dose", 50, ("train", "--problem", "vcnet")),
    ):
        asked = ["--world", world, "--rows", str(rows), "--out", str(tmp_path / world)]
        args = parse(make_data.options_for, asked)
        make_data.run(args)
        printed = capsys.readouterr().out
        assert "rows" in printed
        assert not any(word in printed for word in ("click", "CTR", "CVR"))
        assert make_data.following(args) == (*words, "--data", tmp_path / world, "--out", "runs/first")
    args = parse(make_data.options_for, [*asked, "--policy", "other"])
    with pytest.raises(UserError, match="--policy has no effect with --world dose"):
        make_data.run(dataclasses.replace(args, out=tmp_path / "again"))


def test_the_help_names_every_world() -> None:
    assert make_data.__doc__ is not None
    assert all(f"{name}" in make_data.__doc__ for name in LOGGED)


@pytest.mark.parametrize("world", LOGGED)
def test_every_option_of_a_world_says_what_it_is(world) -> None:
    silent = [option.name for option in options_of(make_data.options_for(["--world", world])) if not option.meaning]
    assert not silent
