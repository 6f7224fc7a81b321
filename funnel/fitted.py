"""What is fitted, not trained by gradient steps: the one protocol between jobs.fit and a system.

Learners of treatment effects, forests: they take arrays in memory, work on independent pieces (folds, trees), and give
arrays. Who maps over the pieces, this process or a Ray cluster, is handed in and changes no bit of the result.
funnel/registry.py lists ours.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from data.log import Log
from funnel.panels import Panel, Record, Table

Arrays = Mapping[str, np.ndarray]


class Map(Protocol):
    """[function(shared, item) for item in items], in the order of the items.

    `function` is a module's own, so that it can be sent; `shared` is sent to each machine once. A piece must follow
    from its arguments alone.
    """

    def __call__(self, function: Callable[[Any, Any], Any], shared: Any, items: Sequence[Any]) -> list[Any]: ...


def here(function: Callable[[Any, Any], Any], shared: Any, items: Sequence[Any]) -> list[Any]:
    """One piece after the other in this process: a Map."""
    return [function(shared, item) for item in items]


class Fitted(Protocol):
    """A model that is fitted on arrays. A system's own file has the class."""

    name: ClassVar[str]
    settings_type: ClassVar[type]
    """Dataclass of its settings; field docstrings are the options' help."""

    @classmethod
    def read(cls, settings: Any, log: Log, part: str) -> dict[str, np.ndarray]:
        """The arrays of a part, checked. Raises UserError in one line, naming file, column and row, for what cannot be
        fitted on."""

    # `check(settings, train, judging, where)`, a class method, may be left out: it raises UserError for what shows only
    # once both parts are read, before workers are started and hours are spent. `where` is the log.

    @classmethod
    def fit(cls, settings: Any, arrays: Arrays, seed: int, map: Map) -> Self:
        """The same bits for any map. Raises UserError where the arrays leave what is asked open."""

    def describe(self) -> str:
        """What was fitted on what, in one phrase for people."""

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """(arrays, plain JSON facts) from which `restore` makes it again."""

    @classmethod
    def restore(cls, settings: Any, arrays: Arrays, facts: Mapping[str, Any]) -> Self: ...

    def judge(self, arrays: Arrays, resamples: int, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """On a part that it was not fitted on: (flat figures with .low and .high, "message" and "absent"; what plots
        need, plain JSON)."""

    @classmethod
    def results(cls, summary: Mapping[str, Any]) -> Table | None:
        """The figures of summary.json as the console shows them."""

    @classmethod
    def panels(cls, record: Record) -> list[Panel]:
        """What a page shows of it; record.files["evaluation"] is what `judge` gave for plots."""
