"""One experiment from its arguments to its page: the same for every simulator (funnel/simulator.py).

Each finished pair is a file of its own, pairs/0007.json, written whole: an experiment that goes on runs what is not
there yet, and more pairs may be asked for than before.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import jobs.report
from data.errors import Stopped, UserError
from data.files import make_directory, write_whole
from funnel.registry import find_simulator
from funnel.settings import plain
from funnel.simulator import Compared
from jobs.cluster.connect import check_cpus, connect, names_cluster
from jobs.command.console import Console
from jobs.command.paths import absolute
from jobs.command.signals import leave, stop_signals
from jobs.command.simulated import find_policy
from jobs.command.tables import print_table
from jobs.command.trust import trust
from jobs.experiment.files import digests
from jobs.experiment.options import Arguments
from jobs.experiment.pairs import run_pairs
from jobs.run.directory import RUN_FILE, SUMMARY_FILE, RunState, inspect_run, read_json, start_run, write_json
from jobs.run.owner import owned
from jobs.run.process import Process, present
from jobs.run.progress import Lines, is_live
from jobs.run.records import reading_from

KIND, PAIRS, COURSE, REPORT = "experiment", "pairs", "course.json", "report.html"
MAY_CHANGE = frozenset({"workers", "pairs"})


def conduct(arguments: Arguments, console: Console) -> dict[str, Any]:
    """Run all pairs and return summary.json as a dict. Raises UserError in one line, before anything is written, for
    what cannot be run."""
    if arguments.out is None:
        raise UserError("--out DIR is needed: the run directory")
    trust(arguments)
    kind = find_simulator(arguments.world)
    check_cpus(arguments.workers)
    settings = absolute(kind.settings_type() if arguments.settings is None else arguments.settings)
    control, control_name = find_policy(arguments.control, kind.presets, "--control")
    treatment, treatment_name = find_policy(arguments.treatment, kind.presets, "--treatment")
    compared = Compared(
        control, treatment, control_name, treatment_name, arguments.design or kind.designs[0], arguments.days,
        arguments.warmup, arguments.seed, arguments.pairs,
    )  # fmt: skip
    simulator = kind.open(settings, compared)
    out, facts = arguments.out, simulator.facts()
    record = {
        "world": arguments.world,
        "settings": plain(settings),
        **{name: getattr(compared, name) for name in ("design", "days", "warmup", "seed")},
        **facts,
        **digests({"control": control, "treatment": treatment}),
        "pairs": arguments.pairs,
        "workers": arguments.workers,
    }
    inspect_run(out, KIND, record, MAY_CHANGE)
    with owned(out):
        state = inspect_run(out, KIND, record, MAY_CHANGE)
        if state is RunState.DONE:
            with reading_from(out / SUMMARY_FILE):
                summary = read_json(out / SUMMARY_FILE)
                if summary["pairs"] == arguments.pairs:
                    console.print(f"{out} is finished already:", soft_wrap=True)
                    return show(console, kind, summary, out)
            (out / SUMMARY_FILE).unlink()
        if state is RunState.NEW:
            start_run(out, KIND, record, {"names": {"control": control_name, "treatment": treatment_name}})
        else:
            began = read_json(out / RUN_FILE)
            write_json(out / RUN_FILE, {**began, "config": record})
        console.print(f"{'Continuing' if state is not RunState.NEW else 'Comparing'} {simulator.describe()}",
                      soft_wrap=True)  # fmt: skip
        started = time.time()
        outcomes = all_pairs(simulator, arguments, out, console)
        summary, course = simulator.summarise(outcomes)
        summary["experiment.seconds"] = time.time() - started
        write_json(out / COURSE, course)
        write_json(out / SUMMARY_FILE, summary)
        jobs.report.write_page([out], out / REPORT)
    return show(console, kind, summary, out)


def all_pairs(simulator: Any, arguments: Arguments, out: Path, console: Console) -> list[dict[str, Any]]:
    """The outcomes of all pairs in order. SIGTERM or Ctrl-C: what is finished stays, exit code 143 or 130."""
    folder = out / PAIRS
    make_directory(folder)
    path_of = {pair: folder / f"{pair:05d}.json" for pair in range(arguments.pairs)}
    missing = [pair for pair, path in path_of.items() if not path.exists()]
    if missing and arguments.workers:
        connect(1 if names_cluster() else arguments.workers)  # before ours: Ray brings signal handlers of its own
    with present(out) as process, stop_signals() as received, progress(console, arguments.pairs, process) as tell:
        tell(arguments.pairs - len(missing))
        try:
            for pair, outcome in run_pairs(simulator, missing, arguments.workers, lambda: bool(received)):
                write_whole(path_of[pair], json.dumps(outcome) + "\n")
                tell(1)
        except Stopped as stopped:
            leave(stopped, received[0])
    return [checked(simulator, path) for path in path_of.values()]


def checked(simulator: Any, path: Path) -> dict[str, Any]:
    """What a pair's file holds. Raises UserError that names the file if it is not what the simulator gave."""
    with reading_from(path):
        outcome: dict[str, Any] = read_json(path)
        simulator.check(outcome)
        return outcome


@contextmanager
def progress(console: Console, total: int, process: Process) -> Iterator[Any]:
    """A bar on a terminal, a line now and then elsewhere."""
    columns = (TextColumn("pairs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not is_live(console), transient=True) as bar, Lines(console) as to:
        task, done = bar.add_task("pairs", total=total), [0]

        def tell(more: int) -> None:
            done[0] += more
            bar.update(task, completed=done[0])
            to.tell(f"pair {done[0]}/{total}")
            process.update("pairs", done[0], total)

        yield tell


def show(console: Console, kind: Any, summary: dict[str, Any], out: Path) -> dict[str, Any]:
    print_table(console, kind.results(summary))
    console.print(str(summary.get("message", "")), soft_wrap=True, highlight=False, markup=False)
    console.print(f"report: {out / REPORT}", soft_wrap=True, highlight=False)
    return summary
