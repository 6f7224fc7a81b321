"""What a job prints, so that it never ends the job: no encoding, no reader that has gone, no full disk is an error.

A pipe may be closed (`| head`), a terminal may know ASCII only, stdout may not be there at all: the job goes on, its
files are what counts, and its exit code says how the job ended. What cannot be printed is written in ASCII or left out.
"""

import codecs
import io
import os
import sys
from typing import Any, TextIO

WIDE = 140
"""Columns of tables where no terminal says how many it has: in a pipe, a file, the log of a job."""
PLAIN = {
    "−": "-", "–": "-", "—": "-", "‑": "-", "±": "+-", "×": "x", "·": ".", "…": "...", "→": "->", "≤": "<=", "≥": ">=",
    "≈": "~", "σ": "sigma", "θ": "theta", "Δ": "delta", "Σ": "sum", "√": "sqrt", "²": "^2", "“": '"', "”": '"',
    "‘": "'", "’": "'", "█": "#", "░": ".", "━": "-", "╸": "-", "╺": "-", "│": "|", "─": "-",
}  # fmt: skip
"""How characters are written where the encoding has none; others become "?"."""
HANDLER = "counterpoint.plain"


def plain(error: UnicodeError) -> tuple[str, int]:
    """For codecs: what stands for the characters that the encoding does not have."""
    assert isinstance(error, UnicodeEncodeError)
    return "".join(PLAIN.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


class Patient(io.FileIO):
    """A file descriptor on which writing never fails: what it does not take is lost, and `gone` says that."""

    gone = False

    def write(self, data: Any) -> int:
        try:
            written = super().write(data)
        except OSError:
            self.gone = True
            return len(data)
        return len(data) if written is None else written  # None: a pipe that is full and does not wait


def guard() -> None:
    """Give this process a stdout and a stderr on which printing cannot fail. A second call does nothing.

    Streams that something else has put in place, a test say, stay as they are. A descriptor that is closed leads to
    nowhere from here on: the next file that is opened would get its number, and with it what libraries print.
    """
    codecs.register_error(HANDLER, plain)
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
    sys.stdout = guarded(sys.stdout, 1)
    sys.stderr = guarded(sys.stderr, 2)


def guarded(stream: TextIO | None, number: int) -> TextIO:
    if stream is None:  # Python has found the descriptor closed
        return open(os.devnull, "w", encoding="utf-8", errors=HANDLER)
    if type(stream) is not io.TextIOWrapper or isinstance(getattr(stream.buffer, "raw", None), Patient):
        return stream
    try:
        stream.flush()
    except OSError:
        return open(os.devnull, "w", encoding="utf-8", errors=HANDLER)
    raw = Patient(number, "wb", closefd=False)
    errors = "backslashreplace" if number == 2 else HANDLER
    through = stream.line_buffering or number == 2
    return io.TextIOWrapper(
        io.BufferedWriter(raw), stream.encoding, errors, line_buffering=through, write_through=stream.write_through
    )


def unread() -> bool:
    """Whether nobody reads what is printed any more."""
    return bool(getattr(getattr(getattr(sys.stdout, "buffer", None), "raw", None), "gone", False))


def widen() -> None:
    """Let tables be as wide as they are where no terminal limits them. COLUMNS, if it is set, still decides."""
    if not sys.stdout.isatty():
        os.environ.setdefault("COLUMNS", str(WIDE))
