"""The one error that becomes a line for the user: its message names the file, column, row or key, and what is right."""


class UserError(ValueError):
    """Something that only the user can mend. Commands print its message in one line and exit with 2.

    Every other exception, a ValueError of pyarrow or json among them, is a fault of ours and keeps its traceback:
    its message names neither file nor column. Code that calls such a library turns what it may raise into this.
    """
