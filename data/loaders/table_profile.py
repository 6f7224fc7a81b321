"""What the columns of a table are like, from one pass over its rows: how many values, which range, whether only there
where a label is 1. Memory is flat: exact up to some hundred values, an estimate from the smallest hashes beyond.

Shapes: R rows of a block.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.encode import one_chunk
from data.hashing import hash_array
from data.kinds import is_list, is_number, is_text, number, single

KEPT = 4096
"""Smallest hashes that are kept of a column: its count of different values is exact below, and 1.6% off (one standard
deviation) above."""
SAMPLED = 65_536
"""Numbers of a column that are kept at most, to tell what they are like."""
ENDS = 3
"""Least and greatest values that are counted."""
TEXTS = 1000
LISTED = 300
"""Values that are counted one by one; of a column with more of them only how many there are."""


@dataclass
class Distinct:
    """How many different values a column has: the KEPT smallest of their hashes say it [Bar-Yossef et al. 2002]."""

    smallest: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))

    def add(self, values: pa.Array) -> None:
        hash_R = hash_array(values.drop_null())
        if len(self.smallest) == KEPT:
            hash_R = hash_R[hash_R < self.smallest[-1]]
        self.smallest = np.union1d(self.smallest, hash_R)[:KEPT]

    def count(self) -> int:
        if len(self.smallest) < KEPT:
            return len(self.smallest)
        return round((KEPT - 1) / (float(self.smallest[-1]) / 2.0**64))

    def overlap(self, other: "Distinct") -> float:
        """Share of these values that the other column has too, as far as the kept hashes tell."""
        highest = min((one.smallest[-1] for one in (self, other) if len(one.smallest) == KEPT), default=None)
        mine, its = (
            one.smallest if highest is None else one.smallest[one.smallest <= highest] for one in (self, other)
        )
        return len(np.intersect1d(mine, its)) / len(mine) if len(mine) else 0.0


@dataclass
class Numbers:
    """A sample of a column's numbers, at even distances, and its farthest values with how often each occurs."""

    step: int = 1
    values: list[np.ndarray] = field(default_factory=list)
    ends: dict[bool, dict[float, int]] = field(default_factory=lambda: {False: {}, True: {}})
    """By whether they are the greatest."""

    def add(self, known_R: np.ndarray) -> None:
        self.values.append(known_R[:: self.step])
        while sum(map(len, self.values)) > SAMPLED:
            self.step *= 2
            self.values = [np.concatenate(self.values)[::2]]
        for greatest, ends in self.ends.items():
            rest_R = known_R
            for _ in range(ENDS):
                if not len(rest_R):
                    break
                end = float(rest_R.max() if greatest else rest_R.min())
                ends[end] = ends.get(end, 0) + int((rest_R == end).sum())
                rest_R = rest_R[rest_R < end] if greatest else rest_R[rest_R > end]
            kept = sorted(ends, reverse=greatest)[:ENDS]
            self.ends[greatest] = {end: ends[end] for end in kept}

    @property
    def sample(self) -> np.ndarray:
        return np.concatenate(self.values) if self.values else np.empty(0)


@dataclass
class Column:
    """One column. Numbers: least and greatest, whether whole. Text, integers and lists of them: how many values."""

    name: str
    type: pa.DataType
    rows: int = 0
    missing: int = 0
    least: float = math.inf
    greatest: float = -math.inf
    whole: bool = True
    longest: int = 0
    """Of a list."""
    distinct: Distinct = field(default_factory=Distinct)
    values: Counter[object] | None = field(default_factory=Counter)
    """How often each value occurs, while they are few."""
    numbers: Numbers = field(default_factory=Numbers)
    infinite: int = 0
    """Numbers that are infinite; `least` and `greatest` leave them out."""
    texts: pa.Array = field(default_factory=lambda: pa.array([], pa.large_string()))
    """The first few of a column of text."""
    there: int = 0
    """Rows where it is neither missing nor 0."""
    there_and: dict[str, int] = field(default_factory=dict)
    """Of those, the rows where a label is 1, by label."""
    ones: dict[str, int] = field(default_factory=dict)
    """Of all rows, those where a label is 1, by label."""

    @property
    def known(self) -> int:
        return self.rows - self.missing

    @property
    def constant(self) -> bool:
        return self.known == 0 or (self.distinct.count() <= 1 and not is_list(self.type) and self.missing == 0)

    @property
    def unique(self) -> bool:
        """Whether every row has another value, as far as the estimate tells."""
        return self.known == self.rows and abs(self.distinct.count() - self.rows) <= 0.06 * self.rows

    def only_where(self) -> str | None:
        """The label outside of whose positives the column is never there."""
        few = 20
        return next(
            (
                label
                for label, both in reversed(self.there_and.items())
                if self.there >= few and both == self.there and self.ones[label] < self.rows
            ),
            None,
        )

    def add(self, column: pa.ChunkedArray, labels: dict[str, np.ndarray]) -> None:
        values = one_chunk(pa.table({"": column}), "")
        self.rows += len(values)
        self.missing += values.null_count
        there_R = values.is_valid().to_numpy(zero_copy_only=False)
        if is_list(self.type):
            length = pc.list_value_length(values)
            self.longest = max(self.longest, pc.max(length).as_py() or 0)
            there_R = there_R & (length.fill_null(0).to_numpy(zero_copy_only=False) > 0)
            values = pc.list_flatten(values)
        elif is_number(self.type):
            number_R = number(pa.table({"": column}), "", wide=True)
            known_R = number_R[there_R & np.isfinite(number_R)]
            self.infinite += int(np.isinf(number_R).sum())
            there_R = there_R & (np.nan_to_num(number_R, nan=0.0) != 0)
            if len(known_R):
                self.least, self.greatest = min(self.least, known_R.min()), max(self.greatest, known_R.max())
                self.whole = self.whole and bool((known_R == np.floor(known_R)).all())
                self.numbers.add(known_R)
        elif is_text(single(self.type)) and not len(self.texts):
            self.texts = values.drop_null()[:TEXTS].cast(pa.large_string())
        self.there += int(there_R.sum())
        for label, label_R in labels.items():
            self.there_and[label] = self.there_and.get(label, 0) + int((there_R & label_R).sum())
            self.ones[label] = self.ones.get(label, 0) + int(label_R.sum())
        self.count_values(values)

    def count_values(self, values: pa.Array) -> None:
        kind = single(self.type)
        if not (is_text(kind) or is_number(kind)):
            return
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            values = pc.cast(values, pa.float64()).view(pa.int64())
        self.distinct.add(values)
        if self.values is not None and len(self.distinct.smallest) <= LISTED:
            found = values.drop_null().value_counts()
            self.values.update(
                dict(zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True))
            )
        else:
            self.values = None


def profile(
    blocks: Iterable[tuple[pa.Table, dict[str, np.ndarray]]], types: Mapping[str, pa.DataType]
) -> dict[str, Column]:
    """Every column, from blocks of rows with their labels, bool_R."""
    found = {name: Column(name, kind) for name, kind in types.items()}
    for table, labels in blocks:
        for name, column in found.items():
            column.add(table.column(name), labels)
    return found
