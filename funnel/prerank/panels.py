"""What a page shows of a pre-ranker's training and of its evaluation."""

from collections.abc import Mapping
from typing import Any

from funnel.numbers import count, percent
from funnel.panels import Cell, Curve, Figure, Glossary, Panel, Record, Sentence, Series, Table
from funnel.progress import training, training_cost
from funnel.unit_panels import figures_table, judged, judged_run, section, slice_panels, slices_table

WATCHED = {"asph": "ASPH@k", "isph": "ISPH@k", "pauc": "PAUC"}
NAMES = {
    "asph": "ASPH@k: bought elsewhere, among the first k",
    "isph": "ISPH@k: bought here, among the first k",
    "recall": "end-to-end recall@k: and then on the page",
    "pauc": "PAUC: order of what was shown",
    "pauc.true": "PAUC by true chances",
}
SHORT = {"asph": ("ASPH", 4), "isph": ("ISPH", 4), "recall": ("end-to-end recall", 4), "pauc": ("PAUC", 4),
         "pauc.true": ("PAUC by true chances", 4)}  # fmt: skip
CURVES = {"asph": "ASPH", "isph": "ISPH", "recall": "end-to-end recall"}
TERMS = (
    ("ASPH@k", "all-scenario purchase hit rate: the share of what a user bought elsewhere that is among the first k"),
    ("ISPH@k", "in-scenario purchase hit rate: the same of what was bought here; 1 for the online pre-ranker at its k"),
    ("PAUC", "AUC of purchases within what was shown: the order of the best, not the set"),
    ("end-to-end recall", "share of purchases elsewhere that would be handed on and then be put on the page"),
)
LOSSES = {"loss": "Total loss", "loss.exposure": "Exposure term", "loss.click": "Click term",
          "loss.purchase": "Purchase term", "loss.distill.click": "Distillation, clicks",
          "loss.distill.purchase": "Distillation, purchases"}  # fmt: skip


def results(summary: Mapping[str, Any]) -> Table:
    rows = tuple((name, summary[key]) for key, name in NAMES.items() if key in summary)
    return Table(f"{summary.get('part', 'test')} part", ("figure", "value"), rows)


def panels(record: Record) -> list[Panel]:
    shown = evaluated(record) if record.run.get("kind") == "evaluate" else trained(record)
    return [*shown, Glossary(TERMS)]


def trained(record: Record) -> list[Panel]:
    found: list[Panel] = []
    if record.summary:
        found = [Sentence(headline(record, record.name), headline=True), results(record.summary)]
    about = {name: record.setting(name.lower()) or "" for name in ("Loss", "Labels")}
    cost = [training_cost(record, about)] if record.summary else []
    return [*found, *curves(record), *training(record, LOSSES, WATCHED), *cost]


def headline(record: Record, name: str) -> str:
    """How good the set is that is handed on."""
    for key, what in (("asph", "bought elsewhere"), ("isph", "bought on the page")):
        rate = record.number(key)
        if rate is not None:
            k, most = own_k(record), count(record.number("candidates"))
            found = record.cell(key)
            bounds = ""
            if found.low is not None and found.high is not None:
                bounds = f", 95% interval {percent(found.low)} to {percent(found.high)}"
            return f"{name}: of what users {what}, {percent(rate)} is among its first {k} of {most} candidates{bounds}."
    return f"{name}: no purchase to judge it by."


def own_k(record: Record) -> str:
    """What is handed on."""
    rates = (record.files.get("evaluation") or {}).get("hit_rates") or {}
    return count(rates.get("own")) if rates.get("own") else "k"


def curves(record: Record) -> list[Panel]:
    """Hit rates by k, with bands where intervals are known."""
    rates = (record.files.get("evaluation") or {}).get("hit_rates") or {}
    found: list[Panel] = []
    for key, name in CURVES.items():
        if key not in rates:
            continue
        bounds = [[record.number(f"{key}.{k}.{end}") for k in rates["k"]] for end in ("low", "high")]
        low, high = ([value for value in line if value is not None] for line in bounds)
        whole = len(low) == len(high) == len(rates["k"])
        line = Series(record.name, rates["k"], rates[key], *((low, high) if whole else ()))
        found.append(Curve(f"{name} by k", "k", name, (line,), log_x=True, bound=(rates["own"], "handed on")))
    return found


def evaluated(record: Record) -> list[Panel]:
    """Of jobs.evaluate."""
    k = own_k(record)
    titles = {key: f"{name}@{k}" if key in CURVES else name for key, (name, _) in SHORT.items()}
    cells: tuple[Cell, ...] = tuple(judged(record, key, digits) for key, (_, digits) in SHORT.items())
    note = f"Small: 95% bootstrap interval over {record.summary.get('bootstrap.units')}. Larger is better. What is no "
    note += "candidate counts as missed; ties count against."
    row = ("All requests", *cells, count(record.number("requests")))
    columns = ("", *titles.values(), "Requests")
    found: list[Panel] = [
        Sentence(headline(record, judged_run(record)), headline=True),
        Table("", columns, (row,), note, section(record), alike=("Requests",)),
    ]
    rates = (record.files.get("evaluation") or {}).get("hit_rates") or {}
    rows: list[tuple[Cell, ...]] = []
    for k in rates.get("k", ()):
        if any(record.number(f"{key}.{k}") is not None for key in CURVES):
            rows.append((f"k = {k}", *(hit_rate(record, key, k) for key in CURVES)))
    if rows:
        found.append(Table("Hit rates by k", ("k", *CURVES.values()), tuple(rows), "", section(record)))
    return [*found, *curves(record), *slice_panels(record, {key: (titles[key], 4) for key in SHORT})]


def hit_rate(record: Record, key: str, k: int) -> Figure:
    return judged(record, f"{key}.{k}", 4)


def evaluation_results(summary: Mapping[str, Any], curves: Mapping[str, Any]) -> list[Table]:
    """For the console."""
    k = (curves.get("hit_rates") or {}).get("own", "k")
    names = {key: (f"{name}@{k}" if key in CURVES else name, digits) for key, (name, digits) in SHORT.items()}
    counted = f"{summary['requests']:,} requests of at most {summary['candidates']:,} candidates"
    some = ", ".join(f"{summary[f'requests.{key}']:,} {name}" for key, (name, _) in names.items()
                     if f"requests.{key}" in summary)  # fmt: skip
    remarks = [f"{counted}; means are over those that have any: {some}"]
    return [
        figures_table(summary, names, remarks),
        *(slices_table(entry, names, "requests") for entry in curves.get("slices") or ()),
    ]
