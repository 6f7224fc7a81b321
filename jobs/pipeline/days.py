"""A day of a log (data/days.py) cut into what is trained on and what is tuned on."""

import dataclasses
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.errors import UserError
from data.hashing import hash_array, splitmix64
from data.log import Log
from data.write import PartWriter, new_log


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
