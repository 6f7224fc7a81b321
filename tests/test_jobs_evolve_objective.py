"""jobs.evolve beyond score fusion: objectives by name and from a file, stopping by signal, resuming, replaying."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from support import error_line

from es.config import ESConfig
from es.engine import run as engine_run
from es.objectives.toy import Rosenbrock
from funnel.settings import changed
from jobs import evolve
from jobs.evolve import Arguments, run
from jobs.evolve.options import arguments_of

ROOT = Path(__file__).resolve().parent.parent

MINE = '''"""A user's objective: one file."""

from dataclasses import dataclass
import time

import numpy as np


@dataclass(frozen=True)
class Valley:
    """-(x - bottom)^2, summed, every candidate taking `seconds`."""

    width: int
    bottom: float = 2.0
    seconds: float = 0.0

    def initial(self):
        return np.zeros(self.width, np.float32)

    def evaluate_batch(self, theta_PD, seeds_P):
        time.sleep(self.seconds * len(theta_PD))
        return -((theta_PD - self.bottom) ** 2).sum(axis=1)

    def describe(self):
        return {"objective": "valley", "width": self.width, "bottom": self.bottom}
'''


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "valley.py"
    path.write_text(MINE)
    return path


def arguments(out, objective, *words, **changes):
    options = {"workers": 0, "generations": 5, **changes}
    more = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", value)]
    return arguments_of("--out", out, "--objective", objective, *words, *more)


def command(*words):
    return [sys.executable, "-m", "jobs.evolve", *map(str, words)]


def test_an_objective_of_the_library_by_name(tmp_path):
    summary = run(arguments(tmp_path / "run", "rosenbrock", "--dimension", 6, "--start", 0.5, "--optimizer", "clipup"))
    direct = engine_run(Rosenbrock(6, start=0.5), ESConfig(generations=5, optimizer="clipup"))
    assert summary["es.final_return"] == direct.final_return
    assert summary["es.dimension"] == 6
    np.testing.assert_array_equal(load_file(tmp_path / "run" / "checkpoint.safetensors")["theta"], direct.theta)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["kind"] == "evolve"
    assert record["config"]["objective"] == "rosenbrock"
    assert record["config"]["settings"] == {"dimension": 6, "start": 0.5}
    assert run(arguments(tmp_path / "run", "rosenbrock", "--dimension", 6, "--start", 0.5, "--optimizer", "clipup"))


@pytest.mark.ray
@pytest.mark.parametrize("workers", [0, 2])
def test_an_objective_of_ones_own_is_one_file(ray_cluster, mine, tmp_path, workers):
    """With workers it travels to them whole: they could not import it."""
    changes = {"generations": 80, "pairs": 16, "workers": workers, "learning_rate": 0.1}
    summary = run(arguments(tmp_path / "run", f"{mine}:Valley", "--width", 3, **changes))
    assert summary["es.final_return"] > -0.1  # started at -12
    assert list(tmp_path.glob("run/events.out.tfevents*"))


@pytest.mark.parametrize(
    ("objective", "words", "message"),
    [
        ("sphere", ["--dimention", 3], "unknown option '--dimention'; did you mean --dimension"),
        ("spere", [], r"no objective 'spere': did you mean sphere\? choose fusion, .*, sphere, "),
        ("nowhere.py:Mine", [], "nowhere.py: no such file"),
        ("es.objectives.toy:Nobody", [], "objective 'es.objectives.toy:Nobody': .* has no attribute 'Nobody'"),
        ("es.objectives.toy:np", [], "np must be a tunable or a dataclass of settings"),
        ("off_policy", [], "--data FILE is needed"),
        ("fusion", [], "--scored FILE is needed"),
        ("sphere", ["--scored", "x"], "unknown option '--scored'"),
        ("sphere", ["--preset", "x"], r"--preset x: no such preset of jobs\.evolve; there are default, cautious"),
        ("sphere", ["--resamples", 3], "--resamples is 3: it must be between 10 and 100000"),
    ],
)
def test_mistakes_are_named(tmp_path, objective, words, message):
    with pytest.raises(ValueError, match=message) as caught:
        run(arguments(tmp_path / "run", objective, *words))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], r"Missing from .*: --width INT \(required\)$"),
        (["--width", "many"], "Error parsing --width: .*'many'"),
        (["--width", 3, "--optimizer", "best"], "invalid choice 'best' for argument '--optimizer'"),
    ],
)
def test_what_an_option_takes_is_said(mine, tmp_path, words, message):
    """A setting without a default has to be given."""
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path / "run", f"{mine}:Valley", *words)


def test_settings_are_read_by_their_types():
    given = {"betas": (0.5, 0.75), "table_floats": None, "workers": "auto", "sigma": 2, "optimizer": "sgd"}
    config = changed(ESConfig(), given)
    assert (config.betas, config.table_floats, config.workers, config.optimizer) == ((0.5, 0.75), None, "auto", "sgd")
    assert isinstance(config.sigma, float)


def test_names_that_the_engine_has_too_are_prefixed(tmp_path):
    """A control task has a seed of its own."""
    words = ("--settings.env", "CartPole-v1", "--settings.seed", 3, "--settings.hidden", 4, "--pairs", 2)
    run(arguments(tmp_path / "run", "control", *words, generations=1))
    config = json.loads((tmp_path / "run" / "run.json").read_text())["config"]
    assert (config["es"]["seed"], config["settings"]["seed"], config["settings"]["hidden"]) == (0, 3, [4])


def test_a_run_of_an_earlier_version_may_be_started_from_but_not_continued(tmp_path):
    out = tmp_path / "run"
    run(arguments(out, "sphere", "--dimension", 5))
    record = json.loads((out / "run.json").read_text())
    record |= {"kind": "evolve_objective", "config": {"objective": "sphere", "es": record["config"]["es"]}}
    (out / "run.json").write_text(json.dumps(record))
    for words in (("--resume", out), ("--objective", "sphere", "--dimension", 5, "--out", out)):
        with pytest.raises(ValueError, match="was begun by an earlier version"):
            run(arguments_of(*words))
    assert run(Arguments(replay=out)) == {"generations": 5, "equal": True}
    run(arguments(tmp_path / "next", "sphere", "--dimension", 5, "--start-from", out))
    theta = load_file(out / "checkpoint.safetensors")["theta"]
    assert np.fromfile(tmp_path / "next" / "start.f32", "<f4").tobytes() == theta.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_without_loss_and_resume_goes_on(mine, tmp_path, number, code):
    """In the middle of a generation; `--resume` needs no other option than trust in the code that the run names,
    and the result is the undisturbed run's."""
    out = tmp_path / "run"
    words = ("--objective", f"{mine}:Valley", "--width", 3, "--seconds", 0.002, "--generations", 60, "--pairs", 8)
    more = ("--checkpoint-every", 1000, "--workers", 0)
    process = subprocess.Popen(
        command(*words, *more, "--out", out), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    metrics = out / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.read_text().count("\n") > 5) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == code
    assert errors.count("\n") == 1
    assert "of 60; the same command goes on from here" in errors
    assert (out / "checkpoint.safetensors").exists()
    summary = run(arguments_of("--resume", out, "--trust", f"{mine}:Valley"))
    assert summary["es.generations"] == 60
    assert summary["es.evaluations"] == 60 * (2 * 8 + 1)
    run(arguments(tmp_path / "straight", f"{mine}:Valley", "--width", 3, generations=60, pairs=8))
    here, there = (load_file(tmp_path / name / "checkpoint.safetensors")["theta"] for name in ("run", "straight"))
    np.testing.assert_array_equal(here, there)


def test_a_replay_says_equal_or_exits_with_1(tmp_path, capsys):
    out = tmp_path / "run"
    run(arguments(out, "sphere", "--dimension", 5))
    capsys.readouterr()
    assert run(Arguments(replay=out)) == {"generations": 5, "equal": True}
    assert "equal to the checkpoint in every bit" in capsys.readouterr().out
    returns = np.fromfile(out / "returns.f64")
    returns[::2] += np.arange(len(returns) // 2)
    returns.tofile(out / "returns.f64")
    with pytest.raises(SystemExit) as caught:
        run(Arguments(replay=out))
    assert caught.value.code == 1
    assert "theta differs from generation" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"has no checkpoint\.safetensors"):
        run(Arguments(replay=tmp_path))
    with pytest.raises(ValueError, match=r"run\.json: no such file"):
        run(Arguments(resume=tmp_path))


BAD = """
import sys
from dataclasses import dataclass
import numpy as np

@dataclass(frozen=True)
class Good:
    width: int = 3
    def initial(self): return np.zeros(self.width, np.float32)
    def describe(self): return {"objective": "good"}
    def evaluate_batch(self, theta_PD, seeds_P): return -((theta_PD - 2) ** 2).sum(axis=1)

class InPlace(Good):
    def evaluate_batch(self, theta_PD, seeds_P):
        theta_PD -= 2
        return -(theta_PD ** 2).sum(axis=1)
class Raises(Good):
    def evaluate_batch(self, theta_PD, seeds_P): raise KeyError("no such column")
class Exits(Good):
    def evaluate_batch(self, theta_PD, seeds_P): sys.exit(3)
class Complex(Good):
    def evaluate_batch(self, theta_PD, seeds_P): return super().evaluate_batch(theta_PD, seeds_P) + 1j
class NoInitial:
    pass
@dataclass(frozen=True)
class NoDescribe:
    width: int = 3
    def initial(self): return np.zeros(3)
    def evaluate_batch(self, theta_PD, seeds_P): return theta_PD.sum(axis=1)
class Matrix(Good):
    def initial(self): return np.zeros((2, 2))
@dataclass(frozen=True)
class Built:
    width: int = 3
    def build(self): return open("/nowhere/x.csv")
@dataclass(frozen=True)
class Never(Good):
    def __post_init__(self): [][1]
@dataclass(frozen=True)
class Small(Good):
    def __post_init__(self):
        if self.width > 3: sys.exit("too wide")
"""


@pytest.mark.parametrize(
    ("name", "more", "begun", "message"),
    [
        (
            "InPlace",
            (),
            True,
            r"InPlace.evaluate_batch raised ValueError: .*read-only \(.*bad.py:15\); candidates are only ",
        ),
        (
            "Raises",
            (),
            True,
            r"Raises.evaluate_batch raised KeyError: 'no such column' \(.*bad.py:18\); generation 0: 16 ev",
        ),
        ("Exits", (), True, r"Exits.evaluate_batch raised SystemExit: 3 \(.*bad.py:20\)"),
        ("Complex", (), True, r"Complex.evaluate_batch returned dtype complex64: it must be \(4,\), one real number"),
        ("NoInitial", (), False, r"NoInitial must be a tunable or a dataclass of settings"),
        ("NoDescribe", (), False, r"NoDescribe has no describe\(\): an objective has initial\(\), "),
        ("Matrix", (), False, r"Matrix.initial\(\) must be a non-empty vector of finite numbers .* shape \(2, 2\)"),
        ("Built", (), False, r"FileNotFoundError: .*'/nowhere/x.csv' \(.*bad.py:35\)"),
        ("Never", (), False, r"IndexError: list index out of range \(.*bad.py:38\)"),
        ("Small", ("--width", 5), False, r"SystemExit: too wide \(.*bad.py:42\)"),
        ("Absent", (), False, r"bad.py has no 'Absent'"),
    ],
)
def test_a_fault_of_ones_own_objective_is_one_line(tmp_path, monkeypatch, capsys, name, more, begun, message):
    """Exit code 2; its error's type, message and place are not hidden, and its traceback is kept beside a begun run."""
    (tmp_path / "bad.py").write_text(BAD)
    out, named = tmp_path / "run", f"{tmp_path}/bad.py:{name}"
    words = ("--objective", named, "--workers", 0, "--generations", 2, "--pairs", 8, *more, "--out", out)
    line = error_line(evolve, words, monkeypatch, capsys)
    assert re.search(message, line)
    assert out.exists() == begun
    if begun:
        assert f"--objective {named}: " in line
        assert (out / "error.txt").exists() == ("raised" in line)
    if name == "Raises":
        assert 'raise KeyError("no such column")' in (out / "error.txt").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = {}['a']", r"KeyError: 'a' \(.*/bad.py:1\)"),
        ("\ndef f(:", r"SyntaxError: .* \(.*/bad.py:2\)"),
        ("import sys\nsys.exit(3)", r"SystemExit: 3 \(.*/bad.py:2\)"),
        ("import nowhere", r"ModuleNotFoundError: No module named 'nowhere' \(.*/bad.py:1\)"),
    ],
)
def test_a_file_that_cannot_be_imported_is_one_line(tmp_path, monkeypatch, capsys, text, message):
    (tmp_path / "bad.py").write_text(text)
    words = ("--objective", f"{tmp_path}/bad.py:Mine", "--out", tmp_path / "run")
    assert re.search(message, error_line(evolve, words, monkeypatch, capsys))
    assert not (tmp_path / "run").exists()


def test_an_error_inside_an_objective_of_ours_keeps_its_traceback(tmp_path, monkeypatch):
    def broken(self, theta_PD, seeds_P):
        raise IndexError("a fault of ours")

    monkeypatch.setattr("es.objectives.toy.Sphere.evaluate_batch", broken)
    with pytest.raises(RuntimeError, match="a fault of ours") as caught:
        run(arguments(tmp_path / "run", "sphere"))
    assert "Traceback (most recent call last)" in str(caught.value)
