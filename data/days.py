"""Day partitions: which are there and whole.

    DIR/schema.json
    DIR/2026-01-01/*.parquet        one row an exposure, or a user on that day
    DIR/2026-01-01/_SUCCESS         an empty file, written last: without it the day is not there yet
    DIR/truth/2026-01-01/*.parquet  optional

A day's directory may also be called 20260101 or dt=2026-01-01, as other programs write them; so may its truth's.
So DIR is a log whose parts are days, and every job can read one: `jobs.evaluate --data DIR --part 2026-01-01`.
"""

import re
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from data.errors import UserError
from data.log import TRUTH

FIRST_DAY = date(2026, 1, 1)
"""Of logs that are generated."""
WHOLE_DAY = "_SUCCESS"
"""The file that says that a day is there whole."""
DAY = re.compile(r"(?:[A-Za-z]\w*=)?(\d{4})(-?)(\d\d)\2(\d\d)")
"""2026-01-01, 20260101, dt=2026-01-01."""
NO_DAYS = (TRUTH, "schema.json")


@dataclass(frozen=True)
class Found:
    """What a directory of days holds."""

    whole: dict[str, str]
    """{2026-01-01: the name of its directory}, in order."""
    passed_over: dict[str, str]
    """{name: why it is not taken}; what programs hide (._) and what belongs to a log are not among them."""


def day_name(number: int) -> str:
    """2026-01-01 and on."""
    return (FIRST_DAY + timedelta(days=number)).isoformat()


def look(where: Path) -> Found:
    """The days that are there, however they are written. UserError for a day that is none, or that is there twice."""
    whole: dict[str, str] = {}
    passed_over: dict[str, str] = {}
    for path in sorted(where.iterdir()):
        match = DAY.fullmatch(path.name)
        if match is None:
            if path.name not in NO_DAYS and not path.name.startswith((".", "_")):
                passed_over[path.name] = "its name is no day, such as 2026-01-01, 20260101 or dt=2026-01-01"
            continue
        try:
            day = date.fromisoformat("-".join(match.group(1, 3, 4))).isoformat()
        except ValueError:
            raise UserError(f"{path}: is no day of the calendar") from None
        if not (path / WHOLE_DAY).is_file():
            passed_over[path.name] = f"no {WHOLE_DAY} in it, the empty file that says that a day is whole"
        elif day in whole:
            raise UserError(f"{path}: {where / whole[day]} is the same day; keep one of them")
        else:
            whole[day] = path.name
    return Found(dict(sorted(whole.items())), passed_over)
