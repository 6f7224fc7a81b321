"""What a person sees while a run goes on, read from its metrics.jsonl: the workers may be other processes, even hosts.

On a terminal a bar. Elsewhere (a pipe, a file, the log of a Ray job) plain lines: one per validation, and where a run
stands every half minute, so that a log of a night stays readable and a silent run differs from a dead one.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TextIO

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from jobs.cluster.waiting import Waiting, waiting
from jobs.command.console import Console
from jobs.run.directory import METRICS_FILE
from jobs.run.process import Process

INTERVAL_S = 0.3
LINE_S = 30.0
"""Between two lines about where a run stands, if that has changed."""
SILENCE_S = 300.0
"""Between two such lines if nothing has changed."""


def is_live(console: Console) -> bool:
    """Whether a bar may be drawn. Colours may be forced upon a pipe (FORCE_COLOR), a bar that moves may not."""
    return console.is_terminal and console.file.isatty()


class Lines:
    """Prints the last text it was given, now and then, from a thread of its own. Nothing where a bar is drawn."""

    def __init__(self, console: Console, every_s: float | None = None, silence_s: float | None = None) -> None:
        self.console = console
        self.every_s = LINE_S if every_s is None else every_s
        self.silence_s = SILENCE_S if silence_s is None else silence_s
        self.text = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._print, name="progress", daemon=True)

    def tell(self, text: str) -> None:
        self.text = text

    def __enter__(self) -> Self:
        if not is_live(self.console):
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _print(self) -> None:
        shown, since = "", time.monotonic()
        while not self._stopped.wait(self.every_s):
            text, silent = self.text, time.monotonic() - since
            if text and text != shown:
                self.console.print(text, soft_wrap=True, highlight=False)
            elif silent >= self.silence_s:
                self.console.print(f"{text or 'starting'} (no news for {silent / 60:.0f} min)", soft_wrap=True)
            else:
                continue
            shown, since = text, time.monotonic()


@contextmanager
def follow_training(
    console: Console,
    run: Path,
    epochs: int,
    watched: Mapping[str, str],
    process: Process | None = None,
    workers: int = 0,
) -> Iterator[None]:
    """Show the progress of the training in `run` while the body runs, and note it in the run's process.json.

    `watched`: figures of a validation that are shown, and what they are called. `workers`: of Ray Train, whose start
    takes seconds in which nothing else would be said.
    """
    stopped = threading.Event()
    tail = Tail(run / METRICS_FILE)  # before the thread begins: what is written from now on is new
    shown = TrainingShown(console, epochs, watched, process)
    what = f"{workers} Ray Train worker{'s' if workers > 1 else ''} to start" if workers else "the first step"
    with waiting(what) as shown.wait:
        thread = threading.Thread(target=show_training, args=(shown, tail, stopped), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()


class TrainingShown:
    """What is shown of the events of a training."""

    def __init__(
        self, console: Console, epochs: int, watched: Mapping[str, str], process: Process | None = None
    ) -> None:
        self.console, self.epochs, self.watched, self.process = console, epochs, watched, process
        self.figures: dict[str, Any] = {}
        self.wait: Waiting | None = None
        """Over with the first event."""

    def add(self, bars: Progress, task: TaskID, lines: "Lines", line: str) -> None:
        try:
            event: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            return  # the half line of a writer in mid-word
        kind = event["event"]
        if self.wait is not None:
            self.wait.done()
        if kind == "step":
            text = f"loss {event['loss']:.4f}  {event['rows_per_s']:,.0f} rows/s"
            bars.update(
                task, description=f"epoch {event['epoch']:.1f}/{self.epochs}", completed=event["epoch"], figures=text
            )
            lines.tell(f"epoch {event['epoch']:.2f}/{self.epochs}  step {event['step']}  {text}")
            self.figures |= {"step": event["step"], "loss": event["loss"], "rows/s": event["rows_per_s"]}
        elif kind == "start" and event["step"]:
            count = event["workers"]
            self.console.print(f"going on from step {event['step']} with {count} worker{'s' if count > 1 else ''}")
        elif kind == "valid":
            known = {name: event[key] for key, name in self.watched.items() if key in event}
            text = ", ".join(f"{name} {value:.4f}" for name, value in known.items())
            best = "  (best)" if event["best"] else ""
            self.console.print(f"epoch {event['epoch']}: valid {text}{best}", soft_wrap=True)
            self.figures |= {f"valid {name}": value for name, value in known.items()}
        if self.process and "epoch" in event:
            self.process.update("epochs", event["epoch"], self.epochs, dict(self.figures), may_end_early=True)


def show_training(shown: TrainingShown, tail: "Tail", stopped: threading.Event) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    console = shown.console
    bar = Progress(*columns, console=console, disable=not is_live(console), transient=True)
    with bar as bars, Lines(console) as lines:
        task = bars.add_task("starting", total=shown.epochs, figures="")
        while True:
            last = stopped.is_set()
            for line in tail.lines():
                shown.add(bars, task, lines, line)
            if last:
                return
            stopped.wait(INTERVAL_S)


class Tail:
    """New lines of a growing file. What it holds when we begin was shown by an earlier start.

    A run that goes on replaces the file by a shorter one (see metrics_file.py) and appends a "start" event: then the
    lines from that event on are new.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: TextIO | None = None
        self.inode = path.stat().st_ino if path.exists() else None
        self.starts = starts(path.read_text(errors="replace").splitlines(keepends=True)) if path.exists() else Counter()

    def lines(self) -> list[str]:
        inode = self.path.stat().st_ino if self.path.exists() else self.inode
        if inode == self.inode:
            lines = self.file.readlines() if self.file else []
            self.starts += starts(lines)
            return lines
        new = self.inode is None  # there was no earlier start
        self.inode, self.file = inode, self.path.open()
        lines = self.file.readlines()
        begun, self.starts = starts(lines) - self.starts, starts(lines)
        if new:
            return lines
        if not begun:  # replaced, but the line that says so is not written yet
            return []
        return lines[max(number for number, line in enumerate(lines) if START in line) :]


START = '"event": "start"'


def starts(lines: list[str]) -> Counter[str]:
    """The lines of a start, each with how often it stands there."""
    return Counter(line for line in lines if START in line)
