"""A log as a trained model reads it: the model's features and labels, the log's own keys, and whose each row is."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.types as pat

from data.errors import UserError
from data.hashing import hash_array
from data.kinds import one_chunk
from data.log import Log
from data.schema import Schema


def for_scoring(log: Log, trained: Schema, truth: bool = False) -> Log:
    """The log read with the trained model's features and labels, and the log's own keys and weights (and truth)."""
    own = log.schema
    schema = dataclasses.replace(
        trained,
        exposure=own.exposure,
        user=own.user,
        request=own.request,
        value=own.value,
        reward=own.reward,
        weight=own.weight,
        time=own.time,
        conversion_time=own.conversion_time,
        truth=own.truth if truth else None,
    )
    return dataclasses.replace(log, schema=schema)


def user_keys(table: pa.Table, name: str) -> np.ndarray:
    """uint64_R: a hash of the user's id; all rows without one are one user."""
    column = one_chunk(table, name)
    if not (pat.is_integer(column.type) or pat.is_dictionary(column.type) or pat.is_string(column.type)
            or pat.is_large_string(column.type)):  # fmt: skip
        raise UserError(f"column {name!r} is of type {column.type}; a user is a whole number or a string")
    key_R = hash_array(column)
    if column.null_count:
        key_R = np.where(column.is_null().to_numpy(zero_copy_only=False), np.uint64(0), key_R)
    return key_R
