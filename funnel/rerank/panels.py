"""What pages and the console show of a list scorer: its training and its evaluation. Plain data (funnel/panels.py)."""

from collections.abc import Mapping
from typing import Any

from funnel.numbers import count
from funnel.panels import Calibration, Cell, Glossary, Panel, Record, Sentence, Table
from funnel.progress import training, training_cost
from funnel.rerank.counts import PLACE_NAMES, TITLES, WATCHED
from funnel.unit_panels import Names, figures_table, judged, judged_run, section, slice_panels, slices_table
from models.list_scorer import HEADS

FIGURES = {"log_loss": ("log-loss", 4), "auc": ("AUC", 4), "pcoc": ("PCOC", 3)}
REWARD: Names = {
    "reward.observed": ("list reward of an item, observed", 4),
    "reward.predicted": ("list reward of an item, predicted", 4),
    "reward.ratio": ("list reward, predicted / observed", 3),
}
LISTS: Names = {
    "list.shown": ("as watched", 4),
    "list.pointwise": ("point-wise order", 4),
    "list.greedy": ("greedy", 4),
    "list.adaptive": ("adaptive beam", 4),
    "list.evaluations": ("adaptive beam, evaluations", 3),
}
NAMES: Names = {
    "log_loss": ("log-loss, mean of the heads", 4),
    **{
        f"{head}.{key}": (f"{TITLES[head]}, {name}", digits)
        for head in HEADS
        for key, (name, digits) in FIGURES.items()
    },
    **REWARD,
    **{key: (f"list value / full beam's: {name}", digits) for key, (name, digits) in LISTS.items()},
}
SLICED = ("view.log_loss", "view.auc", "view.pcoc", "like.pcoc", "next.pcoc", "reward.ratio")
LOSSES = {"loss": "Total loss", "loss.view": "Effective views", "loss.like": "Likes", "loss.next": "Looks on"}
TERMS = (
    ("effective view", "an item of which 30% or more was watched"),
    ("PCOC", "mean prediction / mean outcome; list values add up predictions, so it must be 1"),
    ("list reward", "alpha x effective view + beta x like, of an item that was watched"),
    ("list value", "what the network says a list of logged items is worth, in the order in which a search shows them"),
)


def results(summary: Mapping[str, Any]) -> Table:
    """Log-loss, AUC and PCOC by head."""
    rows = []
    for head in HEADS:
        rows.append((TITLES[head], *(summary.get(f"{head}.{name}", "") for name in FIGURES)))
    return Table(f"{summary.get('part', 'test')} part", ("head", "log-loss", "AUC", "PCOC"), tuple(rows))


def by_place(summary: Mapping[str, Any], where: str = "") -> Table:
    rows = []
    for name in PLACE_NAMES:
        rows.append(
            (name, *(summary.get(f"{head}.{figure}.{name}", "") for head in HEADS for figure in tuple(FIGURES)[:2]))
        )
    header = ("place", *(f"{TITLES[head]}, {figure}" for head in HEADS for figure in ("log-loss", "AUC")))
    return Table("By place in the session", header, tuple(rows), "", where)


def panels(record: Record) -> list[Panel]:
    shown = evaluated(record) if record.run.get("kind") == "evaluate" else trained(record)
    return [*shown, Glossary(TERMS)]


def trained(record: Record) -> list[Panel]:
    found: list[Panel] = []
    if record.summary:
        said = Sentence(headline(record, record.name), headline=True)
        found = [said, results(record.summary), by_place(record.summary)]
    cost = [training_cost(record, {"Feedback": record.setting("feedback") or ""})] if record.summary else []
    return [*found, *reliability(record), *training(record, LOSSES, WATCHED), *cost]


def headline(record: Record, name: str) -> str:
    """How well effective views are told apart, and whether list values mean what they say."""
    auc, ratio = record.cell("view.auc"), record.number("reward.ratio")
    if auc.value is None:
        return f"{name}: all outcomes are alike; there is nothing to judge it by."
    bounds = "" if auc.low is None or auc.high is None else f" ({auc.low:.4f} to {auc.high:.4f})"
    means = "" if ratio is None else f"; it predicts {ratio:.3f} times the list reward that was observed"
    return f"{name}: AUC of effective views {auc.value:.4f}{bounds}{means}."


def reliability(record: Record) -> list[Panel]:
    """Of every head: before and after jobs.calibrate, or as evaluated."""
    known: Mapping[str, Any] = record.files.get("evaluation") or {}
    curves = {"": known.get("calibration") or {}}
    if known.get("calibrated"):
        curves = {"raw": curves[""], "calibrated": known["calibrated"].get("calibration") or {}}
    found: list[Panel] = []
    for head in HEADS:
        groups = {name: bins[head] for name, bins in curves.items() if bins.get(head)}
        if groups:
            found.append(Calibration(TITLES[head], groups, "Groups of rows of equal count.", "Calibration"))
    return found


def evaluated(record: Record) -> list[Panel]:
    """Of jobs.evaluate."""
    where, units = section(record), record.summary.get("bootstrap.units")
    note = f"Small: 95% bootstrap interval over {units}."
    rows: list[tuple[Cell, ...]] = []
    for head in HEADS:
        cells = [judged(record, f"{head}.{key}", digits, key == "log_loss") for key, (_, digits) in FIGURES.items()]
        rows.append((TITLES[head], *cells[:2], record.cell(f"{head}.pcoc", 3)))
    found: list[Panel] = [
        Sentence(headline(record, judged_run(record)), headline=True),
        Table("", ("Head", *(name for name, _ in FIGURES.values())), tuple(rows), note, where),
    ]
    reward = tuple(record.cell(key, digits) for key, (_, digits) in REWARD.items())
    items = (count(record.number("sessions")), count(record.number("rows")))
    header = ("", "observed", "predicted", "predicted / observed", "Sessions", "Items")
    found.append(Table("List reward of a watched item", header, (("All sessions", *reward, *items),), "", where))
    if record.number("lists"):
        lists = tuple(record.cell(key, digits) for key, (_, digits) in LISTS.items())
        note = (
            "Shares of the full beam's list value, and of its evaluations, on the last items of so many sessions: by "
        )
        note += "the network's own word, so they judge the searches."
        names = ("", *(name for name, _ in LISTS.values()), "Sessions")
        row: tuple[Cell, ...] = ("Lists of logged items", *lists, count(record.number("lists")))
        found.append(Table("What searches find", names, (row,), note, where))
    sliced = {key: NAMES[key] for key in SLICED}
    return [*found, by_place(record.summary, where), *reliability(record), *slice_panels(record, sliced)]


def evaluation_results(summary: Mapping[str, Any], curves: Mapping[str, Any]) -> list[Table]:
    """For the console."""
    remarks = [f"{summary['sessions']:,} sessions, {summary['rows']:,} items; lists of {summary['lists']:,} sessions"]
    sliced = {key: NAMES[key] for key in SLICED}
    return [
        figures_table(summary, NAMES, remarks),
        *(slices_table(entry, sliced, "sessions") for entry in curves.get("slices") or ()),
    ]
