"""What is shown of a run that goes on: its own lines, not those an earlier start has shown."""

import io
import json
import threading
import time
from pathlib import Path

from rich.console import Console

from distributed.run_log import RunLog
from jobs.progress import Tail, show_training

VALID = {"best": True, "ctr.auc": 0.7}


def test_only_new_lines_of_a_resumed_run_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = RunLog(path, 0)
    first.write("start", 0, workers=2)
    first.write("valid", 50, epoch=1, **VALID)
    first.write("valid", 100, epoch=2, **VALID)
    first.close()
    printed, stopped = io.StringIO(), threading.Event()
    console = Console(file=printed, width=120)
    thread = threading.Thread(target=show_training, args=(console, path, 3, stopped))
    thread.start()
    time.sleep(0.1)
    second = RunLog(path, 50)  # replaces the file: step 100 was never saved
    second.write("start", 50, workers=2)
    second.write("valid", 100, epoch=2, **VALID)
    time.sleep(0.5)
    third = RunLog(path, 100)  # a worker died, and the group began again while we watch
    third.write("start", 100, workers=2)
    time.sleep(0.5)
    third.write("valid", 150, epoch=3, **VALID)
    stopped.set()
    thread.join()
    lines = [line.split(":")[0] for line in printed.getvalue().splitlines()]
    expected = ["going on from step 50 with 2 workers", "epoch 2", "going on from step 100 with 2 workers", "epoch 3"]
    assert lines == [line.removesuffix("  (best)") for line in expected]


def test_a_new_file_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    assert tail.lines() == []
    log = RunLog(path, 0)
    log.write("start", 0, workers=1)
    log.write("step", 1, loss=0.5, nothing=float("nan"))
    assert [json.loads(line)["event"] for line in tail.lines()] == ["start", "step"]
    log.write("step", 2, loss=0.4)
    assert [json.loads(line) for line in tail.lines()] == [{"event": "step", "step": 2, "loss": 0.4}]
