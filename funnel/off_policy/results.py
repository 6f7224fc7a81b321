"""A learnt policy's figures at a glance: what the console shows at the end."""

from collections.abc import Mapping
from typing import Any

from funnel.panels import NOT_REPORTED, SAME, Table

POLICIES = {
    "learnt": "learnt",
    "best_constant": "best constant",
    "logging": "logging",
    "gain_over_best_constant": "gain over best constant",
    "gain_over_logging": "gain over logging",
}


def results(summary: Mapping[str, Any]) -> Table | None:
    """The value of each policy on rounds held out, with intervals, from summary.json; or why there is none."""
    if "off_policy.rounds" not in summary:
        return None
    rows, absent = [], summary.get("absent") or {}
    for name, label in POLICIES.items():
        key, form = f"off_policy.{name}", "+.4g" if name.startswith("gain") else ".4g"
        constant = f": {summary['off_policy.best_constant_action']}" if name == "best_constant" else ""
        told = f"none: {absent.get(key, NOT_REPORTED)}"
        if f"{key}.low" in summary:
            value, low, high = (format(summary[key + end], form) for end in ("", ".low", ".high"))
            told = f"{value} ({low} to {high})" + (
                f", {SAME}" if name.startswith("gain") and same(summary, key) else ""
            )
        rows.append((label + constant, told))
    size, rounds = summary["off_policy.effective_size"], summary["off_policy.rounds"]
    title = f"{rounds:,} rounds held out, worth {size:,.0f} of the learnt policy's own"
    return Table(title, ("policy", "value of a round (95% interval)"), tuple(rows))


def same(summary: Mapping[str, Any], key: str) -> bool:
    """The interval of a gain holds 0."""
    return bool(summary[f"{key}.low"] <= 0 <= summary[f"{key}.high"])
