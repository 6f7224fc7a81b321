"""Labels that a training of the ranker needs: which ones, and enough of each; refused before any cluster."""

from collections.abc import Mapping

from data.credentials import shown
from data.errors import UserError
from data.labels import LabelFacts
from data.log import Log
from funnel.ranking.counts import WEIGHTED

LABELS = ("click", "conversion")


def needed_labels(objective: str) -> tuple[str, ...]:
    """Both, but for a model of clicks alone (--preset clicks), which the naive objective makes."""
    return LABELS[:1] if objective == "naive" else LABELS


def require_labels(log: Log, needed: tuple[str, ...]) -> None:
    absent = [name for name in needed if name not in log.schema.labels]
    if absent:
        have = ", ".join(log.schema.labels) or "none"
        clicks = "; --preset clicks trains a model of clicks alone" if absent == ["conversion"] else ""
        raise UserError(f"{shown(log.location)}/schema.json: no label {absent[0]!r}; it has {have}{clicks}")


def refuse_empty(where: str, facts: LabelFacts, needed: tuple[str, ...]) -> None:
    for name in needed:
        if facts.positives[name] == 0:
            raise UserError(f"{where}: no {name}s in {facts.rows} rows; there is nothing to learn")
        if facts.weights[name] == 0:
            raise UserError(f"{where}: all {name}s weigh 0; there is nothing to learn")
    if facts.weights["click"] == facts.weight:
        raise UserError(f"{where}: all rows that weigh anything are clicks; there is nothing to learn")


def refuse_one_class(figure: str, valid: Mapping[str, int]) -> None:
    """Raise UserError for an AUC that the validation part, of so many rows, clicks and conversions, does not have."""
    space = figure.rpartition(".")[0]
    of_clicks = ("clicks", "conversions")
    known = {"ctr": ("rows", "clicks"), "cvr.click": of_clicks, WEIGHTED: of_clicks}
    among, label = known.get(space, ("rows", "conversions"))
    total, positives = valid.get(among), valid.get(label)
    if figure.endswith(".auc") and total is not None and positives in (0, total):
        raise UserError(
            f"stop_metric {figure}: part valid has {positives:,} {label} in {total:,} {among}, and an AUC needs both "
            f"labels; stop by another figure, such as {space}.log_loss"
        )


def counted(facts: LabelFacts) -> dict[str, int]:
    """Counts of a part for people: {"rows": ., "clicks": ., "conversions": .}"""
    return {"rows": facts.rows, **{f"{name}s": facts.positives.get(name, 0) for name in LABELS}}
