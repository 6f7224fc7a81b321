"""Policies of the platform by name, as plain settings (stages.py). Those of other systems stand with them."""

from typing import Any


def plain() -> dict[str, Any]:
    """Every stage's plain policy: no fresh slot, the ranker's order."""
    return {}


def random_slot() -> dict[str, Any]:
    """One request in five has a slot for any fresh item."""
    return {"slot": {"kind": "random"}}


def popular() -> dict[str, Any]:
    """Popularity weighs .8 in the fusion, not .5: the rich get richer."""
    return {"fusion": {"popularity": 0.8}}
