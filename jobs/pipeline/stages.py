"""What the stages of a pipeline do: each is a job of its own, run in this process, in a directory of the pipeline's."""

import json
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distributed.checkpoint.read import MODEL_DIRECTORY
from distributed.training.recorder import EVALUATION
from es.record import CHECKPOINT_FILE
from jobs import calibrate, evaluate, evolve, export, score, train
from jobs.command.console import Console
from jobs.evolve.conduct import POLICY_FILE, conduct
from jobs.pipeline.plan import Plan
from jobs.pipeline.record import Record, Stage
from jobs.run.directory import RUN_FILE, SUMMARY_FILE
from jobs.run.progress import follow_training
from jobs.run.start_from import about_model, given_runs


def train_stage(
    plan: Plan, record: Record, name: str, out: Path, data: str, inputs: dict[str, str], **changes: Any
) -> dict[str, Any]:
    """Train (and calibrate) in `out`; facts: the last step, the best one, and the figures that are watched.

    `changes`: of jobs.train's arguments.
    """
    options = plan.options
    arguments = plan.train_arguments(data, out, **changes)
    for role, run in given_runs(options.given, plan.problem.roles).items():
        checksums = about_model(run, f"--given {role}={run}")["checksums"]
        inputs = {**inputs, role: f"{zlib.crc32(json.dumps(checksums).encode()):08x}"}

    def work() -> dict[str, Any]:
        forget_unbegun(out)
        epochs, watched = arguments.config.epochs, plan.problem.watched
        with follow_training(record.console, out, epochs, watched, workers=arguments.workers):
            summary = train.run(arguments, cpus=plan.local_cpus)
        if options.calibrate not in ("none", summary.get("calibration.method")):  # killed between the two
            settings = calibrate.settings_of(plan.problem, method=options.calibrate)
            summary = calibrate.run(calibrate.Arguments(run=out, settings=settings))
        facts = {"steps": summary["train.steps"], "best_step": summary["train.best_step"]}
        return facts | {key: summary[key] for key in plan.problem.watched if key in summary}

    def outputs() -> list[Path]:
        return [*(out / MODEL_DIRECTORY).iterdir(), out / SUMMARY_FILE, out / EVALUATION, out / RUN_FILE]

    return record.do(Stage(name, inputs, (out,), outputs, work))


def score_stage(
    record: Record,
    name: str,
    run: Path,
    data: str,
    files: dict[str, Path],
    inputs: dict[str, str],
    keep: Sequence[str] = (),
) -> dict[str, Any]:
    """Score parts of a log with a finished training; `files`: part -> Parquet file; `keep`: columns written, too."""

    def work() -> dict[str, Any]:
        for part, path in files.items():
            score_part(run, data, part, path, keep)
        return {}

    return record.do(Stage(name, inputs, tuple(files.values()), lambda: list(files.values()), work))


def score_part(run: Path, data: str, part: str, path: Path, keep: Sequence[str] = ()) -> None:
    """Write the file again where one stands: what a kill left may be older than the model."""
    path.unlink(missing_ok=True)
    score.run(score.Arguments(run=run, data=data, out=path, part=part, keep=tuple(keep)))


def evolve_stage(record: Record, name: str, arguments: evolve.Arguments, inputs: dict[str, str]) -> dict[str, Any]:
    """Tune on a scored file; facts: generations, and the return they came to."""
    out = arguments.out
    assert out is not None

    def work() -> dict[str, Any]:
        forget_unbegun(out)
        summary = conduct(arguments, Console())
        return {"generations": summary["es.generations"], "return": summary["es.final_return"]}

    def outputs() -> list[Path]:
        return [out / name for name in (POLICY_FILE, SUMMARY_FILE, CHECKPOINT_FILE, RUN_FILE)]

    return record.do(Stage(name, inputs, (out,), outputs, work))


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
        seed=plan.seed,
    )

    def work() -> dict[str, Any]:
        forget_unbegun(out)
        summary = evaluate.run(arguments)
        return {key: summary[key] for key in plan.problem.watched if key in summary}

    return record.do(Stage(name, inputs, (out,), lambda: [out / SUMMARY_FILE, out / EVALUATION], work))


def export_stage(
    plan: Plan,
    record: Record,
    name: str,
    run: Path,
    policy: Path | None,
    data: str,
    part: str,
    out: Path,
    inputs: dict[str, str],
) -> dict[str, Any]:
    """Files for serving; the tuned policy is among them if it can be."""
    options, left_out = plan.options, plan.tunable.not_served(plan.tuning)
    arguments = export.Arguments(
        run=run,
        out=out,
        policy=None if left_out else policy,  # None too where no day could be tuned on yet
        data=data,
        part=part,
        rows=options.export_rows,
        formats=options.formats,
    )

    def work() -> dict[str, Any]:
        shutil.rmtree(out, ignore_errors=True)
        export.run(arguments)
        return {"files": len(list(out.iterdir())), **({"policy": f"left out: {left_out}"} if left_out else {})}

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
