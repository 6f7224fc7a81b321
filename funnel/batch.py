"""Rows as tensors, ready for a network. Shapes: B rows, K single-valued categorical fields, N numeric features."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.encode import Rows
from models.objectives.base import Labels
from models.pooling import BagTensors


@dataclass(frozen=True)
class Batch:
    """ids_BK int64 with field offsets, numeric_BN float32 with NaN for missing, labels float32, bags of ids."""

    ids_BK: Tensor
    numeric_BN: Tensor
    labels: Labels
    bags: tuple[BagTensors, ...] = ()

    def __len__(self) -> int:
        return len(self.labels.click_B)

    @classmethod
    def join(cls, parts: list[Rows]) -> "Batch":
        """The rows of all parts, one after the other."""
        return cls.of(Rows.join(parts))

    @classmethod
    def of(cls, rows: Rows) -> "Batch":
        weight_B = tensor(rows.weight_R) if rows.weight_R is not None else None
        labels = Labels(tensor(rows.click_R), tensor(rows.conversion_R), weight_B)
        bags = tuple(BagTensors(tensor(bag.ids_S), tensor(bag.offset_R1)) for bag in rows.bags)
        return cls(tensor(rows.ids_RK), tensor(rows.numeric_RN), labels, bags)

    def to(self, device: torch.device) -> "Batch":
        if device.type == "cpu":
            return self

        def moved(tensor: Tensor) -> Tensor:
            return tensor.pin_memory().to(device, non_blocking=True)

        labels = self.labels
        weight_B = moved(labels.weight_B) if labels.weight_B is not None else None
        return Batch(
            moved(self.ids_BK),
            moved(self.numeric_BN),
            Labels(moved(labels.click_B), moved(labels.conversion_B), weight_B),
            tuple(BagTensors(moved(bag.ids_S), moved(bag.offset_B1)) for bag in self.bags),
        )


def tensor(values: np.ndarray) -> Tensor:
    """The same memory as a tensor; a copy where it is Arrow's and not to be written."""
    return torch.from_numpy(values if values.flags.writeable else values.copy())
