"""From a config and a schema to the model they describe, with its weights as the seed draws them."""

from data.encode import Encoder
from data.schema import Schema
from distributed.config import TrainConfig
from models.embedding import FieldOptions
from models.entire_space import EntireSpaceModel
from models.rows import EVERY_ROW, Share


def build_model(
    config: TrainConfig, schema: Schema, tasks: tuple[str, ...], share: Share = EVERY_ROW
) -> EntireSpaceModel:
    field_rows = Encoder(schema).field_rows
    options = field_options(schema)
    return EntireSpaceModel(config.model, field_rows, len(schema.numeric), tasks, config.seed, share, options)


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
