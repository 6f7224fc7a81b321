"""What the problems of this system have in common: units are rows with a dose, a loss is a sum over rows, an epoch is
chosen by a figure of the validation part. The rest of funnel/problem.py: Problem is each one's own."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from data.errors import UserError
from data.log import Log, Part
from funnel.exposure.dose_units import DoseBatch
from funnel.panels import Curve, Record, Series
from funnel.problem import Outputs
from funnel.spaces import Presets, Spaces


class RowProblem:
    units: ClassVar[str] = "rows"
    roles: ClassVar[Mapping[str, str]] = {}
    tools: ClassVar[Mapping[str, str]] = {}
    watched: ClassVar[Mapping[str, str]]
    aims: ClassVar[Mapping[str, bool]]
    """Figures by which an epoch may be chosen, and whether smaller is better."""
    goal: str = "mse"
    presets: ClassVar[Presets]
    spaces: ClassVar[Spaces]

    def sizes(self, log: Log, part: Part) -> tuple[int, ...]:
        return tuple(rows for file in part.files for rows in file.row_groups)

    def complete(self, batch: DoseBatch) -> DoseBatch:
        return batch

    def totals(self, outputs: Outputs, batch: DoseBatch) -> Tensor:
        """(1,): rows."""
        return torch.tensor([float(len(batch))], dtype=torch.float64, device=batch.dose_B.device)

    def smaller_is_better(self, figure: str) -> bool:
        if figure not in self.aims:
            raise UserError(f"stop_metric {figure!r}: want one of {', '.join(self.aims)}")
        return self.aims[figure]

    @classmethod
    def course(cls, record: Record) -> list[Curve]:
        """A curve of every watched figure by epoch."""
        valid = [event for event in record.events if event.get("event") == "valid"]
        found = []
        for key, name in cls.watched.items():
            seen = [event for event in valid if key in event]
            line = Series(record.name, [event["epoch"] for event in seen], [event[key] for event in seen])
            found.append(Curve(f"{name} by epoch, validation part", "epoch", name, (line,)))
        return found
