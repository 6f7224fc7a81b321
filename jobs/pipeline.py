"""Train, score, evolve, evaluate, export: one job that goes on wherever it was stopped, and ends in the same files.

    python -m jobs.pipeline --data runs/log --out runs/all
    python -m jobs.pipeline --data runs/log --out runs/all --workers 2 --evolve-workers 2 --epochs 4
    python -m jobs.pipeline --data runs/log --out runs/plain --workers 0           # this process, no Ray
    python -m jobs.pipeline --data runs/log --out runs/daily --watch runs/days     # and then day by day
    python -m jobs.submit -- pipeline --data s3://bucket/log --out /shared/runs/all --workers 16 --evolve-workers 8

While the training goes on, each epoch whose model is the best so far is scored on the validation part and the fusion is
tuned on that, from the last theta; the test part is only judged on. A stage that is done is checked by the checksums of
what it read and wrote, and made anew, with what follows from it, where they differ: OUT/pipeline.json. The same command
continues a pipeline that was killed. docs/pipeline.md says what is in OUT, and how --watch takes days in.
"""

import contextlib
import dataclasses
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

import jobs.report
from jobs.cli import main
from jobs.cluster import check_cpus, names_cluster
from jobs.pipeline_plan import EXECUTION, Arguments, Plan, check_options, check_tunable, opened
from jobs.pipeline_record import DONE, PIPELINE_FILE, Record, in_words
from jobs.pipeline_rounds import Rounds
from jobs.pipeline_stages import (
    evaluate_stage,
    events,
    evolve_stage,
    export_stage,
    in_a_thread,
    score_stage,
    train_stage,
)
from jobs.presence import present
from jobs.run_directory import (
    METRICS_FILE,
    SUMMARY_FILE,
    RunState,
    inspect_run,
    read_json,
    start_run,
    usable_cpus,
    write_json,
)
from jobs.watch import Current, Watch, has_days

KIND = "pipeline"
PARTS = ("train", "valid", "test")
LOCK, OUTPUT, REPORT = ".lock", "output.log", "report.html"
TRAIN, SCORED, FUSION, ROUNDS, EVALUATION, SERVED = "train", "scored", "fusion", "rounds", "evaluation", "served"
STOPPED = 143
SHOWN_DAYS = 14
KEPT = ("ctr.", "cvr.", "ctcvr.", "calibrated.", "calibration.", "propensity.", "fusion.")
KEPT_ALONE = ("part", "absent", "train.steps", "train.epochs", "train.best_step", "es.generations", "es.evaluations",
              "es.dimension", "es.final_return")  # fmt: skip


def run(options: Arguments) -> dict[str, Any]:
    """Do what is not done; returns summary.json as a dict: no timings in it, so that it is the same every time."""
    config = check_options(options)
    out = options.out.expanduser().absolute()
    given = {key: value for key, value in dataclasses.asdict(options).items() if key not in EXECUTION}
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
    settings = {"pipeline": plain, "train": dataclasses.asdict(config)}
    state = inspect_run(out, KIND, settings)
    console = Console(file=sys.stdout)
    plan = Plan(options, out)
    if options.data is not None:
        log = opened(options.data, PARTS)
        if not (out / TRAIN / SUMMARY_FILE).exists():
            check_cpus(options.workers)
            check_tunable(plan, log, "valid", "test")
    if state is RunState.NEW:
        start_run(out, KIND, settings, {})
    with alone(out), stops(), present(out), threads(options.workers), quiet(out):
        clean(out)
        record = Record(out, console)
        summary = read_json(out / SUMMARY_FILE) if has_days(record) and (out / SUMMARY_FILE).exists() else {}

        def begin() -> Current:
            """The stages on --data, then the days; once a day is learned from, they are not looked at again."""
            found, current = base(plan, record)
            summary.update(found)
            finish(out, summary)
            return current

        if options.watch is not None:
            Watch(plan, record, begin if options.data is not None else None, lambda: finish(out, summary)).run()
        else:
            begin()
        finish(out, summary)
    show(console, record, summary, plan)
    return summary


def finish(out: Path, summary: dict[str, Any]) -> None:
    """Summary and report, if anything was done since they were written."""
    done = (out / PIPELINE_FILE).stat().st_mtime_ns if (out / PIPELINE_FILE).exists() else 0
    if not (out / REPORT).exists() or (out / REPORT).stat().st_mtime_ns < done:
        write_json(out / SUMMARY_FILE, summary)
        report(out)


def base(plan: Plan, record: Record) -> tuple[dict[str, Any], Current]:
    """The five stages on one log, with the rounds beside the first. Returns the summary, and what days go on from."""
    options, out = plan.options, plan.out
    assert options.data is not None
    data, log = options.data, opened(options.data, PARTS)
    trained, fusion, scored = out / TRAIN, out / FUSION, out / SCORED
    rounds = Rounds(plan, record, TRAIN, trained, out / ROUNDS, data)

    @contextlib.contextmanager
    def beside() -> Iterator[None]:
        """Workers elsewhere leave this process free for rounds; a training in it has them between its epochs."""
        with in_a_thread(rounds.follow) if options.workers else contextlib.nullcontext():
            yield

    fingerprint = record.data(log, PARTS)
    while True:
        if TRAIN in record.stages:
            entry = record.stages[TRAIN]
            lost = rounds.lost(entry["facts"]["best_steps"] if entry["state"] == DONE else rounds.done())
            if lost is not None:
                record.spoil(TRAIN, lost)
        facts = train_stage(
            plan,
            record,
            TRAIN,
            trained,
            data,
            {"data": fingerprint},
            on_epoch=None if options.workers else lambda figures: rounds.catch_up(),
            beside=beside,
            owns=(out / ROUNDS,),
            snapshots=True,
        )
        if rounds.lost(facts["best_steps"]) is None:
            break
    last = rounds.finish(facts["best_steps"])
    assert last is not None, "the first epoch is always the best so far"
    theta = record.result(rounds.name(facts["best_steps"][-1]))
    model = record.result(TRAIN)
    files = {part: scored / f"{part}.parquet" for part in ("valid", "test")}
    score_stage(record, "score", trained, data, files, {"train": model, "data": fingerprint})
    arguments = plan.evolve_arguments(
        files["valid"],
        fusion,
        judge=files["test"],
        generations=options.generations,
        workers=plan.evolve_workers(0),
        start_from=last,
    )
    evolve_stage(plan, record, "evolve", arguments, {"score": record.result("score"), "round": theta})
    inputs = {"train": model, "data": fingerprint}
    evaluate_stage(plan, record, "evaluate", trained, data, "test", out / EVALUATION, inputs)
    if options.formats:
        inputs = {**inputs, "evolve": record.result("evolve")}
        export_stage(plan, record, "export", trained, fusion, data, "test", out / SERVED, inputs)
    summary = {
        **lasting(read_json(trained / SUMMARY_FILE)),
        **lasting(read_json(fusion / SUMMARY_FILE)),
        "pipeline.rounds": len(facts["best_steps"]),
        "pipeline.best_steps": facts["best_steps"],
        "pipeline.theta_crc32": events(fusion / METRICS_FILE)[-1]["theta_crc32"],
    }
    return summary, Current("base", trained, fusion, {"model": model, "theta": record.result("evolve")})


def lasting(summary: dict[str, Any]) -> dict[str, Any]:
    """What is the same in every run: no seconds, no rates, no counts of what was lost on the way."""
    return {key: value for key, value in summary.items() if key.startswith(KEPT) or key in KEPT_ALONE}


def report(out: Path) -> None:
    """OUT/report.html from the runs that the stages left."""
    runs = [out / name for name in (TRAIN, EVALUATION, FUSION) if (out / name / SUMMARY_FILE).exists()]
    jobs.report.run(jobs.report.Args(runs=[*runs, out], out=out / REPORT))


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Nobody else works in `out`. Raises ValueError if somebody does."""
    lock = FileLock(out / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"--out {out}: another process is at work there") from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def threads(workers: int) -> Iterator[None]:
    """Leave the workers their CPUs: what this process computes beside them takes the others, at least one."""
    before = torch.get_num_threads()
    if workers and not names_cluster():
        torch.set_num_threads(max(1, usable_cpus() - workers))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def stops() -> Iterator[None]:
    """SIGTERM ends the pipeline with exit code 143 where it stands; what is saved is saved."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        print("stopped; the same command goes on from here", file=sys.stderr)
        raise SystemExit(STOPPED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def quiet(out: Path) -> Iterator[None]:
    """What the stages print goes to OUT/output.log; the pipeline has a line for each."""
    with (out / OUTPUT).open("a") as file, contextlib.redirect_stdout(file):
        yield


def clean(out: Path) -> None:
    """Remove what a kill left half-written."""
    for path in [*out.rglob(".*.tmp"), *out.rglob(".*.partial-*")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def show(console: Console, record: Record, summary: dict[str, Any], plan: Plan) -> None:
    table = Table("stage", "seconds", "what came of it", box=SIMPLE)
    for name, entry in record.stages.items():
        if name.split(" ")[0] not in record.days:
            table.add_row(name, f"{entry['seconds']:.1f}", in_words(entry["facts"]))
    if table.row_count:
        console.print(table)
    if record.days:
        value = f"{plan.options.metric}_at_{plan.options.k}"
        shown = {"rows": "rows", "CTR AUC": "ctr.auc", "log-loss": "ctr.log_loss", "PCOC": "ctr.pcoc"}
        shown |= {"CTCVR AUC": "ctcvr.auc", "value": f"{value}.tuned", "untuned": f"{value}.untuned"}
        table = Table(Column("day", no_wrap=True), *shown, box=SIMPLE, caption="judged before they were trained on")
        for day in sorted(record.days)[-SHOWN_DAYS:]:
            facts = record.days[day]
            table.add_row(day, *(in_words({"": facts[key]}).strip() if key in facts else "-" for key in shown.values()))
        console.print(table)
    if message := summary.get("fusion.message"):
        console.print(message, soft_wrap=True)
    console.print(f"report: {plan.out / REPORT}, record: {plan.out / PIPELINE_FILE}", soft_wrap=True)


if __name__ == "__main__":
    main(run, Arguments, __doc__ or "", resumes=True)
