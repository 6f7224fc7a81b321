"""MLflow, where its client is installed and MLFLOW_TRACKING_URI is set: parameters, figures, summary.json.

A thread of the driver reads what the run writes into metrics.jsonl and sends it, so that no training step and no
generation waits for a server, and workers need no credentials. What MLflow refuses, or a server that is not there, is
one line of warning; the run goes on without it. OUT/mlflow.json keeps which MLflow run it is, for a run that goes on.
"""

import importlib.util
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from distributed.reporting.ray_metrics import RUN_ID
from distributed.reporting.tensorboard import is_number
from jobs.run.directory import METRICS_FILE, RUN_FILE, SUMMARY_FILE, flatten, read_json, write_json
from jobs.run.progress import Tail

TRACKING_URI, EXPERIMENT = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
MLFLOW_FILE = "mlflow.json"
DEFAULT_EXPERIMENT = "counterpoint"
EVERY_S = 2.0
PATIENCE_S = 60.0
"""How long the end of a run waits for a server to take the last figures."""
LINES_A_LOOK = 100
"""Of more new lines than this an even choice is sent: an engine may run a thousand generations a second."""
PARAMS_A_CALL, METRICS_A_CALL, LONGEST_PARAM = 100, 1000, 500
NO_FIGURE = {"event", "step", "epoch", "generation", "theta_crc32", "best"}


def check_tracking() -> None:
    """Raise ValueError if the tracking URI holds a password: error messages and child processes would show it."""
    parts = urlsplit(os.environ.get(TRACKING_URI, ""))
    if parts.password is not None:
        raise ValueError(
            f"{TRACKING_URI} holds a password; leave it to MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )


@contextmanager
def tracked(out: Path) -> Iterator[None]:
    """Track the run in `out`, whose run.json is there, while the body runs; its summary.json is sent at the end."""
    if not os.environ.get(TRACKING_URI) or importlib.util.find_spec("mlflow") is None:
        yield
        return
    follower = Follower(out)
    try:
        yield
    except BaseException as error:
        follower.end("KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED")
        raise
    follower.end("FINISHED")


class Follower:
    """The thread that follows one run."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.tail = Tail(out / METRICS_FILE)
        self._status: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="mlflow", daemon=True)
        self._thread.start()

    def end(self, status: str) -> None:
        self._status = status
        self._ended.set()
        self._thread.join(PATIENCE_S)
        if self._thread.is_alive():
            warn(self.out, f"no answer within {PATIENCE_S:g} s")

    def _follow(self) -> None:
        try:
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
            logging.getLogger("mlflow").setLevel(logging.ERROR)
            from mlflow import MlflowClient

            client = MlflowClient()
            run_id = open_run(client, self.out)
            while True:
                ended = self._ended.wait(EVERY_S)
                send(client, run_id, figures(self.tail.lines()))
                if ended:
                    break
            if self._status == "FINISHED":
                summary = {key: value for key, value in read_json(self.out / SUMMARY_FILE).items() if is_number(value)}
                send(client, run_id, [(name, float(value), 0) for name, value in summary.items()])
                client.log_artifact(run_id, str(self.out / SUMMARY_FILE))
            client.set_terminated(run_id, self._status)
        except Exception as error:  # whatever a tracking server does wrong is no reason to lose a run
            warn(self.out, (str(error).splitlines() or [type(error).__name__])[0])


def warn(out: Path, reason: str) -> None:
    print(f"MLflow: {reason}; {out.name} is not tracked further", file=sys.stderr)


def open_run(client: Any, out: Path) -> str:
    """The MLflow run of this directory: the one that an earlier start began, if this server has it, else a new one."""
    from mlflow.entities import Param
    from mlflow.exceptions import MlflowException

    if (out / MLFLOW_FILE).exists():
        run_id = str(read_json(out / MLFLOW_FILE).get("run_id"))
        if re.fullmatch(r"\w+", run_id):
            try:
                client.get_run(run_id)
                client.update_run(run_id, status="RUNNING")
                return run_id
            except MlflowException:
                pass  # of another server
    record = read_json(out / RUN_FILE)
    name = os.environ.get(EXPERIMENT) or DEFAULT_EXPERIMENT
    experiment = client.get_experiment_by_name(name)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(name)
    tags = {"kind": record.get("kind"), "git": record.get("git"), "run_id": os.environ.get(RUN_ID)}
    run = client.create_run(experiment_id, tags={k: str(v) for k, v in tags.items() if v}, run_name=out.name)
    run_id = str(run.info.run_id)
    write_json(out / MLFLOW_FILE, {"run_id": run_id, "experiment": name})
    params = [Param(clean(key), str(value)[:LONGEST_PARAM]) for key, value in flatten(record.get("config", {})).items()]
    for begin in range(0, len(params), PARAMS_A_CALL):
        client.log_batch(run_id, params=params[begin : begin + PARAMS_A_CALL])
    return run_id


def figures(lines: list[str]) -> list[tuple[str, float, int]]:
    """(name, value, step) of lines of metrics.jsonl."""
    found = []
    every = -(-len(lines) // LINES_A_LOOK) or 1
    for line in lines[::-1][::every][::-1]:
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue  # the half line of a writer in mid-word
        prefix = "valid/" if event.get("event") == "valid" else ""
        step = int(event.get("step", event.get("generation", 0)))
        if event.get("event") != "start":
            found += [
                (prefix + key, float(value), step)
                for key, value in event.items()
                if key not in NO_FIGURE and is_number(value)
            ]
    return found


def send(client: Any, run_id: str, found: list[tuple[str, float, int]]) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = [Metric(clean(name), value, now, step) for name, value, step in found]
    for begin in range(0, len(metrics), METRICS_A_CALL):
        client.log_batch(run_id, metrics=metrics[begin : begin + METRICS_A_CALL])


def clean(name: str) -> str:
    """The characters that MLflow takes in a name."""
    return re.sub(r"[^\w.\-/ ]", "_", name)[:250]
