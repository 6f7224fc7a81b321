"""Where jobs print: rich's console, which in a notebook writes plain lines as well.

There rich would draw with widgets, which a notebook may not have, and from the thread that shows progress; and a kernel
asks for colours (FORCE_COLOR), which its notebook shows but nobody who reads the file.
"""

import sys
from typing import Any

import rich.console


class Console(rich.console.Console):
    """Plain lines wherever no terminal is."""

    def __init__(self, **given: Any) -> None:
        plain: dict[str, Any] = {"force_jupyter": False}
        if in_notebook():
            plain |= {"force_terminal": False, "no_color": True}
        super().__init__(**{**plain, **given})


def in_notebook() -> bool:
    """Whether what is printed goes to a notebook."""
    return type(sys.stdout).__module__.startswith("ipykernel")
