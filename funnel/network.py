"""From settings and a schema to a network of one tower a task, with its weights as the seed draws them."""

from typing import TypeVar

from torch import Tensor

from data.encode import Encoder
from data.schema import Schema
from funnel.batch import Batch
from models.embedding import FieldOptions
from models.entire_space import EntireSpaceModel, ModelConfig
from models.instrument import Instruments
from models.rows import EVERY_ROW, Share


class BatchNetwork(EntireSpaceModel):
    """models/entire_space.py applied to a batch: {task: logit_B}."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:  # type: ignore[override]
        return self.logits(batch.ids_BK, batch.numeric_BN, batch.bags)

    def asked(self, batch: Batch) -> list[Tensor]:
        """The rows that each embedding table is asked for, in the order of tables: workers exchange them ahead."""
        return self.embedding.asked(batch.ids_BK, batch.bags)


Network = TypeVar("Network", bound=BatchNetwork)


def build_network(
    kind: type[Network],
    model: ModelConfig,
    schema: Schema,
    tasks: tuple[str, ...],
    seed: int,
    share: Share = EVERY_ROW,
    cause: float | str | None = None,
) -> Network:
    """A network of this kind for the schema's features; `cause`: theta of a hidden one of click and conversion."""
    field_rows, options = Encoder(schema).field_rows, field_options(schema)
    instruments = instruments_of(schema) if "ctr" in tasks else Instruments()
    return kind(model, field_rows, len(schema.numeric), tasks, seed, share, options, instruments, cause)


def instruments_of(schema: Schema) -> Instruments:
    """The schema's instruments as the model numbers its features."""
    fields = tuple(k for k, field in enumerate(schema.categorical) if field.name in schema.instrument)
    return Instruments(fields, tuple(n for n, name in enumerate(schema.numeric) if name in schema.instrument))


def field_options(schema: Schema) -> tuple[FieldOptions, ...]:
    """The schema's categorical fields as the model numbers them."""
    index = {field.name: k for k, field in enumerate(schema.categorical)}
    return tuple(
        FieldOptions(
            width=field.width,
            owner=index[field.share] if field.share else None,
            pooling=field.many.pooling if field.many else None,
            query=index[field.many.query] if field.many and field.many.query else None,
        )
        for field in schema.categorical
    )
