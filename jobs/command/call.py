"""A job as a Python call, for notebooks and scripts; docs/notebook.md.

    from jobs.train import train
    result = train(data="runs/log", out="runs/ips", workers=0, epochs=2, model__backbone__name="mmoe")
    result.figures["ctr.auc"]

A keyword is an option of the command without its dashes, "__" in place of a dot; `help` of the command lists them. The
call does what the command does, with the same checks and the same run directory, and raises what the command would say.
"""

import html
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.files import STORAGE, umask
from data.nearest import correction
from funnel.panels import Table
from jobs.command.cli import INTERRUPTED, Options, check_imports, parse
from jobs.command.options import Option, options_of
from jobs.command.tables import as_text, cell, kept_tables
from jobs.command.trust import OPTION as TRUST
from jobs.run.directory import recorded_as

ROOT = Path(__file__).resolve().parents[2]
Place = str | os.PathLike[str]
"""A path, a URI, or the result of another call, which stands for its path."""


@dataclass(frozen=True)
class Result:
    """What a job has made. In a notebook it shows its tables, or the page."""

    path: Path
    """The run directory, or the file or directory that was written."""
    figures: dict[str, Any] = field(default_factory=dict)
    """Figures by name, as in summary.json; empty for a job that has none."""
    tables: tuple[Table, ...] = ()
    """What the command prints."""

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return "\n".join([*map(as_text, self.tables), str(self.path)])

    def __repr__(self) -> str:
        return f"<{self.path}: {len(self.figures)} figures>"

    def _repr_html_(self) -> str:
        """For a notebook: the page itself, or the tables with the path under them."""
        if self.path.suffix == ".html":
            page = html.escape(self.path.read_text(encoding="utf-8"))
            return f'<iframe srcdoc="{page}" style="width: 100%; height: 40rem; border: 1px solid #999"></iframe>'
        return "".join(map(as_html, self.tables)) + f"<p><code>{html.escape(str(self.path))}</code></p>"


def as_html(table: Table) -> str:
    """A table of a result, without styles of its own."""
    rows = [f"<tr>{''.join(f'<td>{html.escape(cell(one))}</td>' for one in row)}</tr>" for row in table.rows]
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    note = f"<p>{html.escape(table.note)}</p>" if table.note else ""
    title = f"<caption>{html.escape(table.title)}</caption>" if table.title else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>{note}"


def call(
    name: str,
    run: Callable[[Any], Any],
    arguments: Options,
    given: Mapping[str, Any],
    result: Callable[[Any, Any], tuple[Place, Mapping[str, Any]]],
    runs: Sequence[Place] = (),
) -> Result:
    """Run the command `name` with these keywords. `result`: (path, figures) from the command's arguments and what its
    `run` returns; `runs`: words that belong to no option.

    Raises UserError for what the command would refuse, Ctrl-C (a notebook's interrupt) as KeyboardInterrupt once the
    run has saved where it is. SIGTERM ends the process, saved as well.
    """
    check_imports()
    before = os.umask(umask())
    try:
        words = [*(str(os.fspath(run)) for run in runs), *words_of(given)]
        kind = arguments if isinstance(arguments, type) else arguments(words)
        check_keywords(name, given, options_of(kind))
        parsed = parse(kind, words)
        with recorded_as([str(ROOT / "jobs" / f"{name}.py"), *words]), kept_tables() as tables, as_exceptions(parsed):
            returned = run(parsed)
        path, figures = result(parsed, returned)
        return Result(Path(path), dict(figures), tuple(tables))
    finally:
        os.umask(before)


@contextmanager
def as_exceptions(arguments: Any) -> Iterator[None]:
    """What ends a command's process, as exceptions that end a call."""
    try:
        yield
    except OSError as error:
        if error.errno not in STORAGE:
            raise
        place = error.filename or getattr(arguments, "out", None) or "a file"
        raise UserError(f"{place}: {os.strerror(error.errno)}") from error
    except SystemExit as end:
        if end.code == INTERRUPTED:
            raise KeyboardInterrupt("the same call goes on from here") from None
        if end.code == 128 + 15:  # somebody wants the process to end
            raise
        raise UserError(f"ended with exit code {end.code}; what was printed last says why") from end


def check_keywords(name: str, given: Mapping[str, Any], known: Sequence[Option]) -> None:
    """Raise UserError for a keyword that is no option, or an option that is missing."""
    names = [keyword(one.name) for one in known if one.name.startswith("--")]
    takes = {keyword(one.name): one.takes for one in known if one.name.startswith("--")}
    for word, value in flat(given).items():
        if isinstance(value, bool) and takes.get(word):
            raise UserError(f"{word}={value}: takes {takes[word]}, not True or False")
        if takes.get(word) == "" and not (value is None or isinstance(value, bool) or hasattr(value, "item")):
            raise UserError(f"{word}={value!r}: is a switch, True or False")
        if below := [one for one in names if one.startswith(f"{word}__")]:
            raise UserError(f"{name}() takes {word} as options below it: {', '.join(f'{one}=...' for one in below[:3])}"
                            + (" ..." if below[3:] else ""))  # fmt: skip
        if word not in (*names, keyword(TRUST)):
            raise UserError(f"{name}() has no option {word!r}; {correction(word, names, 'there are')}")
    missing = [keyword(one.name) for one in known if one.needed and one.name.startswith("--")]
    missing = [word for word in missing if flat(given).get(word) is None]
    if missing:
        raise UserError(f"{name}() needs {', '.join(f'{word}=...' for word in missing)}")


def keyword(option: str) -> str:
    """--model.backbone.name -> model__backbone__name"""
    return option.removeprefix("--").replace(".", "__").replace("-", "_")


def flat(given: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords with values that are none of their own: {"model": {"layers": 2}} -> {"model__layers": 2}. ROLE=RUN of
    `given` is a value."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        name = keyword(name)
        if isinstance(value, Mapping) and name != "given":
            found |= flat({f"{name}__{below}": inner for below, inner in value.items()})
        else:
            found[name] = value
    return found


def words_of(given: Mapping[str, Any]) -> list[str]:
    """The command line that says the same; None leaves an option out."""
    words: list[str] = []
    for name, value in flat(given).items():
        option = "--" + name.replace("__", ".").replace("_", "-")
        if hasattr(value, "tolist"):  # an array, or one number, of numpy or torch
            value = value.tolist()
        if value is None:
            continue
        if isinstance(value, bool):
            words.append(option if value else without(option))
        elif isinstance(value, Mapping):
            words += [option, *(f"{role}={written(run, name)}" for role, run in value.items())]
        elif isinstance(value, list | tuple | set | frozenset | range):
            words += [option, *(written(one, name) for one in value)]
        else:
            words.append(f"{option}={written(value, name)}")
    return words


def without(option: str) -> str:
    """--a.b-c -> --a.no-b-c, as tyro has it."""
    head, dot, tail = option.removeprefix("--").rpartition(".")
    return f"--{head}{dot}no-{tail}"


def written(value: Any, name: str) -> str:
    """A value of the keyword `name` as a word: numbers with all their digits, 3e5 as 300000, paths as they are.

    Raises UserError for what is no number, text or path.
    """
    if hasattr(value, "item"):  # of numpy or torch
        value = value.item()
    word = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(word, str | int | float):
        kind = type(value).__name__
        raise UserError(f"{name}= takes a number, a text, a path, or a list of them, not a value of type {kind}")
    if isinstance(word, float):
        return str(int(word)) if word.is_integer() and abs(word) < 2**53 else repr(word)
    if "\0" in str(word):
        raise UserError(f"{name}={word!r}: has a character 0 in it")
    return str(word)


def several(runs: Place | Sequence[Place]) -> list[Place]:
    """One place or several."""
    if not isinstance(runs, str | os.PathLike | Iterable):
        raise UserError(f"a run is a path or the result of a call, not a value of type {type(runs).__name__}")
    return [runs] if isinstance(runs, str | os.PathLike) else list(runs)
