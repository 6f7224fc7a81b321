"""The one error that becomes a line for the user, which names the file, column, row or key, and the one of a stop."""


class UserError(ValueError):
    """Something that only the user can mend. Commands print its message in one line and exit with 2.

    Every other exception, a ValueError of pyarrow or json among them, is a fault of ours and keeps its traceback:
    its message names neither file nor column. Code that calls such a library turns what it may raise into this.
    """


class Stopped(Exception):
    """The caller asked a run to stop before its end. What is whole is saved, and the same call goes on from there."""
