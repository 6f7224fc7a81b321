"""The five stages on one log, with the rounds of evolution beside the first."""

import contextlib
from collections.abc import Iterator
from typing import Any

from jobs.pipeline.plan import Plan, opened
from jobs.pipeline.record import DONE, Record
from jobs.pipeline.rounds import Rounds
from jobs.pipeline.stages import (
    evaluate_stage,
    events,
    evolve_stage,
    export_stage,
    in_a_thread,
    score_stage,
    train_stage,
)
from jobs.pipeline.watch import Current
from jobs.run.directory import METRICS_FILE, SUMMARY_FILE, read_json

PARTS = ("train", "valid", "test")
TRAIN, SCORED, FUSION, ROUNDS, EVALUATION, SERVED = "train", "scored", "fusion", "rounds", "evaluation", "served"
KEPT = ("ctr.", "cvr.", "ctcvr.", "calibrated.", "calibration.", "propensity.", "fusion.")
KEPT_ALONE = ("part", "absent", "train.steps", "train.epochs", "train.best_step", "es.generations", "es.evaluations",
              "es.dimension", "es.final_return")  # fmt: skip


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
