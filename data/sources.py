"""Where a feature's values come from, if not from the column of its name: the 'from' of an entry of schema.json.

    {"name": "hour", "kind": "range", "from": {"column": "ts", "part": "hour", "zone": "Europe/Berlin"}}
    {"name": "age", "from": {"column": "uploaded", "part": "age_days", "at": "ts"}, "transform": ["log1p"]}
    {"name": "no_price", "from": {"column": "price", "part": "missing"}}
    {"name": "price_level", "kind": "range", "from": {"column": "price", "part": "bucket", "quantiles": 10}}
    {"name": "log_price", "from": "price", "transform": ["log1p"]}

One column may give several features. data/derive.py computes the parts.
"""

import itertools
import math
import sys
import zoneinfo
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.errors import UserError
from data.fields import column_name, expect_keys
from data.nearest import correction

CLOCK = {"hour": 24, "weekday": 7, "day": 32, "month": 13}
"""Parts of a moment: whole numbers from 0 up to less than these. Monday is weekday 0; days and months begin with 1."""
AGES = {"age_hours": 3_600_000_000, "age_days": 86_400_000_000}
"""Parts of two moments: how far `at` is behind `column`, in units of so many microseconds."""
MISSING, BUCKET = "missing", "bucket"
PARTS = (*CLOCK, *AGES, MISSING, BUCKET)
UNITS = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 1}
"""Of a moment that is a number: since 1970, UTC. Microseconds each; nanoseconds are divided."""
UTC = "UTC"
KEYS = {**dict.fromkeys(CLOCK, ("zone", "unit")), **dict.fromkeys(AGES, ("at", "unit", "at_unit")), MISSING: (),
        BUCKET: ("boundaries", "quantiles")}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A column of the files, or a part of what it says.

    part        None: the column itself; a name of PARTS: data/derive.py
    zone        of hour, weekday, day and month: the time zone they are told in
    at          of an age: the column of the moment it is measured at
    unit        of moments that are numbers: s, ms, us or ns since 1970 (at_unit: those of `at`)
    boundaries  of a bucket, in increasing order: a number is in the bucket of as many of them as it reaches
    quantiles   of a bucket: how many, each of as many training rows, where boundaries are to be measured
    """

    column: str
    part: str | None = None
    zone: str = UTC
    at: str | None = None
    unit: str | None = None
    at_unit: str | None = None
    boundaries: tuple[float, ...] = ()
    quantiles: int | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the files."""
        return (self.column, self.at) if self.at else (self.column,)

    @property
    def values(self) -> int | None:
        """Whole numbers from 0 up to less than this are what it gives; None: other values."""
        if self.part == BUCKET:
            return self.quantiles or len(self.boundaries) + 1
        return 2 if self.part == MISSING else CLOCK.get(self.part or "")

    def to_dict(self) -> str | dict[str, Any]:
        if self.part is None:
            return self.column
        given = {"zone": self.zone if self.part in CLOCK else None, "at": self.at, "unit": self.unit,
                 "at_unit": self.at_unit, "boundaries": list(self.boundaries) or None,
                 "quantiles": self.quantiles}  # fmt: skip
        return {"column": self.column, "part": self.part, **{key: value for key, value in given.items() if value}}


def source_of(value: object, name: str) -> Source:
    """The checked 'from' of the feature `name`. Raises UserError naming it."""
    what = f"column {name!r}: 'from'"
    if not isinstance(value, dict):
        return Source(column_name(value, f"{what}, a column or an object,") or "")
    part = value.get("part")
    if part is not None and part not in PARTS:
        raise UserError(f"{what}: part {part!r} is none; {correction(str(part), PARTS, 'parts')}")
    keys = KEYS.get(str(part), ())
    given = expect_keys(value, ("column",), ("part", *keys), what)
    column = column_name(given["column"], f"{what}: 'column'") or ""
    if part is None:
        return Source(column)
    if part in AGES and "at" not in given:
        raise UserError(f"{what}: {part} needs 'at', the column of the moment at which the age is taken")
    at = column_name(given.get("at"), f"{what}: 'at'", part not in AGES)
    for key in ("unit", "at_unit"):
        if given.get(key) is not None and given[key] not in UNITS:
            raise UserError(f"{what}: {key} {given[key]!r} is none of {', '.join(UNITS)}")
    boundaries, quantiles = buckets(given, what) if part == BUCKET else ((), None)
    return Source(
        column, part, zone_of(given.get("zone", UTC), what), at, given.get("unit"), given.get("at_unit"), boundaries,
        quantiles,
    )  # fmt: skip


def zone_of(name: object, what: str) -> str:
    try:
        zoneinfo.ZoneInfo(str(name))
    except (KeyError, ValueError, OSError):
        raise UserError(f"{what}: no time zone {name!r}; want UTC or a name such as Europe/Berlin") from None
    return str(name)


def buckets(given: dict[str, Any], what: str) -> tuple[tuple[float, ...], int | None]:
    """(boundaries, quantiles) of a bucket: one of the two."""
    boundaries, quantiles = given.get("boundaries"), given.get("quantiles")
    if (boundaries is None) == (quantiles is None):
        raise UserError(f"{what}: a bucket takes 'boundaries' or 'quantiles', one of the two")
    if quantiles is not None:
        if type(quantiles) is not int or not 2 <= quantiles <= 100_000:
            raise UserError(f"{what}: quantiles is {quantiles!r}, must be a whole number, 2 to 100,000")
        return (), quantiles
    return increasing(boundaries, f"{what}: boundaries"), None


def increasing(values: object, what: str) -> tuple[float, ...]:
    """Numbers, each larger than the one before. Raises UserError naming the first two that are not."""
    if not isinstance(values, list) or not values or not all(map(is_number, values)):
        raise UserError(f"{what} must be a list of numbers, not {values!r}")
    for one, other in itertools.pairwise(values):
        if not one < other:
            raise UserError(f"{what} must increase: {other:g} comes after {one:g}")
    return tuple(map(float, values))


def is_number(value: object) -> bool:
    """Whether a value of a JSON file is a number that a float64 can be."""
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) <= sys.float_info.max
    return isinstance(value, float) and math.isfinite(value)


def raw_columns(sources: Mapping[str, Source], names: Sequence[str]) -> list[str]:
    """The columns of the files behind features or columns of these names, each once."""
    found = [sources[name].columns if name in sources else (name,) for name in names]
    return list(dict.fromkeys(column for columns in found for column in columns))
