"""What every entry point does the same way: parse, run, and turn a user's mistake into one line and exit code 2."""

import argparse
import contextlib
import copy
import dataclasses
import functools
import io
import itertools
import logging
import os
import re
import shlex
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import tyro

from data.credentials import check_words
from data.errors import UserError
from data.files import STORAGE, keep_private
from data.nearest import correction
from jobs.command.help import help_page
from jobs.command.options import options_of
from jobs.command.output import guard, widen
from jobs.command.own_code import own_code
from jobs.command.paths import absolute
from jobs.command.trust import HELP, take_trust

Options = type | Callable[[Sequence[str]], type]
"""A dataclass of arguments, or what makes one from the words: settings follow the problem that is named."""

USER_ERROR = 2
INTERRUPTED = 130


def main(
    run: Callable[[Any], object],
    arguments: Options,
    description: str,
    resumes: bool = False,
    words: Sequence[str] | None = None,
    then: Callable[[Any], Sequence[object]] | None = None,
) -> None:
    """Parse the command line into `arguments`, run, and exit.

    A UserError is the user's: it becomes one line on stderr and exit code 2. Anything else is ours and keeps its
    traceback. `description` is the module's docstring; its first lines are examples. `resumes` says that
    the same command goes on from where it was interrupted. `words`: the command line, if not all of sys.argv. `then`:
    the words of the command that people give next, from the arguments of this one; none if empty.
    """
    guard()
    check_imports()
    logging.basicConfig(level=os.environ.get("COUNTERPOINT_LOG", "WARNING"), format="%(levelname)s %(message)s")
    parsed: Any = None
    try:
        keep_private()
        parsed = parse(arguments, sys.argv[1:] if words is None else words, description)
        widen()
        run(parsed)
        if then is not None and (following := then(parsed)):
            print("next: python -m jobs." + shlex.join(map(str, following)))
    except UserError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(USER_ERROR) from error
    except OSError as error:
        if error.errno not in STORAGE:
            raise
        place = error.filename or getattr(parsed, "out", None) or "a file"
        print(f"error: {place}: {os.strerror(error.errno)}", file=sys.stderr)
        raise SystemExit(USER_ERROR) from error
    except KeyboardInterrupt:
        print("stopped" + ("; the same command goes on from here" if resumes else ""), file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def parse(arguments: Options, words: Sequence[str], description: str = "") -> Any:
    """The command's arguments from its words, paths made absolute. Raises UserError in one line for what is none;
    an unknown one is answered by the nearest, or by all there are. `--help` prints and ends the program."""
    check_words(words)  # before anything repeats a word
    words = take_trust(words)
    kind = arguments if isinstance(arguments, type) else arguments(words)
    if "-h" in words or "--help" in words:
        print(help_page(command(), kind, f"{description}\n\n{HELP}"), end="")
        raise SystemExit(0)
    check_known(words, kind)
    said = io.StringIO()
    parsed: Any
    try:
        with contextlib.redirect_stderr(said), own_code("the options make no valid settings"):
            # Help is ours: what a comment says of an option need not be read from the source for every command.
            quick = (tyro.conf.HelptextFromCommentsOff,)
            parsed, unknown = tyro.cli(
                kind, prog=command(), args=list(words), return_unknown_args=True, add_help=False, config=quick
            )
    except SystemExit as end:
        if end.code != USER_ERROR:
            raise
        raise UserError(one_line(said.getvalue())) from None
    if unknown:
        raise UserError(f"unknown word {unknown[0]!r}: it belongs to no option")
    return absolute(parsed)


def check_known(words: Sequence[str], kind: Any) -> None:
    """Raise UserError for an option that is none: it is said before what is missing."""
    names = [one.name for one in options_of(kind)]
    for word in words:
        name = word.partition("=")[0].replace("_", "-")
        if name.startswith("--") and len(name) > 2 and not {name, name.replace("no-", "", 1)} & set(names):
            raise UserError(f"unknown option {word.partition('=')[0]!r}; {correction(name, names, 'valid')}")


def one_line(box: str) -> str:
    """What tyro has drawn in a box, as a line: its first paragraph."""
    lines = [line.strip("│╭╮╰╯─ ") for line in box.splitlines()]
    below = itertools.dropwhile(ruled, lines[1:])  # where boxes cannot be drawn, a rule stands under the title
    line = " ".join(itertools.takewhile(lambda line: not ruled(line), below)) or " ".join(lines)
    # What our own checks say comes with the name of a class, which tells the user nothing.
    return re.sub(r"^Error parsing [\w.]+: ", "", line)


def ruled(line: str) -> bool:
    """Empty, or nothing but a rule."""
    return not line.strip("- ")


FLATTENED = ("config", "settings")
"""Fields of a command's arguments whose own fields are options of the command, without a prefix."""


def with_settings(base: type, names: Mapping[str, str] | None = None, **defaults: Any) -> type:
    """`base`, a dataclass of arguments, with these settings as defaults of its fields: dataclass instances, or a
    dataclass itself where some of its fields have no default and have to be given.

    Fields named in FLATTENED give their own fields as options: --epochs, --optimizer.learning-rate; others are a
    prefix: --es.sigma. `names` gives a field another prefix.
    """
    typed: list[Any] = []
    for name, default in defaults.items():
        kind: Any = default if isinstance(default, type) else type(default)
        prefix = (names or {}).get(name, "" if name in FLATTENED else name)
        hint: Any = Annotated[kind, tyro.conf.arg(name=prefix)]
        if isinstance(default, type):
            typed.append((name, hint))
        else:
            typed.append((name, hint, dataclasses.field(default_factory=functools.partial(copy.copy, default))))
    return derived(base, typed)


def with_defaults(base: type, **values: Any) -> type:
    """`base`, a dataclass of arguments, with other defaults: of a run that goes on, say."""
    hints = typing.get_type_hints(base, include_extras=True)
    return derived(
        base,
        [
            (name, hints[name], dataclasses.field(default_factory=functools.partial(copy.copy, value)))
            for name, value in values.items()
        ],
    )


def derived(base: type, fields: Sequence[Any]) -> type:
    about = {"__doc__": base.__doc__}
    return dataclasses.make_dataclass(base.__name__, fields, bases=(base,), namespace=about, kw_only=True)


def glance(words: Sequence[str], **defaults: str) -> dict[str, str]:
    """The values of a few options, read before all others: they decide which other options there are."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name, default in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, default=default)
    try:
        return vars(parser.parse_known_args(list(words))[0])
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from None


def command() -> str:
    """What the user has typed: python -m jobs.train."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {module.name.removesuffix('.__main__')}" if module else sys.argv[0]


def check_imports() -> None:
    """Raise ImportError if another package (dask's, say) stands where ours should."""
    import distributed

    if not getattr(distributed, "COUNTERPOINT", False):
        raise ImportError(
            f"'distributed' was imported from {distributed.__file__}, which is not Counterpoint's; "
            "run `python -m jobs.X` from the root of the checkout"
        )
