"""Categorical features of a schema, single- and multi-valued: read, checked and written.

    {"name": "user_id", "kind": "hash", "size": 100000, "width": 32}
    {"name": "channel", "kind": "vocabulary", "vocabulary": ["search", "feed"]}
    {"name": "tags", "kind": "range", "size": 60, "many": {"pooling": "mean"}}
    {"name": "history", "share": "item_id", "many": {"pooling": "attention", "query": "item_id", "max": 50}}

`width` is the embedding's width where it is not to be the model's; `share` names the field whose table rows, kind, size
and width this one uses; `many` makes it a column of lists, whose values become one vector (models/pooling.py).
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data.errors import UserError
from data.nearest import correction

KINDS = ("hash", "vocabulary", "range")
POOLINGS = ("sum", "mean", "attention", "din")
WEIGHED = ("attention", "din")
MOST = 1 << 48
"""More rows, values or numbers than this no machine holds; ids and offsets have 64 bits."""
OWN_KEYS = ("kind", "size", "vocabulary", "width")


@dataclass(frozen=True)
class Many:
    """How the values of a row become one vector. No list, or an empty one, is the zero vector.

    pooling  sum, mean, attention or din; the last two weigh each value by the row's `query`, a single-valued field
    max      at most so many values of a row are read, the last ones (sequences are in time order); None: all
    """

    pooling: str
    max: int | None = None
    query: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}


@dataclass(frozen=True)
class CategoricalField:
    """One categorical feature and how its values become rows of an embedding table.

    hash        any int or string -> 1 + hash(value) % size
    vocabulary  the listed values -> 2 + place in the list
    range       the ints 0 .. size-1 -> 2 + value
    Row 0 is a missing value (inside a list it is left out); vocabulary and range keep row 1 for values not in them.
    """

    name: str
    kind: str
    size: int = 0
    vocabulary: tuple[int, ...] | tuple[str, ...] = ()
    width: int | None = None
    share: str | None = None
    many: Many | None = None

    @property
    def rows(self) -> int:
        """Rows of the embedding table that this field reads; a sharing field's are those of its owner."""
        if self.kind == "hash":
            return 1 + self.size
        return 2 + (len(self.vocabulary) if self.kind == "vocabulary" else self.size)

    def shared(self, name: str, many: Many | None = None) -> "CategoricalField":
        """A field `name` that uses this one's rows, kind, size and width."""
        return dataclasses.replace(self, name=name, share=self.name, many=many)

    def to_dict(self) -> dict[str, Any]:
        given: dict[str, Any] = {"name": self.name}
        if self.share is not None:
            given["share"] = self.share
        elif self.kind == "vocabulary":
            given |= {"kind": self.kind, "vocabulary": list(self.vocabulary)}
        else:
            given |= {"kind": self.kind, "size": self.size}
        if self.width is not None and self.share is None:
            given["width"] = self.width
        if self.many is not None:
            given["many"] = self.many.to_dict()
        return given


def categorical_fields(entries: list[Any]) -> tuple[CategoricalField, ...]:
    """The fields of a parsed 'categorical' list, sharing ones with all that they take from their owners."""
    own = {field.name: field for field in (own_field(entry) for entry in entries if not shares(entry))}
    return tuple(sharing_field(entry, own) if shares(entry) else own[entry["name"]] for entry in entries)


def shares(entry: Any) -> bool:
    return isinstance(entry, dict) and entry.get("share") is not None


def own_field(entry: Any) -> CategoricalField:
    optional = ("size", "vocabulary", "width", "share", "many")
    given = expect_keys(entry, ("name", "kind"), optional, "a 'categorical' entry")
    name = column_name(given["name"], "the 'name' of a 'categorical' entry") or ""
    own, other = ("vocabulary", "size") if given["kind"] == "vocabulary" else ("size", "vocabulary")
    if own not in given or other in given:
        raise UserError(f"column {name!r}: kind {given['kind']!r} takes {own!r}, and no {other!r}")
    width, many = given.get("width"), many_of(given.get("many"), name)
    if own == "size":
        return CategoricalField(name, given["kind"], given["size"], width=width, many=many)
    if not isinstance(given["vocabulary"], list):
        raise UserError(f"column {name!r}: 'vocabulary' must be a list")
    return CategoricalField(name, given["kind"], vocabulary=tuple(given["vocabulary"]), width=width, many=many)


def sharing_field(entry: dict[str, Any], own: dict[str, CategoricalField]) -> CategoricalField:
    given = expect_keys(entry, ("name", "share"), (*OWN_KEYS, "many"), "a 'categorical' entry")
    name = column_name(given["name"], "the 'name' of a 'categorical' entry") or ""
    taken = [key for key in OWN_KEYS if key in given]
    if taken:
        raise UserError(f"column {name!r}: takes {taken[0]!r} from the field it shares; leave the key out")
    owner = column_name(given["share"], f"column {name!r}: 'share'") or ""
    if owner not in own:
        valid = ", ".join(own) or "there is none"
        raise UserError(f"column {name!r}: 'share' is {owner!r}, must be a field with rows of its own ({valid})")
    return own[owner].shared(name, many_of(given.get("many"), name))


def many_of(value: object, name: str) -> Many | None:
    if value is None:
        return None
    given = expect_keys(value, ("pooling",), ("max", "query"), f"column {name!r}: 'many'")
    return Many(given["pooling"], given.get("max"), given.get("query"))


def check_categorical(fields: Sequence[CategoricalField]) -> None:
    """Raise UserError naming the field that is not as it must be. Names are known to be distinct."""
    by_name = {field.name: field for field in fields}
    for field in fields:
        check_field(field)
        if field.share is not None:
            owner = by_name.get(field.share)
            if owner is None or owner.share is not None:
                raise UserError(
                    f"column {field.name!r}: 'share' is {field.share!r}, must be a field with rows of its own"
                )
            if owner.shared(field.name, field.many) != field:
                raise UserError(f"column {field.name!r}: kind, size and width must be those of {field.share!r}")
        if field.many is not None:
            check_many(field.name, field.many, by_name)


def check_field(field: CategoricalField) -> None:
    if field.kind not in KINDS:
        raise UserError(f"column {field.name!r}: kind {field.kind!r} is none of {', '.join(KINDS)}")
    if field.width is not None and not is_count(field.width):
        raise UserError(f"column {field.name!r}: width is {field.width!r}, must be a whole number of at least 1")
    if field.kind != "vocabulary":
        if not is_count(field.size):
            raise UserError(f"column {field.name!r}: size is {field.size!r}, must be a whole number of at least 1")
        return
    if not field.vocabulary:
        raise UserError(f"column {field.name!r}: the vocabulary is empty")
    if {type(value) for value in field.vocabulary} not in ({int}, {str}):
        raise UserError(f"column {field.name!r}: a vocabulary is all strings or all whole numbers")
    if any(isinstance(value, int) and not -(2**63) <= value < 2**63 for value in field.vocabulary):
        raise UserError(f"column {field.name!r}: a number of the vocabulary has more than 64 bits")
    if len(set(field.vocabulary)) < len(field.vocabulary):
        raise UserError(f"column {field.name!r}: the vocabulary lists a value twice")


def check_many(name: str, many: Many, fields: dict[str, CategoricalField]) -> None:
    if many.pooling not in POOLINGS:
        raise UserError(f"column {name!r}: pooling {many.pooling!r} is none of {', '.join(POOLINGS)}")
    if many.max is not None and not is_count(many.max):
        raise UserError(f"column {name!r}: max is {many.max!r}, must be a whole number of at least 1, or left out")
    if many.pooling not in WEIGHED:
        if many.query is not None:
            raise UserError(f"column {name!r}: 'query' goes with pooling {' or '.join(WEIGHED)}, not {many.pooling}")
        return
    single = [field.name for field in fields.values() if field.many is None]
    if many.query not in single:
        raise UserError(
            f"column {name!r}: pooling {many.pooling} needs 'query', a single-valued categorical field "
            f"({', '.join(single) or 'there is none'}), not {many.query!r}"
        )


def is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < MOST


def column_name(value: object, what: str, optional: bool = False) -> str | None:
    if value is None and optional:
        return None
    if not isinstance(value, str) or not value:
        raise UserError(f"{what} must be a non-empty string{' or null' if optional else ''}, not {value!r}")
    return value


def expect_keys(value: object, required: tuple[str, ...], optional: tuple[str, ...], where: str) -> dict[str, Any]:
    """The JSON object itself, if it has the required keys and no unknown one."""
    if not isinstance(value, dict):
        raise UserError(f"{where}: must be a JSON object, not {type(value).__name__}")
    unknown = [key for key in value if key not in required + optional]
    if unknown:
        raise UserError(
            f"{where}: unknown key {unknown[0]!r}; {correction(unknown[0], required + optional, 'valid keys')}"
        )
    missing = [key for key in required if key not in value]
    if missing:
        raise UserError(f"{where}: missing key {missing[0]!r}; valid keys: {', '.join(required + optional)}")
    return value
