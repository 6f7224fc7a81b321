"""Which delays matter? Clicks of a part by their age at a moment, and which of their conversions were known by then.

For each age: clicks, conversions that were known, those that came after (which the log, written later, holds), the
share F of conversions that is known at that age by the known ones alone (elapsed.py), and 1/F, what a known conversion
counts for. Where known / F falls short of all, delays depend on more than the age, or are longer than any age seen.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from data.log import Log, Part
from funnel.panels import Table
from funnel.ranking.delays import cut, time_columns, times
from funnel.ranking.elapsed import known_share, share_at

BINS = 8
FEWEST = 20
"""Known conversions below which nothing is said."""
DELAYS = "delays"


def elapsed_report(log: Log, part: Part, as_of: int | None) -> dict[str, Any]:
    """{"as_of": text, "known": ., "after": ., "median_delay": days, "ages": [by age]}; {} where the log tells no times
    or too few conversions were known.

    `as_of`: microseconds since 1970. The last moment of the part where it is None, or before the part begins.
    """
    schema = log.schema
    if not (schema.time and schema.conversion_time and "conversion" in schema.labels):
        return {}
    columns = [schema.labels["click"], schema.labels["conversion"], *time_columns(schema)]
    tables = [table.filter(table.column(columns[0]).to_numpy() > 0) for table in log.read(part, columns)]
    tables = [table for table in tables if len(table)]
    time_C = np.concatenate([times(table, schema.time)[0] for table in tables]) if tables else np.empty(0, np.int64)
    if not len(time_C):
        return {}
    moment = as_of if as_of is not None and as_of > time_C.min() else int(time_C.max())
    final_C = np.concatenate([table.column(columns[1]).to_numpy() > 0 for table in tables])
    found = [cut((t.column(columns[1]).to_numpy() > 0).astype(np.float32), t, schema, moment) for t in tables]
    known_C, age_C, delay_C = (np.concatenate(columns_) for columns_ in zip(*found, strict=True))
    known_C, seen_C = known_C > 0.5, time_C <= moment
    if (known_C & seen_C).sum() < FEWEST:
        return {}
    curve = known_share(delay_C[known_C & seen_C], age_C[known_C & seen_C])
    share_C = share_at(curve, age_C)
    edges = np.linspace(0, float(age_C[seen_C].max()), BINS + 1)
    bin_C = np.clip(np.searchsorted(edges, age_C, "right") - 1, 0, BINS - 1)
    ages = []
    for number in range(BINS):
        here_C = seen_C & (bin_C == number)
        clicks, known, final = (int((here_C & x_C).sum()) for x_C in (np.ones_like(here_C), known_C, final_C))
        share = float(share_C[here_C].mean()) if clicks else 0.0
        about = {"from": float(edges[number]), "to": float(edges[number + 1]), "clicks": clicks, "known": known}
        ages.append({**about, "after": final - known, "share": share, "importance": 1 / share if share else None})
    known, final = int((known_C & seen_C).sum()), int((final_C & seen_C).sum())
    return {
        "as_of": datetime.fromtimestamp(moment / 1e6, UTC).strftime("%Y-%m-%d %H:%M"),
        "known": known,
        "after": final - known,
        "expected": float((known_C[seen_C] / np.maximum(share_C[seen_C], 0.01)).sum()),
        "median_delay": float(np.interp(0.5, curve["share"], curve["days"])),
        "ages": ages,
    }


def figures(report: Mapping[str, Any]) -> dict[str, float]:
    """For summary.json: conversions after the moment as a share of all, and as their ages tell beforehand."""
    if not report:
        return {}
    known, after = report["known"], report["after"]
    return {
        "delays.share_after": after / (known + after),
        "delays.share_after_expected": max(0.0, 1 - known / report["expected"]),
        "delays.median_days": report["median_delay"],
    }


def table(report: Mapping[str, Any]) -> Table:
    rows = tuple(
        (
            f"{age['from']:.1f} to {age['to']:.1f}",
            age["clicks"],
            age["known"],
            age["after"],
            f"{age['share']:.0%}",
            "-" if age["importance"] is None else f"{age['importance']:.2f}",
        )
        for age in report["ages"]
    )
    told = figures(report)
    note = (
        f"As of {report['as_of']}: {told['delays.share_after']:.0%} of the conversions of these clicks came after it; "
        f"by the delays of those that were known, {told['delays.share_after_expected']:.0%} were to be expected. Half "
        f"of the conversions come within {report['median_delay']:.1f} days. Importance: 1 / the share that is known "
        "at that age, what a known conversion counts for; where it is far from 1 objective.delay matters."
    )
    columns = ("days since the click", "clicks", "conversions known", "came after", "share known", "importance")
    return Table("Late conversions, by age of the click", columns, rows, note, "Late conversions")
