"""A tuned fusion's figures at a glance: what the console shows at the end."""

from collections.abc import Mapping
from typing import Any

from funnel.panels import SAME, Table

POLICIES = {
    "tuned": "tuned",
    "untuned": "untuned",
    "best_single": "best single",
    "grid": "best of a grid",
    "gain_over_untuned": "gain over untuned",
    "gain_over_best_single": "gain over best",
    "gain_over_grid": "gain over grid",
}


def results(summary: Mapping[str, Any]) -> Table | None:
    """Value@k and NDCG@k of each policy on held-out users, with intervals, from summary.json."""
    found = next((key for key in summary if key.startswith("fusion.value_at_") and key.endswith(".tuned")), None)
    if found is None:
        return None
    k = int(found.removeprefix("fusion.value_at_").removesuffix(".tuned"))
    rows = []
    for name, label in POLICIES.items():
        if f"fusion.value_at_{k}.{name}" not in summary:
            continue  # a grid, in a run of an earlier version
        form = "+.3g" if name.startswith("gain") else ".4g"
        cells = [interval(summary, f"fusion.{metric}_at_{k}.{name}", form) for metric in ("value", "ndcg")]
        rows.append((f"{label}: {summary['fusion.best_single_name']}" if name == "best_single" else label, *cells))
    short = summary["fusion.test_requests_of_at_most_k"]
    note = (
        f"{short:,} of the {summary['fusion.test_requests']:,} requests have at most {k} candidates "
        f"({summary['fusion.test_requests_of_one']:,} a single one): their order changes no value@{k}"
    )
    reasons = sorted(set((summary.get("absent") or {}).values()))
    notes = [*([note] if short else []), *(f"no interval: {reason}" for reason in reasons)]
    title = f"{summary['fusion.test_users']:,} held-out users, {summary['fusion.test_requests']:,} requests"
    columns = ("policy", f"value@{k} (95% interval)", f"NDCG@{k} (95% interval)")
    return Table(title, columns, tuple(rows), "; ".join(notes))


def interval(summary: Mapping[str, Any], key: str, form: str) -> str:
    """A figure and its interval; of a gain whose interval holds 0 the words that say so."""
    if f"{key}.low" not in summary:
        return f"{summary[key]:{form}} (no interval)"
    value, low, high = (summary[key + end] for end in ("", ".low", ".high"))
    same = f", {SAME}" if "gain" in key and low <= 0 <= high else ""
    return f"{value:{form}} ({low:{form}} to {high:{form}}){same}"
