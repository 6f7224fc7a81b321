"""jobs.pipeline: every stage in its place, only what is not valid done again, and the same bits whatever was killed."""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import forking
from safetensors.numpy import load_file

from benchmarks.faults.pipeline_kills import SMALL, differences, results
from data.generate import generate_days
from data.world import GeneratedLog
from jobs import evolve, pipeline, train
from jobs.pipeline import Arguments
from jobs.run.run_status import read_status

WORLD: dict[str, Any] = {"rows_per_file": 2000, "rows_per_group": 400, "users": 200, "items": 100}
TRAINING = tuple(word for key, value in SMALL.items() for word in (f"--{key}", value))


def options(log: Path | None, out: Path, *words: object, **changes: Any) -> Arguments:
    """A pipeline of a few seconds; `changes`: options without a dash or a dot in their names."""
    given = {"workers": 0, "resamples": 50, "replicates": 40, "export_rows": 200, "poll": 0.05, **changes}
    given |= {"data": log} if log else {}
    own = [word for key, value in given.items() for word in (f"--{key.replace('_', '-')}", value)]
    small = (*TRAINING, "--tuning.k", 3, "--es.generations", 6, "--es.pairs", 8)
    formats = () if "--formats" in words else ("--formats",)
    return pipeline.arguments_of("--out", out, *own, *small, *formats, *words)


def stages(out: Path) -> dict[str, Any]:
    return json.loads((out / "pipeline.json").read_text())["stages"]


@pytest.fixture(scope="module")
def finished(small_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pipeline") / "run"
    pipeline.run(options(small_log, out, "--formats", "pt2", epochs=3))
    return out


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A finished pipeline to damage: at the same place, for its files name their places."""
    kept = tmp_path / "kept"
    shutil.copytree(finished, kept, symlinks=True)
    yield finished
    shutil.rmtree(finished)
    shutil.move(kept, finished)


@pytest.mark.slow
def test_all_stages_leave_what_they_promise(finished: Path) -> None:
    done = stages(finished)
    assert list(done) == ["train", "score", "evolve", "evaluate", "export"]
    assert all(entry["state"] == "done" and entry["made"] == 1 for entry in done.values())
    summary = json.loads((finished / "summary.json").read_text())
    assert {"ctr.auc", "fusion.value_at_3.tuned", "es.generations", "part", "message"} <= summary.keys()
    assert not [key for key in summary if "second" in key or key.endswith("_s")]
    assert pq.read_metadata(finished / "scored" / "test.parquet").num_rows == summary["ctr.count"]
    assert (finished / "served" / "serving.json").exists()
    found = read_status(finished)
    assert (found.kind, found.state) == ("pipeline", "finished")
    page = (finished / "report.html").read_text()
    assert "The pipeline" in page
    config = json.loads((finished / "tuned" / "run.json").read_text())["config"]["settings"]
    assert config["scored"].endswith("scored/valid.parquet")  # the test part is for judging alone
    assert config["judge"].endswith("scored/test.parquet")


@pytest.mark.slow
def test_a_policy_that_cannot_be_served_is_left_out(small_log: Path, tmp_path: Path) -> None:
    given = options(small_log, tmp_path / "run", "--formats", "pt2", "--tuning.fusion", "rank", epochs=1)
    pipeline.run(given)
    assert stages(given.out)["export"]["facts"]["policy"].startswith("left out: it is by rank")
    assert (given.out / "served" / "ranker.pt2").exists()


def again(log: Path, out: Path) -> set[str]:
    """Give the command again; the stages that were done again or for the first time."""
    before = {name: entry["finished"] + str(entry["made"]) for name, entry in stages(out).items()}
    pipeline.run(options(log, out, "--formats", "pt2", epochs=3))
    return {name for name, entry in stages(out).items() if before.get(name) != entry["finished"] + str(entry["made"])}


@pytest.mark.slow
def test_nothing_is_done_twice_and_damage_is_mended_from_there_on(
    copied: Path, small_log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = results(copied)
    assert again(small_log, copied) == set()
    assert "train: done already" in capsys.readouterr().out
    with (copied / "tuned" / "policy.json").open("a") as file:
        file.write(" ")
    assert again(small_log, copied) == {"evolve", "export"}
    assert "evolve: its output tuned/policy.json is damaged" in capsys.readouterr().out
    assert differences(expected, results(copied)) == []


@pytest.mark.slow
def test_another_log_is_trained_on_again(small_log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, out = tmp_path / "log", tmp_path / "run"
    shutil.copytree(small_log, log)
    given = options(log, out, "--es.generations", 1, epochs=1)
    pipeline.run(given)
    part = log / "valid" / "part-00000.parquet"
    table = pq.read_table(part)
    pq.write_table(table.slice(0, table.num_rows - 30), part)
    pipeline.run(given)
    assert "train: its input changed (data)" in capsys.readouterr().out
    assert {entry["made"] for entry in stages(out).values()} == {2}


def test_mistakes_are_one_line_before_anything_starts(small_log: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    cases: dict[str, Any] = {
        "--data LOG is needed": lambda: options(None, run),
        "its fusion cannot be tuned: no request with a click has more than 40 candidates": lambda: options(
            small_log, run, "--tuning.k", 40
        ),
        "has no part 'test'": lambda: options(without_test(small_log, tmp_path), run),
        "--day-generations must be at least 1": lambda: options(small_log, run, day_generations=0),
        "unknown option '--modle.embedding-width'": lambda: options(small_log, run, "--modle.embedding-width", 1),
        "--days goes with --watch": lambda: options(small_log, run, days=2),
        "--es.seed 3: --seed decides the evolution, too": lambda: options(small_log, run, "--es.seed", 3),
        "--objective off_policy: tunes no scores": lambda: options(small_log, run, objective="off_policy"),
        "--given propensities=.*holds no trained model": lambda: options(small_log, run, given=f"propensities={run}"),
    }
    for message, make in cases.items():
        with pytest.raises(ValueError, match=message):
            pipeline.run(make())
        assert not run.exists(), message


def without_test(log: Path, tmp_path: Path) -> Path:
    shutil.copytree(log, tmp_path / "log", ignore=shutil.ignore_patterns("test"))
    return tmp_path / "log"


# --- kills ---------------------------------------------------------------------------------------------------------


def killed_at(context: Any, given: Arguments, stage: str, after_s: float, gently: bool = False) -> int | None:
    """Start the pipeline in a process of its own; a signal once it is at a stage, or nothing if it is past that."""
    process = context.Process(target=silent, args=(given,))
    process.start()
    while process.is_alive():
        try:
            ours = json.loads((given.out / "process.json").read_text())["pid"] == process.pid
            running = [name for name, entry in stages(given.out).items() if ours and entry["state"] == "running"]
        except (OSError, json.JSONDecodeError):
            running = []
        if any(name.startswith(stage) for name in running):
            time.sleep(after_s)
            break
        time.sleep(0.002)
    (process.terminate if gently else process.kill)()
    process.join()
    return process.exitcode


def silent(given: Arguments) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    pipeline.run(given)


@pytest.mark.slow
def test_the_same_bits_whatever_was_killed(small_log: Path, tmp_path: Path) -> None:
    """Kills on the way of one run; benchmarks/faults/pipeline_kills.py has twenty at random moments."""
    context = forking()
    given = options(small_log, tmp_path / "run", "--es.generations", 200, epochs=2)
    pipeline.run(given)
    expected = results(given.out)
    shutil.rmtree(given.out)
    for stage, after_s in (("train", 0.3), ("evolve", 0.1), ("evaluate", 0.2)):
        ended = killed_at(context, given, stage, after_s)
        assert ended in (-signal.SIGKILL, 0)
        assert read_status(given.out).state == ("finished" if ended == 0 else "stopped")
    for _ in range(5):  # on a busy machine the stage may be over before its beginning is seen
        shutil.rmtree(given.out / "evaluation", ignore_errors=True)
        ended = killed_at(context, given, "evaluate", 0.0, gently=True)
        if ended != 0:
            break
    assert ended == 143
    assert read_status(given.out).process == "stopped by SIGTERM"
    pipeline.run(given)
    assert differences(expected, results(given.out)) == []


# --- day by day ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_each_day_is_judged_before_it_is_learned_from(tmp_path: Path) -> None:
    days, out, late = tmp_path / "days", tmp_path / "run", tmp_path / "late"
    generate_days(
        GeneratedLog(world="aligned", rows=6000, seed=3, click_rate=0.2, conversion_rate=0.3, **WORLD), 3, days
    )
    shutil.move(days / "2026-01-03", late)
    given = options(None, out, "--day-generations", 3, watch=days, epochs=1, valid_share=0.2, keep=1, until_idle=0.0)
    pipeline.run(given)
    (days / "2026-01-03").mkdir()
    for path in late.glob("*.parquet"):
        shutil.copy(path, days / "2026-01-03")  # half a day: no marker yet
    pipeline.run(given)
    lines = [json.loads(line) for line in (out / "days.jsonl").read_text().splitlines()]
    assert [(line["day"], line["model"]) for line in lines] == [("2026-01-01", None), ("2026-01-02", "2026-01-01")]
    assert "ctr.auc" not in lines[0]
    assert {"ctr.auc", "ctr.log_loss", "ctr.pcoc", "value_at_3.tuned"} <= lines[1].keys()
    assert (out / "current").resolve() == out / "days" / "2026-01-02"
    assert not (out / "days" / "2026-01-01" / "train").exists()
    expected = results(out)
    shutil.rmtree(out / "days" / "2026-01-02" / "judged")  # figures that were written down are not asked for again
    (days / "2026-01-03" / "_SUCCESS").touch()
    pipeline.run(given)
    third = json.loads((out / "days.jsonl").read_text().splitlines()[2])
    assert third["model"] == "2026-01-02"
    assert third["rows"] == 2000
    assert results(out)["summary.json"] == expected["summary.json"]
    page = (out / "report.html").read_text()
    assert "Progressive validation" in page
    assert "has taken in 3 days" in page
    started = json.loads((out / "days" / "2026-01-03" / "train" / "run.json").read_text())["started_from"]
    assert started["run"] == str(out / "days" / "2026-01-02" / "train")
    assert read_status(out).state == "finished"
    (out / "days" / "2026-01-03" / "tuned" / "policy.json").write_text("{}")
    with pytest.raises(ValueError, match="2026-01-03: is damaged, and the model of the day before was not kept"):
        pipeline.run(given)


# --- warm starts ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_training_begins_with_the_weights_of_another(finished: Path, small_log: Path, tmp_path: Path) -> None:
    source, out = finished / "train", tmp_path / "run"
    words = [
        str(word) for word in ("--data", small_log, "--workers", 0, "--epochs", 1, "--start-from", source, *TRAINING)
    ]
    still = ("--optimizer.learning-rate", "1e-12", "--optimizer.embedding-learning-rate", "1e-12")
    train.run(train.arguments_of("--out", str(out), *words, *still))
    before, after = (load_file(run / "model" / "model.safetensors") for run in (source, out))
    for name, tensor in before.items():
        np.testing.assert_allclose(after[name], tensor, atol=1e-6)
    record = json.loads((out / "run.json").read_text())
    assert record["started_from"]["run"] == str(source)
    assert record["config"]["start_from"] == str(source)
    wide = train.arguments_of("--out", str(tmp_path / "wide"), *words, "--model.embedding-width", "8")
    with pytest.raises(ValueError, match=r"model\.embedding_width is 4 there, 8 here"):
        train.run(wide)
    assert not wide.out.exists()


@pytest.mark.slow
def test_a_click_model_weighs_the_training(finished: Path, small_log: Path, tmp_path: Path) -> None:
    """It is named in the training's run, and another one makes the training begin again."""
    given = options(small_log, tmp_path / "run", epochs=1, given=f"propensities={finished / 'train'}")
    pipeline.run(given)
    record = json.loads((given.out / "train" / "run.json").read_text())
    assert record["propensities"]["run"] == str(finished / "train")
    assert set(stages(given.out)["train"]["inputs"]) == {"data", "propensities"}


@pytest.mark.slow
def test_an_evolution_begins_with_the_theta_of_another(finished: Path, tmp_path: Path) -> None:
    words = ("--scored", finished / "scored" / "test.parquet", "--start-from", finished / "tuned", "--workers", 0)
    small = (*words, "--generations", 1, "--pairs", 4, "--resamples", 20)
    evolve.run(evolve.arguments_of("--out", tmp_path / "next", *small, "--k", 3))
    started = np.fromfile(tmp_path / "next" / "start.f32", "<f4")
    assert started.tobytes() == load_file(finished / "tuned" / "checkpoint.safetensors")["theta"].tobytes()
    evolve.run(evolve.Arguments(replay=tmp_path / "next"))
    for more, message in ((("--fusion", "sum", "--k", 3), "fusion 'product', this one 'sum'"),
                          (("--k", 4), "k 3, this one 4")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            evolve.run(evolve.arguments_of("--out", tmp_path / "other", *small, *more))


# --- on a cluster --------------------------------------------------------------------------------------------------


@pytest.mark.ray
@pytest.mark.slow
def test_training_and_evolution_on_a_cluster(small_log: Path, tmp_path: Path, ray_cluster: None) -> None:
    """A worker trains, then two actors tune; the policy they come to is that of one process."""
    given = options(small_log, tmp_path / "run", "--es.workers", 2, "--es.generations", 2, workers=1, epochs=1)
    pipeline.run(given)
    theta = load_file(given.out / "tuned" / "checkpoint.safetensors")["theta"]
    shutil.rmtree(given.out / "tuned")
    alone = options(small_log, tmp_path / "run", "--es.generations", 2, workers=1, epochs=1)
    pipeline.run(alone)
    assert load_file(given.out / "tuned" / "checkpoint.safetensors")["theta"].tobytes() == theta.tobytes()
