"""What Ray shows of a run while it goes on: gauges, counters and a histogram that Ray's dashboard and Prometheus show.

Every metric is declared here, by its name without the `ray_` that Ray puts before it (docs/watch.md says what each
means). Every series carries `run`, the run directory's name, and `run_id`, the id under which it was submitted (empty
where it was not). Nothing is imported and nothing is sent in a process that no Ray runs in.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RUN_ID = "COUNTERPOINT_RUN_ID"
"""jobs.submit puts the submission's id into this variable."""


@dataclass(frozen=True)
class Declared:
    kind: str
    about: str
    tags: tuple[str, ...] = ()


METRICS = {
    "counterpoint_train_rows": Declared("counter", "Rows that a worker has trained on.", ("rank",)),
    "counterpoint_train_rows_per_second": Declared("gauge", "Rows a second, over all workers."),
    "counterpoint_train_step_seconds": Declared("gauge", "Seconds of a step by what it does.", ("rank", "part")),
    "counterpoint_train_step": Declared("gauge", "Steps done."),
    "counterpoint_train_epoch": Declared("gauge", "Epochs done."),
    "counterpoint_train_loss": Declared(
        "gauge", "Mean loss, as in metrics.jsonl; term: loss, loss.TERM, ...", ("term",)
    ),
    "counterpoint_train_valid": Declared("gauge", "Figures of the last validation.", ("figure",)),
    "counterpoint_train_checkpoints": Declared("counter", "Checkpoints begun."),
    "counterpoint_es_generation": Declared("gauge", "Generations done."),
    "counterpoint_es_generation_seconds": Declared("histogram", "Seconds of a generation."),
    "counterpoint_es_evaluations": Declared("counter", "Evaluations of the objective."),
    "counterpoint_es_evaluations_per_second": Declared("gauge", "Evaluations a second in the last generation."),
    "counterpoint_es_return": Declared("gauge", "Return of the last generation; of: centre, mean, best.", ("of",)),
    "counterpoint_es_workers": Declared("gauge", "Workers that took part in the last generation."),
    "counterpoint_es_lost_pairs": Declared("counter", "Pairs whose worker was lost; they were scored again."),
    "counterpoint_es_reissued_pairs": Declared("counter", "Pairs given to a second worker as the first was slow."),
    "counterpoint_es_failed_evaluations": Declared("counter", "Evaluations that raised or had no finite return."),
    "counterpoint_es_bytes": Declared("counter", "Bytes between the driver and the workers.", ("direction",)),
}
ALWAYS = ("run", "run_id")
EVERY_S = 1.0
SECONDS = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0]
"""Bucket edges of the histogram: a generation of a toy to one of a simulator."""


def ray_runs() -> bool:
    """Whether this process is part of a Ray cluster, asked without importing Ray."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


class Telemetry:
    """The metrics of one run, as one of its processes sends them. Without Ray every call does nothing."""

    def __init__(self, run: Path, **tags: str) -> None:
        self.tags = {"run": run.name, "run_id": os.environ.get(RUN_ID, ""), **tags}
        self._metrics: dict[str, Any] = {}

    @property
    def sending(self) -> bool:
        return ray_runs()

    def gauge(self, name: str, value: float | None, **tags: str) -> None:
        if self.sending and value is not None:
            self._metric(name, "gauge").set(float(value), self._tags(name, tags))

    def count(self, name: str, more: float, **tags: str) -> None:
        if self.sending and more > 0:
            self._metric(name, "counter").inc(float(more), self._tags(name, tags))

    def observe(self, name: str, value: float, **tags: str) -> None:
        if self.sending:
            self._metric(name, "histogram").observe(float(value), self._tags(name, tags))

    def _tags(self, name: str, tags: Mapping[str, str]) -> dict[str, str]:
        given = {**self.tags, **tags}
        return {key: given[key] for key in (*ALWAYS, *METRICS[name].tags)}

    def _metric(self, name: str, kind: str) -> Any:
        """Made when it is first used: a series that a run does not have is not shown as zero."""
        if name not in self._metrics:
            from ray.util import metrics as ray_metrics

            declared = METRICS[name]
            assert declared.kind == kind, f"{name} is a {declared.kind}"
            keys = (*ALWAYS, *declared.tags)
            if kind == "histogram":
                self._metrics[name] = ray_metrics.Histogram(name, declared.about, SECONDS, keys)
            else:
                make = ray_metrics.Gauge if kind == "gauge" else ray_metrics.Counter
                self._metrics[name] = make(name, declared.about, keys)
        return self._metrics[name]


class GenerationTelemetry:
    """What es.engine.run gives on_generation, gathered and sent once a second: a cheap generation takes less than a
    millisecond, and Ray exports every few seconds."""

    def __init__(self, run: Path) -> None:
        self.telemetry = Telemetry(run)
        self._sums: Counter[str] = Counter()
        self._last: Mapping[str, Any] = {}
        self._sent = 0.0

    def add(self, metrics: Mapping[str, Any]) -> None:
        if not self.telemetry.sending:
            return
        self.telemetry.observe("counterpoint_es_generation_seconds", metrics["seconds"])
        self._last = metrics
        self._sums["evaluations"] += round(metrics["evaluations_per_s"] * metrics["seconds"])
        for name in ("lost_pairs", "reissued_pairs", "failed_evaluations", "bytes_out", "bytes_in"):
            self._sums[name] += metrics[name]
        if time.monotonic() - self._sent >= EVERY_S:
            self.send()

    def send(self) -> None:
        """What has been gathered; call it at the end too."""
        if not self._last or not self.telemetry.sending:
            return
        telemetry, last = self.telemetry, self._last
        telemetry.gauge("counterpoint_es_generation", last["generation"] + 1)
        telemetry.gauge("counterpoint_es_evaluations_per_second", last["evaluations_per_s"])
        telemetry.gauge("counterpoint_es_workers", last["workers"])
        for of in ("centre", "mean", "best"):
            telemetry.gauge("counterpoint_es_return", last[f"return.{of}"], of=of)
        for name in ("evaluations", "lost_pairs", "reissued_pairs", "failed_evaluations"):
            telemetry.count(f"counterpoint_es_{name}", self._sums[name])
        for direction in ("out", "in"):
            telemetry.count("counterpoint_es_bytes", self._sums[f"bytes_{direction}"], direction=direction)
        self._sums.clear()
        self._last, self._sent = {}, time.monotonic()
