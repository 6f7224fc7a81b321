"""Day partitions: which are there and whole, and a day cut into what is trained on and what is tuned on.

    DIR/schema.json
    DIR/2026-01-01/*.parquet        one row an exposure
    DIR/2026-01-01/_SUCCESS         an empty file, written last: without it the day is not there yet
    DIR/truth/2026-01-01/*.parquet  optional

A day's directory may also be called 20260101 or dt=2026-01-01, as other programs write them; so may its truth's.
So DIR is a log whose parts are days, and every job can read one: `jobs.evaluate --data DIR --part 2026-01-01`.
"""

import dataclasses
import re
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.errors import UserError
from data.generate import WHOLE_DAY
from data.hashing import hash_array, splitmix64
from data.log import TRUTH, Log
from data.write import PartWriter, new_log

DAY = re.compile(r"(?:[A-Za-z]\w*=)?(\d{4})(-?)(\d\d)\2(\d\d)")
"""2026-01-01, 20260101, dt=2026-01-01."""
NO_DAYS = (TRUTH, "schema.json")


@dataclasses.dataclass(frozen=True)
class Found:
    """What a directory of days holds."""

    whole: dict[str, str]
    """{2026-01-01: the name of its directory}, in order."""
    passed_over: dict[str, str]
    """{name: why it is not taken}; what programs hide (._) and what belongs to a log are not among them."""


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


def cut_day(log: Log, part: str, day: str, share: float, seed: int, out: Path) -> dict[str, int]:
    """Write a day, which is this part of the log, as a log of two parts in `out`: valid has about this share of the
    users, other ones every day.

    Whole users (else whole requests, else rows) go to one side, by a hash of (user, day, seed): what the policy is
    tuned on was not trained on that day, by users that the model knows from other days. Returns rows by part. Raises
    UserError if a side has no rows.
    """
    key = log.schema.user or log.schema.request
    plain = dataclasses.replace(log.schema, truth=None)
    place = np.random.SeedSequence([seed, date.fromisoformat(day).toordinal()])
    address = np.uint64(place.generate_state(1, np.uint64)[0])
    rows = {"train": 0, "valid": 0}
    with new_log(out, plain) as directory:
        writers = {name: PartWriter(directory, name, plain) for name in rows}
        for number, table in enumerate(log.read(log.part(part), plain.raw(plain.all_columns))):
            valid = pa.array(held_out(table, key, share, address, number))
            for name, mask in (("train", pc.invert(valid)), ("valid", valid)):
                side = table.filter(mask)
                if side.num_rows:
                    writers[name].write(side)
                    rows[name] += side.num_rows
        for writer in writers.values():
            writer.close()
        for name, count in rows.items():
            if not count:
                raise UserError(f"{log.location}/{part}: no rows are left for {name}; change --valid-share")
    return rows


def held_out(table: pa.Table, key: str | None, share: float, address: np.uint64, number: int) -> np.ndarray:
    """True for the rows that are not trained on. `number`: of the table in the day, where rows have no key."""
    if key is None:
        return np.random.default_rng([int(address), number]).random(table.num_rows) < share
    hash_R = splitmix64(hash_array(table.column(key).combine_chunks()) ^ address)
    return np.asarray(hash_R < np.uint64(share * 2.0**64))
