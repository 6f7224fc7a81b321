"""Kill a pipeline at random moments, give the command again, compare what is left with an unbroken run's, bit by bit.

    python -m benchmarks.pipeline_kills --record
    python -m benchmarks.pipeline_kills --kills 3 --workers 1 --days 2          # Ray's workers die with the driver

Each round begins anew: SIGKILL to the process and its group after a random share of the time that the unbroken run took
(from the moment that the run directory exists), then the same command to its end. A round passes if every result file
is the unbroken run's: the model's tensors, scores, theta and returns of every round, figures of the days, summary.json.
Exported files are checked against the model as they are written.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from benchmarks.bench import markdown, write_result
from data.generate import generate_days, generate_log
from data.world import GeneratedLog
from jobs.cli import main
from jobs.pipeline_record import PIPELINE_FILE
from jobs.run_directory import SUMMARY_FILE

ROOT = Path(__file__).resolve().parent.parent
BYTES = (
    SUMMARY_FILE,
    "days.jsonl",
    "scored/*.parquet",
    "evaluation/evaluation.json",
    "train/evaluation.json",
    "**/fusion/policy.json",
    "**/fusion/returns.f64",
    "days/*/judged_fusion.json",
)
"""Result files that are compared as they are."""
TENSORS = ("train/model/*.safetensors", "days/*/train/model/*.safetensors", "**/fusion/checkpoint.safetensors")
"""And those whose tensors are: their headers hold seconds."""
SMALL = ("batch_size=400", "stream.lanes=4", "model.embedding_width=4", "model.backbone.expert_hidden=8",
         "model.tower_hidden=4", "log_steps=5")  # fmt: skip


@dataclass
class Arguments:
    record: bool = False
    """Write a dated file into benchmarks/results."""
    kills: int = 20
    """Rounds."""
    workers: int = 0
    """Ray Train workers; 0 trains in the pipeline's process."""
    days: int = 2
    """Day partitions that follow the log; 0: no --watch."""
    rows: int = 30_000
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
    world = GeneratedLog(rows=rows, seed=3, click_rate=0.2, conversion_rate=0.3, **shape)
    generate_log(world, where / "log")
    if days:
        generate_days(world, days, where / "days")


def options(where: Path, workers: int, days: int, epochs: int) -> list[str]:
    """The command line of the pipeline on those logs."""
    words = ["--data", str(where / "log"), "--out", str(where / "run"), "--workers", str(workers)]
    words += ["--epochs", str(epochs), "--k", "3", "--generations", "40", "--round-generations", "20", "--pairs", "8"]
    words += ["--resamples", "50", "--replicates", "40", "--export-rows", "500", "--formats", "pt2"]
    if days:
        words += ["--watch", str(where / "days"), "--days", str(days), "--poll", "0.2"]
    return [*words, "--set", *SMALL]


def begin(words: list[str]) -> "subprocess.Popen[str]":
    """The pipeline as a process of a group of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.pipeline", *words],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: "subprocess.Popen[str]") -> str:
    text, _ = process.communicate(timeout=600)
    if process.returncode:
        raise RuntimeError(f"the pipeline ended with exit code {process.returncode}:\n{text[-3000:]}")
    return text


def await_run(out: Path, process: "subprocess.Popen[str]") -> None:
    while not (out / PIPELINE_FILE).exists() and process.poll() is None:
        time.sleep(0.005)


def at_work(out: Path) -> str:
    """The stage that a killed pipeline was at, without its step or day."""
    if not (out / PIPELINE_FILE).exists():
        return "before the first stage"
    stages = json.loads((out / PIPELINE_FILE).read_text())["stages"]
    running = [name for name, entry in stages.items() if entry["state"] == "running"]
    return " and ".join(name.split(" ")[0] if name.startswith("round") else name.split(" ")[-1] for name in running) \
        or "between stages"  # fmt: skip


def run(arguments: Arguments) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="pipeline-kills-") as folder:
        where = Path(folder)
        make_logs(where, arguments.rows, arguments.days)
        return killed(arguments, where)


def killed(arguments: Arguments, where: Path) -> dict[str, Any]:
    out, words = where / "run", options(where, arguments.workers, arguments.days, arguments.epochs)
    process = begin(words)
    await_run(out, process)
    began = time.monotonic()
    finish(process)
    unbroken_s = time.monotonic() - began
    expected = results(out)
    shutil.rmtree(out)
    print(f"unbroken: {unbroken_s:.1f} s, {len(expected)} result files")
    rng, rounds, stages = np.random.default_rng(arguments.seed), list[dict[str, Any]](), Counter[str]()
    for number in range(arguments.kills):
        moment = float(rng.random()) * unbroken_s
        process = begin(words)
        await_run(out, process)
        try:
            process.wait(timeout=moment)
            stage = "ended before"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            stage = at_work(out)
        began = time.monotonic()
        finish(begin(words))
        again_s = time.monotonic() - began
        wrong = differences(expected, results(out))
        rounds.append({"moment_s": moment, "stage": stage, "again_s": again_s, "differ": wrong})
        stages[stage] += 1
        shutil.rmtree(out)
        verdict = f"differ: {', '.join(wrong)}" if wrong else "same bits"
        print(f"{number + 1}: killed after {moment:.1f} s at {stage}; {verdict}", flush=True)
    equal = sum(not one["differ"] for one in rounds)
    found = {"unbroken_s": unbroken_s, "files": len(expected), "kills": len(rounds), "equal": equal}
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
