"""jobs.tune: a population, a search of an evolution, a driver that is killed."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from conftest import begin
from support import TINY_SEARCH, tiny_search

from jobs import evolve, tune
from jobs.run.directory import read_json
from jobs.tune.files import Ledger, read_reports


@pytest.mark.ray
@pytest.mark.slow
def test_a_population_hands_weights_on(ray_cluster: None, small_log: Path, tmp_path: Path) -> None:
    out = tmp_path / "search"
    summary = tune.run(tiny_search(small_log, out, {"epochs": 3}, samples=4, scheduler="pbt"))
    assert summary["tune.finished"] == 4
    drawn = Ledger(out / "ledger.jsonl").settings
    now = [read_json(out / "trials" / f"{index:04d}" / "settings.json") for index in range(4)]
    assert any(a != b for a, b in zip(drawn, now, strict=True))
    for index in range(4):  # each to the end, though one may take over a training that is further on
        assert read_reports(out / "trials" / f"{index:04d}")[-1]["at"] == 3


@pytest.mark.ray
def test_a_search_of_an_evolution(ray_cluster: None, scored: Path, tmp_path: Path) -> None:
    out = tmp_path / "search"
    words = ("--objective", "fusion", "--tuning.scored", scored, "--tuning.k", 2, "--generations", 6, "--samples", 3)
    arguments = tune.arguments_of("--out", out, *words, "--concurrent", 2)
    summary = tune.run(arguments)
    assert summary["tune.trials"] == 3
    assert summary["best.valid.value"] >= summary["default.valid.value"]
    assert "best.test.fusion.value_at_2.tuned" in summary
    best = evolve.run(
        evolve.arguments_of(
            "--scored", scored, "--out", tmp_path / "run", "--preset", out / "best.json", "--workers", 0
        )
    )
    assert best["es.generations"] == 6
    run = read_json(tmp_path / "run" / "run.json")["config"]
    assert run["es"]["sigma"] == summary["best.settings"]["sigma"]
    assert run["settings"]["k"] == 2


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """800 exposures of 100 users with scores that know a little."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    interest = rng.random(800)
    click = rng.random(800) < interest * 0.6
    columns: dict[str, Any] = {
        "user": np.arange(800) // 8,
        "request": np.arange(800) // 4,
        "click": click.astype(np.int8),
        "conversion": (click & (rng.random(800) < 0.4)).astype(np.int8),
        "pctr": (interest * 0.5 + rng.random(800) * 0.3).astype(np.float32),
        "pcvr": (rng.random(800) * 0.5 + 0.1).astype(np.float32),
    }
    columns["pctcvr"] = columns["pctr"] * columns["pcvr"]
    path = tmp_path_factory.mktemp("scored") / "scored.parquet"
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.ray
@pytest.mark.slow
def test_the_driver_is_killed(
    ray_cluster: None, small_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same search in this process goes on from what it left."""
    out = tmp_path / "search"
    given = tiny_search(small_log, out, samples=2, concurrent=1, scheduler="none")
    words = ["--data", small_log, "--out", out, "--samples", given.samples, "--space", given.space]
    words += ["--concurrent", 1, "--scheduler", "none", "--epochs", 2]
    for key, value in TINY_SEARCH.items():
        words += ["--" + key.replace("_", "-"), *(value if isinstance(value, list) else [value])]
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    process = begin("jobs.tune", *words, errors=tmp_path / "log", RAY_ADDRESS=os.environ["RAY_ADDRESS"])
    try:
        deadline = time.monotonic() + 180
        while not (out / "trials" / "0000" / "trial.json").exists() and time.monotonic() < deadline:
            assert process.is_alive(), (tmp_path / "log").read_text()
            time.sleep(0.05)
    finally:
        process.kill()
        process.join()
    assert not (out / "summary.json").exists()
    ledger = Ledger(out / "ledger.jsonl").settings
    ended = (out / "trials" / "0000" / "trial.json").stat().st_mtime_ns
    assert tune.run(given)["tune.finished"] == 2
    assert Ledger(out / "ledger.jsonl").settings[: len(ledger)] == ledger
    assert (out / "trials" / "0000" / "trial.json").stat().st_mtime_ns == ended
