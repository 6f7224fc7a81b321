"""What is watched from day to day: are the effects stable, how far did today's decisions move from yesterday's.

Shapes: N users, A arms.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from data.errors import UserError


@dataclass(frozen=True)
class MonitorSettings:
    """When a person is called."""

    correlation: float = 0.5
    """Of a refit's effects with those before, over the same users: alert below it."""
    amount: float = 0.3
    """Relative change of the mean bill against yesterday: alert above it."""
    moved: float = 0.5
    """Share of yesterday's users with another strategy today: alert above it."""

    def __post_init__(self) -> None:
        for name in ("correlation", "amount", "moved"):
            if np.isnan(getattr(self, name)):
                raise UserError(f"monitors.{name} is nan, must be a number")


def stability(before_NA: np.ndarray, after_NA: np.ndarray, error_NA: np.ndarray | None) -> dict[str, float]:
    """Of two fits on the same users: correlation of their effects, root mean square of the change, and that in
    standard errors (about 1.4 where nothing but noise has changed, each fit with rows of its own)."""
    change_NA = (after_NA - before_NA)[:, 1:]
    both = [each[:, 1:].ravel() for each in (before_NA, after_NA)]
    spread = min(float(each.std()) for each in both)
    figures = {
        "effects.correlation": float(np.corrcoef(both[0], both[1])[0, 1]) if spread > 0 else 0.0,
        "effects.change": float(np.sqrt((change_NA**2).mean())),
    }
    if error_NA is not None:
        figures["effects.change_in_errors"] = float(
            np.sqrt((change_NA**2).mean() / max(float((error_NA[:, 1:] ** 2).mean()), 1e-300))
        )
    return figures


def drift(before_N: np.ndarray, after_N: np.ndarray, vectors_AT: np.ndarray, bill_A: np.ndarray) -> dict[str, float]:
    """How far users' strategies moved who had one before (arm -1: had none)."""
    had_N = before_N >= 0
    if not had_N.any():
        return {}
    old, new = before_N[had_N], after_N[had_N]
    figures = {
        "moved": float((old != new).mean()),
        "bill": float(bill_A[new].mean()),
        "bill.before": float(bill_A[old].mean()),
    }
    if vectors_AT.shape[1] == 3:
        for column, name in ((0, "amount"), (2, "number")):
            figures[f"{name}.change"] = float(np.abs(vectors_AT[new, column] - vectors_AT[old, column]).mean())
    return figures


def alerts(settings: MonitorSettings, figures: dict[str, Any]) -> list[str]:
    """What a person should look at, in words."""
    found = []
    correlation = figures.get("effects.correlation")
    if correlation is not None and correlation < settings.correlation:
        found.append(f"effects correlate with those before at {correlation:.2f}, below {settings.correlation:g}")
    if "bill" in figures:
        before, after = figures["bill.before"], figures["bill"]
        change = abs(after - before) / max(before, 1e-9)
        if change > settings.amount:
            found.append(f"the mean bill went from {before:.3g} to {after:.3g}")
        if figures["moved"] > settings.moved:
            found.append(f"{figures['moved']:.0%} of yesterday's users get another strategy")
    return found
