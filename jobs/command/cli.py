"""What every entry point does the same way: parse, run, and turn a user's mistake into one line and exit code 2."""

import errno
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

Arguments = TypeVar("Arguments")

USER_ERROR = 2
INTERRUPTED = 130
STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
"""What a disk may answer that only the user can mend; writers that know the file's name say it themselves."""


def main(
    run: Callable[[Arguments], object],
    arguments: type[Arguments],
    description: str,
    resumes: bool = False,
    words: Sequence[str] | None = None,
) -> None:
    """Parse the command line into `arguments`, run, and exit.

    A ValueError is the user's: it becomes one line on stderr and exit code 2. Anything else is ours and keeps its
    traceback. `description` is the module's docstring; its first lines are examples. `resumes` says that
    the same command goes on from where it was interrupted. `words`: the command line, if not all of sys.argv.
    """
    check_imports()
    logging.basicConfig(level=os.environ.get("COUNTERPOINT_LOG", "WARNING"), format="%(levelname)s %(message)s")
    parsed = tyro.cli(arguments, prog=command(), description=description, args=words)
    try:
        run(parsed)
    except ValueError as error:
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
