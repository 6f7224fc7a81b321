"""Code that a file names: run only if the user names it, too.

A preset, a run.json or a model's record may say problem: mine.heights:Heights, or objective.name: my/focal.py:Focal. To
look such a name up is to run it, and the directory may be somebody else's. So what a file names has to be one of our
own registries, or code that the command line names as well, as an option's value or as --trust NAME, or code that this
process has loaded already.
"""

import dataclasses
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.errors import UserError
from funnel.registry import FITTED, OPERATIONS, PROBLEMS, TUNABLES

OPTION = "--trust"
HELP = f"{OPTION} NAME: run the code of this name, package.module:Class or file.py:Class, where a file names it."
OWN = frozenset({*PROBLEMS.values(), *TUNABLES.values(), *FITTED.values(), *OPERATIONS.values()})
KEYS = ("problem", "objective", "name", "env")
"""Settings that name classes, or environments of Gymnasium: anything with a colon is code there."""
CODE = re.compile(r"(?:.*\.py|[^\W\d]\w*(?:[./][^\W\d]\w*)*):[^\W\d]\w*")
"""What looks like the name of code under any other key."""
trusted: set[str] = set()


def take_trust(words: Sequence[str]) -> list[str]:
    """The words without --trust NAME; what they name, by that option or any other, is trusted from now on."""
    rest: list[str] = []
    given = iter(words)
    for word in given:
        option, equals, value = word.partition("=")
        if option != OPTION:
            rest.append(word)
            trust(word, value)
        elif name := value if equals else next(given, ""):
            trusted.update((name, spelled(name)))
        else:
            raise UserError(f"{OPTION} needs the name of code: package.module:Class or file.py:Class")
    return rest


def trust(*trees: Any) -> None:
    """Names of code that the user has given: by Python, or on the command line."""
    for tree in trees:
        for _, name in code_in(tree):
            trusted.update((name, spelled(name)))


def check_names(tree: Any, where: str) -> None:
    """Raise UserError for code that settings read from a file name and nobody has vouched for. `where`: the file."""
    for key, name in code_in(tree):
        if not is_trusted(name):
            raise UserError(
                f"{where}: {key or 'it'} names code, {name!r}, which would run with your rights; "
                f"if you trust it, add {OPTION} {name}"
            )


def is_trusted(name: str) -> bool:
    place, _, attribute = name.rpartition(":")
    module = sys.modules.get(place.removesuffix(".py").replace("/", "."))
    given = not trusted.isdisjoint((name, spelled(name)))
    return name in OWN or given or (module is not None and hasattr(module, attribute))


def spelled(name: str) -> str:
    """Of a file: by its absolute path, as run.json has it."""
    place, _, attribute = name.rpartition(":")
    return f"{Path(place).expanduser().absolute()}:{attribute}" if place.endswith(".py") else name


def code_in(tree: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, name) of everything in a tree of settings that names code."""
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        tree = vars(tree)
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            yield from code_in(value, f"{key}.{name}" if key else str(name))
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from code_in(value, key)
    elif isinstance(tree, str) and (CODE.fullmatch(tree) or (":" in tree and key.split(".")[-1] in KEYS)):
        yield key, tree
