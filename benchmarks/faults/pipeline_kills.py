"""Kill a pipeline at random moments, give the command again, compare what is left with an unbroken run's, bit by bit.

    python -m benchmarks.faults.pipeline_kills --record
    python -m benchmarks.faults.pipeline_kills --kills 3 --workers 1            # Ray's workers die with the driver

Each round begins anew: SIGKILL to the process after a random share of the time that the unbroken run took (from the
moment that the run directory exists), then the same again to its end. A round passes if every result file
is the unbroken run's: the model's tensors, scores, theta and returns, figures of the days, summary.json.
Exported files are checked against the model as they are written.
"""

import dataclasses
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing.process import BaseProcess as Process
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from benchmarks.bench import markdown, write_result
from data.generate import generate_days, generate_log
from data.world import GeneratedLog
from jobs import pipeline
from jobs.command.cli import main
from jobs.pipeline import Arguments as Pipeline
from jobs.pipeline.record import PIPELINE_FILE
from jobs.run.directory import SUMMARY_FILE

BYTES = (
    SUMMARY_FILE,
    "days.jsonl",
    "scored/*.parquet",
    "evaluation/evaluation.json",
    "train/evaluation.json",
    "**/tuned/policy.json",
    "**/tuned/returns.f64",
    "days/*/judged_policy.json",
)
"""Result files that are compared as they are."""
TENSORS = ("train/model/*.safetensors", "days/*/train/model/*.safetensors", "**/tuned/checkpoint.safetensors")
"""And those whose tensors are: their headers hold seconds."""
SMALL = {
    "batch-size": "400",
    "stream.lanes": "4",
    "model.embedding-width": "4",
    "model.backbone.expert-hidden": "8",
    "model.tower-hidden": "4",
    "log-steps": "5",
}


@dataclass
class Arguments:
    record: bool = False
    """Write a dated file into benchmarks/results."""
    kills: int = 20
    """Rounds, at most."""
    minutes: float = 60.0
    """No round begins after so many."""
    export: bool = False
    """With the export stage, which is most of the time of so small a pipeline."""
    workers: int = 0
    """Ray Train workers; 0 trains in the pipeline's process."""
    days: int = 1
    """Day partitions that follow the log; 0: no --watch."""
    rows: int = 12_000
    """Exposures of the log, and of all days together."""
    epochs: int = 4
    seed: int = 0
    """Decides the moments."""


def results(out: Path) -> dict[str, str]:
    """Digest by result file of a finished pipeline."""
    found = {}
    for pattern in BYTES:
        for path in out.glob(pattern):
            found[str(path.relative_to(out))] = hashlib.sha256(path.read_bytes()).hexdigest()
    for pattern in TENSORS:
        for path in out.glob(pattern):
            state = hashlib.sha256()
            for name, tensor in sorted(load_file(path).items()):
                state.update(name.encode() + tensor.tobytes())
            found[str(path.relative_to(out))] = state.hexdigest()
    return found


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def make_logs(where: Path, rows: int, days: int) -> None:
    """A log with many conversions, and days of the same world."""
    shape: dict[str, Any] = {"rows_per_file": 2000, "rows_per_group": 400, "users": 200, "items": 100}
    world = GeneratedLog(world="aligned", rows=rows, seed=3, click_rate=0.2, conversion_rate=0.3, **shape)
    generate_log(world, where / "log")
    if days:
        generate_days(world, days, where / "days")


def options(where: Path, arguments: Arguments) -> Pipeline:
    """The pipeline on those logs."""
    words = {"out": where / "run", "data": where / "log", "workers": arguments.workers, "epochs": arguments.epochs}
    words |= {"tuning.k": 3, "es.generations": 40, "es.pairs": 8, "resamples": 50, "replicates": 40}
    words |= {"export-rows": 200, "poll": 0.2, **SMALL}
    if arguments.days:
        words |= {"watch": where / "days", "days": arguments.days}
    given = pipeline.arguments_of(*(str(part) for name, value in words.items() for part in (f"--{name}", value)))
    return dataclasses.replace(given, formats=("pt2",) if arguments.export else ())


def silent(given: Pipeline) -> None:
    """What the killed process does."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    pipeline.run(given)


def begin(given: Pipeline) -> Process:
    """The pipeline in a process of its own, which leads a group; a server that has imported everything forks it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["jobs.pipeline.driver"])
    process = context.Process(target=silent, args=(given,))
    process.start()
    return process


def finish(process: Process) -> None:
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the pipeline ended with exit code {process.exitcode}")


def await_run(out: Path, process: Process) -> None:
    while not (out / PIPELINE_FILE).exists() and process.is_alive():
        time.sleep(0.002)


def at_work(out: Path) -> str:
    """The stage that a killed pipeline was at, without its step or day."""
    if not (out / PIPELINE_FILE).exists():
        return "before the first stage"
    stages = json.loads((out / PIPELINE_FILE).read_text())["stages"]
    running = [name for name, entry in stages.items() if entry["state"] == "running"]
    return " and ".join(name.split(" ")[-1] for name in running) or "between stages"


def run(arguments: Arguments) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="pipeline-kills-") as folder:
        where = Path(folder)
        make_logs(where, arguments.rows, arguments.days)
        return killed(arguments, where)


def killed(arguments: Arguments, where: Path) -> dict[str, Any]:
    given = options(where, arguments)
    out, until = given.out, time.monotonic() + 60 * arguments.minutes
    process = begin(given)
    await_run(out, process)
    began = time.monotonic()
    finish(process)
    unbroken_s = time.monotonic() - began
    expected = results(out)
    shutil.rmtree(out)
    print(f"unbroken: {unbroken_s:.1f} s, {len(expected)} result files")
    rng, rounds, stages = np.random.default_rng(arguments.seed), list[dict[str, Any]](), Counter[str]()
    while len(rounds) < arguments.kills and time.monotonic() < until:
        moment = float(rng.random()) * unbroken_s
        process = begin(given)
        await_run(out, process)
        process.join(timeout=moment)
        if not process.is_alive():
            shutil.rmtree(out)
            continue  # faster than the unbroken one: nothing was killed
        os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
        stage = at_work(out)
        began = time.monotonic()
        finish(begin(given))
        again_s = time.monotonic() - began
        wrong = differences(expected, results(out))
        rounds.append({"moment_s": moment, "stage": stage, "again_s": again_s, "differ": wrong})
        stages[stage] += 1
        shutil.rmtree(out)
        verdict = f"differ: {', '.join(wrong)}" if wrong else "same bits"
        print(f"{len(rounds)}: killed after {moment:.1f} s at {stage}; {verdict}", flush=True)
    equal = sum(not one["differ"] for one in rounds)
    found: dict[str, Any] = {"unbroken_s": unbroken_s, "files": len(expected), "kills": len(rounds), "equal": equal}
    found |= {"stages": dict(stages), "rounds": rounds}
    print(f"{equal} of {len(rounds)} rounds end in the same bits; killed at: "
          + ", ".join(f"{stage} {count}" for stage, count in stages.most_common()))  # fmt: skip
    if arguments.record:
        words = (
            f"{equal} of {len(rounds)} killed pipelines end in the bits of the unbroken one, {len(expected)} files.\n\n"
        )
        table = markdown(["killed at", "times"], [[stage, count] for stage, count in stages.most_common()])
        name = "pipeline-kills" + (f"-{arguments.workers}-workers" if arguments.workers else "")
        write_result(name, {**found, "workers": arguments.workers}, words + table)
    if equal < len(rounds):
        raise SystemExit(1)
    return found


if __name__ == "__main__":
    main(run, Arguments, __doc__ or "")
