"""The settings of any training; with those of the problem that is trained (its own dataclass) they decide the result.

Where a run reads, writes and on how many workers is not among them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from data.errors import UserError


@dataclass(frozen=True)
class StreamConfig:
    lanes: int = 8
    """The epoch's shuffled rows are cut into this many lanes; a global batch takes an equal share of each, and each
    worker reads its own lanes. Batches do not depend on the number of workers, which may be at most this."""
    shuffle_rows: int = 32_768
    """Units (rows, or requests) of a lane that are shuffled together, beside the shuffle of all row groups."""
    read_ahead: int = 8
    """Batches that a reader thread keeps ready."""

    def __post_init__(self) -> None:
        at_least("stream.lanes", self.lanes, 1)
        at_least("stream.shuffle_rows", self.shuffle_rows, 1)
        at_least("stream.read_ahead", self.read_ahead, 1)


@dataclass(frozen=True)
class OptimizerConfig:
    learning_rate: float = 1e-3
    """Rate for everything but the embedding table."""
    embedding_learning_rate: float = 0.05
    """The table's rate; about 0.05 suits adagrad, 0.001 adam."""
    embedding: str = "adagrad"
    """The table's row-wise optimizer: adagrad (one number a row) or adam (two moments a weight, touched rows only)."""
    dense: str = "adamw"
    """What moves the dense weights: adamw, or sgd with Nesterov's momentum of 0.9."""
    weight_decay: float = 0.0
    """L2 decay of the dense weights: decoupled in adamw, part of the gradient in sgd."""
    schedule: str = "linear"
    """How both rates fall: linear (to 0 at the last step of the last epoch) or constant. With few positives a batch a
    constant rate leaves the calibration wandering."""

    def __post_init__(self) -> None:
        for key in ("learning_rate", "embedding_learning_rate"):
            if not getattr(self, key) > 0:
                raise UserError(f"optimizer.{key} must be positive, got {getattr(self, key)}")
        if self.weight_decay < 0:
            raise UserError(f"optimizer.weight_decay must be at least 0, got {self.weight_decay}")
        if self.embedding not in ("adam", "adagrad"):
            raise UserError(f"optimizer.embedding must be 'adam' or 'adagrad', got {self.embedding!r}")
        if self.dense not in ("adamw", "sgd"):
            raise UserError(f"optimizer.dense must be 'adamw' or 'sgd', got {self.dense!r}")
        if self.schedule not in ("linear", "constant"):
            raise UserError(f"optimizer.schedule must be 'linear' or 'constant', got {self.schedule!r}")


@dataclass(frozen=True)
class TrainConfig:
    groups: ClassVar[Mapping[str, str]] = {"epochs": "training"}
    epochs: int = 2
    """Passes over the training part, at most; the best epoch on the validation part is kept."""
    batch_size: int = 1024
    """Units (rows, or requests) of a global batch, over all workers."""
    seed: int = 0
    """Decides initialisation, shuffles and dropout."""
    stop_metric: str = ""
    """Validation figure that picks the best epoch and stops early; left out, the problem's own."""
    patience: int = 2
    """Stop after this many validations without a better stop_metric; 0 never stops early."""
    checkpoint_steps: int = 0
    """Save a checkpoint every so many steps, beside the one each epoch ends with; 0 = only then."""
    precision: str = "float32"
    """Of the matrix products in training: float32, or bfloat16 (weights, losses and evaluation stay float32); on CPUs
    with AVX512-BF16 and on GPUs about twice as fast."""
    tables: str = "auto"
    """Where embedding rows lie: replicated (all of them on every worker), node (once on each machine, in memory that
    its workers share; the same bits as replicated), sharded (each on one worker, whose memory is the table's by their
    number; workers of one machine read each other's in place) or auto (node where workers share a machine and have no
    GPU, else replicated). Any of them goes on from checkpoints of any; for scoring, rows are read into one table."""
    plan_ahead: bool = True
    """Several workers: exchange a batch's ids, and find its distinct rows, while the batch before it is stepped on. The
    same results either way."""
    prefetch: str = "auto"
    """Sharded tables, CPUs: also fetch a batch's rows, and send gradients, beside the steps before and after, where no
    other batch needs them: on, off, or auto (where a machine has two cores for each worker). The same results."""
    wire: str = "float32"
    """What rows and their gradients travel between workers as: float32, or bfloat16, which sends half the bytes but is
    NOT exact: it rounds to 8 bits, and results differ from those of one worker."""
    background_checkpoints: bool = True
    """Write checkpoints beside the training, from a copy: once more the memory of what a worker writes."""
    log_steps: int = 20
    """Steps between two lines of metrics.jsonl."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    stream: StreamConfig = field(default_factory=StreamConfig)

    def __post_init__(self) -> None:
        at_least("epochs", self.epochs, 1)
        at_least("batch_size", self.batch_size, 1)
        at_least("seed", self.seed, 0)
        if self.seed >= 2**63:
            raise UserError(f"seed must be below 2**63, got {self.seed}")
        at_least("patience", self.patience, 0)
        at_least("checkpoint_steps", self.checkpoint_steps, 0)
        at_least("log_steps", self.log_steps, 1)
        if self.precision not in ("float32", "bfloat16"):
            raise UserError(f"precision must be 'float32' or 'bfloat16', got {self.precision!r}")
        if self.tables not in ("auto", "replicated", "node", "sharded"):
            raise UserError(f"tables must be 'auto', 'replicated', 'node' or 'sharded', got {self.tables!r}")
        if self.prefetch not in ("auto", "on", "off"):
            raise UserError(f"prefetch must be 'auto', 'on' or 'off', got {self.prefetch!r}")
        if self.prefetch == "on" and not (self.tables == "sharded" and self.plan_ahead):
            raise UserError("prefetch 'on' needs tables 'sharded' and plan_ahead")
        if self.wire not in ("float32", "bfloat16"):
            raise UserError(f"wire must be 'float32' or 'bfloat16', got {self.wire!r}")
        if self.batch_size < self.stream.lanes:
            raise UserError(f"batch_size {self.batch_size} is below stream.lanes {self.stream.lanes}")


def at_least(key: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"{key} must be at least {least}, got {value}")
