"""MLflow, where its client is installed and MLFLOW_TRACKING_URI is set: parameters, figures, summary.json.

A thread of the driver reads what the run writes into metrics.jsonl and sends it, so that no step waits for a server and
workers need no credentials. A server that refuses or is not there costs one line of warning, not the run.
OUT/mlflow.json keeps which MLflow run it is, for a run that goes on.
"""

import importlib.util
import json
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from data.credentials import secret_in
from data.errors import UserError
from distributed.reporting.ray_metrics import RUN_ID
from distributed.reporting.tensorboard import is_number
from funnel.settings import flat
from jobs.run.directory import METRICS_FILE, RUN_FILE, SUMMARY_FILE, read_json, write_json
from jobs.run.progress import Tail

TRACKING_URI, EXPERIMENT, MLFLOW_FILE = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "mlflow.json"
EVERY_S, PATIENCE_S = 2.0, 60.0
"""Between two looks for new figures; how long the end of a run waits for a server to take the last ones."""
LINES_A_LOOK = 100
"""Of more new lines than this an even choice is sent: an engine may run a thousand generations a second."""
NO_FIGURE = {"event", "step", "epoch", "generation", "theta_crc32", "best"}


def check_tracking() -> None:
    """Raise UserError if the tracking URI holds credentials: error messages and child processes would show them."""
    if found := secret_in(os.environ.get(TRACKING_URI, "")):
        raise UserError(
            f"{TRACKING_URI} holds {found}; leave it to MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD or "
            "MLFLOW_TRACKING_TOKEN"
        )


@contextmanager
def tracked(out: Path) -> Iterator[None]:
    """Track the run in `out`, whose run.json is there, while the body runs; its summary.json is sent at the end."""
    if not os.environ.get(TRACKING_URI) or importlib.util.find_spec("mlflow") is None:
        yield
        return
    ended, status, tail = threading.Event(), ["FINISHED"], Tail(out / METRICS_FILE)
    thread = threading.Thread(target=follow, args=(out, tail, ended, status), name="mlflow", daemon=True)
    thread.start()
    try:
        yield
    except BaseException as error:
        status[0] = "KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED"
        raise
    finally:
        ended.set()
        thread.join(PATIENCE_S)
        if thread.is_alive():
            warn(out, f"no answer within {PATIENCE_S:g} s")


def follow(out: Path, tail: Tail, ended: threading.Event, status: list[str]) -> None:
    """Send what is new, until the run has ended; then its summary."""
    try:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        import mlflow

        open_run(mlflow, out)
        while True:
            last = ended.wait(EVERY_S)
            lines = tail.lines()
            for line in lines[:: -(-len(lines) // LINES_A_LOOK) or 1]:
                with suppress(json.JSONDecodeError):  # the half line of a writer in mid-word
                    send(mlflow, json.loads(line))
            if last:
                break
        if status[0] == "FINISHED":
            send(mlflow, read_json(out / SUMMARY_FILE))
            mlflow.log_artifact(str(out / SUMMARY_FILE))
        mlflow.end_run(status[0])
    except Exception as error:  # whatever a tracking server does wrong is no reason to lose a run
        warn(out, (str(error).splitlines() or [type(error).__name__])[0])


def warn(out: Path, reason: str) -> None:
    print(f"MLflow: {reason}; {out.name} is not tracked further", file=sys.stderr)


def open_run(mlflow: Any, out: Path) -> None:
    """The MLflow run of this directory: the one that an earlier start began, if this server has it, else a new one."""
    name = os.environ.get(EXPERIMENT) or "counterpoint"
    mlflow.set_experiment(name)
    if (out / MLFLOW_FILE).exists():
        with suppress(mlflow.exceptions.MlflowException):  # it may be of another server
            mlflow.start_run(run_id=str(read_json(out / MLFLOW_FILE).get("run_id")), log_system_metrics=False)
            return
    record = read_json(out / RUN_FILE)
    tags = {"kind": record.get("kind"), "git": record.get("git"), "run_id": os.environ.get(RUN_ID)}
    run = mlflow.start_run(run_name=out.name, tags={key: str(value) for key, value in tags.items() if value})
    write_json(out / MLFLOW_FILE, {"run_id": run.info.run_id, "experiment": name})
    mlflow.log_params({clean(key): str(value)[:500] for key, value in flat(record.get("config", {})).items()})


def send(mlflow: Any, event: dict[str, Any]) -> None:
    """The numbers of a line of metrics.jsonl, or of summary.json, under their step."""
    prefix = "valid/" if event.get("event") == "valid" else ""
    numbers = {prefix + clean(key): value for key, value in event.items() if key not in NO_FIGURE and is_number(value)}
    if event.get("event") != "start":
        mlflow.log_metrics(numbers, step=int(event.get("step", event.get("generation", 0))))


def clean(name: str) -> str:
    """The characters that MLflow takes in a name."""
    return re.sub(r"[^\w.\-/ ]", "_", name)[:250]
