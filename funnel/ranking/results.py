"""The ranker's figures at a glance: what the console shows during and after a training."""

from collections.abc import Mapping
from typing import Any

from funnel.panels import Table

SPACES = {
    "ctr": ("CTR", "exposures"),
    "cvr.click": ("CVR", "clicks"),
    "ctcvr": ("CTCVR", "exposures"),
    "cvr.entire": ("CVR", "exposures (truth)"),
}
LONG_NAMES = {
    "ctr": "CTR, exposures",
    "cvr.click": "CVR, clicks",
    "cvr.entire": "CVR, exposures (truth)",
    "ctcvr": "CTCVR, exposures",
}
WATCHED = {"ctr.auc": "CTR AUC", "cvr.click.auc": "CVR AUC (clicks)", "ctcvr.auc": "CTCVR AUC"}
"""Figures shown after each validation, and what they are called."""


def results(summary: Mapping[str, Any]) -> Table:
    """AUC, log-loss and PCOC by task and space, from summary.json."""
    rows = [
        (task, where, summary[f"{space}.count"], *(rounded(summary.get(f"{space}.{name}"), digits) for name, digits in
                                                   (("auc", 4), ("log_loss", 5), ("pcoc", 3))))
        for space, (task, where) in SPACES.items()
        if f"{space}.count" in summary
    ]  # fmt: skip
    columns = ("task", "space", "rows", "AUC", "log-loss", "PCOC")
    return Table(f"{summary.get('part', 'test')} part", columns, tuple(rows))


def rounded(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}f}"
