"""Where jobs print: rich's console, which in a notebook writes plain lines as well.

There rich would draw with widgets, which a notebook may not have, and from the thread that shows progress.
"""

from typing import Any

import rich.console


class Console(rich.console.Console):
    """Plain lines wherever no terminal is."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**{"force_jupyter": False, **given})
