"""Evaluate a finished training run on any log that has its features: every figure with its interval, as a report.

    python -m jobs.evaluate --run runs/ips --data runs/log
    python -m jobs.evaluate --run runs/ips --data runs/log --by channel price @activity
    python -m jobs.evaluate --run runs/ips --data runs/other_log --part valid --out runs/ips_on_other
    python -m jobs.report runs/naive_test runs/ips_test --out compared.html        # evaluations side by side

All figures that the run's problem has, overall and by slice, with 95% bootstrap intervals over users (rows or requests,
where the log names no user). A calibrated run is evaluated as calibrated, with its raw figures beside. What the data
cannot say is absent with the reason. OUT gets summary.json, evaluation.json and report.html. The run may be any
finished one of jobs.train, the log any that has its features and labels.
"""

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from torch import nn

import jobs.report
from data.errors import UserError
from data.files import scratch_directory
from data.identity import log_identity
from data.log import Log, Part, open_log
from distributed.training.recorder import EVALUATION
from distributed.training.validation import count
from funnel.problem import Counts, Problem
from funnel.registry import DEFAULT_PROBLEM, find_problem, tool
from funnel.tools import Evaluating, Evaluation
from jobs.command.call import Place, Result, call
from jobs.command.cli import main
from jobs.command.console import Console
from jobs.command.finished import device, given_to, open_run, read_finished
from jobs.command.tables import print_table
from jobs.run.directory import RUN_FILE, SUMMARY_FILE, RunState, inspect_run, read_json, start_run, write_json
from jobs.run.inputs import MADE_FROM, model_of
from jobs.run.owner import owned
from jobs.run.progress import Lines
from jobs.run.records import reading_from

REPORT = "report.html"
MAY_CHANGE = frozenset({"model", "calibration"})
"""Of an evaluation that stands: it is made again where they have."""
FEWEST = 40
"""Replicates, for a 95% interval."""


@dataclass
class Arguments:
    run: Path
    """Directory of a finished training run."""
    data: str
    """Log directory (path or URI); it needs the run's features and labels."""
    part: str = "test"
    """Part of the log to evaluate on."""
    by: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN ...")] = ()
    """Columns to slice by: numbers in fifths, values of anything else; @activity: exposures of the user in the part."""
    out: Path | None = None
    """Run directory to write; RUN/evaluations/PART unless given."""
    raw: bool = False
    """Leave out the run's calibration, if it has one."""
    replicates: int = 400
    """Bootstrap replicates behind the intervals."""
    seed: int = 0
    """Decides the bootstrap's weights."""


def run(arguments: Arguments) -> dict[str, Any]:
    """Evaluate, write, show; returns summary.json as a dict."""
    source = arguments.run
    out = place(arguments)
    if arguments.replicates < FEWEST:
        raise UserError(f"--replicates must be at least {FEWEST}, got {arguments.replicates}")
    if arguments.seed < 0:
        raise UserError(f"--seed must be at least 0, got {arguments.seed}")
    record = read_finished(source)
    finished = open_run(source)
    evaluating: Evaluating = tool(finished.problem, "evaluate")
    settings = {
        "evaluate": {**dataclasses.asdict(arguments), "run": str(source), "out": None, "by": list(arguments.by)},
        **evaluating.identity(finished, arguments.raw),
    }
    state = inspect_run(out, "evaluate", settings, MAY_CHANGE)
    log = None if state is RunState.DONE and not reachable(arguments.data) else open_log(arguments.data)
    made_from: dict[str, Any] = {"run": model_of(source, arguments.raw)}
    if log is not None:
        made_from["data"] = log_identity(log, [arguments.part])
    changed = changed_inputs(out, made_from) if state is not RunState.NEW else ""
    if state is RunState.DONE and not changed:
        summary = read_json(out / SUMMARY_FILE)
        Console().print(f"{out} is finished already:", soft_wrap=True)
        if not (out / REPORT).exists():
            jobs.report.write_page([out], out / REPORT)
        with reading_from(out / SUMMARY_FILE, out / EVALUATION):
            print_table(Console(), evaluating.results(summary, read_json(out / EVALUATION))[0])
        return summary
    log = log or open_log(arguments.data)
    asked = (arguments.part, arguments.by, arguments.raw, arguments.replicates, arguments.seed)
    evaluation = evaluating.prepare(finished, given_to(record), log, *asked)
    for line in evaluation.warnings:
        Console().print(f"warning: {line}", style="yellow", soft_wrap=True, markup=False, highlight=False)
    data = {"location": arguments.data, "name": log.schema.name, "parts": {arguments.part: evaluation.counts}}
    facts = {"data": data, MADE_FROM: made_from, "judged": record.get("config")}
    facts |= {"problem": record["problem"]} if "problem" in record else {}
    with owned(out):
        state = inspect_run(out, "evaluate", settings, MAY_CHANGE)
        if changed:
            Console().print(f"{out}: {changed}; evaluated again", style="yellow", soft_wrap=True)
            for name in (SUMMARY_FILE, EVALUATION, REPORT):
                (out / name).unlink(missing_ok=True)
        if changed or state is RunState.NEW:
            start_run(out, "evaluate", settings, facts)
        sample = json.dumps([made_from["data"]["parts"], arguments.seed, arguments.replicates], sort_keys=True)
        return evaluated(arguments, out, evaluating, evaluation, sample)


def place(arguments: Arguments) -> Path:
    """The directory of the evaluation."""
    return arguments.out or arguments.run / "evaluations" / arguments.part


def reachable(location: str) -> bool:
    try:
        open_log(location)
    except UserError:
        return False
    return True


def changed_inputs(out: Path, made_from: dict[str, Any]) -> str:
    """What has changed since `out` was evaluated, in words; empty: nothing that can be asked now."""
    before = read_json(out / RUN_FILE).get(MADE_FROM)
    if not isinstance(before, dict):
        return "an earlier version kept nothing of what it was made from"
    words = {"run": "the model or its calibration has changed", "data": "the log has changed"}
    return ", ".join(words[name] for name, now in made_from.items() if before.get(name) != now)


def count_part(problem: Problem, network: nn.Module, log: Log, part: Part, counts: Counts) -> Counts:
    """The pass of a validation, here in this process."""
    return count(problem, network, log, part, counts, None, device())


def evaluated(
    arguments: Arguments,
    out: Path,
    evaluating: Evaluating,
    evaluation: Evaluation,
    sample: str,
) -> dict[str, Any]:
    """Count, write, show. `sample`: of which rows and weights the replicates are, so that a page may pair them."""
    started, console = time.time(), Console()
    with (
        scratch_directory() as folder,
        console.status("evaluating") as status,
        Lines(console) as lines,
    ):

        def say(text: str) -> None:
            status.update(text)
            lines.tell(text)

        figures, curves = evaluation.run(folder, device(), count_part, say)
    absent = figures.pop("absent")
    summary = {**figures, "part": arguments.part, "evaluate.seconds": time.time() - started, "absent": absent}
    curves = {"part": arguments.part, "sample": sample, **curves}
    write_json(out / EVALUATION, curves)
    write_json(out / SUMMARY_FILE, summary)
    jobs.report.write_page([out], out / REPORT)
    for table in evaluating.results(summary, curves):
        print_table(console, table)
    console.print(f"report: {out / REPORT}", soft_wrap=True, highlight=False)
    return summary


COMMAND = run
"""Where `run` is a run."""


def evaluate(run: Place, data: Place, **options: Any) -> Result:
    """Evaluate a finished training as `python -m jobs.evaluate` does; returns the figures (docs/notebook.md).

    run: of `train`; data: a log with its features. part="valid", by=["channel", "price"] and so on.
    """

    def result(given: Arguments, summary: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
        return place(given), summary

    return call("evaluate", COMMAND, Arguments, {"run": run, "data": data, **options}, result)


def following(given: Arguments) -> tuple[object, ...]:
    """Scores, where its problem gives them; else the page with another run's evaluation beside."""
    if "score" in find_problem(read_json(given.run / RUN_FILE).get("problem", DEFAULT_PROBLEM)).tools:
        out = given.run / "scored.parquet"
        return "score", "--run", given.run, "--data", given.data, "--part", given.part, "--out", out
    return "report", place(given), "--out", given.run / "compared.html"


if __name__ == "__main__":
    main(run, Arguments, __doc__ or "", then=following)
