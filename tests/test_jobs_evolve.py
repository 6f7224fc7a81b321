"""jobs.evolve: what it leaves behind, what it refuses, and that stopping it loses nothing."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file
from support import as_program, wait_until

from funnel.fusion.scored_log import read_scored
from funnel.fusion.tuning import FusionSettings
from jobs.evolve import Arguments, run
from jobs.evolve.options import fill

ROOT = Path(__file__).resolve().parent.parent


def scored_table(requests=120, candidates=15, seed=0):
    generator = np.random.default_rng(seed)
    rows = requests * candidates
    relevance = generator.standard_normal((2, rows))
    click_rate, conversion_rate = 1 / (1 + np.exp(2 - relevance))
    click = generator.random(rows) < click_rate
    conversion = click & (generator.random(rows) < conversion_rate)
    pctr, pcvr = click_rate**0.5, conversion_rate**2  # right in order, wrong in scale
    return {
        "exposure_id": np.arange(rows),
        "user": [f"user-{request // 3}" for request in range(requests) for _ in range(candidates)],
        "request": np.repeat(np.arange(requests), candidates),
        "click": click.astype(np.int8),
        "conversion": conversion.astype(np.int8),
        "pctr": pctr.astype(np.float32),
        "pcvr": pcvr.astype(np.float32),
        "pctcvr": (pctr * pcvr).astype(np.float32),
    }


def write(path, table):
    pq.write_table(pa.table(table), path)
    return path


@pytest.fixture
def scored(tmp_path):
    return write(tmp_path / "scored.parquet", scored_table())


def arguments(scored, out, **changes):
    values = {"scored": str(scored), "workers": 0, "generations": 4, "pairs": 8, "k": 5, **changes}
    config, settings = fill(FusionSettings, values, "")
    return Arguments(out=out, resamples=50, config=config, settings=settings)


def test_a_run_leaves_what_it_promises(scored, tmp_path):
    out = tmp_path / "run"
    scored = write(tmp_path / "more.parquet", scored_table(requests=300))
    summary = run(arguments(scored, out))
    assert json.loads((out / "summary.json").read_text()) == summary
    rivals = ("untuned", "best_single", "grid")
    for key in ("tuned", *rivals, *(f"gain_over_{rival}" for rival in rivals)):
        for metric in ("value_at_5", "ndcg_at_5"):
            low, middle, high = (summary[f"fusion.{metric}.{key}{end}"] for end in (".low", "", ".high"))
            assert low <= middle <= high
    assert summary["fusion.best_single_name"] in ("pctr", "pcvr", "pctcvr")
    assert isinstance(summary["fusion.significant"], bool)
    assert summary["message"].endswith(".")
    assert summary["fusion.test_users"] + summary["fusion.tune_users"] == 100
    assert summary["es.generations"] == 4
    assert summary["es.evaluations"] == 4 * (2 * 8 + 1)
    assert (summary["es.dimension"], summary["es.workers"]) == (6, 0)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["generation"] for line in lines] == [0, 1, 2, 3]
    assert {"event", "return.centre", "return.std", "grad_norm", "bytes_out", "lost_pairs"} <= lines[0].keys()
    record = json.loads((out / "run.json").read_text())
    assert record["kind"] == "evolve"
    assert (record["config"]["objective"], record["config"]["settings"]["fusion"]) == ("fusion", "product")
    assert {"rows": 4500, "users": 100, "requests": 300}.items() <= record["data"].items()
    policy = json.loads((out / "policy.json").read_text())
    assert policy["names"][0] == "exponent.pctr"
    assert policy["before"][:3] == [1.0, 1.0, 1.0]
    assert len(policy["after"]) == 6
    assert policy["after"] != policy["before"]
    assert (policy["k"], policy["conversion_weight"], policy["scores"]) == (5, 10.0, ["pctr", "pcvr", "pctcvr"])


@pytest.mark.ray
def test_workers_do_not_change_the_result(ray_cluster, scored, tmp_path):
    for name, workers in (("a", 0), ("b", 2)):
        run(arguments(scored, tmp_path / name, workers=workers))
    here, there = (load_file(tmp_path / name / "checkpoint.safetensors") for name in "ab")
    np.testing.assert_array_equal(here["theta"], there["theta"])
    assert (tmp_path / "a" / "policy.json").read_text() == (tmp_path / "b" / "policy.json").read_text()


def test_a_finished_run_says_so_and_other_settings_are_refused(scored, tmp_path, capsys):
    out = tmp_path / "run"
    summary = run(arguments(scored, out))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    assert run(arguments(scored, out)) == summary
    assert "is finished already" in capsys.readouterr().out
    for changes, key in (
        ({"sigma": 0.2}, "es.sigma"),
        ({"fusion": "sum"}, "settings.fusion"),
        ({"k": 3}, "settings.k"),
    ):
        with pytest.raises(ValueError, match=f"another run: {key} was"):
            run(arguments(scored, out, **changes))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


STANDS_STILL = """
import runpy, threading
from es import engine
proper = engine.run
def run(objective, config, out, on_generation, *more, **named):
    def after(metrics):
        on_generation(metrics)
        if metrics["generation"] == 30:
            threading.Event().wait()
    return proper(objective, config, out, after, *more, **named)
engine.run = run
runpy.run_module("jobs.evolve", run_name="__main__")
"""


@pytest.mark.slow
def test_a_stopped_run_continues_to_the_same_result(scored, tmp_path):
    """Killed after generation 30, where it is made to wait."""
    expected = run(arguments(scored, tmp_path / "straight", generations=200))
    command = [sys.executable, "-c", STANDS_STILL, "--scored", scored, "--out", tmp_path / "run", "--workers", "0"]
    command += ["--generations", "200", "--pairs", "8", "--k", "5", "--resamples", "50"]
    process = subprocess.Popen(
        [str(word) for word in command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    try:
        wait_until(lambda: metrics.exists() and metrics.read_text().count("\n") == 31)
    finally:
        process.kill()
        process.communicate()
    assert not (tmp_path / "run" / "summary.json").exists()
    resumed = run(arguments(scored, tmp_path / "run", generations=200))
    assert {key: resumed[key] for key in resumed if key.startswith("fusion.")} == {
        key: expected[key] for key in expected if key.startswith("fusion.")
    }
    straight, continued = ((tmp_path / name / "policy.json").read_text() for name in ("straight", "run"))
    assert straight == continued
    generations = [json.loads(line)["generation"] for line in metrics.read_text().splitlines()]
    assert generations == list(range(200))


def changed(column, row, value):
    def change(table):
        values = table[column] = np.array(table[column])
        if isinstance(value, float):
            values = table[column] = values.astype(np.float32)
        values[row] = value

    return change


def without(*columns):
    def change(table):
        for column in columns:
            del table[column]

    return change


def with_column(name, make):
    def change(table):
        table[name] = make(table)

    return change


def one_user(table):
    table["user"] = ["me"] * len(table["user"])


def conversion_without_click(table):
    table["click"][:], table["conversion"][:] = 0, 0
    table["conversion"][7] = 1


def no_clicks(table):
    table["click"][:], table["conversion"][:] = 0, 0


def without_user_or_request(table):
    del table["request"]
    table["user"] = [None, *table["user"][1:]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("pcvr", "click"), "has no column pcvr, click"),
        (without("user", "request"), "needs a column 'user' or 'request'"),
        (changed("pctr", 5, float("nan")), r"column 'pctr' is not finite in row 5 \(1 rows in all\)"),
        (changed("pctcvr", 9, float("inf")), "column 'pctcvr' is not finite in row 9"),
        (changed("click", 3, 2), "column 'click' is neither 0 nor 1 in row 3"),
        (conversion_without_click, "column 'conversion' is 1 where click is 0 in row 7"),
        (no_clicks, "no click or conversion"),
        (one_user, "1 user in all"),
        (
            with_column("pcvr", lambda table: [str(value) for value in table["pcvr"]]),
            "'pcvr' is string: a score must be",
        ),
        (with_column("click", lambda table: ["no"] * len(table["pcvr"])), "'click' is string: a label must be 0 or 1"),
        (with_column("user", lambda table: np.asarray(table["pcvr"])), "'user' is float: an id must be"),
        (without_user_or_request, "'user' is null in row 0"),
        (with_column("value", lambda table: -np.ones(len(table["pcvr"]))), "'value' is negative"),
        (
            with_column("pctr", lambda table: table["pctr"] - 1),
            "'pctr' is below 0 or above 1, no probability, in row 0: -",
        ),
    ],
)
def test_bad_files_are_named_and_nothing_is_written(tmp_path, change, message):
    table = scored_table()
    change(table)
    path = write(tmp_path / "scored.parquet", table)
    with pytest.raises(ValueError, match=message) as caught:
        run(arguments(path, tmp_path / "run"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_broken_and_absent_files(scored, tmp_path):
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(scored.read_bytes()[:-100])
    text = tmp_path / "text.parquet"
    text.write_text("hello")
    content = bytearray(scored.read_bytes())
    content[100 : len(content) // 2] = bytes(len(content) // 2 - 100)  # footer whole, pages not
    corrupt = tmp_path / "corrupt.parquet"
    corrupt.write_bytes(content)
    empty = write(tmp_path / "empty.parquet", {name: column[:0] for name, column in scored_table().items()})
    for path, message in (
        (broken, "broken.parquet: not a readable Parquet file"),
        (text, "text.parquet: not a readable Parquet file"),
        (corrupt, "corrupt.parquet: its data are corrupt"),
        (empty, "empty.parquet: holds no rows"),
        (tmp_path / "absent.parquet", "absent.parquet: no such file"),
        (tmp_path, "is a directory"),
    ):
        with pytest.raises(ValueError, match=message):
            run(arguments(path, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": 10_000}, r"--workers 10000: this machine has \d+ CPUs"),
        ({"sigma": 0.0}, "sigma is 0.0: it must be above 0"),
        ({"k": 0}, "k is 0"),
        ({"k": 15}, "no request with a click has more than 15 candidates"),
        ({"conversion_weight": -1.0}, "conversion_weight is -1.0"),
    ],
)
def test_impossible_settings(scored, tmp_path, monkeypatch, changes, message):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ValueError, match=message):
        run(arguments(scored, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_somebody_elses_directory_is_left_alone(scored, tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"not empty and holds no run\.json"):
        run(arguments(scored, out))
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


def test_requests_and_users(tmp_path):
    table = scored_table(requests=6, candidates=2)
    both = read_scored(write(tmp_path / "both.parquet", table), 10.0)
    assert both.log.users == 2
    assert int(both.log.request_C.max()) + 1 == 6
    again = dict(table, request=np.tile(np.repeat([0, 1, 2], 2), 2))  # numbered anew for each user
    np.testing.assert_array_equal(
        read_scored(write(tmp_path / "again.parquet", again), 10.0).log.request_C, both.log.request_C
    )
    by_user = read_scored(write(tmp_path / "user.parquet", {k: v for k, v in table.items() if k != "request"}), 10.0)
    assert int(by_user.log.request_C.max()) + 1 == 2
    by_request = read_scored(write(tmp_path / "request.parquet", {k: v for k, v in table.items() if k != "user"}), 10.0)
    assert by_request.log.users == 6
    valued = dict(table, value=np.full(12, 2.5))
    log = read_scored(write(tmp_path / "value.parquet", valued), 10.0).log
    assert log.names == ("pctr", "pcvr", "pctcvr", "value")
    np.testing.assert_allclose(log.reward_C, table["click"] + 10 * 2.5 * table["conversion"])


def test_weights_may_follow_the_user_and_outcomes_be_guarded(tmp_path):
    table = scored_table()
    table["age"] = np.repeat(np.arange(40) % 7, 45).astype(np.float32)
    path = write(tmp_path / "scored.parquet", table)
    run(arguments(path, tmp_path / "run", by=("age",), constrain=("click=0.01",)))
    policy = json.loads((tmp_path / "run" / "policy.json").read_text())
    assert policy["names"][-3:] == ["slope.pctr.age", "slope.pcvr.age", "slope.pctcvr.age"]
    assert 2 < policy["by"]["age"]["mean"] < 4  # of the half that was tuned on
    for changes, message in (
        ({"by": ("pctr",)}, "--by pctr: weights follow columns that describe the user"),
        ({"by": ("height",)}, "has no column height .*; jobs.score --keep height writes it"),
        ({"by": ("exposure_id",)}, "'exposure_id' differs from the request's first row"),
        ({"constrain": ("sales=0.1",)}, "--constrain sales=0.1: the outcome must be one of click, conversion"),
        ({"constrain": ("click=little",)}, "--constrain click=little: want click=0.005"),
        ({"constrain": ("click=2",)}, "tolerance 2.0 must be in"),
    ):
        with pytest.raises(ValueError, match=message):
            run(arguments(path, tmp_path / "other", **changes))
    assert not (tmp_path / "other").exists()


def test_a_mistake_on_the_command_line_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys):
    words = ("--scored", tmp_path / "absent.parquet", "--out", tmp_path / "run")
    code, _, said = as_program("jobs.evolve", words, monkeypatch, capsys)
    assert code == 2
    assert said == f"error: --scored {tmp_path}/absent.parquet: no such file (jobs.score writes one)\n"
    code, help_text, _ = as_program("jobs.evolve", ("--help",), monkeypatch, capsys)
    assert code == 0
    assert "python -m jobs.evolve --scored" in help_text
