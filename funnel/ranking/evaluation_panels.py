"""What a page shows of a run of jobs.evaluate: figures with their intervals, slices, bias experiments."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from funnel.numbers import count, number, percent
from funnel.panels import Cell, Figure, Interval, Intervals, Panel, Record, Sentence, Table, interval
from funnel.ranking.elapsed_report import DELAYS
from funnel.ranking.elapsed_report import table as elapsed_table
from funnel.ranking.panel_parts import SPACES, badness, calibration, propensity

EVALUATED = {
    "auc": ("AUC", 4),
    "gauc": ("GAUC", 4),
    "ks": ("KS", 4),
    "precision": ("precision", 4),
    "recall": ("recall", 4),
    "f1": ("F1", 4),
    "log_loss": ("Log-loss", 4),
    "pcoc": ("PCOC", 3),
    "ece": ("ECE", 4),
}


BALANCE = "The mean pCVR of clicks weighed by 1/q, as a share of that of exposures: 1 where q is right. Where it is "
BALANCE += "not, so much of the bias is left by weighing."
RANKED = ("auc", "gauc", "log_loss")
"""Figures of which the larger, or the smaller, is the better."""


def evaluated(record: Record) -> list[Panel]:
    return [
        Sentence(evaluation_headline(record), headline=True),
        evaluation(record),
        *calibration(record, evaluation_section(record), before="raw.", after=""),
        *slices(record),
        *experiments(record),
        *hidden_cause(record),
        *late_conversions(record),
        *propensity(record, "Propensity health of the evaluated part"),
    ]


def evaluation_headline(record: Record) -> str:
    """How far the CVR is from right where it is used."""
    run = Path(str((record.run.get("config") or {}).get("evaluate", {}).get("run") or record.name)).name
    entire = record.number("cvr.entire.pcoc") is not None
    space, place = ("cvr.entire", "over all exposures") if entire else ("cvr.click", "on clicks")
    cell = record.cell(f"{space}.pcoc", 3)
    if cell.value is None:
        return f"{run}: the CVR {place} cannot be judged ({cell.why})."
    method = record.summary.get("calibration.method") or "none"
    how = "raw (not calibrated)" if method == "none" else f"calibrated ({method})"
    off = f"{percent(abs(cell.value - 1))} too {'high' if cell.value > 1 else 'low'}"
    bounds = ", with no interval known"
    if cell.low is not None and cell.high is not None:
        bounds = f", 95% interval {number(cell.low, 3)} to {number(cell.high, 3)}"
        off = "right as far as the data can tell" if cell.low <= 1 <= cell.high else off
    rates = f"{run}: predicted conversion rates, {how}, are {off} {place}"
    return f"{rates} (PCOC {cell.text}{bounds}; {count(record.number('rows'))} exposures judged)."


def evaluation_section(record: Record) -> str:
    return f"Evaluation: {record.summary.get('part')} part"


def evaluation(record: Record) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for key, name in SPACES.items():
        cells = (judged(record, f"{key}.{metric}", metric, digits) for metric, (_, digits) in EVALUATED.items())
        rows.append((name, *cells, count(record.number(f"{key}.count"))))
    units = record.summary.get("bootstrap.units")
    note = f"Small: 95% bootstrap interval over {units}. GAUC: each user's own AUC, weighted by exposures, over users "
    note += "who have both labels. KS and ECE have no interval, as resampling moves them upwards; precision, recall "
    note += "and F1 have none either."
    columns = ("Task, space", *(title for title, _ in EVALUATED.values()), "Rows")
    return Table("", columns, tuple(rows), note, evaluation_section(record), alike=("Rows",))


def judged(record: Record, key: str, metric: str, digits: int) -> Figure:
    """A figure with its interval; those that have one may be the best among several runs."""
    found = record.cell(key, digits)
    marked = metric in RANKED and found.low is not None
    return replace(found, badness=badness(metric, found.value)) if marked else found


def slices(record: Record) -> list[Panel]:
    """CTR and CVR, AUC and PCOC, of every slice of a column."""
    found: list[Panel] = []
    note = "A dot is the figure of a slice, the bar its 95% bootstrap interval; the line: the whole part for AUC, 1 "
    note += "for PCOC. Open: the interval holds the line."
    for entry in (record.files.get("evaluation") or {}).get("slices") or []:
        known: Sequence[Mapping[str, Any]] = entry["slices"]
        entire = any("cvr.entire.pcoc" in one["figures"] for one in known)
        cvr = "cvr.entire" if entire else "cvr.click"
        for key, title in (("ctr", "CTR"), (cvr, f"CVR, {'entire space' if entire else 'clicks'}")):
            for figure in ("auc", "pcoc"):
                rows = present(interval(one["figures"], f"{key}.{figure}", one["label"]) for one in known)
                line = 1.0 if figure == "pcoc" else record.number(f"{key}.{figure}")
                if rows:
                    name = f"{title}: {figure.upper()}"
                    found.append(Intervals(name, "", rows, line, note, f"By {entry['column']}", small=True))
        rows = present(interval(one["figures"], "balance.pcvr", one["label"]) for one in known)
        if rows:
            title = "Balance of pCVR: weighed clicks / exposures"
            found.append(Intervals(title, "", rows, 1.0, BALANCE, f"By {entry['column']}", small=True))
    return found


def experiments(record: Record) -> list[Panel]:
    """IEB (mean pCVR beside the truth) and PIP (risk ratio of a click)."""
    places = {"": "all exposures", "clicked.": "clicked", "unclicked.": "not clicked"}
    means = present(
        record.interval(f"ieb.{key}{mean}", place, group)
        for key, place in places.items()
        for mean, group in (("mean_prediction", "mean pCVR"), ("mean_truth", "mean truth"))
    )
    ratios = present((record.interval("pip.risk_ratio", "pCVR"), record.interval("pip.true_risk_ratio", "truth")))
    note = "IEB: where pCVR stands right of the truth, conversion is over-estimated."
    if record.number("ieb.bias") is None:
        note += f" True means are absent where nobody clicked: {record.reason('ieb.bias')}."
    equal = "PIP: clicked and unclicked exposures of equal predicted click probability are compared; at 1 their pCVR "
    equal += "is the same, right of it the clicked have more."
    section = "Does pCVR hold where nobody clicked?"
    found: list[Panel] = []
    if means:
        found.append(Intervals("IEB: mean pCVR and mean truth", "", means, None, note, section))
    if ratios:
        found.append(Intervals("PIP: risk ratio of a click, matched on q", "", ratios, 1.0, equal, section))
    return found


def hidden_cause(record: Record) -> list[Panel]:
    """Strength of a hidden cause and the test of the instruments, each with its interval; and what is claimed."""
    section = "Does a hidden cause drive clicks and conversions?"
    rows = present((record.interval("cause.theta", "hidden cause (theta)"),
                    record.interval("cause.exclusion", "instruments, beside it (gamma)")))  # fmt: skip
    if not rows:
        return []
    claimed = bool(record.summary.get("cause.claimed"))
    says = "A hidden cause is found: weighing clicks by their propensities cannot remove it, escm2_joint can."
    if not claimed:
        says = f"Nothing is claimed: {record.reason('cause.claimed')}."
    note = (
        "theta: covariance that the cause gives the logits of click and conversion. gamma: how far instruments predict "
    )
    note += "conversions beside it; they are valid where that is 0. What the model has not learnt counts as hidden too."
    return [Sentence(says, section), Intervals("Hidden cause, judged by instruments", "", rows, 0.0, note, section)]


def late_conversions(record: Record) -> list[Panel]:
    """Which conversions were not known yet at a moment, by age of the click."""
    delays = (record.files.get("evaluation") or {}).get(DELAYS)
    return [elapsed_table(delays)] if delays else []


def present(found: Iterable[Interval | None]) -> tuple[Interval, ...]:
    return tuple(one for one in found if one is not None)
