"""Slices that a click model is balanced in (models/objectives/balance.py): the values of single-valued categorical
features. Shapes: B rows, K single-valued fields, S of them that slice."""

from collections.abc import Sequence

import torch
from torch import Tensor

from data.encode import Encoder
from data.errors import UserError
from data.schema import Schema

MOST_ROWS = 64
"""Of a feature's embedding, for it to be taken unasked."""


class SliceCodes:
    """From encoded ids to the numbers of slices, counted on over the features.

    names: the features; none: all of at most MOST_ROWS embedding rows. Raises UserError for one that is no
    single-valued categorical feature, and where none is left.
    """

    def __init__(self, schema: Schema, names: Sequence[str] = ()) -> None:
        encoder, places = Encoder(schema), {field.name: k for k, field in enumerate(schema.categorical)}
        single = {field.name: number for number, field in enumerate(schema.single)}
        for name in names:
            if name not in single:
                raise UserError(
                    f"objective.balance.by names {name!r}; single-valued categorical features: {', '.join(single)}"
                )
        self.names = tuple(names) or tuple(field.name for field in schema.single if field.rows <= MOST_ROWS)
        if not self.names:
            raise UserError(
                f"objective.balance.by: no single-valued categorical feature has at most {MOST_ROWS} values: name some"
            )
        sizes = [schema.categorical[places[name]].rows for name in self.names]
        self.count = sum(sizes)
        """How many slices there are."""
        self.column_S = torch.tensor([single[name] for name in self.names])
        begins = [sum(sizes[:number]) for number in range(len(sizes))]
        offsets = [encoder.offsets[places[name]] for name in self.names]
        self.shift_S = torch.tensor([begin - offset for begin, offset in zip(begins, offsets, strict=True)])

    def codes(self, ids_BK: Tensor) -> Tensor:
        """int64_BS in 0 .. count - 1."""
        return ids_BK[:, self.column_S.to(ids_BK.device)] + self.shift_S.to(ids_BK.device)
