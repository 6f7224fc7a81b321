"""Jobs as Python calls: what keywords become, what comes back, what is raised, how one is interrupted."""

import dataclasses
import importlib
import inspect
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support import QUICK, events, same_bits

import jobs.demo
import jobs.pipeline
import jobs.report
import jobs.tune
from data.errors import UserError
from distributed.training.learner import Learner
from es.objectives.toy import Sphere
from funnel.panels import Table
from jobs.__main__ import COMMANDS
from jobs.calibrate import calibrate
from jobs.check import check
from jobs.command.call import Result, call, keyword, words_of
from jobs.evaluate import evaluate
from jobs.evolve import evolve
from jobs.export import export
from jobs.make_data import make_data
from jobs.report import report
from jobs.score import score
from jobs.status import status
from jobs.train import arguments_of, train

ROOT = Path(__file__).resolve().parent.parent
SMALL = {
    "workers": 0,
    "epochs": 1,
    "batch_size": 400,
    "stream__lanes": 4,
    "model": {"embedding_width": 4, "backbone": {"expert_hidden": [8]}, "tower_hidden": (4,)},
}
"""QUICK as keywords."""


@pytest.fixture(scope="module")
def run(small_log, tmp_path_factory):
    return train(data=small_log, out=tmp_path_factory.mktemp("run") / "run", **SMALL)


def test_keywords_are_the_options_of_the_command(tmp_path):
    words = words_of({"data": Path("log"), "out": tmp_path, **SMALL})
    typed = arguments_of("--data", "log", "--out", str(tmp_path), *QUICK)
    assert dataclasses.asdict(arguments_of(*words)) == dataclasses.asdict(typed)
    run = Result(Path("runs/clicks"))
    assert words_of({"given": {"propensities": run}, "start_from": run}) == [
        *("--given", "propensities=runs/clicks"), "--start-from=runs/clicks",
    ]  # fmt: skip
    assert words_of({"a__b_c": np.float64(1e-5), "many": [1, 2], "left_out": None, "on": True, "x__off": False}) == [
        *("--a.b-c=1e-05", "--many", "1", "2", "--on", "--x.no-off"),
    ]  # fmt: skip
    assert words_of({"x": "--odd", "y": -1}) == ["--x=--odd", "--y=-1"]
    assert keyword("--stream.shuffle-rows") == "stream__shuffle_rows"


def test_a_training_is_that_of_the_command_and_says_how_to_repeat_it(run, small_log):
    assert run.figures == json.loads((run.path / "summary.json").read_text())
    assert os.fspath(run) == str(run.path)
    record = json.loads((run.path / "run.json").read_text())
    assert record["command"].split()[0].endswith("/jobs/train.py")
    assert "--model.backbone.expert-hidden 8" in record["command"]
    (table,) = run.tables
    assert table.title == "test part"
    assert "CTCVR" in str(run)
    assert str(run).endswith(str(run.path))
    page = run._repr_html_()
    assert page.count("<tr>") == 1 + len(table.rows)
    assert f"<code>{run.path}</code>" in page


def test_a_call_prints_a_few_lines_and_no_table(small_log, tmp_path, capsys):
    train(data=small_log, out=tmp_path / "run", **SMALL)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Training escm2_snips")
    assert any(line.startswith("epoch 1: valid") for line in lines)
    assert len(lines) < 7
    assert not any("━" in line for line in lines)
    again = train(data=small_log, out=tmp_path / "run", **SMALL)
    assert "is finished already" in capsys.readouterr().out
    assert again.tables[0].rows == train(data=small_log, out=tmp_path / "run", **SMALL).tables[0].rows


@pytest.mark.slow
def test_every_job_from_a_log_to_files_for_serving(run, small_log, tmp_path):
    checked = check(data=small_log, out=tmp_path / "checked")
    assert checked.figures["parts"]["train"]["rows"] == pq.read_table(small_log / "train").num_rows
    assert (checked.path / "report.html").exists()
    calibrated = calibrate(run=run, space="entire")
    assert calibrated.figures["calibration.method"] == "platt"
    judged = evaluate(run=run, data=small_log, by=["channel"], replicates=40)
    assert judged.path == run.path / "evaluations" / "test"
    assert judged.figures["ctr.auc.low"] < judged.figures["ctr.auc"] < judged.figures["ctr.auc.high"]
    scored = score(run=run, data=small_log, out=tmp_path / "scored.parquet", part="test")
    assert scored.figures == {"rows": pq.read_table(scored.path).num_rows}
    tuned = evolve(scored=scored, out=tmp_path / "tuned", workers=0, generations=5, pairs=4)
    assert tuned.figures["es.generations"] == 5
    served = export(run=run, out=tmp_path / "served", policy=tuned, formats=["pt2"], rows=50)
    assert served.figures["rows"] == 50
    assert (served.path / "serving.json").exists()
    page = report([run, tuned], tmp_path / "page.html")
    assert page._repr_html_().startswith('<iframe srcdoc="&lt;!DOCTYPE html')
    assert [one.state for one in status([run, tuned])] == ["finished", "finished"]
    with pytest.raises(UserError, match=r"scored.parquet exists already"):
        score(run=run, data=small_log, out=tmp_path / "scored.parquet")


def test_a_log_is_made_and_a_plain_objective_tuned(tmp_path):
    log = make_data(tmp_path / "log", rows=2000, users=50, items=20)
    assert pq.read_table(log.path / "test").num_rows == 200
    found = evolve(tmp_path / "es", objective="sphere", dimension=3, workers=0, generations=30, pairs=8)
    assert found.figures["es.final_return"] > Sphere(3).evaluate_batch(Sphere(3).initial()[None], None)[0]
    assert evolve(replay=found).figures == {"generations": 30, "equal": True}
    assert evolve(resume=found).figures == found.figures


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"epoch": 3}, r"^train\(\) has no option 'epoch'; did you mean epochs\?$"),
        ({"model": {"widht": 3}}, r"^train\(\) has no option 'model__widht'; "),
        ({"model": "mmoe"}, r"^train\(\) takes model as options below it: model__embedding_width=\.\.\., .* \.\.\.$"),
        ({"plan_ahead": "yes"}, r"^plan_ahead='yes': is a switch, True or False$"),
        ({"workers": False}, r"^workers=False: takes INT, not True or False$"),
        ({"epochs": (one for one in [1])}, r"^epochs= takes a number, a text, .*, not a value of type generator$"),
        ({"data": b"log"}, r"^data= takes .*, not a value of type bytes$"),
        ({"data": "lo\0g"}, r"^data='lo\\x00g': has a character 0 in it$"),
        ({"epochs": np.array([1, 2])}, r"2"),
        ({"seed": 2**70}, r"seed must be below"),
        ({"seed": -1}, r"seed must be at least 0, got -1"),
        ({"data": None}, r"^train\(\) needs data=\.\.\.$"),
        ({"epochs": "three"}, r"epochs.*three"),
        ({"data": "nowhere"}, r"nowhere: no such directory"),
        ({"data": "s3://key:secret@bucket/log"}, r"credentials|secret"),
    ],
)
def test_what_the_command_refuses_is_raised(keywords, said, small_log, tmp_path):
    with pytest.raises(UserError, match=said):
        train(**{"data": small_log, "out": tmp_path / "run", **SMALL, **keywords})
    assert not (tmp_path / "run").exists()


def test_searches_and_pipelines_are_given_their_options(small_log, tmp_path, monkeypatch):
    """The commands themselves have tests of their own."""
    taken = []
    for module in (jobs.tune, jobs.pipeline):
        monkeypatch.setattr(module, "run", lambda given: taken.append(given) or {"found": 1.0})
    found = jobs.tune.tune(data=small_log, out=tmp_path / "search", samples=3, optimizer__learning_rate=0.1)
    assert (found.path, found.figures) == (tmp_path / "search", {"found": 1.0})
    assert jobs.tune.tune.__module__ == "jobs.tune"
    jobs.pipeline.pipeline(data=small_log, out=tmp_path / "all", workers=0, tuning={"k": 5}, es__generations=7)
    searched, piped = taken
    assert (searched.samples, searched.config.optimizer.learning_rate) == (3, 0.1)
    assert (piped.workers, piped.tuning.k, piped.es.generations) == (0, 5, 7)


@pytest.mark.slow
def test_an_interrupt_saves_and_the_same_call_goes_on_to_the_same_bits(small_log, tmp_path, monkeypatch):
    given = {**SMALL, "data": small_log, "epochs": 4, "log_steps": 1}
    out, proper = tmp_path / "stopped", Learner.step

    def interrupted(self, batch, number):
        if number == 14:  # of the second epoch
            os.kill(os.getpid(), signal.SIGINT)
        return proper(self, batch, number)

    monkeypatch.setattr(Learner, "step", interrupted)
    with pytest.raises(KeyboardInterrupt, match="the same call goes on"):
        train(out=out, **given)
    monkeypatch.undo()
    assert len(events(out, "valid")) == 1
    train(out=out, **given)
    train(out=tmp_path / "unbroken", **given)
    same_bits(out, tmp_path / "unbroken")


def test_another_thread_may_call(small_log, tmp_path):
    """No signal handler is set there, which Python would refuse."""
    found = []
    thread = threading.Thread(target=lambda: found.append(train(data=small_log, out=tmp_path / "run", **SMALL)))
    thread.start()
    thread.join()
    assert found[0].figures["train.epochs"] == 1


def test_the_demo_gives_its_page_and_what_tuning_brought(tmp_path, monkeypatch):
    """The command itself takes a minute."""
    taken = []

    def run(given):
        (given.out / "tuned").mkdir(parents=True)
        (given.out / "tuned" / "summary.json").write_text('{"fusion.significant": true}')
        taken.append(given)
        return given.out / "report.html"

    monkeypatch.setattr(jobs.demo, "run", run)
    found = jobs.demo.demo(tmp_path / "demo", rows=3e5, workers=0)
    assert (found.path, found.figures) == (tmp_path / "demo" / "report.html", {"fusion.significant": True})
    assert (taken[0].rows, taken[0].workers) == (300_000, 0)


@pytest.mark.parametrize(("code", "raised"), [(130, KeyboardInterrupt), (143, SystemExit), (1, UserError)])
def test_the_end_of_a_command_is_an_exception(code, raised):
    def run(_):
        raise SystemExit(code)

    with pytest.raises(raised):
        call("demo", run, jobs.status.Arguments, {}, lambda *_: (Path(), {}), [Path("x")])


def test_a_full_disk_is_the_users_to_mend():
    def run(_):
        raise OSError(28, "No space left on device", "/full/file")

    with pytest.raises(UserError, match="/full/file: No space left on device"):
        call("demo", run, jobs.status.Arguments, {}, lambda *_: (Path(), {}), [Path("x")])


def test_the_umask_of_the_caller_is_restored(tmp_path):
    before = os.umask(0o022)
    try:
        make_data(tmp_path / "log", rows=500, users=20, items=10)
        assert (tmp_path / "log" / "schema.json").stat().st_mode & 0o777 == 0o600
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_text_in_a_result_is_escaped():
    table = Table("a < b", ("x",), (("<b>",), (1234,), (None,)), note="& so on")
    page = Result(Path("r"), {}, (table,))._repr_html_()
    assert "<caption>a &lt; b</caption>" in page
    assert "<td>&lt;b&gt;</td>" in page
    assert "<td>1,234</td></tr><tr><td>-</td>" in page
    assert "<p>&amp; so on</p>" in page


def test_calls_say_what_they_take():
    """Every command is a call, and the page of the docs lists it."""
    page = (ROOT / "docs" / "notebook.md").read_text()
    for command in COMMANDS:
        each = getattr(importlib.import_module(f"jobs.{command}"), command)
        assert inspect.getdoc(each), each
        assert "__future__" not in str(inspect.signature(each))
        assert f"`jobs.{command}.{command}`" in page


@pytest.mark.ray
@pytest.mark.slow
def test_a_later_call_that_needs_more_workers_gets_a_larger_local_ray(tmp_path):
    code = """
from jobs.evolve import evolve
import ray, sys
for workers in (1, 2):
    evolve(f"{sys.argv[1]}/{workers}", objective="sphere", dimension=3, workers=workers, generations=2, pairs=4)
    print("CPUs", ray.cluster_resources()["CPU"])
"""
    unset = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=unset, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("CPUs")] == ["CPUs 1.0", "CPUs 2.0"]


def test_values_become_the_words_of_the_command():
    given = {"rows": 3e5, "rate": 0.1, "many": np.array([1, 2]), "one": np.float32(0.5), "few": range(2), "on": True}
    expected = ["--rows=300000", "--rate=0.1", "--many", "1", "2", "--one=0.5", "--few", "0", "1", "--on"]
    assert words_of(given) == expected


def test_a_run_is_a_path():
    with pytest.raises(UserError, match="not a value of type int"):
        jobs.report.report(3, "page.html")
