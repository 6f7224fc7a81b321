"""What is shown of a run that goes on: its own lines, not those an earlier start has shown."""

import io
import json
import os
import re
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console
from support import wait_until

from distributed.reporting.metrics_file import RunLog
from jobs.evolve.conduct import progress
from jobs.run.progress import Lines, Tail, TrainingShown, follow_training, is_live, show_training

VALID = {"best": True, "ctr.auc": 0.7}

WATCHED = {"ctr.auc": "CTR AUC"}


def test_only_new_lines_of_a_resumed_run_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = RunLog(path, 0)
    first.write("start", 0, workers=2)
    first.write("valid", 50, epoch=1, **VALID)
    first.write("valid", 100, epoch=2, **VALID)
    first.close()
    printed, stopped = io.StringIO(), threading.Event()
    console = Console(file=printed, width=120)
    thread = threading.Thread(target=show_training, args=(TrainingShown(console, 3, WATCHED), Tail(path), stopped))
    second = RunLog(path, 50)  # replaces the file: step 100 was never saved
    second.write("start", 50, workers=2)
    thread.start()
    second.write("valid", 100, epoch=2, **VALID)
    wait_until(lambda: "epoch 2" in printed.getvalue())
    third = RunLog(path, 100)  # a worker died, and the group began again while we watch
    third.write("start", 100, workers=2)
    wait_until(lambda: "step 100" in printed.getvalue())
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


def test_a_file_replaced_before_its_start_is_written_is_not_shown_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = RunLog(path, 0)
    first.write("start", 0, workers=2)
    first.write("step", 10, loss=0.5)
    tail = Tail(path)
    again = RunLog(path, 10)
    assert tail.lines() == []
    again.write("start", 10, workers=2)
    assert [json.loads(line)["step"] for line in tail.lines()] == [10]
    third = RunLog(path, 10)
    third.write("start", 10, workers=2)  # the same words once more
    third.write("step", 11, loss=0.4)
    assert [json.loads(line)["step"] for line in tail.lines()] == [10, 11]


def through_a_pipe(body) -> str:
    """What body(console) prints where no terminal is."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as end:
        body(Console(file=end))
    with os.fdopen(reading) as start:
        return start.read()


def is_plain(text: str) -> bool:
    return all(character.isprintable() or character == "\n" for character in text)


@pytest.mark.slow
def test_a_training_in_a_pipe_is_plain_lines_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.run.progress.LINE_S", 0.2)
    monkeypatch.setattr("jobs.run.progress.INTERVAL_S", 0.01)

    def train(console: Console) -> None:
        with follow_training(console, tmp_path, 2, WATCHED):
            log = RunLog(tmp_path / "metrics.jsonl", 0)
            log.write("start", 0, workers=2)
            for step in range(100):
                log.write("step", step, epoch=step / 50, loss=0.5, rows_per_s=1234.0)
                time.sleep(0.01)
            log.write("valid", 100, epoch=2, **VALID)

    began = time.monotonic()
    text = through_a_pipe(train)
    *steps, valid = text.splitlines()
    assert is_plain(text)
    assert valid == "epoch 2: valid CTR AUC 0.7000  (best)"
    assert 2 <= len(steps) <= (time.monotonic() - began) / 0.2, text  # of a hundred
    assert all(re.fullmatch(r"epoch \d\.\d\d/2  step \d+  loss 0.5000  1,234 rows/s", line) for line in steps), text


def test_what_a_training_waits_for_is_said_until_its_first_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("jobs.cluster.waiting.FIRST_S", 0.05)
    monkeypatch.setattr("jobs.cluster.waiting.EVERY_S", 0.05)
    monkeypatch.setattr("jobs.run.progress.INTERVAL_S", 0.01)
    said: list[str] = []

    def twice() -> bool:
        said.extend(capsys.readouterr().err.splitlines())
        return len(said) >= 2

    def nothing() -> bool:
        time.sleep(0.2)
        return not capsys.readouterr().err

    with follow_training(Console(file=io.StringIO()), tmp_path, 2, WATCHED, workers=2):
        wait_until(twice)
        RunLog(tmp_path / "metrics.jsonl", 0).write("start", 0, workers=2)
        wait_until(nothing)  # it is waited for no more
    assert said[0] == "waiting for 2 Ray Train workers to start (0 s)"


@pytest.mark.slow
def test_an_evolution_in_a_pipe_is_plain_lines_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.run.progress.LINE_S", 0.2)

    def evolve(console: Console) -> None:
        with progress(console, 100) as show:
            for generation in range(100):
                show({"generation": generation, "return.centre": None, "return.mean": 0.5, "return.std": 0.1})
                time.sleep(0.01)

    began = time.monotonic()
    text = through_a_pipe(evolve)
    assert is_plain(text)
    assert 2 <= len(text.splitlines()) <= (time.monotonic() - began) / 0.2, text  # of a hundred
    assert all(re.fullmatch(r"generation \d+/100  population 0.50000 ± 0.10000", line) for line in text.splitlines())


def test_a_silent_run_says_that_it_goes_on() -> None:
    printed, began = io.StringIO(), time.monotonic()
    with Lines(Console(file=printed, width=120), every_s=0.05, silence_s=0.15) as lines:
        lines.tell("generation 3/60")
        wait_until(lambda: printed.getvalue().count("\n") >= 3)
    first, *later = printed.getvalue().splitlines()
    assert first == "generation 3/60"
    assert 2 <= len(later) <= (time.monotonic() - began) / 0.15
    assert set(later) == {"generation 3/60 (no news for 0 min)"}


def test_forced_colours_bring_no_bar_into_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert Console(file=io.StringIO()).is_terminal
    assert not is_live(Console(file=io.StringIO()))
