"""Running the engine from the command line: its options, what is shown and sent of it, and stopping without loss."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from distributed.reporting.ray_metrics import GenerationTelemetry
from distributed.reporting.tensorboard import Events
from es import engine
from es.config import EXECUTION_SETTINGS, ESConfig
from es.objectives.base import Objective
from es.tasks import Stopped
from jobs.cluster.connect import check_cpus, connect, names_cluster
from jobs.command.settings import read_settings
from jobs.command.signals import leave, stop_signals
from jobs.run.directory import start_run
from jobs.run.process import present
from jobs.run.progress import Lines, is_live
from jobs.run.start_from import Start
from jobs.run.tracking import check_tracking

# Of a run that is continued: everything that does not decide theta, except where it ends.
MAY_CHANGE = frozenset({"workers", *(f"es.{name}" for name in EXECUTION_SETTINGS - {"generations"})})
EVENTS_EVERY_S = 1.0
NO_CURVE = {"event", "generation", "theta_crc32"}


@dataclass
class Arguments:
    scored: Path | None = None
    """Score fusion: Parquet file with pctr, pcvr, pctcvr, click, conversion, user and/or request (jobs.score)."""
    out: Path | None = None
    """Run directory: new, or one of the same run to continue."""
    objective: str = "score_fusion"
    """score_fusion, a name of es/objectives/registry.py, package.module:Class, or path/to/file.py:Class."""
    set: tuple[str, ...] = ()
    """Settings of the objective (not of score fusion), key=value."""
    start_from: Path | None = None
    """Another run of the same objective and dimension, finished or not: begin with its theta, not with the objective's
    own (and with what the objective has learned of its observations, if it does); the optimizer starts afresh."""
    config: Path | None = None
    """A preset file (JSON), such as the best.json of jobs.tune. Options that are not at their defaults win over it."""
    preset: str = ""
    """A named configuration of jobs/command/presets.py: default, cautious, separable, evolution_strategy."""
    resume: Path | None = None
    """Continue the run in this directory with the settings it was started with; nothing else need be given."""
    replay: Path | None = None
    """Compute theta of the run in this directory again from its seed and returns; compare it with the checkpoint."""
    judge: Path | None = None
    """Score fusion: another scored file, to judge on; all users of --scored are tuned on then, not half of them."""
    fusion: Literal["product", "sum", "rank"] = "product"
    """prod (p_i + b_i)^a_i, sum w_i p_i, or sum w_i / (rank_i + offset)."""
    metric: Literal["value", "ndcg"] = "value"
    """What is maximised: the reward among the first k of each request, or reward-NDCG@k."""
    k: int = 10
    """Places of a list that count."""
    by: tuple[str, ...] = ()
    """Columns of the scored file that describe the user: the weights then follow them (per-segment weights)."""
    constrain: tuple[str, ...] = ()
    """outcome=tolerance: click=0.005 lets clicks among the first k fall by 0.5% of the untuned policy's, no more."""
    conversion_weight: float = 10.0
    """Reward of a candidate = click + this * conversion (* value, where the file has that column)."""
    workers: int | Literal["auto"] = "auto"
    """Ray actors; 0 evaluates in this process without Ray; auto measures which is faster. Never changes the result."""
    generations: int = 60
    """Updates of the policy."""
    pairs: int = 64
    """Pairs of candidates per generation."""
    sigma: float = 0.1
    """Size of the perturbations; in score fusion 1 is an exponent of 1, a weight of 1, or an e-fold."""
    learning_rate: float | None = None
    """Step size; left out, the algorithm's own: 0.05 of Adam, unless --engine says otherwise."""
    engine: tuple[str, ...] = ()
    """Any other setting of es/config.py, key=value: algorithm=..., optimizer=clipup, min_workers=1."""
    seed: int = 0
    """Decides the split of the users, the perturbations and the bootstrap."""
    resamples: int = 1000
    """Bootstrap resamples behind the intervals of score fusion and off_policy."""


def configure(arguments: Arguments) -> ESConfig:
    """The engine's settings; ValueError, naming the setting, for what cannot be."""
    check_tracking()
    names = ("seed", "generations", "pairs", "sigma", "learning_rate", "workers")
    own = [assignment for assignment in arguments.engine if assignment.partition("=")[0].strip() in names]
    if own:
        name = own[0].partition("=")[0].strip().replace("_", "-")
        raise ValueError(f"--engine {own[0]}: this setting has an option of its own, --{name}")
    config = ESConfig(**{name: getattr(arguments, name) for name in names})
    config = dataclasses.replace(config, **read_settings(ESConfig, arguments.engine, "--engine"))
    config.check()
    if config.workers != "auto":
        check_cpus(config.workers)
    return config


def engine_settings(config: ESConfig, arguments: Arguments) -> dict[str, Any]:
    """run.json's part about the engine, and about where it starts."""
    es = {name: value for name, value in dataclasses.asdict(config).items() if name != "workers"}
    start = arguments.start_from
    begins = {"start_from": str(start.expanduser().absolute())} if start else {}
    return {"workers": config.workers, "es": es, **begins}


def start(out: Path, kind: str, settings: dict[str, Any], arguments: Arguments, facts: dict[str, Any]) -> None:
    """Create the run directory; run.json keeps the options as given, for --resume."""
    given = {
        key: str(value.expanduser().absolute()) if isinstance(value, Path) else value
        for key, value in dataclasses.asdict(arguments).items()
        if key not in ("out", "resume", "replay")
    }
    start_run(out, kind, settings, {"arguments": given, **facts})


def places(workers: int | str) -> str:
    if workers == "auto":
        return "this process or on Ray, whichever is faster"
    return f"{workers} Ray actors" if workers else "this process"


def evolve(
    objective: Objective,
    config: ESConfig,
    out: Path,
    console: Console,
    start: Start | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> engine.ESResult:
    """Run the engine. SIGTERM or Ctrl-C: save, say so in one line and exit with code 143 or 130.

    In a thread, where no signal comes, `stopping` is asked instead, and es.tasks.Stopped raised.
    """
    if start is not None:
        start.load(objective)
    if config.workers and (config.workers != "auto" or names_cluster()):
        # A cluster may be smaller than the run would like and grow; a local Ray is started as large as it must be.
        at_least = 1 if config.workers == "auto" else config.workers
        connect(min(at_least, config.min_workers or at_least) if names_cluster() else at_least)
    telemetry = GenerationTelemetry(out)
    events = Events(out, EVENTS_EVERY_S, NO_CURVE)
    with present(out), stop_signals() as received, progress(console, config.generations) as show, closing(events):

        def on_generation(metrics: dict[str, Any]) -> None:
            show(metrics)
            events.add(metrics["generation"], metrics)
            telemetry.add(metrics)

        try:
            theta_D = start.theta_D if start else None
            result = engine.run(
                objective, config, out, on_generation, lambda: bool(received) or stopping(), start_D=theta_D
            )
        except Stopped as stopped:
            if not received:
                raise
            leave(stopped, received[0])
        finally:
            telemetry.send()
    if result.choice:
        where = f"{result.choice.workers} workers" if result.choice.workers else "in this process"
        console.print(f"workers auto: {where} ({result.choice.reason})", soft_wrap=True)
    return result


@contextmanager
def progress(console: Console, generations: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar on a terminal, a line now and then elsewhere."""
    columns = (
        TextColumn("generation"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}  {task.fields[figures]}"),
    )
    bars = Progress(*columns, TimeRemainingColumn(), console=console, disable=not is_live(console), transient=True)
    with bars as bar, Lines(console) as told:
        task = bar.add_task("generation", total=generations, figures="")

        def show(metrics: dict[str, Any]) -> None:
            centre = metrics["return.centre"]
            figures = f"population {metrics['return.mean']:.5f} ± {metrics['return.std']:.5f}"
            if centre is not None:
                figures = f"policy {centre:.5f}  {figures}"
            bar.update(task, completed=metrics["generation"] + 1, figures=figures)
            told.tell(f"generation {metrics['generation'] + 1}/{generations}  {figures}")

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
