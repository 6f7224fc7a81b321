"""Writes docs/settings.md: every option of every command, with its default and its meaning in one line.

python docs/settings.py        # a test fails where the page is not what this writes
"""

import importlib
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)] if str(ROOT) not in sys.path else []

from jobs.command.options import Option, options_of  # noqa: E402
from jobs.run.directory import usable_cpus  # noqa: E402

COMMANDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "make_data": ((), ("--world", "platform")),
    "check": ((),),
    "train": ((), ("--problem", "listwise")),
    "ensemble": ((),),
    "calibrate": ((),),
    "evaluate": ((),),
    "score": ((),),
    "evolve": ((), ("--objective", "off_policy")),
    "experiment": ((),),
    "fit": ((),),
    "operate": ((),),
    "report": ((),),
    "export": ((),),
    "tune": ((),),
    "pipeline": ((),),
    "status": ((),),
    "submit": ((),),
    "demo": ((),),
}
"""Commands, and words by which other options follow."""
HEAD = """# Settings

Every option of every command; `docs/settings.py` writes this page from the dataclasses. In a preset file and in
`--hold` a setting is its name without `--` and with `_` for `-`: `optimizer.learning_rate`. A switch `--x` is turned
off by `--no-x`. Where no default stands, leaving the option out is the default. Problems and objectives of your own
bring their settings: `python -m jobs.train --problem package.module:Class --help`.
"""


def page() -> str:
    """The text of docs/settings.md."""
    lines, seen = [HEAD], set[tuple[str, str]]()
    for command, variants in COMMANDS.items():
        for words in variants:
            lines.append(f"## {' '.join((f'jobs.{command}', *words))}\n")
            new = [one for one in found(command, words) if (command, one.name) not in seen or not words]
            if command in ("check", "ensemble", "tune", "pipeline"):
                new, shared = without_shared(new, command)
                lines.append(f"{shared}\n")
            seen |= {(command, one.name) for one in new}
            lines += table(new)
    return "\n".join(lines)


def found(command: str, words: tuple[str, ...]) -> list[Option]:
    module: Any = importlib.import_module(f"jobs.{command}")
    make = getattr(module, "options", None)
    kind = make(words) if make else next(getattr(module, name) for name in ("Arguments", "MakeData", "Args")
                                         if hasattr(module, name))  # fmt: skip
    return options_of(kind)


def without_shared(options: list[Option], command: str) -> tuple[list[Option], str]:
    """What stands in another table already, in one sentence."""
    trained = {one.name for one in found("train", ()) if one.group not in ("options",)}
    own = [one for one in options if one.name not in trained and not one.name.startswith(("--es.", "--tuning."))]
    more = "" if command != "pipeline" else "; those of `jobs.evolve` with `--es.` and `--tuning.` before their names"
    which = "the problem's settings, those of" if command == "check" else "the settings of"
    return own, f"Besides these {which} `jobs.train`{more}."


def table(options: list[Option]) -> list[str]:
    lines, group = [], None
    for one in options:
        if one.group != group:
            group = one.group
            lines += [
                f"\n**{group}**\n" if lines else f"**{group}**\n",
                "| option | default | meaning |",
                "|---|---|---|",
            ]
        takes = f" {one.takes}" if one.takes else ""
        lines.append(
            f"| `{one.name}{takes.replace('|', ' or ')}` | {default(one)} | {one.meaning.replace('|', ' or ')} |"
        )
    return [*lines, ""]


def default(one: Option) -> str:
    if one.needed:
        return "required"
    if one.name == "--workers" and one.default == str(min(2, usable_cpus())):
        return "`2`, or the CPUs"
    return f"`{one.default}`" if one.default else ""


if __name__ == "__main__":
    (ROOT / "docs" / "settings.md").write_text(page())
