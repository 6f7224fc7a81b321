"""A learnt policy's figures at a glance: what the console shows at the end."""

from collections.abc import Mapping
from typing import Any

from funnel.panels import Table

POLICIES = {
    "learnt": "learnt",
    "best_constant": "best constant",
    "logging": "logging",
    "gain_over_best_constant": "gain over best constant",
    "gain_over_logging": "gain over logging",
}


def results(summary: Mapping[str, Any]) -> Table | None:
    """The value of each policy on rounds held out, with intervals, from summary.json."""
    if "off_policy.learnt" not in summary:
        return None
    rows = []
    for name, label in POLICIES.items():
        form = "+.4g" if name.startswith("gain") else ".4g"
        value, low, high = (format(summary[f"off_policy.{name}{end}"], form) for end in ("", ".low", ".high"))
        constant = f": {summary['off_policy.best_constant_action']}" if name == "best_constant" else ""
        rows.append((label + constant, f"{value} ({low} to {high})"))
    size, rounds = summary["off_policy.effective_size"], summary["off_policy.rounds"]
    title = f"{rounds:,} rounds held out, worth {size:,.0f} of the learnt policy's own"
    return Table(title, ("policy", "value of a round (95% interval)"), tuple(rows))
