"""Policies of the cascade: its stages are fixed by its settings, so there is one."""

from typing import Any


def plain() -> dict[str, Any]:
    """The cascade as its settings say."""
    return {}
