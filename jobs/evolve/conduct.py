"""One evolution from its arguments to its summary: the same for every tunable (funnel/tunable.py)."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from data.errors import Stopped, UserError
from distributed.reporting.ray_metrics import GenerationTelemetry
from distributed.reporting.tensorboard import Events
from es import engine
from es.config import EXECUTION_SETTINGS, ESConfig
from es.objectives.base import Objective
from funnel.settings import plain
from funnel.tunable import Tunable
from jobs.cluster.connect import check_cpus, connect, names_cluster
from jobs.cluster.waiting import waiting
from jobs.command.console import Console
from jobs.command.paths import absolute
from jobs.command.signals import leave, stop_signals
from jobs.command.tables import print_table
from jobs.command.threads import use_threads
from jobs.command.trust import trust
from jobs.evolve.faults import named
from jobs.evolve.find import find_objective, place
from jobs.evolve.options import Arguments, kept_settings
from jobs.run.directory import RUN_FILE, SUMMARY_FILE, RunState, read_json, start_run, write_json
from jobs.run.inputs import MADE_FROM, check_files, code_changed, code_of, files_of
from jobs.run.owner import entered
from jobs.run.process import present
from jobs.run.progress import Lines, is_live
from jobs.run.records import reading_from
from jobs.run.tracking import check_tracking, tracked

if TYPE_CHECKING:
    from jobs.run.start_from import Start

KIND, POLICY_FILE = "evolve", "policy.json"
# Of a run that is continued: everything that does not decide theta, except where it ends.
MAY_CHANGE = frozenset({"workers", *(f"es.{name}" for name in EXECUTION_SETTINGS - {"generations"})})
EVENTS_EVERY_S = 1.0
NO_CURVE = {"event", "generation", "theta_crc32"}


def conduct(arguments: Arguments, console: Console) -> dict[str, Any]:
    """Tune to the end and return summary.json as a dict.

    Raises UserError in one line for what cannot be tuned, before anything is written.
    """
    if arguments.out is None:
        raise UserError("--out DIR is needed: the run directory")
    out, config = arguments.out, arguments.config
    trust(arguments)
    kind = find_objective(arguments.objective)
    check_tracking()
    config.check()
    if config.workers != "auto":
        check_cpus(config.workers)
    use_threads(arguments.threads, alone=config.workers == 0)
    own = absolute(kind.settings_type() if arguments.settings is None else arguments.settings)
    record = recorded(arguments, config, own)
    if (out / RUN_FILE).exists():
        kept_settings(read_json(out / RUN_FILE), f"--out {out}")
    made_from = {**files_of(own), **code_of(arguments.objective)}
    with entered(out, KIND, record, MAY_CHANGE) as state:
        if state is not RunState.NEW:
            began = read_json(out / RUN_FILE)
            check_files(out, began, made_from)
            if code_changed(began, made_from):
                console.print(
                    f"{record['objective']} has changed since {out} was begun", style="yellow", soft_wrap=True
                )
        if state is RunState.DONE:
            summary = read_json(out / SUMMARY_FILE)
            console.print(f"{out} is finished already:", soft_wrap=True)
        else:
            facts = {MADE_FROM: made_from} if made_from else {}
            arguments = dataclasses.replace(arguments, config=config, settings=own)
            with named(arguments.objective, out):
                summary = tuned(arguments, kind, record, facts, state, console)
    with reading_from(out / SUMMARY_FILE):
        show(console, kind, summary, out)
    return summary


def tuned(
    arguments: Arguments,
    kind: type[Tunable],
    record: dict[str, Any],
    facts: dict[str, Any],
    state: RunState,
    console: Console,
) -> dict[str, Any]:
    """The run itself: its data are opened, run.json is written (`record`: its config, `facts`: what else it keeps), and
    so on to summary.json."""
    out, config = arguments.out, arguments.config
    assert out is not None
    tunable = kind.open(arguments.settings, config.seed)
    begin = None
    if arguments.start_from:
        from jobs.run.start_from import theta_to_start_from  # here, for it imports torch: two seconds

        begin = theta_to_start_from(arguments.start_from, tunable.objective, out)
    if state is RunState.NEW:
        begins = {"started_from": begin.facts} if begin else {}
        start_run(out, KIND, record, {**tunable.facts(), **facts, **begins})
    verb = "Continuing" if state is RunState.RESUME else "Tuning"
    console.print(f"{verb} {tunable.describe()}, in {places(config.workers)}", soft_wrap=True)
    with tracked(out):
        result = evolve(tunable.objective, config, out, console, begin, getattr(tunable, "bound", ""))
        return finish(tunable, result, config, out, arguments.resamples)


def recorded(arguments: Arguments, config: ESConfig, settings: Any) -> dict[str, Any]:
    """run.json's config: all that --resume needs, and what a run that goes on is compared by."""
    es = {name: value for name, value in dataclasses.asdict(config).items() if name != "workers"}
    start = arguments.start_from
    return {
        "objective": place(arguments.objective),
        "settings": plain(settings),
        "resamples": arguments.resamples,
        "workers": config.workers,
        "es": es,
        **({"start_from": str(start)} if start else {}),
    }


def finish(
    tunable: Tunable,
    result: engine.ESResult,
    config: ESConfig,
    out: Path,
    resamples: int,
    figures: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write policy.json and summary.json: the figures on what was held out, unless others are given."""
    if policy := tunable.policy(result.theta):
        made_from = read_json(out / RUN_FILE).get(MADE_FROM)
        write_json(out / POLICY_FILE, {**policy, MADE_FROM: made_from} if made_from else policy)
    judged = tunable.judge(result.theta, resamples, config.seed) if figures is None else figures
    summary = {**judged, **engine_figures(result, config)}
    if bound := getattr(tunable, "bound", ""):
        summary["es.return_is"] = bound
    write_json(out / SUMMARY_FILE, summary)
    return summary


def places(workers: int | str) -> str:
    if workers == "auto":
        return "this process or on Ray, whichever is faster"
    return f"{workers} Ray actors" if workers else "this process"


def evolve(
    objective: Objective,
    config: ESConfig,
    out: Path,
    console: Console,
    start: "Start | None" = None,
    bound: str = "",
) -> engine.ESResult:
    """Run the engine. SIGTERM or Ctrl-C: save, say so in one line and exit with code 143 or 130."""
    if start is not None:
        start.load(objective)
    if config.workers and (config.workers != "auto" or names_cluster()):
        # A cluster may be smaller than the run would like and grow; a local Ray is started as large as it must be.
        at_least = 1 if config.workers == "auto" else config.workers
        connect(min(at_least, config.min_workers or at_least) if names_cluster() else at_least)
    telemetry = GenerationTelemetry(out)
    events = Events(out, EVENTS_EVERY_S, NO_CURVE)
    with (
        present(out) as process,
        stop_signals() as received,
        progress(console, config.generations, "bound" if bound else "policy") as show,
        closing(events),
        waiting(f"{workers_of(config)}the first generation") as wait,
    ):

        def on_generation(metrics: dict[str, Any]) -> None:
            wait.done()
            show(metrics)
            events.add(metrics["generation"], metrics)
            telemetry.add(metrics)
            figures = {"return of theta": metrics["return.centre"], "return of the population": metrics["return.mean"]}
            process.update("generations", metrics["generation"] + 1, config.generations, figures)

        try:
            theta_D = start.theta_D if start else None
            result = engine.run(objective, config, out, on_generation, lambda: bool(received), start_D=theta_D)
        except Stopped as stopped:
            leave(stopped, received[0])
        finally:
            telemetry.send()
    if result.choice:
        where = f"{result.choice.workers} workers" if result.choice.workers else "in this process"
        console.print(f"workers auto: {where} ({result.choice.reason})", soft_wrap=True)
    return result


def workers_of(config: ESConfig) -> str:
    return "" if config.workers in (0, "auto") else f"{config.workers} workers to start and for "


@contextmanager
def progress(console: Console, generations: int, name: str = "policy") -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar on a terminal, a line now and then elsewhere."""
    columns = (
        TextColumn("generation"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}  {task.fields[figures]}"),
    )
    bars = Progress(*columns, TimeRemainingColumn(), console=console, disable=not is_live(console), transient=True)
    with bars as bar, Lines(console) as lines:
        task = bar.add_task("generation", total=generations, figures="")

        def show(metrics: dict[str, Any]) -> None:
            centre = metrics["return.centre"]
            figures = f"population {metrics['return.mean']:.5f} ± {metrics['return.std']:.5f}"
            if centre is not None:
                figures = f"{name} {centre:.5f}  {figures}"
            bar.update(task, completed=metrics["generation"] + 1, figures=figures)
            lines.tell(f"generation {metrics['generation'] + 1}/{generations}  {figures}")

        yield show


def engine_figures(result: engine.ESResult, config: ESConfig) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "es.generations": result.generations,
        "es.evaluations": result.evaluations,
        "es.evaluations_per_s": result.evaluations / result.seconds,
        "es.workers": result.workers if config.workers == "auto" else config.workers,
        "es.dimension": len(result.theta),
        "es.seconds": result.seconds,
        "es.final_return": result.final_return,
        "es.failed_evaluations": result.failed_evaluations,
        "es.lost_pairs": result.lost_pairs,
        "es.reissued_pairs": result.reissued_pairs,
        "es.lost_generations": result.lost_generations,
    }
    if result.steps:
        figures |= {"es.steps": result.steps, "es.steps_per_s": result.steps / result.seconds}
    if result.choice:
        figures["es.workers_reason"] = result.choice.reason
    return figures


def show(console: Console, kind: type[Tunable], summary: dict[str, Any], out: Path) -> None:
    table = kind.results(summary)
    if table is not None:
        print_table(console, table)
    returned = "" if "es.return_is" in summary else f"return {summary['es.final_return']} after "
    console.print(
        f"{returned}{summary['es.generations']} generations, "
        f"{summary['es.evaluations']:,} evaluations, {summary['es.evaluations_per_s']:,.0f} a second",
        soft_wrap=True,
    )
    if "message" in summary:
        console.print(summary["message"], soft_wrap=True)
    console.print(f"run: {out}", soft_wrap=True)
