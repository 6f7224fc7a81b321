"""A fault of an objective as jobs.evolve says it: one line that names --objective, its traceback beside the run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.errors import UserError
from data.files import write_whole
from es.contract import ObjectiveError
from jobs.command.own_code import own_code

TRACE_FILE = "error.txt"


@contextmanager
def named(objective: str, out: Path) -> Iterator[None]:
    """Name the objective in what is its fault. An error inside one of ours, which has no colon, keeps its traceback."""
    try:
        with own_code(f"--objective {objective}"):
            yield
    except ObjectiveError as error:
        if error.trace and ":" not in objective:
            raise RuntimeError(f"{error}\n{error.trace}") from error
        kept = ""
        if error.trace and out.is_dir():
            write_whole(out / TRACE_FILE, error.trace)
            kept = f" (traceback: {out / TRACE_FILE})"
        raise UserError(f"--objective {objective}: {error}{kept}") from error
