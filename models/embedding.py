"""Embedding tables whose gradient is the rows a batch touched and nothing else.

Shapes: R looked-up ids, B rows, K single-valued fields, E width, U distinct table rows in the batch, V vectors.

Ids arrive with each field's offset already added (see data/encode.py), so all fields of a width are one lookup, the
multi-valued ones among them. In training the distinct rows are taken out once and become a leaf of the graph: its
gradient is summed per row, and a step costs what the batch touches, not the table (torch's `sparse=True` leaves B*K
rows for `coalesce` to sort).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from models.pooling import BagTensors, build_pooling
from models.row_kernels import Distinct, HandOut, distinct_ids, take_rows
from models.rows import EVERY_ROW, Share, initial_rows


@dataclass
class TouchedRows:
    """The distinct table rows of the last training batch, ids_U, and their vectors, a leaf that gets .grad."""

    ids_U: Tensor
    vectors_UE: Tensor

    def gradient(self) -> Tensor:
        gradient_UE = self.vectors_UE.grad
        return torch.zeros_like(self.vectors_UE) if gradient_UE is None else gradient_UE


class EmbeddingTable(nn.Module):
    """rows x width numbers; ids_R -> vectors (R, width).

    The weight holds the rows of `share` (by default all), with standard deviation `scale` at first: the generator in
    force gives the table's address, and each row follows from it (see models/rows.py). It is a buffer and takes no
    gradient: after backward in training mode, `touched` holds the ids and the gradients of their rows for a row-wise
    optimizer. `fetch` is where vectors come from: the weight here, or wherever a table that lies on several workers
    finds them; `distinct_ids` finds the distinct ids of a training lookup, in whatever order they are to lie.
    """

    weight: Tensor

    def __init__(self, rows: int, width: int, scale: float = 0.01, share: Share = EVERY_ROW) -> None:
        super().__init__()
        self.rows, self.width, self.scale = rows, width, scale
        self.address = address = int(torch.randint(0, 1 << 62, ()))
        self.register_buffer("weight", initial_rows(address, rows, width, scale, share))
        self.touched: TouchedRows | None = None
        self.fetch: Callable[[Tensor], Tensor] = self.own_rows
        self.distinct_ids: Callable[[Tensor], Distinct] = self.sorted_ids

    def sorted_ids(self, ids_R: Tensor) -> Distinct:
        return distinct_ids(ids_R, self.rows)

    def own_rows(self, ids_U: Tensor) -> Tensor:
        return take_rows(self.weight, ids_U) if self.training else self.weight.index_select(0, ids_U)

    def distinct(self, ids_R: Tensor) -> tuple[Tensor, Tensor]:
        """(vectors_VE, position_R) so that vectors_VE[position_R] are the ids' vectors; in training V is U."""
        if not (self.training and torch.is_grad_enabled()):
            return self.fetch(ids_R), torch.arange(len(ids_R), device=ids_R.device)
        vectors_UE, found = self._touch(ids_R)
        return vectors_UE, found.position_R

    def _touch(self, ids_R: Tensor) -> tuple[Tensor, Distinct]:
        found = self.distinct_ids(ids_R)
        self.touched = TouchedRows(found.ids_U, self.fetch(found.ids_U).requires_grad_())
        return self.touched.vectors_UE, found

    def forward(self, ids_R: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled()):
            return self.fetch(ids_R)
        return HandOut.apply(*self._touch(ids_R))


@dataclass(frozen=True)
class FieldOptions:
    """How a categorical field is used, where it is not one value a row with rows and width of its own.

    width    of its vectors, if not the model's
    owner    index of the field whose rows (and width) it uses
    pooling  sum, mean, attention or din: the field has many values a row
    query    attention and din: index of the single-valued field that its values are weighed by
    """

    width: int | None = None
    owner: int | None = None
    pooling: str | None = None
    query: int | None = None


class FusedEmbedding(nn.Module):
    """All fields in as few tables as there are widths; (ids_BK, bags) -> (B, output_width).

    field_rows: rows that each field owns (0: it uses its owner's), laid end to end as the ids count them; options: of
    every field. The output holds the single-valued fields table by table, then the multi-valued ones.
    """

    def __init__(
        self,
        field_rows: tuple[int, ...],
        width: int,
        scale: float = 0.01,
        share: Share = EVERY_ROW,
        options: tuple[FieldOptions, ...] | None = None,
    ) -> None:
        super().__init__()
        options = options or tuple(FieldOptions() for _ in field_rows)
        owner_of = [k if option.owner is None else option.owner for k, option in enumerate(options)]
        width_of = [options[owner].width or width for owner in owner_of]
        widths = list(dict.fromkeys(width_of)) or [width]
        table_of = [widths.index(own) for own in width_of]
        sizes = [0 for _ in widths]
        begin_of = []  # of each field's own rows in its table
        for rows, table in zip(field_rows, table_of, strict=True):
            begin_of.append(sizes[table])
            sizes[table] += rows
        self.tables = nn.ModuleList(
            [EmbeddingTable(max(rows, 1), own, scale, share) for rows, own in zip(sizes, widths, strict=True)]
        )
        # An id counts rows over all fields; its table has those of some of them.
        shift_of = [begin_of[owner] - sum(field_rows[:owner]) for owner in owner_of]
        single = [k for k, option in enumerate(options) if option.pooling is None]
        many = [k for k, option in enumerate(options) if option.pooling is not None]
        columns_of = [[n for n, k in enumerate(single) if table_of[k] == table] for table in range(len(widths))]
        self.singles = [len(columns) for columns in columns_of]
        for table, columns in enumerate(columns_of):
            shifts = [shift_of[single[n]] for n in columns]
            for name, numbers in (("columns", columns), ("shifts", shifts)):
                tensor = torch.tensor(numbers, dtype=torch.int64)
                self.register_buffer(f"{name}_{table}", tensor, persistent=False)  # to be where the ids are
        self.bags_of = [[m for m, k in enumerate(many) if table_of[k] == table] for table in range(len(widths))]
        self.bag_shift = [shift_of[k] for k in many]
        # attention and din read their query's vector in the output of the single-valued fields.
        order = [single[n] for columns in columns_of for n in columns]
        ends = list(accumulate((width_of[k] for k in order), initial=0))
        place = {k: slice(*between) for k, between in zip(order, pairwise(ends), strict=True)}
        self.query_of = [place[q] if (q := options[k].query) is not None else None for k in many]
        query_width_of = [width_of[q] if (q := options[k].query) is not None else 0 for k in many]
        self.pools = nn.ModuleList(
            [
                build_pooling(options[k].pooling, width_of[k], query_width)
                for k, query_width in zip(many, query_width_of, strict=True)
            ]
        )
        self.output_widths = tuple(width_of[k] for k in (*order, *many))
        """Of the fields in the order in which the output holds them."""
        self.output_width = sum(width_of)
        begins = list(accumulate((width_of[k] for k in many), initial=ends[-1]))
        place |= {k: slice(*between) for k, between in zip(many, pairwise(begins), strict=True)}
        self.places = [place[k] for k in range(len(options))]
        """Where the output has each field's vector."""
        self.blocks = [(t, slice(begin, begin + rows))
                       for t, begin, rows in zip(table_of, begin_of, field_rows, strict=True)]  # fmt: skip
        """Of each field: its table, and its own rows there."""

    def asked(self, ids_BK: Tensor, bags: Sequence[BagTensors] = ()) -> list[Tensor]:
        """The rows that each table is asked for, one after the other: single-valued fields, then the others."""
        if not bags and len(self.tables) == 1:
            return [ids_BK.reshape(-1)]
        found = []
        for t in range(len(self.tables)):
            own_BK = ids_BK
            if len(self.tables) > 1:
                columns, shifts = (getattr(self, f"{name}_{t}").to(ids_BK.device) for name in ("columns", "shifts"))
                own_BK = ids_BK.index_select(1, columns) + shifts
            own = [bags[m].ids_S + self.bag_shift[m] if self.bag_shift[m] else bags[m].ids_S for m in self.bags_of[t]]
            found.append(torch.cat([own_BK.reshape(-1), *own]))
        return found

    def forward(self, ids_BK: Tensor, bags: Sequence[BagTensors] = ()) -> Tensor:
        assert len(bags) == len(self.pools)
        rows = len(ids_BK)
        asked = self.asked(ids_BK, bags)
        if not bags and len(self.tables) == 1:
            return self.tables[0](asked[0]).view(rows, self.output_width)
        singles: list[Tensor] = []
        found: dict[int, tuple[Tensor, Tensor]] = {}  # vectors and positions of each multi-valued field
        for t, table in enumerate(self.tables):
            assert isinstance(table, EmbeddingTable)
            columns = self.singles[t]
            if not self.bags_of[t]:
                singles.append(table(asked[t]).view(rows, columns * table.width))
                continue
            vectors_VE, position_R = table.distinct(asked[t])
            position_of = position_R.split([rows * columns, *(len(bags[m].ids_S) for m in self.bags_of[t])])
            singles.append(vectors_VE.index_select(0, position_of[0]).view(rows, columns * table.width))
            found |= {m: (vectors_VE, position) for m, position in zip(self.bags_of[t], position_of[1:], strict=True)}
        single_BI = torch.cat(singles, 1)
        pooled = [
            pool(*found[m], bags[m].offset_B1, None if query is None else single_BI[:, query])
            for m, (pool, query) in enumerate(zip(self.pools, self.query_of, strict=True))
        ]
        return torch.cat([single_BI, *pooled], 1)
