"""Policies of the platform with the fresh-content funnel in its slot, by name."""

from typing import Any


def fresh() -> dict[str, Any]:
    """The paper's numbers at a small world's scale: p .8, n_low 200 / 50, q .4; both of its query divisions at once."""
    return {"slot": {"kind": "fresh", "p": 0.8, "n_low": 4.0, "q": 0.4}}


def fresh_two_tower() -> dict[str, Any]:
    """A single funnel: the two-tower nominates for every fresh item."""
    return {"slot": {"kind": "fresh", "nominators": "two_tower"}}


def fresh_real_time() -> dict[str, Any]:
    """A single funnel: the near-real-time nominator alone."""
    return {"slot": {"kind": "fresh", "nominators": "real_time"}}
