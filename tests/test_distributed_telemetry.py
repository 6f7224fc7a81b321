"""What a run tells Ray, TensorBoard and MLflow, where the time of a step goes, and that nothing is sent without Ray."""

import json
import re
import time
from pathlib import Path

import pytest

from distributed.collectives import communicating
from distributed.events import Events
from distributed.step_clock import PARTS, StepClock
from distributed.telemetry import METRICS, GenerationTelemetry, Telemetry

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
    clock.begin(anew=True)
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
    time.sleep(0.01)  # what happens before begin() is compute of the next step, with anew=True it is nobody's
    clock.begin()
    clock.arrived()
    clock.stepped()
    assert clock.take()["compute"] >= 0.01
    time.sleep(0.01)
    clock.begin(anew=True)
    clock.arrived()
    assert clock.stepped() < 0.01
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
    monkeypatch.setattr("distributed.telemetry.ray_runs", lambda: False)
    telemetry = Telemetry(tmp_path, rank="0")
    telemetry.gauge("counterpoint_train_step", 1.0)
    telemetry.count("counterpoint_train_rows", 1)
    generations = GenerationTelemetry(tmp_path)
    generations.add({})
    generations.send()
    assert telemetry._metrics == generations.telemetry._metrics == {}
