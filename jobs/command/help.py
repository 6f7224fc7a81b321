"""What `--help` prints: a command's docstring and its options in their groups, wrapped to the width of the terminal."""

import shutil
import textwrap
from collections.abc import Sequence
from typing import Any

from jobs.command.options import Option, options_of

NARROW, WIDE = 60, 110
"""Columns: a terminal that says less or more is not believed, as lines longer than this are hard to read."""
INDENT = 6


def help_page(command: str, kind: Any, description: str) -> str:
    """The page of a command whose arguments are the dataclass `kind`."""
    width = min(max(shutil.get_terminal_size((80, 24)).columns, NARROW), WIDE)
    found = options_of(kind)
    words = " ".join(one.name for one in found if not one.name.startswith("--"))
    needed = " ".join(f"{one.name} {one.takes}" for one in found if one.needed and one.name.startswith("--"))
    usage = " ".join(filter(None, ("usage:", command, words, needed, "[options]")))
    parts = [textwrap.fill(usage, width, subsequent_indent="       "), paragraphs(description, width)]
    groups: dict[str, list[Option]] = {}
    for one in found:
        groups.setdefault(one.group, []).append(one)
    parts += [f"{title}\n{entries(members, width)}" for title, members in groups.items()]
    return "\n\n".join(part for part in parts if part) + "\n"


def paragraphs(text: str, width: int) -> str:
    """Paragraphs filled; lines that are indented, which are examples, as they are."""
    blocks: list[str] = []
    for block in text.strip().split("\n\n"):
        lines = block.split("\n")
        if lines[0].startswith("    "):
            blocks.append("\n".join(line[2:].rstrip() for line in lines))
        else:
            blocks.append(fill(" ".join(lines), width))
    return "\n\n".join(blocks)


def entries(options: Sequence[Option], width: int) -> str:
    """An option a line with what it takes, and under it what it means and its default."""
    lines: list[str] = []
    for one in options:
        switch = not one.takes and one.name.startswith("--")
        lines.append(f"  {one.name}" + (f", --no-{one.name[2:]}" if switch else f" {one.takes}").rstrip())
        ending = " (required)" if one.needed else f" (default: {one.default})" if one.default else ""
        if one.meaning or ending:
            lines.append(fill((one.meaning + ending).strip(), width, " " * INDENT))
    return "\n".join(lines)


def fill(text: str, width: int, indent: str = "") -> str:
    return textwrap.fill(
        " ".join(text.split()),
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
