"""Settings: dataclasses read from plain values, here and nowhere else.

    read(TrainConfig, {"epochs": 3, "optimizer": {"learning_rate": 0.01}})     # from JSON
    changed(config, {"optimizer.learning_rate": 0.01})                        # dotted keys: presets, search spaces

Types and choices are checked by pydantic, ranges by the dataclasses' own __post_init__. Every mistake is a UserError
of one line that names the key; an unknown key is answered by the nearest one, or by all there are.
"""

import dataclasses
import json
import typing
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from data.errors import UserError
from data.nearest import correction

Config = TypeVar("Config")
Tree = Mapping[str, Any]


def read(kind: type[Config], tree: Tree, where: str = "") -> Config:
    """An instance of the dataclass from a tree of plain values; keys that are left out keep their defaults.

    `where` opens the message of the UserError for an unknown key, a value of another type or out of range.
    """
    front = f"{where}: " if where else ""
    if not isinstance(tree, Mapping):
        raise UserError(f"{front}must be an object of key: value, not {tree!r}")
    check_keys(kind, tree, front)
    try:
        # Strict, as JSON: a list is read as a tuple and 1 as 1.0, but "1" is no number and 1.0 no whole one.
        any_kind: Any = kind
        found: Config = adapter(any_kind).validate_json(json.dumps(listed(kind, tree), default=str), strict=True)
        return found
    except ValidationError as error:
        raise UserError(front + message(kind, error)) from None


@lru_cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def changed(config: Config, settings: Tree, where: str = "") -> Config:
    """A copy of the dataclass with values by dotted key, {"optimizer.learning_rate": 0.01}."""
    tree = plain(config)
    check_keys(type(config), nested(settings), f"{where}: " if where else "")
    return read(type(config), merged(tree, nested(settings)), where)


def plain(config: Any) -> dict[str, Any]:
    """The dataclass as a tree that JSON can hold."""
    tree: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    return tree


def keys(kind: Any, prefix: str = "") -> list[str]:
    """Every dotted key that the dataclass takes."""
    found = []
    for name, hint in fields(kind).items():
        found += keys(hint, f"{prefix}{name}.") if dataclasses.is_dataclass(hint) else [prefix + name]
    return found


def fields(kind: Any) -> dict[str, Any]:
    """Type by field name of what may be given."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}


def flat(tree: Tree, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}. Raises UserError for a key that is there in both forms."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        # An empty object stays a value: where a number is wanted it must not vanish unseen.
        more = flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {prefix + key: value}
        if twice := found.keys() & more.keys():
            raise UserError(f"{min(twice)!r} is given twice")
        found |= more
    return found


def nested(settings: Tree) -> dict[str, Any]:
    """{"a.b": 1} -> {"a": {"b": 1}}; a tree stays as it is."""
    tree: dict[str, Any] = {}
    for key, value in flat(settings).items():
        *path, name = key.split(".")
        here = tree
        for part in path:
            here = here.setdefault(part, {})
            if not isinstance(here, dict):
                raise UserError(f"{key!r} is given beside {part!r}")
        if name in here:
            raise UserError(f"{key!r} is given beside {f'{key}.{next(iter(here[name]))}'!r}")
        here[name] = value
    return tree


def merged(tree: Tree, changes: Tree) -> dict[str, Any]:
    """The tree with the changes in it, level by level."""
    both = dict(tree)
    for key, value in changes.items():
        inner = both.get(key)
        both[key] = merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return both


def check_keys(kind: Any, tree: Tree, front: str, prefix: str = "") -> None:
    """UserError for a key that the dataclass does not have, or for a group where a value is wanted and the reverse."""
    known = fields(kind)
    for key, value in tree.items():
        if key not in known:
            word = prefix + str(key)
            raise UserError(f"{front}unknown key {word!r}; {correction(word, keys(kind, prefix), 'valid keys')}")
        if dataclasses.is_dataclass(known[key]):
            if not isinstance(value, Mapping):
                valid = ", ".join(keys(known[key], f"{prefix}{key}."))
                raise UserError(f"{front}{prefix + key!r} is a group; its keys: {valid}")
            check_keys(known[key], value, front, f"{prefix}{key}.")


def listed(kind: Any, tree: Tree) -> dict[str, Any]:
    """The tree with "64,32" where a tuple is wanted as ["64", "32"] in its elements' type: search spaces write so."""
    known, found = fields(kind), dict(tree)
    for key, value in tree.items():
        hint = known[key]
        if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
            found[key] = listed(hint, value)
        elif typing.get_origin(hint) is tuple and isinstance(value, str):
            parts = [part.strip() for part in value.split(",") if part.strip()]
            text = typing.get_args(hint)[0] is str
            found[key] = parts if text else [number(part) for part in parts]
    return found


def number(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def message(kind: Any, error: ValidationError) -> str:
    """What pydantic found first, as "optimizer.learning_rate is 'x': Input should be a valid number"."""
    first = error.errors()[0]
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    path, hint = [], kind
    for part in first["loc"]:  # beyond the field stand pydantic's own words, such as the branch of a union
        if not dataclasses.is_dataclass(hint) or part not in fields(hint):
            break
        path.append(str(part))
        hint = fields(hint)[str(part)]
    if first["type"] == "missing":
        return f"{'.'.join(path)} is needed"
    others = [one for one in error.errors() if one["loc"][: len(path)] == first["loc"][: len(path)]]
    reasons = " or ".join(dict.fromkeys(str(one["msg"]).removeprefix("Input should be ") for one in others))
    return f"{'.'.join(path)} is {first['input']!r}, which is not what this setting takes: {reasons}"


def shown(value: Any) -> Any:
    """A setting as tables show it."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value) if isinstance(value, Path) else value
