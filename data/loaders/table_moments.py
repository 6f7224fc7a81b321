"""What a table's moments are good for: hours and weekdays of the request, ages of what is shown.

Only what is known before the exposure may become a feature: a moment that lies behind the request's is an outcome.
Shapes: R rows of a block.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from data.errors import UserError
from data.fields import CategoricalField
from data.kinds import is_list, is_text, one_chunk
from data.sources import Source
from data.times import DAY_US, are_days, moments, unit_of
from data.transforms import Chain, chain_of

NAMED = re.compile(r"(.*_)?(ts|time|timestamp|date|datetime|day|dt|at|when|uploaded|created|published)", re.IGNORECASE)
"""Names of texts and numbers that are tried as moments."""
WEEK = 7
LATER = 0.001
"""Share of rows whose moment lies behind the request's, above which it is taken for an outcome."""


@dataclass
class Moment:
    """One column of moments: whether it has a time of the day, its unit where it is a number, how often it lies behind
    the request."""

    unit: str | None = None
    whole_days: bool = True
    rows: int = 0
    later: int = 0


@dataclass
class Moments:
    """The columns of a table that hold moments, found from its blocks."""

    time: str | None
    """Column of the request's moment."""
    found: dict[str, Moment] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)

    def candidates(self, types: Mapping[str, pa.DataType], taken: set[str]) -> list[str]:
        def fits(name: str, kind: pa.DataType) -> bool:
            if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
                return True
            numbers = pa.types.is_integer(kind) or is_text(kind)
            numbers = numbers or (pa.types.is_floating(kind) and name == self.time)  # of pandas, where one is missing
            return not is_list(kind) and numbers and (name == self.time or NAMED.fullmatch(name) is not None)

        return [name for name, kind in types.items() if name not in taken and fits(name, kind)]

    def add(self, block: pa.Table, names: list[str]) -> None:
        request = self.read(block, self.time) if self.time in names else None
        for name in names:
            read = request if name == self.time else self.read(block, name)
            if read is None:
                continue
            moment_R, missing_R = read
            known_R = ~missing_R
            one = self.found[name]
            one.rows += int(known_R.sum())
            one.whole_days = one.whole_days and not (moment_R[known_R] % DAY_US).any()
            if request is not None and name != self.time:
                one.later += int((moment_R > request[0])[known_R & ~request[1]].sum())

    def read(self, block: pa.Table, name: str | None) -> tuple[np.ndarray, np.ndarray] | None:
        """The block's moments; None, from now on, of a column that holds something else."""
        if name is None or name in self.refused:
            return None
        column = one_chunk(block, name)
        one = self.found.setdefault(name, Moment())
        try:
            number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
            if number and column.null_count < len(column):
                values_R = column.drop_null().to_numpy()
                values_R = values_R[np.isfinite(values_R)]
                unit = None if are_days(values_R) else unit_of(values_R)
                if unit is None or one.unit not in (None, unit):
                    raise UserError("no moments")
                one.unit = unit
            return moments(column, one.unit, name)
        except UserError:
            self.refused.add(name)
            self.found.pop(name, None)
            return None


@dataclass(frozen=True)
class Made:
    """Features made of a moment, and why."""

    categorical: tuple[CategoricalField, ...] = ()
    numeric: tuple[str, ...] = ()
    sources: Mapping[str, Source] = field(default_factory=dict)
    transforms: Mapping[str, Chain] = field(default_factory=dict)
    why: str = ""
    sure: bool = True


def made_of(name: str, moments: Moments, zone: str, train_days: int, columns: set[str]) -> Made | None:
    """The features of a column of moments; None of one that has none to give. `columns`: names that are taken."""
    one = moments.found.get(name)
    if one is None or not one.rows:
        return None
    if name == moments.time:
        parts = [part for part, there in (("hour", not one.whole_days), ("weekday", train_days >= WEEK)) if there]
        parts = [part for part in parts if f"{name}_{part}" not in columns]
        sources = {f"{name}_{part}": Source(name, part, zone, unit=one.unit) for part in parts}
        fields = tuple(CategoricalField(key, "range", source.values or 0) for key, source in sources.items())
        few = "" if train_days >= WEEK else f"no weekday: train has {train_days} days"
        made = f"made of it: {' and '.join(sources)} in {zone} (--zone)" if sources else ""
        return Made(fields, (), sources, {}, "; ".join(filter(None, [made, few])))
    if moments.time is None or moments.time not in moments.found or f"{name}_age_days" in columns:
        return None
    if one.later > LATER * one.rows:
        why = f"later than {moments.time!r} in {one.later:,} rows: known only afterwards"
        return Made(why=why, sure=False)
    age, at = f"{name}_age_days", moments.time
    source = Source(name, "age_days", at=at, unit=one.unit, at_unit=moments.found[at].unit)
    chain = chain_of([{"clip": [0, None]}, "log1p"], age)
    return Made((), (age,), {age: source}, {age: chain}, f"made of it: {age}, days before {at!r}, log1p")
