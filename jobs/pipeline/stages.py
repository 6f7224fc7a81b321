"""What the stages of a pipeline do: each is a job of its own, run in this process, in a directory of the pipeline's."""

import json
import shutil
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console

from distributed.checkpoint.read import MODEL_DIRECTORY
from distributed.training.loop import OnEpoch
from distributed.training.recorder import EVALUATION
from es.record import CHECKPOINT_FILE
from jobs import calibrate, evaluate, export, score, train
from jobs.evolve import evolution
from jobs.evolve.evolve_fusion import POLICY_FILE, run_fusion
from jobs.pipeline.plan import Plan
from jobs.pipeline.record import Record, Stage
from jobs.run.directory import METRICS_FILE, RUN_FILE, SUMMARY_FILE
from jobs.run.progress import follow_training
from jobs.run.two_stages import about_click_model


def train_stage(
    plan: Plan,
    record: Record,
    name: str,
    out: Path,
    data: str,
    inputs: dict[str, str],
    on_epoch: OnEpoch | None = None,
    beside: Callable[[], AbstractContextManager[None]] = nullcontext,
    owns: tuple[Path, ...] = (),
    **changes: Any,
) -> dict[str, Any]:
    """Train (and calibrate) in `out`; facts: the last step, the best one, those that were the best when they came.

    `beside`: what goes on while the workers train; `owns`: what lives from this training and goes with it; `changes`:
    of jobs.train's arguments.
    """
    options = plan.options
    arguments = plan.train_arguments(data, out, **changes)
    if options.propensities:
        facts = about_click_model(options.propensities)
        inputs = {**inputs, "propensities": f"{zlib.crc32(json.dumps(facts['checksums']).encode()):08x}"}

    def work() -> dict[str, Any]:
        forget_unbegun(out)
        with follow_training(record.console, out, arguments.epochs), beside():
            summary = train.run(arguments, on_epoch, plan.local_cpus)
        if options.calibrate not in ("none", summary.get("calibration.method")):  # killed between the two
            summary = calibrate.run(calibrate.Arguments(run=out, method=options.calibrate))
        steps = [event["step"] for event in events(out / METRICS_FILE) if event.get("best")]
        facts = {"steps": summary["train.steps"], "best_step": summary["train.best_step"], "best_steps": steps}
        facts |= {key: summary[key] for key in ("ctr.auc", "ctcvr.auc") if key in summary}
        return facts

    def outputs() -> list[Path]:
        return [*(out / MODEL_DIRECTORY).iterdir(), out / SUMMARY_FILE, out / EVALUATION, out / RUN_FILE]

    return record.do(Stage(name, inputs, (out, *owns), outputs, work))


def score_stage(
    record: Record, name: str, run: Path, data: str, files: dict[str, Path], inputs: dict[str, str]
) -> dict[str, Any]:
    """Score parts of a log with a finished training; `files`: part -> Parquet file."""

    def work() -> dict[str, Any]:
        for part, path in files.items():
            score_part(run, data, part, path)
        return {}

    return record.do(Stage(name, inputs, tuple(files.values()), lambda: list(files.values()), work))


def score_part(run: Path, data: str, part: str, path: Path) -> None:
    """Anew where a file stands: what a kill left may be older than the model."""
    path.unlink(missing_ok=True)
    score.run(score.Arguments(run=run, data=data, out=path, part=part))


def evolve_stage(
    plan: Plan,
    record: Record,
    name: str,
    arguments: evolution.Arguments,
    inputs: dict[str, str],
    stopping: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Tune a fusion on a scored file; facts: what it is worth where it is judged."""
    out = arguments.out
    assert out is not None

    def work() -> dict[str, Any]:
        forget_unbegun(out)
        return fusion_facts(run_fusion(arguments, Console(), stopping), plan)

    return record.do(Stage(name, inputs, (out,), lambda: fusion_files(out), work))


def fusion_facts(summary: dict[str, Any], plan: Plan) -> dict[str, Any]:
    key = f"fusion.{plan.options.metric}_at_{plan.options.k}"
    name = f"{plan.options.metric}@{plan.options.k}"
    facts = {f"{name} {which}": summary[f"{key}.{which}"] for which in ("tuned", "untuned")}
    return {**facts, "generations": summary["es.generations"]}


def fusion_files(out: Path) -> list[Path]:
    return [out / name for name in (POLICY_FILE, SUMMARY_FILE, CHECKPOINT_FILE, RUN_FILE)]


def evaluate_stage(
    plan: Plan, record: Record, name: str, run: Path, data: str, part: str, out: Path, inputs: dict[str, str]
) -> dict[str, Any]:
    """Every figure of a model on a part."""
    arguments = evaluate.Arguments(
        run=run,
        data=data,
        part=part,
        out=out,
        by=plan.options.by,
        replicates=plan.options.replicates,
        seed=plan.options.seed,
    )

    def work() -> dict[str, Any]:
        forget_unbegun(out)
        summary = evaluate.run(arguments)
        keys = ("ctr.auc", "ctr.log_loss", "ctr.pcoc", "ctcvr.auc")
        return {key: summary[key] for key in keys if key in summary}

    return record.do(Stage(name, inputs, (out,), lambda: [out / SUMMARY_FILE, out / EVALUATION], work))


def export_stage(
    plan: Plan,
    record: Record,
    name: str,
    run: Path,
    policy: Path,
    data: str,
    part: str,
    out: Path,
    inputs: dict[str, str],
) -> dict[str, Any]:
    """Files for serving; the fusion is among them unless it is by rank, which no graph of single exposures can hold."""
    options = plan.options
    arguments = export.Arguments(
        run=run,
        out=out,
        policy=None if options.fusion == "rank" else policy,
        data=data,
        part=part,
        rows=options.export_rows,
        formats=options.formats,
    )

    def work() -> dict[str, Any]:
        shutil.rmtree(out, ignore_errors=True)
        export.run(arguments)
        fused = {"fusion": "left out, it is by rank"} if options.fusion == "rank" else {}
        return {"files": len(list(out.iterdir())), **fused}

    return record.do(Stage(name, inputs, (out,), lambda: list(out.iterdir()), work))


def forget_unbegun(out: Path) -> None:
    """A directory in which a kill came before run.json holds nothing."""
    if out.exists() and not (out / RUN_FILE).exists():
        shutil.rmtree(out)


def events(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without a half-written last one."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return [event for event in found if isinstance(event, dict)]


@contextmanager
def in_a_thread(work: Callable[[Callable[[], bool]], None]) -> Iterator[None]:
    """Run work(stopping) beside the body; the end of the body asks it to stop and waits. Its error is raised here."""
    stop, errors = threading.Event(), list[BaseException]()

    def target() -> None:
        try:
            work(stop.is_set)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=target, name="rounds")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if errors:
        raise errors[0]
