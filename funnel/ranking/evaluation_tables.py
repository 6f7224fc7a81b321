"""An evaluation of the ranker as tables for the console: figures with their intervals, and a table for each slicing."""

from collections.abc import Mapping, Sequence
from typing import Any

from funnel.panels import Cell, Table
from funnel.ranking.results import LONG_NAMES

FIGURES = (("auc", "AUC", ".4f"), ("gauc", "GAUC", ".4f"), ("ks", "KS", ".4f"), ("recall", "recall", ".4f"),
           ("f1", "F1", ".4f"), ("log_loss", "log-loss", ".5f"),
           ("pcoc", "PCOC", ".3f"), ("ece", "ECE", ".5f"))  # fmt: skip


def figures_table(summary: Mapping[str, Any]) -> Table:
    """A row for each task and space; propensities, experiments and what is absent stand below."""
    title = f"{summary['part']} part, 95% intervals over {summary['bootstrap.units']}"
    if summary["calibration.method"] != "none":
        title += f", calibrated ({summary['calibration.method']})"
    rows: list[tuple[Cell, ...]] = [
        (name, summary[f"{space}.count"], *(cell(summary, f"{space}.{key}", form) for key, _, form in FIGURES))
        for space, name in LONG_NAMES.items()
        if f"{space}.count" in summary
    ]
    columns = ("task, space", "rows", *(name for _, name, _ in FIGURES))
    return Table(title, columns, tuple(rows), "\n".join(remarks(summary)))


def remarks(summary: Mapping[str, Any]) -> list[str]:
    """A line about each of propensities, IEB and PIP, and one for each reason why figures are absent."""
    lines = []
    if "propensity.effective_share" in summary:
        lines.append(
            f"propensities: effective sample size {summary['propensity.effective_sample_size']:,.0f} "
            f"({summary['propensity.effective_share']:.0%} of clicks), largest weight "
            f"{summary['propensity.largest_weight']:.1f}, {summary['propensity.share_clipped']:.1%} clipped"
        )
    if "balance.pcvr" in summary:
        lines.append(
            f"balance (1 is right): weighed clicks stand for {line(summary, 'balance.rows', '.3f')} of the exposures "
            f"and {line(summary, 'balance.pcvr', '.3f')} of their predicted conversions"
        )
    truth = f", true mean {line(summary, 'ieb.mean_truth', '.4f')}" if "ieb.mean_truth" in summary else ""
    lines.append(f"IEB: mean pCVR over all exposures {line(summary, 'ieb.mean_prediction', '.4f')}{truth}")
    if "pip.risk_ratio" in summary:
        true = f"; true {line(summary, 'pip.true_risk_ratio', '.3f')}" if "pip.true_risk_ratio" in summary else ""
        lines.append(f"PIP: risk ratio of click on pCVR, matched on q, {line(summary, 'pip.risk_ratio', '.3f')}{true}")
    lines += hidden_cause(summary)
    reasons: dict[str, list[str]] = {}
    for key, reason in summary["absent"].items():
        if key == "cause.claimed" and "cause.theta" in summary:
            continue  # said above
        reasons.setdefault(reason, []).append(key)
    return [*lines, *(f"absent: {', '.join(sorted(keys))} ({reason})" for reason, keys in reasons.items())]


def hidden_cause(summary: Mapping[str, Any]) -> list[str]:
    """What instruments say of a hidden cause of click and conversion, and whether anything is claimed."""
    if "cause.theta" not in summary:
        return []
    verdict = "" if summary["cause.claimed"] else f"; nothing is claimed: {summary['absent']['cause.claimed']}"
    return [
        f"hidden cause of click and conversion: theta {line(summary, 'cause.theta', '.2f')}, instruments beside it "
        f"{line(summary, 'cause.exclusion', '.2f')} ({summary['cause.clicks']:,} clicks){verdict}"
    ]


def slices_table(column: str, slices: Sequence[Mapping[str, Any]]) -> Table:
    """CTR and CVR of each slice; CVR over all exposures where the log has the truth."""
    entire = any("cvr.entire.auc" in one["figures"] for one in slices)
    cvr = "cvr.entire" if entire else "cvr.click"
    keys = (("ctr.auc", ".4f"), ("ctr.pcoc", ".3f"), (f"{cvr}.auc", ".4f"), (f"{cvr}.pcoc", ".3f"),
            ("balance.pcvr", ".3f"))  # fmt: skip
    rows: list[tuple[Cell, ...]] = [
        (str(one["label"]), int(one["rows"]), *(line(one["figures"], key, form) for key, form in keys))
        for one in slices
    ]
    note = f"CVR over {'all exposures (truth)' if entire else 'clicks'}"
    columns = (column, "rows", "CTR AUC", "CTR PCOC", "CVR AUC", "CVR PCOC", "balance of pCVR")
    return Table(f"by {column}", columns, tuple(rows), note)


def cell(summary: Mapping[str, Any], key: str, form: str) -> str:
    """The figure, and its interval in a line of its own below."""
    if key not in summary:
        return "-"
    low, high = summary.get(f"{key}.low"), summary.get(f"{key}.high")
    value = format(summary[key], form)
    return value if low is None or high is None else f"{value}\n{format(low, form)} {format(high, form)}"


def line(summary: Mapping[str, Any], key: str, form: str) -> str:
    """The figure and its interval in one line."""
    value, *bounds = cell(summary, key, form).split("\n")
    return f"{value} [{', '.join(bounds[0].split())}]" if bounds else value
