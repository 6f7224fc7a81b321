"""Evaluate a finished training run on any log that has its features: every figure with its interval, as a report.

    python -m jobs.evaluate --run runs/ips --data runs/log
    python -m jobs.evaluate --run runs/ips --data runs/log --by channel price @activity
    python -m jobs.evaluate --run runs/ips --data runs/other_log --part valid --out runs/ips_on_other
    python -m jobs.report runs/naive_test runs/ips_test --out compared.html        # evaluations side by side

AUC, GAUC, KS, log-loss, PCOC and ECE by task, space and slice, propensity health, and the IEB and PIP experiments, with
95% bootstrap intervals over users (rows, where the log names no user). A calibrated run is judged as calibrated, with
its raw figures beside. What the data cannot tell is absent with the reason. OUT gets summary.json, evaluation.json and
report.html. The run may be any finished one of jobs.train, the log any that has its features and labels.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

import jobs.report
from data.labels import check_labels
from data.log import Log, Part, open_log
from distributed.finished_run import FinishedRun, load_run
from distributed.training.recorder import EVALUATION
from funnel.figures.slices import ACTIVITY, plan_slices
from funnel.ranking.calibration import Calibration
from funnel.ranking.evaluation import Figures, Scored, activity_figures, figures_of, slice_figures
from funnel.ranking.problem import counted
from funnel.ranking.scored_part import score_part
from funnel.ranking.scoring import for_scoring
from jobs.calibrate import NAMES, read_finished
from jobs.command.cli import main
from jobs.run.directory import SUMMARY_FILE, RunState, inspect_run, read_json, start_run, write_json
from jobs.run.progress import Lines

FIGURES = (("auc", "AUC", ".4f"), ("gauc", "GAUC", ".4f"), ("ks", "KS", ".4f"), ("log_loss", "log-loss", ".5f"),
           ("pcoc", "PCOC", ".3f"), ("ece", "ECE", ".5f"))  # fmt: skip


@dataclass
class Arguments:
    run: Path
    """Directory of a finished training run."""
    data: str
    """Log directory (path or URI); it needs the run's features and labels."""
    part: str = "test"
    """Part of the log to figures_of on."""
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


@dataclass
class Slices:
    """The figures of the slices of one column, for evaluation.json."""

    column: str
    slices: list[dict[str, Any]] = field(default_factory=list)


def run(arguments: Arguments) -> dict[str, Any]:
    """Evaluate, write, show; returns summary.json as a dict."""
    started = time.time()
    source = arguments.run.expanduser().absolute()
    out = (arguments.out or source / "evaluations" / arguments.part).expanduser().absolute()
    if arguments.replicates < 40:
        raise ValueError(f"--replicates must be at least 40, got {arguments.replicates}")
    record = read_finished(source)
    trained = load_run(source)
    calibration = None if arguments.raw else trained.problem.calibration(trained.directory)
    settings = {
        "evaluate": {**dataclasses.asdict(arguments), "run": str(source), "out": None, "by": list(arguments.by)},
        "model": {"objective": trained.settings.objective.name, "backbone": trained.settings.model.backbone.name},
        "calibration": calibration.to_dict() if calibration else None,
    }
    state = inspect_run(out, "evaluate", settings)
    console = Console()
    if state is RunState.DONE:
        summary = read_json(out / SUMMARY_FILE)
        console.print(f"{out} is finished already:")
        show(console, summary)
        return summary
    log = for_scoring(open_log(arguments.data), trained.schema, truth=True)
    part = log.part(arguments.part)
    facts = check_labels(log, part)
    columns = [name for name in arguments.by if name != ACTIVITY]
    if ACTIVITY in arguments.by and log.schema.user is None:
        raise ValueError(f"--by {ACTIVITY}: the log's schema names no user")
    slicings = plan_slices(log, part, columns)
    if state is RunState.NEW:
        data = {"location": arguments.data, "name": log.schema.name, "parts": {part.name: counted(facts)}}
        start_run(out, "evaluate", settings, {"data": data, "judged": record.get("config")})
    with console.status(f"judging {part.rows:,} rows") as status, Lines(console) as lines:

        def tell(text: str) -> None:
            status.update(text)
            lines.tell(text)

        result, sliced = all_figures(arguments, trained, calibration, log, part, slicings, tell)
    summary = {
        **result.figures,
        **flat(sliced),
        "part": part.name,
        "calibration.method": (calibration.about.get("method") if calibration else None) or "none",
        "evaluate.seconds": time.time() - started,
        "absent": result.absent,
    }
    curves = {"part": part.name, **result.curves, "slices": [dataclasses.asdict(entry) for entry in sliced]}
    write_json(out / EVALUATION, curves)
    write_json(out / SUMMARY_FILE, summary)
    show(console, summary)
    for entry in sliced:
        show_slices(console, entry)
    jobs.report.run(jobs.report.Args(runs=[out], out=out / "report.html"))
    return summary


def all_figures(
    arguments: Arguments,
    trained: FinishedRun,
    calibration: Calibration | None,
    log: Log,
    part: Part,
    slicings: list[Any],
    tell: Callable[[str], None],
) -> tuple[Figures, list[Slices]]:
    """One pass of the model, then passes over what it said. `tell` hears where it stands."""

    def show_rows(rows: int) -> None:
        tell(f"scored {rows:,} of {part.rows:,} rows")

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory(prefix="counterpoint-") as folder:
        judged = score_part(trained.network.to(device), log, part, device, Path(folder), slicings, show_rows)
        scored = Scored(judged, calibration, trained.problem.clip, arguments.replicates, arguments.seed)
        tell(f"figures of {part.rows:,} rows and their intervals")
        result = figures_of(scored)
        numbers = {slicing.column: index for index, slicing in enumerate(slicings)}
        sliced = list[Slices]()
        for name in arguments.by:
            tell(f"the same by {name}")
            found = activity_figures(scored) if name == ACTIVITY else slice_figures(scored, numbers[name])
            sliced.append(Slices(name, found))
    return result, sliced


def flat(sliced: list[Slices]) -> dict[str, float]:
    """{"by.COLUMN.LABEL.ctr.auc": ...}"""
    return {
        f"by.{entry.column}.{one['label']}.{name}": value
        for entry in sliced
        for one in entry.slices
        for name, value in one["figures"].items()
    }


def show(console: Console, summary: dict[str, Any]) -> None:
    """The figures with their intervals, then propensities and experiments in a line each."""
    title = f"{summary['part']} part, 95% intervals over {summary['bootstrap.units']}"
    if summary["calibration.method"] != "none":
        title += f", calibrated ({summary['calibration.method']})"
    table = Table("task, space", "rows", *(name for _, name, _ in FIGURES), title=title, title_style="")
    for space, name in NAMES.items():
        if f"{space}.count" in summary:
            cells = (cell(summary, f"{space}.{key}", form) for key, _, form in FIGURES)
            table.add_row(name, f"{summary[f'{space}.count']:,}", *cells, end_section=True)
    console.print(table)
    if "propensity.effective_share" in summary:
        console.print(
            f"propensities: effective sample size {summary['propensity.effective_sample_size']:,.0f} "
            f"({summary['propensity.effective_share']:.0%} of clicks), largest weight "
            f"{summary['propensity.largest_weight']:.1f}, {summary['propensity.share_clipped']:.1%} clipped"
        )
    truth = f", true mean {cell(summary, 'ieb.mean_truth', '.4f')}" if "ieb.mean_truth" in summary else ""
    console.print(f"IEB: mean pCVR over all exposures {line(summary, 'ieb.mean_prediction', '.4f')}{truth}")
    if "pip.risk_ratio" in summary:
        true = f"; true {line(summary, 'pip.true_risk_ratio', '.3f')}" if "pip.true_risk_ratio" in summary else ""
        console.print(f"PIP: risk ratio of click on pCVR, matched on q, {line(summary, 'pip.risk_ratio', '.3f')}{true}")
    reasons: dict[str, list[str]] = {}
    for key, reason in summary["absent"].items():
        reasons.setdefault(reason, []).append(key)
    for reason, keys in reasons.items():
        console.print(f"absent: {', '.join(sorted(keys))} ({reason})", style="dim")


def cell(summary: dict[str, Any], key: str, form: str) -> str:
    if key not in summary:
        return "-"
    low, high = summary.get(f"{key}.low"), summary.get(f"{key}.high")
    value = format(summary[key], form)
    return value if low is None or high is None else f"{value}\n{format(low, form)} {format(high, form)}"


def line(summary: dict[str, Any], key: str, form: str) -> str:
    value, *bounds = cell(summary, key, form).split("\n")
    return f"{value} [{', '.join(bounds[0].split())}]" if bounds else value


def show_slices(console: Console, entry: Slices) -> None:
    table = Table(entry.column, "rows", title=f"by {entry.column}", title_style="")
    for heading in ("CTR AUC", "CTR PCOC", "CVR AUC", "CVR PCOC"):
        table.add_column(heading)
    entire = any("cvr.entire.auc" in one["figures"] for one in entry.slices)
    cvr = "cvr.entire" if entire else "cvr.click"
    for one in entry.slices:
        keys = (("ctr.auc", ".4f"), ("ctr.pcoc", ".3f"), (f"{cvr}.auc", ".4f"), (f"{cvr}.pcoc", ".3f"))
        table.add_row(one["label"], f"{one['rows']:,}", *(line(one["figures"], key, form) for key, form in keys))
    table.caption = f"CVR over {'all exposures (truth)' if entire else 'clicks'}"
    console.print(table)


if __name__ == "__main__":
    main(run, Arguments, __doc__ or "")
