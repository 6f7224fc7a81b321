"""The five stages on one log."""

from typing import Any

from jobs.pipeline.plan import Plan, opened
from jobs.pipeline.record import Record
from jobs.pipeline.stages import evaluate_stage, events, evolve_stage, export_stage, score_stage, train_stage
from jobs.pipeline.watch import Current
from jobs.run.directory import METRICS_FILE, SUMMARY_FILE, read_json
from jobs.run.records import reading_from

PARTS = ("train", "valid", "test")
TRAIN, SCORED, TUNED, EVALUATION, SERVED = "train", "scored", "tuned", "evaluation", "served"
TIMED = ("train.", "es.")
"""Figures of how a run went. They are left out of the pipeline's summary, which is the same in every run."""
LASTING = ("train.steps", "train.epochs", "train.best_step", "es.generations", "es.evaluations",
           "es.dimension", "es.final_return")  # fmt: skip


def base(plan: Plan, record: Record) -> tuple[dict[str, Any], Current]:
    """The five stages on one log. Returns the summary, and what days go on from."""
    options, out = plan.options, plan.out
    assert options.data is not None
    data, log = options.data, opened(options.data, PARTS)
    trained, tuned, scored = out / TRAIN, out / TUNED, out / SCORED
    fingerprint = record.data(log, PARTS)
    facts = train_stage(plan, record, "train", trained, data, {"data": fingerprint})
    model = record.result("train")
    files = {part: scored / f"{part}.parquet" for part in ("valid", "test")}
    score_stage(record, "score", trained, data, files, {"train": model, "data": fingerprint}, plan.keep)
    arguments = plan.evolve_arguments(files["valid"], tuned, judge=files["test"])
    evolve_stage(record, "evolve", arguments, {"score": record.result("score")})
    inputs = {"train": model, "data": fingerprint}
    evaluate_stage(plan, record, "evaluate", trained, data, "test", out / EVALUATION, inputs)
    if options.formats:
        inputs = {**inputs, "evolve": record.result("evolve")}
        export_stage(plan, record, "export", trained, tuned, data, "test", out / SERVED, inputs)
    with reading_from(tuned / METRICS_FILE):
        theta = events(tuned / METRICS_FILE)[-1]["theta_crc32"]
    summary = {
        **lasting(read_json(trained / SUMMARY_FILE)),
        **lasting(read_json(tuned / SUMMARY_FILE)),
        "pipeline.best_step": facts["best_step"],
        "pipeline.theta_crc32": theta,
    }
    return summary, Current("base", trained, tuned, {"model": model, "theta": record.result("evolve")})


def lasting(summary: dict[str, Any]) -> dict[str, Any]:
    """What is the same in every run: no seconds, no rates, no counts of what was lost on the way."""
    return {key: value for key, value in summary.items() if not key.startswith(TIMED) or key in LASTING}
