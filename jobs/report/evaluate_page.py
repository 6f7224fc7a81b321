"""What the page shows of evaluations: one table with intervals, calibration, slices, experiments, propensities."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.report.evaluate_figures import Dot, dot_of, dot_panel
from jobs.report.figures import SPACES, Panel, calibration_panels, weight_panels
from jobs.report.runs import Run
from jobs.report.tables import Cell, Footnotes, Group, Table, propensity_table
from jobs.report.words import DASH, count, number, percent

FIGURES = (("auc", "AUC", 4), ("gauc", "GAUC", 4), ("ks", "KS", 4), ("log_loss", "Log-loss", 4), ("pcoc", "PCOC", 3),
           ("ece", "ECE", 4))  # fmt: skip


@dataclass(frozen=True)
class SliceGroup:
    column: str
    panels: list[Panel]
    note: str


@dataclass(frozen=True)
class Judgement:
    """All that evaluate.html.j2 shows."""

    runs: Sequence[Run]
    several: bool
    part: str
    units: str
    table: Table
    calibrated: Table | None
    calibration: list[Panel]
    calibration_lines: int
    slices: list[SliceGroup]
    experiments: list[Panel]
    experiment_note: str
    propensity: Table | None
    weights: list[Panel]


def judgement_of(runs: Sequence[Run]) -> Judgement | None:
    """Gather evaluations; None if there are none."""
    if not runs:
        return None
    runs = named(runs)
    several = len(runs) > 1
    parts = sorted({str(run.summary.get("part")) for run in runs})
    return Judgement(
        runs=runs,
        several=several,
        part=", ".join(parts) + " part" + ("s" if len(parts) > 1 else ""),
        units=" or ".join(sorted({str(run.summary.get("bootstrap.units")) for run in runs})),
        table=figure_table(runs),
        calibrated=before_after(runs),
        calibration=calibration(runs),
        calibration_lines=2 if several or runs[0].evaluation.get("raw") else 1,
        slices=[slice_group(runs, column, index) for index, column in enumerate(columns(runs))],
        experiments=experiments(runs),
        experiment_note=experiment_note(runs),
        propensity=propensity_table(runs),
        weights=[replace(p, svg=p.svg.replace("weights-", "judged-weights-")) for p in weight_panels(runs)],
    )


def named(runs: Sequence[Run]) -> list[Run]:
    """The runs under the names of the training runs they judge, where those tell them apart."""
    names = [Path((run.record.get("config") or {}).get("evaluate", {}).get("run", run.path)).name for run in runs]
    if len(set(names)) < len(names):
        return list(runs)
    return [replace(run, name=name) for run, name in zip(runs, names, strict=True)]


def evaluate_headline(run: Run) -> str:
    """One sentence: how far pCVR is from right where it is used."""
    (run,) = named([run])
    entire = run.number("cvr.entire.pcoc") is not None
    space, place = ("cvr.entire", "over all exposures") if entire else ("cvr.click", "on clicks")
    value, low, high = (run.number(f"{space}.pcoc{end}") for end in ("", ".low", ".high"))
    if value is None:
        return f"{run.name}: the CVR {place} cannot be judged ({run.why_absent(f'{space}.pcoc')})."
    bounds = f" [{number(low, 3)}, {number(high, 3)}]" if low is not None and high is not None else ""
    way = "too high" if value > 1 else "too low"
    sure = low is not None and high is not None and not low <= 1 <= high
    text = f"{run.name}: on {count(run.number('rows'))} exposures its CVR {place} has PCOC {number(value, 3)}{bounds}, "
    return text + (f"{percent(abs(value - 1))} {way}." if sure else "not significantly off.")


def figure_table(runs: Sequence[Run]) -> Table:
    notes = Footnotes()
    groups = []
    for key, task, space in SPACES:
        rows = []
        for index, run in enumerate(runs):
            name = run.name if len(runs) > 1 else f"{task}, {space}"
            cells = [Cell(name, head=True, series=index if len(runs) > 1 else -1)]
            cells += [figure_cell(run, f"{key}.{metric}", digits, notes) for metric, _, digits in FIGURES]
            rows.append([*cells, Cell(count(run.number(f"{key}.count")))])
        groups.append(Group(f"{task}, {space}" if len(runs) > 1 else "", rows))
    first = "Run" if len(runs) > 1 else "Task, space"
    return Table([first, *(title for _, title, _ in FIGURES), "Rows"], groups, notes.texts)


def figure_cell(run: Run, key: str, digits: int, notes: Footnotes) -> Cell:
    value, low, high = (run.number(f"{key}{end}") for end in ("", ".low", ".high"))
    if value is None:
        return Cell(DASH, note=notes.mark(run.why_absent(key)))
    minor = f"{number(low, digits)} to {number(high, digits)}" if low is not None and high is not None else ""
    return Cell(number(value, digits), minor=minor)


def before_after(runs: Sequence[Run], before: str = "raw.", after: str = "") -> Table | None:
    """Raw and calibrated log-loss, PCOC and ECE of the runs that are calibrated; prefixes of the summary's keys."""
    rows = []
    for run in runs:
        for key, task, space in SPACES:
            if any(run.number(f"{prefix}{key}.pcoc") is None for prefix in (before, after)):
                continue
            head = f"{task}, {space}" + (f": {run.name}" if len(runs) > 1 else "")
            cells = [Cell(head, head=True)]
            for metric, digits in (("log_loss", 5), ("pcoc", 3), ("ece", 5)):
                cells += [Cell(number(run.number(f"{prefix}{key}.{metric}"), digits)) for prefix in (before, after)]
            rows.append(cells)
    columns = ["Raw, then calibrated", "Log-loss", "after", "PCOC", "after", "ECE", "after"]
    return Table(columns, [Group("", rows)]) if rows else None


def calibration(runs: Sequence[Run]) -> list[Panel]:
    """A panel per task and space; of one calibrated run, both curves."""
    shown = list(runs)
    if len(runs) == 1 and runs[0].evaluation.get("raw"):
        raw = replace(runs[0], name="raw", evaluation={"calibration": runs[0].evaluation["raw"]})
        shown = [replace(runs[0], name="calibrated"), raw]
    return calibration_panels(shown, "judged")


def columns(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(entry["column"] for run in runs for entry in run.evaluation.get("slices") or []))


def slice_group(runs: Sequence[Run], column: str, number_: int) -> SliceGroup:
    """CTR and CVR, AUC and PCOC, of every slice of a column, runs beside each other."""
    found: dict[str, list[dict[str, Any]]] = {}
    for index, run in enumerate(runs):
        for entry in run.evaluation.get("slices") or []:
            for one in entry["slices"] if entry["column"] == column else ():
                found.setdefault(one["label"], [{} for _ in runs])[index] = one["figures"]
    entire = any("cvr.entire.pcoc" in figures for row in found.values() for figures in row)
    cvr, where = ("cvr.entire", "entire space") if entire else ("cvr.click", "clicks")
    panels = []
    for key, title in (("ctr.auc", "CTR: AUC"), ("ctr.pcoc", "CTR: PCOC"), (f"{cvr}.auc", f"CVR, {where}: AUC"),
                       (f"{cvr}.pcoc", f"CVR, {where}: PCOC")):  # fmt: skip
        rows = [(label, [dot_of(figures, key, i) for i, figures in enumerate(row)]) for label, row in found.items()]
        name = f"slices-{number_}-{key.replace('.', '-')}"
        panels.append(dot_panel(title, rows, name, runs[0].number(key), one=key.endswith("pcoc")))
    note = "Colours as in the table." if len(runs) > 1 else ""
    return SliceGroup(column, [item for item in panels if item], note)


def experiments(runs: Sequence[Run]) -> list[Panel]:
    """IEB (mean pCVR beside the truth) and PIP (risk ratios)."""
    places = (("", "all exposures"), ("clicked.", "clicked"), ("unclicked.", "not clicked"))
    bias = [
        (place, [*(dot_of(run.summary, f"ieb.{key}mean_prediction", i) for i, run in enumerate(runs)),
                 truth(runs, f"ieb.{key}mean_truth")])
        for key, place in places
    ]  # fmt: skip
    ratios = [
        ("pCVR" if len(runs) == 1 else run.name, [dot_of(run.summary, "pip.risk_ratio", i)])
        for i, run in enumerate(runs)
    ]
    ratios.append(("true conversion", [truth(runs, "pip.true_risk_ratio")]))
    panels = [
        dot_panel("IEB: mean pCVR (dot) and mean truth (ring)", bias, "ieb", percent=True, width=4.6),
        dot_panel("PIP: risk ratio of a click, matched on q", ratios, "pip", one=True, width=4.6),
    ]
    return [item for item in panels if item]


def truth(runs: Sequence[Run], key: str) -> Dot | None:
    """The truth as the first run that knows it has it, as a ring in a colour of its own."""
    return next((dot for run in runs if (dot := dot_of(run.summary, key, 6, hollow=True))), None)


def experiment_note(runs: Sequence[Run]) -> str:
    note = (
        "IEB: where the dot stands right of the ring, conversion is over-estimated. PIP: clicked and unclicked "
        "exposures of equal predicted click probability are compared; at 1 their pCVR is the same, right of it the "
        "clicked have more."
    )
    reasons = {run.why_absent("ieb.bias") for run in runs if run.number("ieb.bias") is None}
    return note + "".join(f" True means are absent where nobody clicked: {reason}." for reason in sorted(reasons))
