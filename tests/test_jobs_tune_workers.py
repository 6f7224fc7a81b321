"""jobs.tune --trial-workers: trials of several workers end inside their loop, and nothing of them is left in Ray."""

import dataclasses
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from support import TINY_SEARCH, settings_of, tiny_search

from data.log import open_log
from distributed.training.launch import prepare, run_training
from distributed.training.ray_group import free_orphans, free_room, note_room
from jobs import tune
from jobs.run.directory import read_json, usable_cpus
from jobs.tune import workers
from jobs.tune.files import STOP_FILE, read_reports

CPUS = usable_cpus()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"trial_workers": 1}, r"--trial-workers must be 0 \(the trial's own process\) or at least 2, got 1"),
        ({"trial_workers": -2}, r"--trial-workers must be 0 .* or at least 2, got -2"),
        ({"trial_workers": 10_000}, "--trial-workers 10000: this machine has .* CPUs; ask for at most that many"),
        ({"trial_workers": 2, "scheduler": "pbt"}, "--trial-workers needs --scheduler asha or none: pbt interrupts"),
        ({"trial_workers": 2, "objective": "sphere", "space": "standard"}, "--trial-workers is for --problem"),
        (
            {"trial_workers": 2, "config": settings_of({"stream.lanes": 1}).config},
            "--trial-workers 2 needs --stream.lanes 2",
        ),
        (
            {"trial_workers": 2, "concurrent": CPUS},
            f"--concurrent {CPUS} with --trial-workers 2: this machine has {CPUS} CPUs; --concurrent {CPUS // 2} fits",
        ),
    ],
)
def test_mistakes_are_told_before_anything_starts(small_log: Path, tmp_path: Path, given: Any, message: str) -> None:
    if CPUS < 2:
        pytest.skip("a machine of one CPU refuses them all alike")
    arguments = dataclasses.replace(tune.Arguments(out=tmp_path / "out", data=str(small_log)), **given)
    with pytest.raises(ValueError, match=message):
        tune.run(arguments)
    assert not (tmp_path / "out").exists()


def test_worker_0_waits_for_the_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune is told every report once; what is told before the wait ends may stop the loop."""
    job: Any = SimpleNamespace(run=str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "reports.jsonl").write_text('{"at": 1, "figures": {}}\n')  # of an earlier start
    told: list[int] = []
    rank = 0

    def run_training(job: Any, count: int, on_epoch: Any, meanwhile: Any) -> list[bool]:
        monkeypatch.setattr(workers.time, "sleep", lambda seconds: meanwhile())
        return [on_epoch({"epoch": epoch, "best": True, "ctr.auc": 0.5}) for epoch in (2, 3)]

    def tell(record: dict[str, Any]) -> None:
        told.append(record["at"])
        if record["at"] == 3:
            (tmp_path / STOP_FILE).touch()

    monkeypatch.setattr(workers, "run_training", run_training)
    monkeypatch.setattr(workers, "connect", lambda cpus: None)
    monkeypatch.setattr("ray.train.get_context", lambda: SimpleNamespace(get_world_rank=lambda: rank))
    assert workers.train_with_workers(job, 2, {}, tell) == [True, False]
    assert told == [2, 3]
    rank = 1
    assert workers.Judge(str(tmp_path), {})({"epoch": 4, "best": True})  # worker 0 speaks for it
    assert [report["at"] for report in read_reports(tmp_path)] == [1, 2, 3]


def groups() -> set[str]:
    return {key for key, group in ray.util.placement_group_table().items() if group["state"] != "REMOVED"}


@pytest.mark.ray
def test_what_a_killed_start_still_holds_is_given_back(ray_cluster: None, tmp_path: Path) -> None:
    before = groups()
    group = ray.util.placement_group([{"CPU": 1}])
    strategy = PlacementGroupSchedulingStrategy(placement_group=group)
    ray.get(ray.remote(num_cpus=1)(note_room).options(scheduling_strategy=strategy).remote(tmp_path))
    assert groups() == before | {group.id.hex()}
    free_room(tmp_path)
    assert groups() == before
    free_room(tmp_path)  # once more does nothing, nor does it where nothing was noted
    free_room(tmp_path / "none")


@ray.remote(num_cpus=0)
class Controller:
    """As Ray Train's: it makes a placement group, here of no workers yet."""

    def room(self) -> str:
        self.group = ray.util.placement_group([{"CPU": 1}])
        ray.get(self.group.ready())
        return str(self.group.id.hex())


@pytest.mark.ray
def test_what_a_controller_held_that_died_while_its_workers_started_is_given_back(
    ray_cluster: None, tmp_path: Path
) -> None:
    """No worker has noted the group: Ray alone knows who made it. A controller that lives keeps its own."""
    before, dead, alive = groups(), Controller.remote(), Controller.remote()  # type: ignore[attr-defined]
    lost, kept = ray.get([dead.room.remote(), alive.room.remote()])
    assert free_orphans() == 0
    ray.kill(dead)
    deadline = time.monotonic() + 60
    while lost in groups() and time.monotonic() < deadline:
        free_room(tmp_path)
        time.sleep(0.1)
    assert groups() == before | {kept}
    ray.kill(alive)
    while groups() != before and time.monotonic() < deadline:
        free_orphans()
        time.sleep(0.1)
    assert groups() == before


@pytest.mark.ray
def test_a_search_of_trials_with_two_workers(ray_cluster: None, small_log: Path, tmp_path: Path) -> None:
    before, cpus = groups(), ray.cluster_resources()["CPU"]
    given = {"samples": 2, "concurrent": 1, "values": {"seed": 2}, "trial_workers": 2}
    summary = tune.run(tiny_search(small_log, tmp_path / "search", **given))
    first, second = (tmp_path / "search" / "trials" / name for name in ("0000", "0001"))
    assert [read_json(run / "trial.json")["state"] for run in (first, second)] == ["finished", "stopped"]
    assert [[report["at"] for report in read_reports(run)] for run in (first, second)] == [[1, 2], [1]]
    assert read_json(second / "summary.json")["train.epochs"] == 1  # it ended its loop and is a finished run

    deadline = time.monotonic() + 60
    while (groups() != before or ray.available_resources()["CPU"] != cpus) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert groups() == before
    assert ray.available_resources()["CPU"] == cpus

    # a trial is what a plain training of its settings is
    config = settings_of({**TINY_SEARCH, "epochs": 2, "seed": 2})
    job = prepare(tmp_path / "run", open_log(str(small_log)), *config, time.time())
    (tmp_path / "run").mkdir()
    plain = run_training(dataclasses.replace(job, parts={k: v for k, v in job.parts.items() if k != "test"}), workers=0)
    trial = read_json(first / "summary.json")
    assert trial["train.workers"] == 2
    scores = {key: value for key, value in plain.items() if key.split(".")[0] in ("ctr", "cvr", "ctcvr")}
    assert {key: trial[key] for key in scores} == pytest.approx(json.loads(json.dumps(scores)), rel=1e-6)
    assert summary["default.valid.ctcvr.log_loss"] == trial["ctcvr.log_loss"]
