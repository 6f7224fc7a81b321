"""Commands and places as a page shows them: what can be typed again, and no more of a path than says which it is."""

import os
import re
from pathlib import Path
from typing import Any

MODULE = re.compile(r"^(?:\S*/)?jobs/(\w+?)(?:/__main__)?(?:\.py)?(?=\s|$)")


PATH = re.compile(r"(?<![^\s='\"])/[^\s'\"]+")
"""An absolute path among the words of a command, or behind the = of one."""


def repeatable(command: str, beside: Path | None = None) -> str:
    """ ".../jobs/train.py --data LOG" -> "python -m jobs.train --data LOG": what the user has typed, with its absolute
    paths as `place` shows them from `beside`."""
    typed = MODULE.sub(r"python -m jobs.\1", command)
    return typed if beside is None else PATH.sub(lambda found: place(found.group(), beside), typed)


def place(text: str, beside: Path) -> str:
    """A path as seen from the directory `beside`; of one that lies elsewhere the last two names. A URI stays."""
    if "://" in text or not Path(text).is_absolute():
        return text
    near = os.path.relpath(text, beside)
    return "/".join(("…", *Path(text).parts[-2:])) if near.startswith("..") else near


def without_roots(tree: Any, beside: Path) -> Any:
    """A configuration with each absolute path in it as `place` shows it."""
    if isinstance(tree, dict):
        return {key: without_roots(value, beside) for key, value in tree.items()}
    if isinstance(tree, list):
        return [without_roots(value, beside) for value in tree]
    return place(tree, beside) if isinstance(tree, str) and tree.startswith("/") else tree
