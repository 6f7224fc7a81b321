"""Panels that a training and an evaluation of the ranker share: calibration and propensities."""

from collections.abc import Mapping
from typing import Any

from funnel.numbers import compact, count, number, percent
from funnel.panels import Calibration, Cell, Curve, Figure, Panel, Record, Sentence, Series, Table

SPACES = {
    "ctr": "CTR, all exposures",
    "cvr.click": "CVR, click space",
    "cvr.entire": "CVR, entire space",
    "ctcvr": "CTCVR, all exposures",
}
CALIBRATED = {"log_loss": ("Log-loss", 5), "pcoc": ("PCOC", 3), "ece": ("ECE", 5)}
PROPENSITY = ("clicks", "effective_sample_size", "largest_weight", "clip", "share_clipped")
CALIBRATION_NOTE = (
    "Mean label over mean prediction in bins of equal count, neighbours merged until each holds ten positives. On the "
    "dashed line predictions are right; below it they are too high. Bars, of two curves at "
    "most: 95% intervals of the label."
)


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


def badness(metric: str, value: float | None) -> float | None:
    """What is smallest for the best run."""
    if value is None:
        return None
    if metric == "pcoc":
        return max(value, 1 / value) if value > 0 else float("inf")
    return -value if metric in ("auc", "gauc") else value
