"""Entries of schema.json's features: taken apart into names, where values come from, and what is done to them."""

from typing import Any

from data.errors import UserError
from data.fields import column_name, expect_keys
from data.sources import Source, source_of
from data.transforms import Chain, chain_of

KINDS_OF_IDS = ("integers", "text")


def without_source(entry: Any, sources: dict[str, Source]) -> Any:
    """A categorical entry without its 'from', which is added to `sources`; with the size that this gives it."""
    if not isinstance(entry, dict) or "from" not in entry:
        return entry
    rest = {key: value for key, value in entry.items() if key != "from"}
    name = column_name(entry.get("name"), "the 'name' of a 'categorical' entry") or ""
    source = sources[name] = source_of(entry["from"], name)
    if rest.get("kind") == "range" and source.values is not None:
        size = rest.setdefault("size", source.values)
        if isinstance(size, int) and size < source.values:
            raise UserError(
                f"column {name!r}: size is {size}, but its 'from' gives {source.values} values; leave it out"
            )
    return rest


def numeric_name(entry: Any, sources: dict[str, Source], transforms: dict[str, Chain]) -> str:
    """The name of a numeric entry; its 'from' and 'transform' are added to the others."""
    if not isinstance(entry, dict):
        return column_name(entry, "a 'numeric' entry") or ""
    given = expect_keys(entry, ("name",), ("from", "transform"), "a 'numeric' entry")
    name = column_name(given["name"], "the 'name' of a 'numeric' entry") or ""
    if "from" in given:
        sources[name] = source_of(given["from"], name)
    if "transform" in given:
        transforms[name] = chain_of(given["transform"], name)
    return name


def known_statistics(value: object) -> dict[str, tuple[tuple[float, ...], ...]]:
    """The checked 'statistics'."""
    if value is None:
        return {}
    try:
        assert isinstance(value, dict)
        return {str(name): tuple(tuple(map(float, known)) for known in entry) for name, entry in value.items()}
    except (AssertionError, TypeError, ValueError):
        raise UserError(
            "'statistics' must be an object of feature: lists of numbers, as a training leaves it"
        ) from None


def label_columns(value: object) -> dict[str, str]:
    """The checked 'labels'. Raises UserError unless it is an object of name: column."""
    if not isinstance(value, dict):
        raise UserError('\'labels\' must be an object of name: column, such as {"click": "clicked"}')
    return {str(name): column_name(column, f"label {name!r}") or "" for name, column in value.items()}


def id_kinds(value: object) -> dict[str, str]:
    """The checked 'kinds'."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(kind in KINDS_OF_IDS for kind in value.values()):
        raise UserError(f"'kinds' must be an object of column: {' or '.join(map(repr, KINDS_OF_IDS))}")
    return {str(name): kind for name, kind in value.items()}
