"""Rows as tensors, ready for a network. Shapes: B rows, K single-valued categorical fields, N numeric features."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from data.encode import Rows
from models.pooling import BagTensors


@dataclass(frozen=True)
class Batch:
    """ids_BK int64 with field offsets, numeric_BN float32 with NaN for missing, labels float32 in {0, 1} by name,
    weight_B float32 (None: every row counts once), bags of ids; given: what networks of finished runs say of them."""

    ids_BK: Tensor
    numeric_BN: Tensor
    labels: Mapping[str, Tensor]
    weight_B: Tensor | None = None
    bags: tuple[BagTensors, ...] = ()
    given: Mapping[str, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.ids_BK)

    @classmethod
    def of(cls, rows: Rows) -> "Batch":
        return cls(
            tensor(rows.ids_RK),
            tensor(rows.numeric_RN),
            {name: tensor(label_R) for name, label_R in rows.labels.items()},
            tensor(rows.weight_R) if rows.weight_R is not None else None,
            tuple(BagTensors(tensor(bag.ids_S), tensor(bag.offset_R1)) for bag in rows.bags),
        )

    def to(self, device: torch.device) -> "Batch":
        """On a CPU the batch itself; else a copy that is under way."""
        if device.type == "cpu":
            return self

        def moved(tensor: Tensor) -> Tensor:
            return tensor.pin_memory().to(device, non_blocking=True)

        return replace(
            self,
            ids_BK=moved(self.ids_BK),
            numeric_BN=moved(self.numeric_BN),
            labels={name: moved(label_B) for name, label_B in self.labels.items()},
            weight_B=moved(self.weight_B) if self.weight_B is not None else None,
            bags=tuple(BagTensors(moved(bag.ids_S), moved(bag.offset_B1)) for bag in self.bags),
        )


def tensor(values: np.ndarray) -> Tensor:
    """The same memory as a tensor; a copy where it is Arrow's and not to be written."""
    return torch.from_numpy(values if values.flags.writeable else values.copy())
