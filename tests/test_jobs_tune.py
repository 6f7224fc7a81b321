"""jobs.tune: aims, presets, one real small search of each kind, going on after a kill, mistakes in one line."""

import dataclasses
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.tune import Checkpoint
from support import RATES, TINY_SEARCH, settings_of, tiny_search

from benchmarks.evaluation import tune as benchmark
from data.log import open_log
from distributed.training import loop as train_loop
from distributed.training.launch import prepare, run_training
from es.config import ESConfig
from es.engine import run as run_engine
from es.milestones import milestones
from es.objectives.toy import Sphere
from jobs import report, train, tune
from jobs.run.directory import read_json
from jobs.tune.aim import FAILED, INFEASIBLE, front, read_aim
from jobs.tune.files import Ledger, read_reports
from jobs.tune.options import find_space, held
from jobs.tune.training import with_settings


class Known:
    """What an aim asks of a subject."""

    goal = "ctcvr.log_loss"

    def smaller_is_better(self, figure: str) -> bool:
        if figure == "auc":
            raise ValueError("want one of ctr.auc, ctr.log_loss")
        return figure.endswith("log_loss")

    def reported(self) -> list[str]:
        return ["ctr.auc", "ctr.log_loss"]


def aim_of(metric: str, limits: Any = (), pareto: Any = ()) -> Any:
    return read_aim(Known(), metric, limits, pareto)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def found(ray_cluster: None, small_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search of three trials."""
    out = tmp_path_factory.mktemp("tune") / "search"
    tune.run(tiny_search(small_log, out))
    return out


def test_limits_come_before_the_figure() -> None:
    aim = aim_of("cvr.click.auc", ["ctr.auc>=0.6", "ctr.log_loss <= 0.5"])
    good = {"cvr.click.auc": 0.51, "ctr.auc": 0.6, "ctr.log_loss": 0.5}
    better = good | {"cvr.click.auc": 0.7}
    near = better | {"ctr.auc": 0.59}
    far = better | {"ctr.auc": 0.5}
    scores = [aim.scores(figures)["score"] for figures in (better, good, near, far, None)]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == 0.7
    assert scores[3] < scores[2] < INFEASIBLE < scores[1]
    assert scores[4] == FAILED
    assert aim.missed_by(far) == pytest.approx(0.1)
    assert aim.scores({"ctr.auc": 0.6})["score"] == FAILED  # a figure that is absent is no limit kept


def test_figures_are_turned_so_that_higher_is_better() -> None:
    assert aim_of("ctr.log_loss").scores({"ctr.log_loss": 0.3})["score"] == -0.3
    assert aim_of("ctr.auc").scores({"ctr.auc": 0.3})["score"] == 0.3
    assert str(aim_of("", ["ctr.auc>=0.6"])) == "minimise ctcvr.log_loss subject to ctr.auc >= 0.6"


def test_front_keeps_what_nothing_dominates() -> None:
    assert front([(1, 4), (2, 3), (2, 2), (0, 5), (1, 4), (0, 4)]) == [0, 1, 3, 4]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"out": None}, "--out DIR is needed"),
        ({"data": ""}, "--data LOG is needed"),
        ({"objective": "fusion"}, "--scored FILE is needed"),
        ({"objective": "fusion", "problem": "listwise"}, "--problem and --objective: give one of the two"),
        ({"metric": "auc"}, "--metric auc: .*want one of ctr.auc, ctr.log_loss"),
        ({"subject_to": ("ctr.auc>0.6",)}, "--subject-to ctr.auc>0.6: want FIGURE>=NUMBER"),
        (
            {"subject_to": ("auc>=0.6",)},
            "--subject-to auc: no such validation figure; there are .*ctr.auc, .*cvr.click.pcoc",
        ),
        ({"subject_to": ("ctr.auc>=much",)}, "--subject-to ctr.auc>=much: want FIGURE>=NUMBER"),
        ({"pareto": ("ctr.auc",), "scheduler": "none"}, "--pareto ctr.auc: want two different figures"),
        ({"pareto": ("ctr.auc", "cvr.click.auc")}, "--scheduler asha goes by one figure: --pareto needs"),
        (
            {"pareto": ("a", "b"), "metric": "ctr.auc", "scheduler": "none"},
            "--metric and --pareto: give one of the two",
        ),
        ({"space": "x"}, "--space x: no such space of entire_space; there are standard, network, loss, rates"),
        ({"samples": 0}, "--samples must be at least 1"),
        ({"samples": 3, "scheduler": "pbt"}, r"--samples 3: a population \(--scheduler pbt\) needs 4 or more"),
        ({"objective": "sphere", "scheduler": "pbt"}, "--scheduler pbt is for --problem"),
        ({"concurrent": 10_000}, "--concurrent 10000: this machine has"),
        ({"space": "rates", "hold": tuple(RATES)}, "--space rates: the options that are given leave nothing of it"),
        ({"space": "rates", "config": settings_of(RATES).config}, "--space rates: the options that are given leave"),
    ],
)
def test_mistakes_are_told_before_anything_starts(small_log: Path, tmp_path: Path, given: Any, message: str) -> None:
    arguments = dataclasses.replace(tune.Arguments(out=tmp_path / "out", data=str(small_log)), **given)
    with pytest.raises(ValueError, match=message):
        tune.run(arguments)
    assert not (tmp_path / "out").exists()


def test_an_option_that_is_given_is_not_searched(tmp_path: Path) -> None:
    words = ("--data", "log", "--out", tmp_path, "--optimizer.learning-rate", 0.001, "--objective.lambda-c", 0.3)
    arguments = tune.arguments_of(*words)
    assert arguments.config.optimizer.learning_rate == 0.001  # its default
    assert held(arguments) == {"optimizer.learning_rate", "objective.lambda_c"}
    words = (
        "--objective",
        "fusion",
        "--out",
        tmp_path,
        "--tuning.scored",
        "x.parquet",
        "--tuning.k",
        3,
        "--sigma",
        0.1,
    )
    arguments = tune.arguments_of(*words, "--space", "forms")
    assert held(arguments) == {"sigma", "k"}
    assert set(find_space(arguments.kind, True, "forms")) == {
        "fusion", "sigma", "pairs", "learning_rate", "weight_decay"
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"unknown option '--set'; valid: --out, --problem, .*--tuning\.scored"):
        tune.arguments_of("--objective", "fusion", "--set", "k=3")


def test_the_hook_ends_a_training(small_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings_of({**TINY_SEARCH, "epochs": 3, "patience": 0})
    job = prepare(tmp_path / "run", open_log(str(small_log)), *given, time.time())
    seen: list[dict[str, Any]] = []

    def on_epoch(figures: dict[str, Any]) -> bool:
        assert (tmp_path / "run" / "checkpoints" / f"step-{figures['step']:08d}").is_dir()
        seen.append(figures)
        return figures["epoch"] < 2

    (tmp_path / "run").mkdir()
    figures = run_training(job, workers=0, on_epoch=on_epoch)
    assert figures["train.epochs"] == 2
    assert [record["epoch"] for record in seen] == [1, 2]
    assert {"ctr.auc", "ctcvr.log_loss", "step", "best"} <= seen[0].keys()
    # what one worker's hook says, all of them do
    monkeypatch.setattr(train_loop, "max_over_workers", lambda flag: flag + 1)
    assert train_loop.any_worker(False, train_loop.torch.device("cpu"))


def test_pauses_change_no_bit(tmp_path: Path) -> None:
    config = ESConfig(generations=25, pairs=8, sigma=0.1)
    whole = run_engine(Sphere(dimension=6), config, tmp_path / "whole")
    steps = list(milestones(Sphere(dimension=6), config, tmp_path / "steps", 10))
    assert [step.generations for step in steps] == [10, 20, 25]
    assert np.array_equal(steps[-1].theta, whole.theta)
    again = list(milestones(Sphere(dimension=6), config, tmp_path / "steps", 10))
    assert [step.generations for step in again] == [25]
    assert np.array_equal(again[0].theta, whole.theta)


@pytest.mark.ray
def test_a_search_finds_and_keeps(found: Path, small_log: Path, tmp_path: Path) -> None:
    summary = read_json(found / "summary.json")
    assert summary["tune.trials"] == 3 == summary["tune.finished"] + summary["tune.stopped"]
    runs = [found / "trials" / f"{index:04d}" for index in range(3)]
    losses = [read_reports(run)[-1]["figures"]["ctcvr.log_loss"] for run in runs]
    assert summary["best.trial"] == int(np.argmin(losses))
    assert summary["best.valid.ctcvr.log_loss"] == min(losses) <= summary["default.valid.ctcvr.log_loss"]
    assert "best.test.cvr.entire.auc" in summary
    assert (found / "trials.csv").read_text().count("\n") == 4
    assert not (found / ".tune").exists()
    assert "| CTCVR log-loss |" in benchmark.describe(benchmark.Arguments(), [summary])
    # a trial is what jobs.train makes of its settings, and of the validation part only
    best = runs[summary["best.trial"]]
    assert read_json(best / "summary.json")["part"] == "valid"
    given = settings_of({**TINY_SEARCH, "epochs": 2, **summary["best.settings"]})
    job = prepare(tmp_path / "run", open_log(str(small_log)), *given, time.time())
    (tmp_path / "run").mkdir()
    figures = run_training(job, workers=0)
    if read_json(best / "trial.json")["state"] == "finished":
        assert summary["best.test.ctcvr.log_loss"] == pytest.approx(figures["ctcvr.log_loss"], rel=1e-6)
    filled = train.arguments_of("--data", "x", "--out", "y", "--preset", str(found / "best.json"))
    assert (filled.config, filled.settings) == given


@pytest.mark.ray
def test_a_search_goes_on(found: Path, small_log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without its last trial's end and the summary: as if the driver had been killed there."""
    ledger, before = Ledger(found / "ledger.jsonl").settings, read_json(found / "summary.json")
    kept = (found / "trials" / "0000" / "trial.json").stat().st_mtime_ns
    (found / "summary.json").unlink()
    (found / "trials" / "0002" / "trial.json").unlink()
    after = tune.run(tune.arguments_of("--resume", found, "--concurrent", 1))
    assert "Continuing" in capsys.readouterr().out
    assert Ledger(found / "ledger.jsonl").settings == ledger
    assert (found / "trials" / "0000" / "trial.json").stat().st_mtime_ns == kept
    assert after["best.valid.ctcvr.log_loss"] == before["best.valid.ctcvr.log_loss"]
    assert tune.run(tiny_search(small_log, found)) == after
    with pytest.raises(ValueError, match="holds another run: samples was 3, now 4"):
        tune.run(tiny_search(small_log, found, samples=4))
    page = report.run(report.Args(runs=[found], out=found.parent / "report.html")).read_text()
    assert "Searching settings" in page
    assert "Settings and ctcvr.log_loss of every trial" in page


@pytest.fixture
def no_tune(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials one after the other in this process, with nobody to report to: for what happens around Tune."""
    from jobs.tune import driver
    from jobs.tune import search as searching
    from jobs.tune import trial as trials

    def search(plan: Any, space: Any, default: Any, ledger: Ledger, how: searching.How, *rest: Any) -> None:
        for index, point in enumerate(searching.draw(space, default, how.samples, seed=0)):
            ledger.add(point)
            trials.trainable(plan)({trials.INDEX: index, **point})

    monkeypatch.setattr(driver, "search", search)
    monkeypatch.setattr(tune, "connect", lambda *given: None)
    monkeypatch.setattr(trials.tune, "report", lambda *given, **more: None)
    monkeypatch.setattr(trials.tune, "get_checkpoint", lambda: None)
    monkeypatch.setattr(trials.tune, "get_context", lambda: SimpleNamespace(get_trial_id=lambda: "none"))


def test_no_trial_is_feasible(no_tune: None, small_log: Path, tmp_path: Path) -> None:
    out = tmp_path / "search"
    given = {"samples": 2, "values": {"epochs": 1}, "subject_to": ("ctr.auc>=0.99",)}
    summary = tune.run(tiny_search(small_log, out, **given))
    assert summary["tune.feasible"] == 0
    assert "No trial of 2 is feasible" in summary["tune.message"]
    assert not (out / "best.json").exists()
    page = report.run(report.Args(runs=[out], out=tmp_path / "report.html")).read_text()
    assert "none is feasible" in page


def test_a_front_of_two_figures(no_tune: None, small_log: Path, tmp_path: Path) -> None:
    out = tmp_path / "search"
    given = {"scheduler": "none", "values": {"epochs": 1}, "pareto": ("ctr.auc", "cvr.click.auc")}
    summary = tune.run(tiny_search(small_log, out, **given))
    front_presets = sorted(path.stem for path in (out / "front").iterdir())
    assert [f"{index:04d}" for index in sorted(summary["tune.front"])] == front_presets
    assert f"front.{front_presets[0]}.test.ctr.auc" in summary
    page = report.run(report.Args(runs=[out], out=tmp_path / "report.html")).read_text()
    assert "ctr.auc against cvr.click.auc" in page


def test_every_trial_fails(no_tune: None, small_log: Path, tmp_path: Path) -> None:
    wild = {"epochs": 1, "optimizer.learning_rate": 1e30}
    with pytest.raises(ValueError, match=r"all 2 trials failed; the first: the loss is nan at step"):
        tune.run(tiny_search(small_log, tmp_path / "search", wild, samples=2))
    assert (tmp_path / "search" / "trials.csv").read_text().count("failed") == 2


def test_a_training_at_its_end_is_taken_over_whole(
    no_tune: None, small_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trial 1 is handed the checkpoints of trial 0 after its last epoch: its settings have trained nothing."""
    from jobs.tune import trial as trials
    from jobs.tune.training import Training

    job = prepare(tmp_path, open_log(str(small_log)), *settings_of({**TINY_SEARCH, "epochs": 2}), time.time())
    trial = trials.trainable(trials.Plan(str(tmp_path), aim_of("ctcvr.log_loss"), Training(job, checkpoints=True)))
    first, second = tmp_path / "0000", tmp_path / "0001"
    trial({trials.INDEX: 0, "optimizer.learning_rate": 0.01})
    monkeypatch.setattr(trials.tune, "get_checkpoint", lambda: Checkpoint(str(first / "checkpoints")))
    trial({trials.INDEX: 1, "optimizer.learning_rate": 0.5})
    assert read_reports(second) == read_reports(first)[-1:]
    assert read_json(second / "settings.json") == read_json(first / "settings.json")
    assert read_json(second / "trial.json")["state"] == "finished"


@pytest.mark.parametrize("name", ["escm2_dr", "escm2_ips", "naive"])
def test_a_trial_has_the_towers_of_the_objective_that_it_drew(small_log: Path, tmp_path: Path, name: str) -> None:
    """Though what all trials share was prepared with another one."""
    config, settings = settings_of({**TINY_SEARCH, "epochs": 1, "objective.name": "escm2_snips"})
    shared = prepare(tmp_path, open_log(small_log), config, settings, time.time())
    own = settings_of({**TINY_SEARCH, "epochs": 1, "objective.name": name})
    found = with_settings(shared, *own)
    assert found.facts == prepare(tmp_path, open_log(small_log), *own, time.time()).facts
    figures = run_training(dataclasses.replace(found, run=str(tmp_path)), workers=0)
    assert figures["train.epochs"] == 1
