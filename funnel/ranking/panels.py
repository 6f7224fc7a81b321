"""What a page shows of a training of the ranker and of jobs.evaluate: figures by task and space, calibration,
propensities, slices, bias experiments.

Tasks: ctr over all exposures, cvr over clicks or over all exposures (which needs the truth), ctcvr over all exposures.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from funnel.course import training, training_cost
from funnel.figures.sampling_error import half_width
from funnel.numbers import compact, count, counted, number, percent
from funnel.panels import (
    RUNS,
    Calibration,
    Cell,
    Curve,
    Figure,
    Glossary,
    Interval,
    Intervals,
    Panel,
    Record,
    Sentence,
    Series,
    Table,
    finite,
    interval,
)
from funnel.ranking.glossary import TERMS

SPACES = {
    "ctr": "CTR, all exposures",
    "cvr.click": "CVR, click space",
    "cvr.entire": "CVR, entire space",
    "ctcvr": "CTCVR, all exposures",
}
LOSSES = {
    "loss": "Total loss",
    "loss.ctr": "CTR term",
    "loss.cvr": "CVR term",
    "loss.ctcvr": "CTCVR term",
    "loss.imputation": "Imputation term",
}
TRAINED = {"auc": ("AUC", 4), "log_loss": ("Log-loss", 4), "pcoc": ("PCOC", 3)}
EVALUATED = {"auc": ("AUC", 4), "gauc": ("GAUC", 4), "ks": ("KS", 4), **{key: TRAINED[key] for key in
             ("log_loss", "pcoc")}, "ece": ("ECE", 4)}  # fmt: skip
CALIBRATED = {"log_loss": ("Log-loss", 5), "pcoc": ("PCOC", 3), "ece": ("ECE", 5)}
PROPENSITY = ("clicks", "effective_sample_size", "largest_weight", "clip", "share_clipped")
CALIBRATION_NOTE = (
    "Mean label over mean prediction in bins of equal count, neighbours merged until each holds ten positives. On the "
    "dashed line predictions are right; below it they are too high. Bars: 95% intervals of the label."
)


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
        *propensity(record, "Propensity health"),
        *training(record, LOSSES, figures),
        training_cost(record, about),
    ]


def evaluated(record: Record) -> list[Panel]:
    return [
        Sentence(evaluation_headline(record), headline=True),
        evaluation(record),
        *calibration(record, evaluation_section(record), before="raw.", after=""),
        *slices(record),
        *experiments(record),
        *propensity(record, "Propensity health of the evaluated part"),
    ]


def quality(record: Record) -> Table:
    """Figures of a training by task and space; ± is half the interval that the finite sample alone allows."""
    rows = []
    for key, name in SPACES.items():
        exposures, positives = record.number(f"{key}.count"), record.number(f"{key}.positives")
        cells: list[Cell] = [name]
        for metric, (_, digits) in TRAINED.items():
            value = record.number(f"{key}.{metric}")
            half = None if value is None else half_width(metric, value, exposures, positives)
            why = record.reason(f"{key}.{metric}") if value is None else ""
            cells.append(Figure(value, digits, half=half, why=why, badness=badness(metric, value)))
        rate = percent(positives / exposures) if exposures and positives is not None else ""
        rows.append((*cells, count(exposures), Figure(positives, 0, aside=rate) if rate else count(positives)))
    part = record.files.get("evaluation", {}).get("part") or record.summary.get("part") or "held-out"
    note = f"On the {part} part. AUC: higher is better, 0.5 is a coin. Log-loss: lower is better. PCOC: mean "
    note += "prediction over mean label, 1 is unbiased. ± is half the 95% interval that the finite sample alone "
    note += "allows; variation between seeds comes on top."
    columns = ("Task, space", *(title for title, _ in TRAINED.values()), "Rows", "Positives")
    return Table("", columns, tuple(rows), note, "Prediction quality", alike=("Rows", "Positives"))


def badness(metric: str, value: float | None) -> float | None:
    """What is smallest for the best run."""
    if value is None:
        return None
    if metric == "pcoc":
        return max(value, 1 / value) if value > 0 else float("inf")
    return -value if metric == "auc" else value


def training_headline(record: Record) -> str:
    """What was trained on how much, and how good the CVR is where it is hardest to judge."""
    entire = record.number("cvr.entire.pcoc") is not None
    space, place = ("cvr.entire", "over the entire space") if entire else ("cvr.click", "in click space")
    model = " on ".join(word for word in (record.setting("objective"), record.setting("backbone")) if word)
    text = f"{model or record.name} was trained"
    rows = finite(parts(record).get("train", {}).get("rows"))
    workers = record.number("train.workers")
    text += f" on {counted(rows, 'exposure')}" if rows else ""
    text += f" by {counted(workers, 'worker')}" if workers else ""
    pcoc = record.number(f"{space}.pcoc")
    if pcoc is None:
        return f"{text}; {space}.pcoc is absent ({record.reason(f'{space}.pcoc')})."
    text += f"; {place} its CVR has PCOC {with_half(record, space, 'pcoc', 3)} ({bias(pcoc)})"
    if record.number(f"{space}.auc") is not None:
        text += f" at AUC {with_half(record, space, 'auc', 4)}"
    if not entire:
        text += f". The entire space cannot be judged: {record.reason('cvr.entire.pcoc').rstrip('.')}"
    return text + "."


def with_half(record: Record, space: str, metric: str, digits: int) -> str:
    """1.062 ± 0.037, not to be broken over lines."""
    value = record.number(f"{space}.{metric}")
    half = half_width(metric, value or 0.0, record.number(f"{space}.count"), record.number(f"{space}.positives"))
    return number(value, digits) + (f"\u00a0±\u00a0{number(half, digits)}" if half is not None else "")


def bias(pcoc: float) -> str:
    if abs(pcoc - 1) < 0.0005:
        return "unbiased on average"
    return f"predictions {percent(abs(pcoc - 1))} too {'high' if pcoc > 1 else 'low'} on average"


def evaluation_headline(record: Record) -> str:
    """How far the CVR is from right where it is used."""
    run = Path(str((record.run.get("config") or {}).get("evaluate", {}).get("run") or record.name)).name
    entire = record.number("cvr.entire.pcoc") is not None
    space, place = ("cvr.entire", "over all exposures") if entire else ("cvr.click", "on clicks")
    cell = record.cell(f"{space}.pcoc", 3)
    if cell.value is None:
        return f"{run}: the CVR {place} cannot be judged ({cell.why})."
    text = f"{run}: on {count(record.number('rows'))} exposures its CVR {place} has PCOC {cell.text}"
    if cell.low is None or cell.high is None:
        return f"{text}, with no interval known."
    text += f" [{number(cell.low, 3)}, {number(cell.high, 3)}], "
    way = "too high" if cell.value > 1 else "too low"
    return text + ("not significantly off." if cell.low <= 1 <= cell.high else f"{percent(abs(cell.value - 1))} {way}.")


def evaluation_section(record: Record) -> str:
    return f"Evaluation: {record.summary.get('part')} part"


def evaluation(record: Record) -> Table:
    rows = []
    for key, name in SPACES.items():
        cells = (record.cell(f"{key}.{metric}", digits) for metric, (_, digits) in EVALUATED.items())
        rows.append((name, *cells, count(record.number(f"{key}.count"))))
    units = record.summary.get("bootstrap.units")
    note = f"Small: 95% bootstrap interval over {units}. GAUC: each user's own AUC, weighted by exposures, over users "
    note += "who have both labels. KS and ECE have no interval, as resampling moves them upwards. Runs evaluated on "
    note += "the same rows differ less between each other than their intervals suggest."
    columns = ("Task, space", *(title for title, _ in EVALUATED.values()), "Rows")
    return Table("", columns, tuple(rows), note, evaluation_section(record))


def calibration(record: Record, section: str, before: str, after: str) -> list[Panel]:
    """A panel a task and space, with both curves of a calibrated run; its figures `before` and `after`: prefixes of
    the summary's keys."""
    known: Mapping[str, Any] = record.files.get("evaluation") or {}
    if not known:
        text = f"{record.name}: evaluation.json is absent, so there is no calibration and no weight histogram."
        return [Sentence(text, section)]
    curves: dict[str, Mapping[str, Any]] = {"": known.get("calibration") or {}}
    if known.get("calibrated"):  # a training that was calibrated: its own figures are the raw ones
        curves = {"raw": curves[""], "calibrated": known["calibrated"].get("calibration") or {}}
    elif known.get("raw"):  # an evaluation of a calibrated run
        curves = {"raw": known["raw"], "calibrated": curves[""]}
    found: list[Panel] = []
    for key, name in SPACES.items():
        groups = {curve: bins[key] for curve, bins in curves.items() if bins.get(key)}
        if groups:
            found.append(Calibration(name, groups, CALIBRATION_NOTE, section))
    return found + before_after(record, section, before, after)


def before_after(record: Record, section: str, before: str, after: str) -> list[Panel]:
    rows = []
    for key, name in SPACES.items():
        if any(record.number(f"{prefix}{key}.pcoc") is None for prefix in (before, after)):
            continue
        cells = [
            number(record.number(f"{prefix}{key}.{metric}"), digits)
            for metric, (_, digits) in CALIBRATED.items()
            for prefix in (before, after)
        ]
        rows.append((name, *cells))
    columns = ("Raw, then calibrated", *(word for title, _ in CALIBRATED.values() for word in (title, "after")))
    return [Table("Raw and calibrated", columns, tuple(rows), section=section)] if rows else []


def propensity(record: Record, section: str) -> list[Panel]:
    """Effective sample size and its share of clicks, largest weight, clip and the share it touches; the weights."""
    known = {key: record.number(f"propensity.{key}") for key in PROPENSITY}
    found: list[Panel] = []
    if any(value is not None for value in known.values()):
        whole = {"clicks": count, "effective_sample_size": count, "share_clipped": percent}
        cells: list[Cell] = [
            Figure(None, why=record.reason(f"propensity.{key}")) if value is None else whole.get(key, compact)(value)
            for key, value in known.items()
        ]
        if known["effective_sample_size"] is not None and known["clicks"]:
            share = percent(known["effective_sample_size"] / known["clicks"])
            cells[1] = Figure(known["effective_sample_size"], 0, aside=f"{share} of clicks")
        columns = ("Run", "Clicks", "Effective sample size", "Largest weight", "Clip", "Share clipped")
        found.append(Table("", columns, ((record.name, *cells),), section=section))
    return found + weights(record, section)


def weights(record: Record, section: str) -> list[Panel]:
    known: Mapping[str, Any] = record.files.get("evaluation") or {}
    histogram = (known.get("propensity") or {}).get("weight_histogram") or {}
    edges, counts = histogram.get("edges") or [], histogram.get("counts") or []
    if not counts or len(edges) != len(counts) + 1:
        reason = record.reason("propensity.weight_histogram")
        return [Sentence(f"{record.name}: no weight histogram ({reason}).", section)] if known else []
    clip = record.number("propensity.clip")
    bound = (1 / clip, f"clip {compact(clip)}") if clip and edges[0] <= 1 / clip <= edges[-1] * 1.05 else None
    note = "Weights 1/propensity of clicked exposures. A long right tail means few clicks decide the estimate: a small "
    note += "effective sample size. Dashed: the bound the clip sets."
    wide = edges[0] > 0 and edges[-1] / edges[0] > 20
    line = (Series("", edges, counts),)
    return [Curve("Weights of clicked exposures", "weight 1 / propensity", "clicks", line, note, True, wide,
                  bound=bound, section=section)]  # fmt: skip


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


def present(found: Any) -> tuple[Interval, ...]:
    return tuple(one for one in found if one is not None)
