"""What a page shows of a training of the ranker: figures by task and space, calibration, propensities, curves.

Tasks: ctr over all exposures, cvr over clicks or over all exposures (which needs the truth), ctcvr over all exposures.
"""

from collections.abc import Mapping
from typing import Any

from funnel.figures.sampling_error import half_width
from funnel.numbers import count, counted, number, percent
from funnel.panels import RUNS, Cell, Figure, Glossary, Panel, Record, Sentence, Table, finite
from funnel.progress import training, training_cost
from funnel.ranking.evaluation_panels import evaluated, hidden_cause
from funnel.ranking.glossary import TERMS
from funnel.ranking.panel_parts import SPACES, badness, calibration, propensity

LOSSES = {
    "loss": "Total loss",
    "loss.ctr": "CTR term",
    "loss.cvr": "CVR term",
    "loss.ctcvr": "CTCVR term",
    "loss.imputation": "Imputation term",
}
TRAINED = {"auc": ("AUC", 4), "log_loss": ("Log-loss", 4), "pcoc": ("PCOC", 3)}


def panels(record: Record) -> list[Panel]:
    """Of a finished run of jobs.train or jobs.evaluate."""
    shown = evaluated(record) if record.run.get("kind") == "evaluate" else trained(record)
    return [*shown, *data(record), Glossary(TERMS)]


def trained(record: Record) -> list[Panel]:
    titles = {key: name.removesuffix(", all exposures") for key, name in SPACES.items()}
    figures = {
        f"{key}.{figure}": f"{title}: {name}"
        for figure, name in (("auc", "AUC"), ("log_loss", "log-loss"))
        for key, title in titles.items()
    }
    about = {name: record.setting(name.lower()) or "" for name in ("Objective", "Backbone")}
    return [
        Sentence(training_headline(record), headline=True),
        quality(record),
        *calibration(record, "Calibration", before="", after="calibrated."),
        *hidden_cause(record),
        *propensity(record, "Propensity health"),
        *training(record, LOSSES, figures),
        training_cost(record, about),
    ]


def quality(record: Record) -> Table:
    """Figures of a training by task and space; ± is half the interval that the finite sample alone allows."""
    rows: list[tuple[Cell, ...]] = []
    for key, name in SPACES.items():
        exposures, positives = record.number(f"{key}.count"), record.number(f"{key}.positives")
        cells: list[Cell] = [name]
        for metric, (_, digits) in TRAINED.items():
            value = record.number(f"{key}.{metric}")
            half = None if value is None else half_width(metric, value, exposures, positives)
            why = record.reason(f"{key}.{metric}") if value is None else ""
            cells.append(
                Figure(value, digits, half=half, why=why, badness=None if half is None else badness(metric, value))
            )
        rate = percent(positives / exposures) if exposures and positives is not None else ""
        rows.append((*cells, count(exposures), Figure(positives, 0, aside=rate) if rate else count(positives)))
    part = record.files.get("evaluation", {}).get("part") or record.summary.get("part") or "held-out"
    note = f"On the {part} part. AUC: higher is better, 0.5 is a coin. Log-loss: lower is better. PCOC: mean "
    note += "prediction over mean label, 1 is unbiased. ± is half the 95% interval that the finite sample alone "
    note += "allows; variation between seeds comes on top."
    if method := calibrated(record):
        note = f"Raw figures, before the calibration ({method}), which has a table of its own below. {note}"
    columns = ("Task, space", *(title for title, _ in TRAINED.values()), "Rows", "Positives")
    return Table("", columns, tuple(rows), note, "Prediction quality", alike=("Rows", "Positives"))


def training_headline(record: Record) -> str:
    """What was trained on how much, and how good the CVR is where it is hardest to judge."""
    entire = record.number("cvr.entire.pcoc") is not None
    space, place = ("cvr.entire", "over all exposures") if entire else ("cvr.click", "on clicks")
    model = " on ".join(word for word in (record.setting("objective"), record.setting("backbone")) if word)
    made = f"{model or record.name}, trained"
    rows = finite(parts(record).get("train", {}).get("rows"))
    workers = record.number("train.workers")
    made += f" on {counted(rows, 'exposure')}" if rows else ""
    made += f" by {counted(workers, 'worker')}" if workers else ""
    method = calibrated(record)
    front = "calibrated." if method else ""
    pcoc = record.number(f"{front}{space}.pcoc")
    if pcoc is None:
        return f"{made}: its conversion rates cannot be judged {place} ({record.reason(f'{space}.pcoc')})."
    text = f"Predicted conversion rates, {how_served(method)}, are {bias(pcoc)} {place}: "
    text += f"PCOC {with_half(record, front, space, 'pcoc', 3)}"
    if record.number(f"{front}{space}.auc") is not None:
        text += f", AUC {with_half(record, front, space, 'auc', 4)}"
    if not entire:
        text += f". Over all exposures they cannot be judged: {record.reason('cvr.entire.pcoc').rstrip('.')}"
    return f"{text}. The model is {made}."


def how_served(method: str) -> str:
    """`method`: of the calibration, "" or none for none."""
    return "raw (not calibrated)" if method in ("", "none") else f"calibrated ({method})"


def calibrated(record: Record) -> str:
    """How the run was calibrated, "" if it was not."""
    method = str(record.summary.get("calibration.method") or "none")
    return "" if method == "none" or record.number("calibrated.ctr.pcoc") is None else method


def with_half(record: Record, front: str, space: str, metric: str, digits: int) -> str:
    """1.062 ± 0.037, not to be broken over lines."""
    value = record.number(f"{front}{space}.{metric}")
    half = half_width(metric, value or 0.0, record.number(f"{space}.count"), record.number(f"{space}.positives"))
    return number(value, digits) + (f"\u00a0±\u00a0{number(half, digits)}" if half is not None else "")


def bias(pcoc: float) -> str:
    if abs(pcoc - 1) < 0.0005:
        return "right on average"
    return f"{percent(abs(pcoc - 1))} too {'high' if pcoc > 1 else 'low'} on average"


def data(record: Record) -> list[Panel]:
    """Rows, clicks, conversions and rates of each part of the log."""
    rows = []
    for name, facts in parts(record).items():
        numbers = [finite(facts.get(key)) for key in ("rows", "clicks", "conversions")]
        rates = (percent(ratio(numbers[a], numbers[b])) for a, b in ((1, 0), (2, 1), (2, 0)))
        rows.append((name, *map(count, numbers), *rates))
    columns = ("Part", "Rows", "Clicks", "Conversions", "CTR", "CVR of clicks", "CTCVR")
    return [Table("Parts of the log", columns, tuple(rows), section=RUNS)] if rows else []


def parts(record: Record) -> Mapping[str, Any]:
    return (record.run.get("data") or {}).get("parts") or {}


def ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None
