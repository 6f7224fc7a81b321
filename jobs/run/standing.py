"""Where one run stands, read from its files: run.json, metrics.jsonl, summary.json, checkpoints, process.json."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.pipeline.record import DONE, PIPELINE_FILE, RUNNING
from jobs.run.directory import METRICS_FILE, RUN_FILE, SUMMARY_FILE, read_json
from jobs.run.process import ALIVE, GONE, whereabouts

NEW, GOES_ON, FINISHED, STOPPED, DIVERGED = "new", "running", "finished", "stopped", "diverged"
STATES_AT_AN_END = (FINISHED, STOPPED, DIVERGED)
FRESH_S = 120.0
"""A run whose process cannot be asked after counts as running if it wrote within so many seconds."""
FIGURES = ("ctr.auc", "cvr.click.auc", "ctcvr.auc", "ctcvr.log_loss")
TAIL_BYTES = 1 << 18
CHECKPOINTS, RECORD = "checkpoints", "checkpoint.json"
CHECKPOINT_FILE = "checkpoint.safetensors"
"""As distributed/ and es/ name them; to import those would cost seconds."""
ENDS = {"143": "stopped by SIGTERM", "130": "stopped by Ctrl-C"}


@dataclass
class Standing:
    """What is known; None or empty where it is not."""

    run: str
    kind: str
    state: str
    unit: str = ""
    """What `done` and `total` count: epochs, generations, stages, trials."""
    done: float | None = None
    total: float | None = None
    now: str = ""
    """What it is at, of a run of several parts."""
    at_work: list[str] = field(default_factory=list)
    """Stages of a pipeline that are begun and not done."""
    step: int | None = None
    rates: dict[str, float] = field(default_factory=dict)
    eta_s: float | None = None
    eta_is_bound: bool = False
    """The run may end earlier of its own accord."""
    figures: dict[str, Any] = field(default_factory=dict)
    checkpoint: str = ""
    checkpoint_age_s: float | None = None
    written_age_s: float | None = None
    process: str = "not known"
    note: str = ""


def standing(run: Path) -> Standing:
    """Where a run stands. Raises ValueError, one line, for what is no run directory."""
    if not run.is_dir():
        raise ValueError(f"{run}: no such run directory")
    if not (run / RUN_FILE).exists():
        raise ValueError(f"{run}: is no run (it holds no {RUN_FILE})")
    record = read_json(run / RUN_FILE)
    found = Standing(run=str(run), kind=str(record.get("kind")), state=NEW)
    found.written_age_s = age(run / METRICS_FILE, run / PIPELINE_FILE)
    readers = {"train": of_training, "evolve": of_evolution, "evolve_objective": of_evolution, "tune": of_search}
    readers["pipeline"] = of_pipeline
    reader = readers.get(found.kind)
    if reader is not None:
        reader(run, record, found)
    settle(run, found)
    return found


def settle(run: Path, found: Standing) -> None:
    """The state, from how it ended, who works on it, and when it last wrote."""
    where, about = whereabouts(run)
    ended = about.get("ended") or {}
    message = str(ended.get("message") or "")
    host, pid = about.get("host"), about.get("pid")
    if where == ALIVE:
        found.process = f"alive: {pid} on this machine, since {about.get('since')}"
    elif where == GONE and ended:
        found.process = ENDS.get(message, f"ended: {ended.get('kind')}" + (f" {message}" if message else ""))
    elif where == GONE:
        found.process = f"gone: {pid} on this machine was killed or the machine restarted"
    elif host:
        found.process = f"not known: {pid} on {host}, which cannot be asked from here"
    if about.get("job"):
        found.process += f"; job {about['job']}"
    # A pipeline that goes on day by day has a summary long before it ends.
    cut_short = found.kind == "pipeline" and (where == GONE or bool(found.at_work))
    if where == ALIVE:
        found.state = GOES_ON
    elif (run / SUMMARY_FILE).exists() and not cut_short:
        found.state = FINISHED
        if not about:
            found.process = "ended"
    elif "diverged" in message:
        found.state, found.note = DIVERGED, message
    elif where == GONE:
        found.state = STOPPED
    elif found.written_age_s is not None:
        found.state = GOES_ON if found.written_age_s < FRESH_S else STOPPED
        found.note = "the state is told by when the run last wrote"


def of_training(run: Path, record: dict[str, Any], found: Standing) -> None:
    config = (record.get("config") or {}).get("train") or {}
    epochs = config.get("epochs")
    events = tail(run / METRICS_FILE)
    steps = [event for event in events if event.get("event") == "step"]
    found.unit, found.total, found.done = "epochs", epochs, 0.0
    if events:
        found.step = max(int(event.get("step", 0)) for event in events)
        found.done = max(float(event.get("epoch", 0)) for event in events)
    valid = last_event(run / METRICS_FILE, "valid")
    if valid:
        found.done = max(found.done, float(valid["epoch"]))
        found.figures |= {f"valid {key}": valid[key] for key in FIGURES if key in valid}
        found.figures["best epoch so far"] = "the last one" if valid.get("best") else "an earlier one"
    if steps:
        rate = float(steps[-1].get("rows_per_s", 0))
        found.rates["rows_per_s"] = rate
        found.figures["loss"] = steps[-1].get("loss")
        rows = (((record.get("data") or {}).get("parts") or {}).get("train") or {}).get("rows")
        if rows and epochs and rate:
            found.eta_s, found.eta_is_bound = (
                max(0.0, (epochs - found.done) * rows / rate),
                bool(config.get("patience")),
            )
    written = sorted(run.glob(f"{CHECKPOINTS}/step-*/{RECORD}"))
    note_checkpoint(found, written[-1] if written else None, written[-1].parent.name if written else "")
    if (run / SUMMARY_FILE).exists():
        summary = read_json(run / SUMMARY_FILE)
        found.figures = {f"{summary.get('part')} {key}": summary[key] for key in FIGURES if key in summary}
        found.rates = {"rows_per_s": summary["train.rows_per_s"]} if "train.rows_per_s" in summary else {}


def of_evolution(run: Path, record: dict[str, Any], found: Standing) -> None:
    generations = ((record.get("config") or {}).get("es") or {}).get("generations")
    lines = [event for event in tail(run / METRICS_FILE) if event.get("event") == "generation"]
    found.unit, found.total, found.done = "generations", generations, 0.0
    if lines:
        found.done = float(lines[-1]["generation"] + 1)
        recent = [line["seconds"] for line in lines[-20:]]
        found.rates["evaluations_per_s"] = lines[-1]["evaluations_per_s"]
        if generations:
            found.eta_s = max(0.0, (generations - found.done) * sum(recent) / len(recent))
        for key in ("return.centre", "return.mean", "return.best"):
            if lines[-1].get(key) is not None:
                found.figures[key] = lines[-1][key]
        lost = sum(line.get("lost_pairs", 0) for line in lines)
        if lost:
            found.figures["pairs lost and done again"] = lost
    path = run / CHECKPOINT_FILE
    note_checkpoint(found, path if path.exists() else None, CHECKPOINT_FILE)
    if (run / SUMMARY_FILE).exists():
        message = read_json(run / SUMMARY_FILE).get("fusion.message")
        found.note = str(message) if message else found.note


def of_search(run: Path, record: dict[str, Any], found: Standing) -> None:
    """Trials have run directories of their own in RUN/trials."""
    trials = sorted(path.parent for path in run.glob(f"trials/*/{RUN_FILE}"))
    done = [path for path in trials if (path / SUMMARY_FILE).exists()]
    config = record.get("config") or {}
    samples = (config.get("tune") or config).get("samples")
    found.unit, found.done, found.total = "trials", float(len(done)), samples
    found.now = f"{len(trials)} begun"
    found.written_age_s = age(*(path / METRICS_FILE for path in trials), run / METRICS_FILE)


def of_pipeline(run: Path, record: dict[str, Any], found: Standing) -> None:
    """Stages done, and where the one stands that is at work."""
    stages = read_json(run / PIPELINE_FILE).get("stages", {}) if (run / PIPELINE_FILE).exists() else {}
    done = [name for name, entry in stages.items() if entry["state"] == DONE]
    at_work = [name for name, entry in stages.items() if entry["state"] == RUNNING]
    found.at_work = at_work
    found.unit, found.now = "stages", f"{len(done)} done" + (f", at {' and '.join(at_work)}" if at_work else "")
    days = tail(run / "days.jsonl")
    if days:
        found.figures["days"] = len(days)
        found.figures["last day"] = days[-1].get("day")
        found.figures |= {f"last day {key}": days[-1][key] for key in FIGURES if key in days[-1]}
    places = {"train": run / "train", "evolve": run / "fusion"}
    places |= {f"{day} {name}": run / "days" / day / where for day in (d.split(" ")[0] for d in at_work)
               for name, where in (("train", "train"), ("evolve", "fusion"))}  # fmt: skip
    for name in at_work:
        place = places.get(name)
        if place is not None and (place / RUN_FILE).exists():
            inner = standing(place)
            found.step, found.rates, found.eta_s, found.eta_is_bound = inner.step, inner.rates, inner.eta_s, True
            found.checkpoint, found.checkpoint_age_s = inner.checkpoint, inner.checkpoint_age_s
            found.figures |= {f"{name}: {key}": value for key, value in inner.figures.items()}
            found.written_age_s = min(filter(None, (found.written_age_s, inner.written_age_s)), default=None)
    if (run / SUMMARY_FILE).exists() and not at_work:
        summary = read_json(run / SUMMARY_FILE)
        found.figures |= {f"{summary.get('part')} {key}": summary[key] for key in FIGURES if key in summary}
        found.note = str(summary.get("fusion.message") or "")


def note_checkpoint(found: Standing, path: Path | None, name: str) -> None:
    if path is not None:
        found.checkpoint, found.checkpoint_age_s = name, age(path)


def age(*paths: Path) -> float | None:
    """Seconds since the youngest of the files was written; None if there is none."""
    stamps = []
    for path in paths:
        try:
            stamps.append(path.stat().st_mtime)
        except OSError:
            continue
    return max(0.0, time.time() - max(stamps)) if stamps else None


def tail(path: Path) -> list[dict[str, Any]]:
    """The last lines of a file of JSON objects, at most 256 KiB of them."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [event for event in map(read_line, text.splitlines()) if event]


def last_event(path: Path, name: str) -> dict[str, Any] | None:
    """The last line of that event, wherever it stands."""
    found = None
    if path.exists():
        with path.open() as file:
            for line in file:
                if f'"event": "{name}"' in line:
                    found = read_line(line) or found
    return found


def read_line(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError:
        return {}  # cut by the reader, or by a writer in mid-word
    return value if isinstance(value, dict) else {}
