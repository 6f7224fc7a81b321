"""The continuing mode of jobs.pipeline: each new day is judged on first, then trained on, tuned on and exported.

A day's figures are those of the model and the policy of the days before it (progressive validation): no row is judged
on after it was learned from. Then the model is trained on the day from the weights it has, a share of the day's users
left out; these are scored, and the policy is tuned on them from the theta it has.
"""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.days import WHOLE_DAY, look
from data.errors import UserError
from data.labels import check_labels
from data.log import Log, open_log
from distributed.training.recorder import CHECKPOINTS
from funnel.numbers import counted
from jobs.evolve.conduct import POLICY_FILE
from jobs.pipeline.days import cut_day
from jobs.pipeline.plan import DAY_RESAMPLES, Plan
from jobs.pipeline.published import serve, write_days
from jobs.pipeline.record import Record, Stage
from jobs.pipeline.stages import evaluate_stage, evolve_stage, export_stage, score_part, score_stage, train_stage
from jobs.run.directory import METRICS_FILE, RUN_FILE, SUMMARY_FILE, read_json, write_json
from jobs.run.records import reading_from
from jobs.run.start_from import features_of

DAYS, DAYS_FILE = "days", "days.jsonl"
CHECKED = ("train", "evolve", "export")
ENDINGS = (".auc", ".log_loss", ".pcoc", ".ece")
"""Of the evaluation's figures, those that a day keeps, but not those of slices."""
SLICED = "by."


@dataclass(frozen=True)
class Current:
    """What serves at the moment: a model and a policy, and the stages that made them."""

    name: str
    trained: Path
    tuned: Path | None
    """None: no day's lists could be tuned on yet."""
    made: dict[str, str]
    """Fingerprints, as inputs of what comes next."""


class Watch:
    """The days of one pipeline."""

    def __init__(
        self, plan: Plan, record: Record, base: Callable[[], Current] | None, on_day: Callable[[], None]
    ) -> None:
        assert plan.options.watch is not None
        self.plan, self.record, self.base, self.on_day = plan, record, base, on_day
        self.current: Current | None = None
        self.where = plan.options.watch
        self.log = open_log(self.where)
        self.late: set[str] = set()
        self.named: dict[str, str] = {}
        """What was passed over, and why, said once."""
        self.lacking: set[str] = set()
        """Features that days had no columns of, said once."""
        self.parts: dict[str, str] = {}
        """The part of the log that is a day: the name of its directory."""

    def run(self) -> None:
        """Take in day after day until it is time to end (--days, --until-idle), or for ever."""
        options = self.plan.options
        found = look(self.where).whole
        self.parts |= found
        self.record.say(f"watching {self.where}: {self.seen(list(found))}")
        self.check_done()
        if self.current is None and self.base is not None:
            self.current = self.base()
        since, waits = time.monotonic(), False
        while options.days is None or len(self.taken()) < options.days:
            day = self.next_day()
            if day is not None:
                self.take(day)
                since, waits = time.monotonic(), False
            elif options.until_idle is not None and time.monotonic() - since >= options.until_idle:
                return
            else:
                if not waits and options.until_idle is None:
                    self.record.say(self.awaited(), "yellow")
                waits = True
                time.sleep(min(options.poll, options.until_idle or options.poll))

    def seen(self, days: list[str]) -> str:
        """Said at the start: the days that are there, and how many of them are to be taken in."""
        if not days:
            return "no day is there yet"
        last = (self.taken() or [""])[-1]
        there = f"{counted(len(days), 'day')}, {days[0]}" + (f" to {days[-1]}" if len(days) > 1 else "")
        return f"{there}; {len(self.taken())} taken in before, {sum(day > last for day in days)} to go"

    def awaited(self) -> str:
        """Said when there is nothing to do and no end is set."""
        last = (self.taken() or [""])[-1]
        after = f" after {last}" if last else ""
        return (
            f"waiting for a day{after} in {self.where}, with {WHOLE_DAY} in it; looking every "
            f"{self.plan.options.poll:g} s for as long as it takes (--until-idle S, --days N and Ctrl-C end that)"
        )

    def mistake(self) -> str:
        """Why no day could be learned from, at the end; "" if one could, or if there was none."""
        days = self.record.days
        if days and all(facts.get("skipped") for facts in days.values()):
            day = self.taken()[-1]
            return f"none of {counted(len(days), 'day')} could be learned from; {day}: {days[day]['skipped']}"
        if not days and self.named:
            name, why = next(iter(self.named.items()))
            more = f" (and {len(self.named) - 1} more)" if len(self.named) > 1 else ""
            return f"--watch {self.where}: no day was taken in; {name}: {why}{more}"
        return ""

    def taken(self) -> list[str]:
        """The days that are done, in order."""
        return sorted(self.record.days)

    def next_day(self) -> str | None:
        """The first day after the last one that is there and whole; one that comes too late is left out, said once."""
        taken = self.taken()
        last = taken[-1] if taken else ""
        found = look(self.where)
        self.parts |= found.whole
        for name, why in found.passed_over.items():
            if self.named.get(name) != why:
                self.record.say(f"{name}: passed over, {why}", "yellow")
        self.named = found.passed_over
        days = list(found.whole)
        for day in days:
            if day < last and day not in taken and day not in self.late:
                self.late.add(day)
                self.record.say(f"{day}: came after {last} was taken in; left out", "yellow")
        return next((day for day in days if day > last), None)

    def check_done(self) -> None:
        """Find where we are; from a day on whose files are damaged, all are done again."""
        again, first = False, True
        for day in self.taken():
            facts = self.record.days[day]
            if facts.get("skipped") and not again:
                continue
            follows, first = not first, False
            if facts.get("pruned"):
                if again:
                    raise UserError(f"{self.place(day)}: has to be done again, but only its figures were kept")
                continue
            names = [f"{day} {stage}" for stage in CHECKED if stage != "export" or self.plan.options.formats]
            if facts.get("untuned"):
                names = [name for name in names if name in self.record.stages]
            broken = [why for name in names if (why := self.record.invalid(name))]
            if broken and not again:
                self.record.say(f"{day}: {broken[0]}; it is done again, and the days after it", "yellow")
                again = True
            if again:
                if self.current is None and follows:
                    raise UserError(f"{self.place(day)}: is damaged, and the model of the day before was not kept")
                if self.current is None and self.base is not None:
                    self.current = self.base()
                self.take(day)
            else:
                self.current = self.after(day)
        if self.taken():
            self.publish()

    def take(self, day: str) -> None:
        """Everything that a day brings; then it is written down, served, and older days' files go."""
        facts = self.day(day)
        self.record.days[day] = facts
        self.record.save()
        if not facts.get("skipped"):
            self.current = self.after(day)
        self.publish()
        self.on_day()

    def day(self, day: str) -> dict[str, Any]:
        plan, record, place, options = self.plan, self.record, self.place(day), self.plan.options
        before = self.current
        log = open_log(self.where)  # its schema may have grown
        lacking = log.lacking(self.parts.get(day, day))
        lost = [name for name in lacking if before and name in features_of(before.trained)]
        if before and lost:
            raise UserError(
                f"{self.where / self.parts.get(day, day)}: has no {', '.join(lost)}, which the model of {before.name} "
                "reads: write the column again, with missing values if there are no others"
            )
        self.log = dataclasses.replace(log, schema=log.schema.without(lacking))
        if set(lacking) - self.lacking:
            record.say(
                f"{day}: has no {', '.join(lacking)}; a day that lacks a feature is trained on without it", "yellow"
            )
        self.lacking |= set(lacking)
        data = {"day": record.data(self.log, (self.parts.get(day, day),))}
        facts: dict[str, Any] = {"day": day, "model": before.name if before else None}
        if before is not None:
            facts |= self.judge(day, before, data)
        cut = place / "log"
        counts = record.do(Stage(f"{day} cut", data, (cut,), lambda: files(cut), lambda: self.cut(day, cut)))
        facts |= {key: value for key, value in counts.items() if key not in ("skipped", "untuned")}
        if counts["skipped"]:
            record.say(f"{day}: not learned from, {counts['skipped']}", "yellow")
            return {**facts, "skipped": counts["skipped"]}
        inputs = {"cut": record.result(f"{day} cut"), **(before.made if before else {})}
        trained, tuned = place / "train", place / "tuned"
        start = before.trained if before else None
        epochs = options.day_epochs if before else None
        steps = train_stage(plan, record, f"{day} train", trained, str(cut), inputs, start_from=start, epochs=epochs)
        if new := read_json(trained / RUN_FILE).get("new_features"):
            record.say(f"{day}: new features beside those of {start}: {', '.join(new)}")
        model = {"train": record.result(f"{day} train")}
        facts["steps"] = steps["steps"]
        if counts.get("untuned"):
            facts["untuned"] = counts["untuned"]
            policy = self.kept_policy(day, tuned, before, counts["untuned"])
        else:
            policy = self.tune(day, tuned, before, cut, model)
        if options.formats:
            made = {**model, **({"evolve": record.result(f"{day} evolve")} if policy else {})}
            export_stage(plan, record, f"{day} export", trained, policy, str(cut), "valid", place / "served", made)
        if policy:
            with reading_from(policy / METRICS_FILE):
                last = (policy / METRICS_FILE).read_text().splitlines()[-1]
                facts["theta_crc32"] = json.loads(last)["theta_crc32"]
        return facts

    def tune(self, day: str, tuned: Path, before: Current | None, cut: Path, model: dict[str, str]) -> Path:
        """Score the users that were set apart and tune the policy on them; returns its directory."""
        plan, record, options = self.plan, self.record, self.plan.options
        scored, trained, start = (
            tuned.with_name("scored.parquet"),
            tuned.with_name("train"),
            before.tuned if before else None,
        )
        score_stage(record, f"{day} score", trained, str(cut), {"valid": scored}, model, plan.keep)
        arguments = plan.evolve_arguments(
            scored,
            tuned,
            generations=options.day_generations if start else None,
            resamples=min(DAY_RESAMPLES, options.resamples),
            start_from=start,
        )
        theta = {"score": record.result(f"{day} score"), **(before.made if before else {})}
        evolve_stage(record, f"{day} evolve", arguments, theta)
        return tuned

    def kept_policy(self, day: str, tuned: Path, before: Current | None, why: str) -> Path | None:
        """The policy of the day before, a copy of it, where the day's lists cannot be tuned on; None before any."""
        self.record.say(f"{day}: trained on, but its policy is not tuned: {why}", "yellow")
        if before is None or before.tuned is None:
            return None
        source = before.tuned

        def work() -> dict[str, Any]:
            shutil.copytree(source, tuned)
            return {"policy": f"that of {before.name}"}

        self.record.do(Stage(f"{day} evolve", {**before.made, "untuned": why}, (tuned,), lambda: files(tuned), work))
        return tuned

    def judge(self, day: str, before: Current, data: dict[str, str]) -> dict[str, Any]:
        """The day's figures of the model and the policy of the days before."""
        plan, record, place = self.plan, self.record, self.place(day)
        inputs, where, part = {**data, **before.made}, str(self.where), self.parts.get(day, day)
        evaluate_stage(plan, record, f"{day} judge", before.trained, where, part, place / "judged", inputs)
        summary = read_json(place / "judged" / SUMMARY_FILE)
        own = {key: value for key, value in summary.items()
               if key.endswith(ENDINGS) and isinstance(value, int | float) and not key.startswith(SLICED)}  # fmt: skip
        policy = before.tuned
        if policy is None:
            return own
        scored, found = place / "judged.parquet", place / "judged_policy.json"

        def work() -> dict[str, Any]:
            score_part(before.trained, where, part, scored, plan.keep)
            figures = plan.tunable.judge_policy(policy / POLICY_FILE, scored, DAY_RESAMPLES, plan.seed)
            write_json(found, figures)
            scored.unlink()
            return figures

        return own | record.do(Stage(f"{day} policy", inputs, (scored, found), lambda: [found], work))

    def cut(self, day: str, out: Path) -> dict[str, Any]:
        """The day as a log of train and valid, and what is in it; `skipped`: why nothing can be learned from it,
        `untuned`: why the policy cannot be tuned on it."""
        shutil.rmtree(out, ignore_errors=True)
        cut_day(self.log, self.parts.get(day, day), day, self.plan.options.valid_share, self.plan.seed, out)
        log = open_log(out)
        labels = {name: check_labels(log, log.part(name)) for name in ("train", "valid")}
        rows = sum(part.rows for part in labels.values())
        counts = {f"{label}s": sum(part.positives[label] for part in labels.values()) for label in log.schema.labels}
        poor = [f"no {label} in its {name} part" for name, part in labels.items() for label in log.schema.labels
                if not part.positives[label]]  # fmt: skip
        return {
            "rows": rows,
            **counts,
            "skipped": poor[0] if poor else "",
            "untuned": "" if poor else untunable(self.plan, log),
        }

    def after(self, day: str) -> Current:
        place = self.place(day)
        made = {"model": self.record.result(f"{day} train")}
        if f"{day} evolve" not in self.record.stages:
            return Current(day, place / "train", None, made)
        return Current(day, place / "train", place / "tuned", {**made, "theta": self.record.result(f"{day} evolve")})

    def place(self, day: str) -> Path:
        return self.plan.out / DAYS / day

    def publish(self) -> None:
        """Write the figures down, let OUT/current lead to the last day, remove what older days left."""
        write_days(self.plan.out / DAYS_FILE, self.record.days)
        learned = [day for day in self.taken() if not self.record.days[day].get("skipped")]
        if learned:
            serve(self.plan.out, self.place(learned[-1]))
        for day in learned:
            shutil.rmtree(self.place(day) / "train" / CHECKPOINTS, ignore_errors=True)
        for day in learned[: -self.plan.options.keep]:
            self.record.days[day]["pruned"] = True
            self.record.save()
            for name in ("train", "tuned", "served", "log"):
                shutil.rmtree(self.place(day) / name, ignore_errors=True)
            (self.place(day) / "scored.parquet").unlink(missing_ok=True)


def untunable(plan: Plan, log: Log) -> str:
    """Why the policy cannot be tuned on the day's valid part, or nothing."""
    try:
        plan.tunable.check_log(plan.tuning, log, "valid", None, plan.seed)
    except UserError as error:
        return str(error)
    return ""


def files(where: Path) -> list[Path]:
    return [path for path in where.rglob("*") if path.is_file()]


def has_days(record: Record) -> bool:
    """Whether the base is behind us: then it is not looked at again."""
    return any(not facts.get("skipped") for facts in record.days.values())
