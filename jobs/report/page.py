"""The page: everything the template shows, gathered from the runs, and the file written whole or not at all."""

import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2

from jobs.report import tables, words
from jobs.report.evaluate_page import before_after, evaluate_headline, judgement_of
from jobs.report.figures import Panel, calibration_panels, loss_panels, validation_panels, weight_panels
from jobs.report.fusion_figures import gain_panel, generation_panel, parameter_panel
from jobs.report.objective_figures import climb_panels, course_panels
from jobs.report.pipeline_page import line_of, pipeline_headline
from jobs.report.runs import Run
from jobs.report.tune_page import hunt_of, tune_headline

MARKER = '<meta name="generator" content="counterpoint.report">'
HERE = Path(__file__).resolve().parent
WITHOUT_DATA = ("evolve_objective", "pipeline")
"""Kinds whose runs need not say what they read."""


@dataclass(frozen=True)
class Data:
    """A log that train runs share, or an evolve run's scored file."""

    runs: str
    location: str
    table: tables.Table | None
    facts: str = ""


@dataclass(frozen=True)
class Fusion:
    """What is shown of one evolve run."""

    run: Run
    k: int
    table: tables.Table
    message: str
    significance: str
    climb: list[Panel]
    parameters_note: str
    gains: list[Panel]


@dataclass(frozen=True)
class Search:
    """What is shown of one run of an objective by name."""

    run: Run
    facts: str
    climb: list[Panel]
    course: list[Panel]


def render(runs: Sequence[Run]) -> str:
    """The report as one HTML document that refers to nothing outside itself."""
    train = [run for run in runs if run.kind == "train"]
    evolve = [run for run in runs if run.kind == "evolve"]
    objective = [run for run in runs if run.kind == "evolve_objective"]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    headlines = [words.train_headline(train)] if train else []
    headlines += [words.fusion_headline(run, cutoff(run)) for run in evolve]
    headlines += [evaluate_headline(run) for run in runs if run.kind == "evaluate"]
    headlines += [words.objective_headline(run) for run in objective]
    headlines += [tune_headline(run) for run in runs if run.kind == "tune"]
    headlines += [pipeline_headline(run) for run in runs if run.kind == "pipeline"]
    return environment.get_template("template.html.j2").render(
        marker=MARKER,
        style=(HERE / "style.css").read_text(),
        title=" · ".join(run.name for run in runs),
        written=time.strftime("%Y-%m-%d %H:%M"),
        headlines=headlines,
        runs=runs,
        train=train,
        evolve=evolve,
        train_table=tables.train_table(train) if train else None,
        evolve_table=tables.evolve_table(evolve) if evolve else None,
        objective_table=tables.objective_table(objective) if objective else None,
        data=data_of([run for run in runs if run.record.get("data") or run.kind not in WITHOUT_DATA]),
        metrics=tables.metric_table(train) if train else None,
        losses=loss_panels(train),
        validation=validation_panels(train),
        calibration=calibration_panels(with_calibrated(train)),
        calibration_part=", ".join(
            sorted({str(run.evaluation["part"]) for run in train if run.evaluation.get("part")})
        ),
        propensity=tables.propensity_table(train) if train else None,
        weights=weight_panels(train),
        absent=absent_reasons(train),
        fusions=[fusion_of(run, f"fusion-{index}") for index, run in enumerate(evolve)],
        calibrated=before_after(train, "", "calibrated."),
        judged=judgement_of([run for run in runs if run.kind == "evaluate"]),
        searches=[search_of(run, f"objective-{index}") for index, run in enumerate(objective)],
        hunts=[hunt_of(run, f"search-{index}") for index, run in enumerate(runs) if run.kind == "tune"],
        lines=[line_of(run, f"pipeline-{index}") for index, run in enumerate(runs) if run.kind == "pipeline"],
        cards=[card(run) for run in runs],
        glossary=words.GLOSSARY,
    )


def with_calibrated(train: Sequence[Run]) -> Sequence[Run]:
    """A lone calibrated run twice: as trained, and as calibrated."""
    if len(train) != 1 or not train[0].evaluation.get("calibrated"):
        return train
    return [
        replace(train[0], name="raw"),
        replace(train[0], name="calibrated", evaluation=train[0].evaluation["calibrated"]),
    ]


def fusion_of(run: Run, name: str) -> Fusion:
    k = cutoff(run)
    climb = [generation_panel(run, f"{name}-climb")]
    parameters, note = parameter_panel(run, f"{name}-parameters")
    gains = [
        gain_panel([run], f"value_at_{k}", f"value@{k}", f"{name}-value"),
        gain_panel([run], f"ndcg_at_{k}", f"NDCG@{k}", f"{name}-ndcg"),
    ]
    return Fusion(
        run=run,
        k=k,
        table=tables.fusion_table(run, k),
        message=str(run.summary.get("fusion.message") or ""),
        significance=tables.significance(run, k),
        climb=[panel for panel in (*climb, parameters) if panel],
        parameters_note=note,
        gains=[panel for panel in gains if panel],
    )


def search_of(run: Run, name: str) -> Search:
    return Search(run, words.objective_facts(run), climb_panels(run, name), course_panels(run, name))


def cutoff(run: Run) -> int:
    """The k of value@k: from policy.json, else from the keys of the summary."""
    k = run.policy.get("k")
    if isinstance(k, int):
        return k
    found = [re.match(r"fusion\.value_at_(\d+)\.", key) for key in run.summary]
    return next((int(match.group(1)) for match in found if match), 10)


def data_of(runs: Sequence[Run]) -> list[Data]:
    """Each log once, with the runs that read it."""
    shared: dict[str, list[Run]] = {}
    for run in runs:
        shared.setdefault(json.dumps([run.kind, run.record.get("data")], sort_keys=True), []).append(run)
    found = []
    for group in shared.values():
        data: dict[str, Any] = group[0].record.get("data") or {}
        location = str(data.get("location") or data.get("scored") or "not reported by the run")
        if data.get("name") and data["name"] not in location:
            location = f"{data['name']}: {location}"
        sizes = [
            f"{key} {words.count(data[key])}" for key in ("rows", "users", "requests") if isinstance(data.get(key), int)
        ]
        table = tables.data_table(group[0])
        found.append(Data(", ".join(run.name for run in group), location, table, "; ".join(sizes)))
    return found


def absent_reasons(train: Sequence[Run]) -> list[str]:
    """Why a figure of a train run is not there, in a sentence each."""
    reasons = []
    for run in train:
        if not run.evaluation:
            reasons.append(
                f"{run.name}: evaluation.json is absent, so there is no calibration and no weight histogram."
            )
        elif not (run.evaluation.get("propensity") or {}).get("weight_histogram"):
            reasons.append(f"{run.name}: no weight histogram ({run.why_absent('propensity.weight_histogram')}).")
    return reasons


def card(run: Run) -> dict[str, Any]:
    """The facts of a run that are read when something must be repeated."""
    record = run.record
    commit, dirty = str(record.get("git") or "").partition("+")[::2]
    hardware: dict[str, Any] = record.get("hardware") or {}
    known = {"cores": "{} cores", "memory_gib": "{} GiB"}
    hard = [known.get(key, f"{key} {{}}" if key != "cpu" else "{}").format(value) for key, value in hardware.items()]
    versions = [f"{name} {version}" for name, version in (record.get("versions") or {}).items()]
    return {
        "run": run,
        "facts": [
            ("Directory", str(run.path)),
            ("Command", record.get("command") or "not recorded"),
            ("Commit", f"{commit} with uncommitted changes" if dirty else commit or "not recorded"),
            ("Started", started(record.get("started"))),
            ("Versions", ", ".join(versions) or "not recorded"),
            ("Hardware", ", ".join(hard) or "not recorded"),
        ],
        "config": json.dumps(record.get("config") or {}, indent=2, ensure_ascii=False),
    }


def started(stamp: object) -> str:
    """2026-05-01T10:00:00+0000 -> 2026-05-01 10:00:00 +0000"""
    text = str(stamp or "not recorded")
    match = re.match(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(.*)$", text)
    return " ".join(part for part in match.groups() if part) if match else text


def check_target(out: Path) -> None:
    """Raise ValueError if `out` holds anything but an earlier report."""
    if out.is_dir():
        raise ValueError(f"--out {out} is a directory; name a file, {out / 'report.html'} say")
    if out.exists() and MARKER not in out.read_bytes()[:4096].decode(errors="replace"):
        raise ValueError(f"--out {out} exists and is not a report of ours: choose another name")


def write_whole(out: Path, text: str) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
