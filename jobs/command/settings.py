"""`key=value` on the command line, read by the types of a dataclass's fields; `a.b=value` in a tree of dataclasses."""

import dataclasses
import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

Hint = Any
Config = TypeVar("Config")


def override(config: Config, assignments: Sequence[str], option: str = "--set") -> Config:
    """A copy of a dataclass tree with `a.b=value` assignments applied.

    ValueError, one line, for an unknown key (listing the valid ones) or a value of another type or out of its range.
    """
    for assignment in assignments:
        key, equals, text = (part.strip() for part in assignment.partition("="))
        if not equals:
            raise ValueError(f"{option} {assignment}: want key=value")
        hint = leaf_type(type(config), key)
        try:
            value = read(text, hint)
        except ValueError:
            raise ValueError(f"{option} {assignment}: want {describe(hint)}") from None
        config = replace_leaf(config, key.split("."), value)
    return config


def replace_leaf(config: Any, path: Sequence[str], value: Any) -> Any:
    name, *rest = path
    return dataclasses.replace(config, **{name: replace_leaf(getattr(config, name), rest, value) if rest else value})


def leaf_type(kind: Any, key: str) -> Hint:
    """The type of a dotted key; ValueError listing every valid key if there is none."""
    hint = kind
    for name in key.split("."):
        hints = typing.get_type_hints(hint) if dataclasses.is_dataclass(hint) else {}
        if name not in hints:
            raise ValueError(f"unknown key {key!r}; valid keys: {', '.join(leaf_keys(kind))}")
        hint = hints[name]
    if dataclasses.is_dataclass(hint):
        raise ValueError(f"{key!r} is a group; its keys: {', '.join(leaf_keys(hint, key + '.'))}")
    return hint


def leaf_keys(kind: Any, prefix: str = "") -> list[str]:
    keys = []
    for name, hint in typing.get_type_hints(kind).items():
        keys += leaf_keys(hint, f"{prefix}{name}.") if dataclasses.is_dataclass(hint) else [prefix + name]
    return keys


def read_settings(kind: type, assignments: tuple[str, ...], option: str) -> dict[str, Any]:
    """Values by field. ValueError, one line, for an unknown key (listing the valid ones) or a value of another type."""
    hints = typing.get_type_hints(kind)
    values = {}
    for assignment in assignments:
        key, equals, text = (part.strip() for part in assignment.partition("="))
        if not equals:
            raise ValueError(f"{option} {assignment}: want key=value")
        if key not in hints:
            raise ValueError(f"{option} {assignment}: no setting {key!r}; there are {', '.join(hints)}")
        try:
            values[key] = read(text, hints[key])
        except ValueError:
            raise ValueError(f"{option} {assignment}: want {describe(hints[key])}") from None
    return values


def read(text: str, hint: Hint) -> Any:
    """Text as int, float, bool, str, none, a choice of literals, a tuple written a,b, or a union of those."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        # Text fits str always: what is narrower is tried first.
        for part in sorted(inner, key=lambda part: part is str):
            try:
                return read(text, part)
            except ValueError:
                continue
        raise ValueError(text)
    if origin is typing.Literal:
        return pick({str(choice): choice for choice in inner}, text)
    if origin is tuple:
        parts = [part.strip() for part in text.strip("()[]").split(",") if part.strip()]
        kinds = [inner[0]] * len(parts) if len(inner) == 2 and inner[1] is Ellipsis else list(inner)
        return tuple(read(part, kind) for part, kind in zip(parts, kinds, strict=True))
    if hint is bool:
        return pick({"true": True, "false": False}, text.lower())
    if hint is type(None):
        return pick({"none": None}, text.lower())
    if hint in (int, float, str):
        return hint(text)
    raise ValueError(text)


def text_of(value: Any) -> str:
    """A value as `read` takes it."""
    if isinstance(value, list | tuple):
        return ",".join(map(text_of, value))
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return str(value)


def pick(words: dict[str, Any], text: str) -> Any:
    if text not in words:
        raise ValueError(text)
    return words[text]


def describe(hint: Hint) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(part) for part in inner)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, inner))
    if origin is tuple:
        return "numbers with commas between"
    return {int: "a whole number", float: "a number", bool: "true or false", type(None): "none"}.get(hint, "text")
