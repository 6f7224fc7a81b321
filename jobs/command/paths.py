"""Paths among a command's options: absolute from the start, as workers and a later start have other directories."""

import dataclasses
from pathlib import Path
from typing import Any


def absolute(arguments: Any) -> Any:
    """A copy of a dataclass in which all its paths, those of nested dataclasses too, are absolute; ~ is the home."""
    if isinstance(arguments, Path):
        return arguments.expanduser().absolute()
    if isinstance(arguments, tuple):
        return tuple(absolute(one) for one in arguments)
    if not dataclasses.is_dataclass(arguments) or isinstance(arguments, type):
        return arguments
    changes = {}
    for field in dataclasses.fields(arguments):
        before = getattr(arguments, field.name)
        if field.init and (after := absolute(before)) != before:
            changes[field.name] = after
    return dataclasses.replace(arguments, **changes) if changes else arguments
