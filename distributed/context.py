"""Which worker this is, on which device, and what may ask it to stop: what every part of a training is handed."""

from dataclasses import dataclass, field

import torch

from distributed.training.stopping import Stop

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Context:
    """One worker among `world_size`. The default is a process alone, without Ray."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = CPU
    stop: Stop = field(default_factory=Stop)

    @property
    def leads(self) -> bool:
        """Whether this worker writes what is written once."""
        return self.rank == 0
