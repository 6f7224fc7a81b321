"""What a run tells Ray, TensorBoard and MLflow, where the time of a step goes, and that nothing is sent without Ray."""

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest

from distributed.config import TrainConfig
from distributed.reporting.ray_metrics import METRICS, GenerationTelemetry, Telemetry
from distributed.reporting.step_clock import PARTS, StepClock
from distributed.reporting.tensorboard import Events
from distributed.tables.collectives import communicating
from jobs import evolve, train
from jobs.evolve.options import arguments_of

ROOT = Path(__file__).resolve().parent.parent


def test_every_metric_of_the_dashboard_is_exported():
    dashboard = json.loads((ROOT / "docs" / "grafana.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    assert len(expressions) > 12
    shown = set()
    for expression in expressions:
        for name in re.findall(r"\b(?!run\b|part\b)ray_\w+", expression):
            plain = re.sub(r"_(total|bucket|sum|count)$", "", name.removeprefix("ray_"))
            kind = METRICS[plain].kind
            ending = {"counter": "_total", "gauge": "", "histogram": "_bucket"}[kind]
            assert name == f"ray_{plain}{ending}", name
            labels = re.findall(r"(\w+)=~?\"", expression) + re.findall(r"by \(([\w, ]+)\)", expression)
            used = {label for entry in labels for label in entry.split(", ")} - {"le"}
            assert used <= {"run", "run_id", *METRICS[plain].tags}, expression
            shown.add(plain)
    assert set(METRICS) - shown <= {"counterpoint_train_step"}  # the variable `run` asks for that one
    assert "ray_counterpoint_train_step" in json.dumps(dashboard["templating"])
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)


def test_every_metric_is_documented():
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) ?\| ", (ROOT / "docs" / "watch.md").read_text(), re.MULTILINE)
    documented = {name: (kind, tuple(re.findall(r"`(\w+)`", tags))) for name, kind, tags in rows}
    assert documented == {name: (metric.kind, metric.tags) for name, metric in METRICS.items()}


def test_the_clock_splits_a_step():
    clock = StepClock()
    clock.begin(afresh=True)
    time.sleep(0.02)
    clock.arrived()
    time.sleep(0.01)
    with communicating():
        time.sleep(0.03)
    seconds = clock.stepped()
    parts = clock.take()
    assert sum(parts.values()) == pytest.approx(seconds)
    assert parts["input"] >= 0.02
    assert parts["communication"] >= 0.03
    assert parts["compute"] >= 0.01
    assert parts["compute"] < seconds - 0.05 + 1e-3
    time.sleep(0.01)  # what happens before begin() is compute of the next step, with afresh=True it is nobody's
    clock.begin()
    clock.arrived()
    clock.stepped()
    assert clock.take()["compute"] >= 0.01
    time.sleep(0.3)  # longer than a busy machine keeps us waiting
    clock.begin(afresh=True)
    clock.arrived()
    assert clock.stepped() < 0.3
    assert tuple(clock.take()) == PARTS


def test_events_are_numbers_by_step(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    events = Events(tmp_path, leave_out={"event"})
    events.add(3, {"event": 1, "loss.ctr": 0.5, "best": True, "name": "x", "nothing": float("nan")})
    events.add(4, {"ctr.auc": 0.7}, under="valid")
    events.close()
    (path,) = tmp_path.iterdir()
    data, found = path.read_bytes(), []
    while data:  # TFRecord: length, its checksum, the record, its checksum
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
        data = data[16 + length :]
    assert found == [("loss/ctr", 3, 0.5), ("valid/ctr.auc", 4, pytest.approx(0.7))]


def test_events_may_be_thinned(tmp_path):
    events = Events(tmp_path / "a", every_s=60)
    events.add(0, {"x": 1.0})
    events.add(1, {"x": 1.0})
    events.close()
    assert sum(len(path.read_bytes()) for path in (tmp_path / "a").iterdir()) < 200
    Events(tmp_path / "b").close()
    assert not (tmp_path / "b").exists()


def test_nothing_is_sent_without_ray(tmp_path, monkeypatch):
    monkeypatch.setattr("distributed.reporting.ray_metrics.ray_runs", lambda: False)
    telemetry = Telemetry(tmp_path, rank="0")
    telemetry.gauge("counterpoint_train_step", 1.0)
    telemetry.count("counterpoint_train_rows", 1)
    generations = GenerationTelemetry(tmp_path)
    generations.add({})
    generations.send()
    assert telemetry._metrics == generations.telemetry._metrics == {}


def scrape(run_name, wanted):
    """Lines of the node's metrics endpoint about a run, once all the names wanted are among them."""
    import ray

    (node,) = [node for node in ray.nodes() if node["Alive"]]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline, lines = time.monotonic() + 60, []
    while time.monotonic() < deadline:
        with urllib.request.urlopen(address, timeout=10) as answer:
            lines = [line for line in answer.read().decode().splitlines() if f'run="{run_name}"' in line]
        if wanted <= {line.split("{")[0] for line in lines}:
            return lines
        time.sleep(0.5)
    raise AssertionError(f"missing: {sorted(wanted - {line.split('{')[0] for line in lines})}")


@pytest.mark.ray
@pytest.mark.slow
def test_prometheus_finds_what_runs_send(ray_cluster, small_log, tmp_path, monkeypatch):
    """From the endpoint of the node's agent, which Prometheus reads."""
    monkeypatch.setenv("COUNTERPOINT_RUN_ID", "train-seen-0123")
    train.run(
        train.Arguments(data=str(small_log), out=tmp_path / "seen_train", workers=0, config=TrainConfig(epochs=1))
    )
    evolve.run(arguments_of("--objective", "sphere", "--out", tmp_path / "seen_es", "--workers", 0, "--generations", 5))
    metrics = {"counter": "_total", "gauge": "", "histogram": "_bucket"}
    names = {f"ray_{name}{metrics[metric.kind]}" for name, metric in METRICS.items()}
    never = {"lost_pairs", "reissued_pairs", "failed_evaluations", "bytes"}  # nothing to count in this process
    wanted = {name for name in names if name.startswith("ray_counterpoint_train")}
    lines = scrape("seen_train", wanted)
    assert all('run_id="train-seen-0123"' in line for line in lines)
    (rows,) = [float(line.split()[-1]) for line in lines if line.startswith("ray_counterpoint_train_rows_total")]
    assert rows == json.loads((tmp_path / "seen_train" / "run.json").read_text())["data"]["parts"]["train"]["rows"]
    parts = {re.search(r'part="(\w+)"', line)[1] for line in lines if "train_step_seconds" in line}
    assert parts == set(PARTS)
    es = {name for name in names if name.startswith("ray_counterpoint_es")}
    lines = scrape("seen_es", {name for name in es if not any(each in name for each in never)})
    (count,) = [float(line.split()[-1]) for line in lines if line.startswith("ray_counterpoint_es_evaluations_total")]
    assert count == json.loads((tmp_path / "seen_es" / "summary.json").read_text())["es.evaluations"]


def test_a_training_says_where_its_time_goes(small_log, tmp_path):
    """Without Ray: in metrics.jsonl, in the summary and in TensorBoard's events."""
    summary = train.run(
        train.Arguments(data=str(small_log), out=tmp_path / "run", workers=0, config=TrainConfig(epochs=1))
    )
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["event"] == "step"]
    assert steps
    for line in (*steps, {f"step_s.{part}": summary[f"train.step_s.{part}"] for part in PARTS}):
        assert all(line[f"step_s.{part}"] >= 0 for part in PARTS)
    spent = sum(summary[f"train.step_s.{part}"] for part in PARTS) * summary["train.steps"]
    assert spent == pytest.approx(summary["train.train_seconds"])
    assert list((tmp_path / "run").glob("events.out.tfevents.*"))


@pytest.fixture
def mlflow_store(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a store without a server or a database, for this test
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "ours")
    monkeypatch.setattr("jobs.run.tracking.EVERY_S", 0.1)
    from mlflow import MlflowClient

    return MlflowClient(f"file://{tmp_path / 'mlruns'}")


def test_mlflow_has_what_the_run_has(small_log, tmp_path, mlflow_store, capsys):
    out = tmp_path / "run"
    summary = train.run(train.Arguments(data=str(small_log), out=out, workers=0, config=TrainConfig(epochs=1)))
    evolve.run(arguments_of("--objective", "sphere", "--out", tmp_path / "es", "--workers", 0, "--generations", 3))
    experiment = mlflow_store.get_experiment_by_name("ours")
    runs = {run.info.run_name: run for run in mlflow_store.search_runs([experiment.experiment_id])}
    assert set(runs) == {"run", "es"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    trained = runs["run"]
    assert trained.data.params["train.objective.name"] == "escm2_snips"
    assert trained.data.metrics["ctr.auc"] == pytest.approx(summary["ctr.auc"])
    assert "valid/ctr.auc" in trained.data.metrics
    assert "loss" in trained.data.metrics
    steps = [metric.step for metric in mlflow_store.get_metric_history(trained.info.run_id, "loss")]
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == [line["step"] for line in logged if line["event"] == "step"]
    assert [file.path for file in mlflow_store.list_artifacts(trained.info.run_id)] == ["summary.json"]
    assert runs["es"].data.metrics["es.generations"] == 3
    assert "return.mean" in runs["es"].data.metrics
    assert "MLflow" not in capsys.readouterr().err
    (out / "summary.json").unlink()  # a run that goes on keeps its MLflow run
    train.run(train.Arguments(data=str(small_log), out=out, workers=0, config=TrainConfig(epochs=1)))
    assert len(mlflow_store.search_runs([experiment.experiment_id])) == 2


def test_a_tracking_server_that_is_not_there_loses_no_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    summary = evolve.run(
        arguments_of("--objective", "sphere", "--out", tmp_path / "es", "--workers", 0, "--generations", 3)
    )
    assert summary["es.generations"] == 3
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("MLflow: ")]
    assert line.endswith("es is not tracked further")
