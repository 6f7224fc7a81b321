"""What the user's own code raises (an objective, a problem): one line with its place, not a traceback of ours."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.errors import UserError
from es.contract import LIBRARIES, said

OURS = tuple(
    str(Path(__file__).resolve().parents[2] / room) + "/"
    for room in ("data", "distributed", "es", "funnel", "jobs", "models")
)


@contextmanager
def own_code(what: str) -> Iterator[None]:
    """Raise UserError, opened by `what`, for whatever code of the user's raises inside, sys.exit() included.

    An error that no code outside of our packages and the libraries has a part in stays as it is.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:
        where = place(error)
        if where is None:
            raise
        message = " ".join(said(error).split())
        raise UserError(f"{what}: {type(error).__name__}{': ' if message else ''}{message} ({where})") from error


def place(error: BaseException) -> str | None:
    """file:line of the innermost call in the user's code; None if there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        skipped = frame.filename.startswith(("<", *OURS)) or any(part in frame.filename for part in LIBRARIES)
        if not skipped:
            return f"{frame.filename}:{frame.lineno}"
    return None
