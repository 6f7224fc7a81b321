"""The options of a command, from its dataclass of arguments: name, what it takes, default, meaning, and group.

`--help` (help.py), the message for an unknown option and docs/settings.md are all made of them. The meaning is the
docstring under a field. `groups`, a dictionary of a dataclass, says which field begins a group and what it is called.
"""

import ast
import dataclasses
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import tyro

REST = "options"
"""What options are called before any group begins."""
OWN = "its own settings"
"""Of what is trained or tuned, where it names no group; `title` of a dataclass names another."""
KINDS = {str: "TEXT", int: "INT", float: "NUMBER", Path: "PATH", bool: ""}


@dataclasses.dataclass(frozen=True)
class Option:
    name: str
    """As it is typed: --optimizer.learning-rate; a word of its own where it has no name."""
    takes: str
    """INT, PATH, {adam,sgd}; empty for a switch."""
    default: str
    """Empty where it has to be given, or where leaving it out is the default."""
    needed: bool
    meaning: str
    group: str


def options_of(kind: Any, prefix: str = "", group: str = REST) -> list[Option]:
    """Of a dataclass of arguments in the order of its fields; those of nested dataclasses are groups."""
    found, hints, said = [], typing.get_type_hints(kind, include_extras=True), meanings(kind)
    groups = groups_of(kind)
    for field in dataclasses.fields(kind):
        if not field.init:
            continue
        if field.name in groups:
            group = f"{prefix.rstrip('.')}: {groups[field.name]}" if prefix else groups[field.name]
        hint, about = hints[field.name], tyro.conf.arg()
        extras = typing.get_args(hint)[1:] if typing.get_origin(hint) is typing.Annotated else ()
        inner = typing.get_args(hint)[0] if extras else hint
        own, metavar, text = field.name, "", said.get(field.name, "")
        for extra in extras:
            if isinstance(extra, type(about)):
                given: Any = extra
                own = own if given.name is None else given.name
                metavar, text = given.metavar or "", given.help or text
        name = f"{prefix}{own}".replace("_", "-")
        if dataclasses.is_dataclass(inner):
            below = f"{name}." if own else prefix
            found += options_of(inner, below, title_of(name, inner) if own else getattr(inner, "title", OWN))
            continue
        positional = any(extra is tyro.conf.Positional[int].__metadata__[0] for extra in extras)  # type: ignore[attr-defined]
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        found.append(
            Option(
                own.upper() if positional else f"--{name}",
                "" if positional else metavar or takes(inner),
                "" if needed else default_of(field),
                needed,
                text,
                group,
            )
        )
    return found


def takes(hint: Any) -> str:
    """What is written behind an option of this type."""
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    if hint in KINDS:
        return KINDS[hint]
    inner = [one for one in typing.get_args(hint) if one is not type(None)]
    if typing.get_origin(hint) is typing.Literal:
        return "{" + ",".join(map(str, inner)) + "}"
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        words = [takes(one) for one in inner]
        return "|".join(word.strip("{}") if len(words) > 1 else word for word in words)
    if typing.get_origin(hint) in (tuple, list):
        words = [takes(one) for one in inner if one is not Ellipsis]
        return f"{words[0]} ..." if Ellipsis in inner or len(words) == 1 else " ".join(words)
    return "TEXT"


def default_of(field: Any) -> str:
    value = field.default if field.default is not dataclasses.MISSING else field.default_factory()
    if value is None or value == "" or value == ():
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return " ".join(map(str, value))
    return str(value)


def groups_of(kind: Any) -> Mapping[str, str]:
    """The groups of a dataclass and of those that it is made from: {field that begins one: title}."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        found |= vars(base).get("groups", {})
    return found


def meanings(kind: Any) -> dict[str, str]:
    """{field: the docstring under it, in one line} of a dataclass and of those that it is made from."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        found |= own_meanings(base)
    return found


@lru_cache
def own_meanings(kind: Any) -> dict[str, str]:
    if not dataclasses.is_dataclass(kind):
        return {}
    try:
        source: Any = kind
        tree = ast.parse(textwrap.dedent(inspect.getsource(source)))
    except (OSError, TypeError):  # made of others, without source of its own
        return {}
    body = tree.body[0].body if tree.body and isinstance(tree.body[0], ast.ClassDef) else []
    found: dict[str, str] = {}
    for statement, after in itertools.pairwise(body):
        text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else None
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and isinstance(text, str):
            found[statement.target.id] = " ".join(text.split())
    return found


def title_of(name: str, kind: Any) -> str:
    """Of a nested dataclass's group: its name, and the first sentence of its docstring if it has one."""
    text = " ".join((inspect.getdoc(kind) or "").split())
    if not text or text.startswith(f"{kind.__name__}("):
        return name
    return f"{name}: {text.split('. ')[0].split(';')[0].rstrip('.')}"
