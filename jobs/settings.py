"""`key=value` on the command line, read by the types of a dataclass's fields."""

import types
import typing
from typing import Any

Hint = Any


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
