"""Where a search looks, as plain data: jobs/tune hands it to Ray Tune.

A system names its spaces, {dotted key of a setting: domain}. A space holds the default of each of its keys, so that the
default configuration is a point of it and the first trial of every search.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Uniform:
    low: float
    high: float


@dataclass(frozen=True)
class LogUniform:
    """Uniform in the logarithm."""

    low: float
    high: float


Domain = Choice | Uniform | LogUniform
Space = Mapping[str, Domain]
Presets = Mapping[str, Callable[[], dict[str, Any]]]
Spaces = Mapping[str, Callable[[], Space]]


def named(*functions: Callable[[], Any]) -> dict[str, Callable[[], Any]]:
    """Functions by their names."""
    return {function.__name__: function for function in functions}
