"""Rows that stand in a log more than once, found by the exposure key: an export that was joined wrongly, or run twice.

Hashes of the keys are sorted, 8 bytes a row up to some four million rows; of larger parts a fixed share of the keys is
looked at, the same in every part, and counts are scaled up.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from data.hashing import hash_array
from data.log import Log, Part

MOST_KEYS = 1 << 22


def share_of(rows: int) -> int:
    """One in how many keys is looked at: a power of two."""
    return 1 << max(0, (rows - 1) // MOST_KEYS).bit_length()


def key_hashes(column: pa.ChunkedArray, share: int) -> np.ndarray:
    """uint64: hashes of the keys that are looked at; rows without a key are left out."""
    combined = column.drop_null().combine_chunks()
    array = pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined
    hash_R = hash_array(array)
    return hash_R if share == 1 else hash_R[hash_R & np.uint64(share - 1) == 0]


@dataclass(frozen=True)
class Keys:
    """Hashes of one in `share` exposure keys of a part, sorted."""

    hash_K: np.ndarray
    share: int

    def repeated(self) -> np.ndarray:
        """Hashes that stand there again, once for each time."""
        return self.hash_K[1:][self.hash_K[1:] == self.hash_K[:-1]]

    def coarser(self, share: int) -> np.ndarray:
        return np.unique(self.hash_K[self.hash_K & np.uint64(share - 1) == 0])


def repeat_warnings(log: Log, parts: Mapping[str, Part], keys: Mapping[str, Keys | None]) -> list[str]:
    """One line for each part that has exposures twice, and for each two parts that have some in common."""
    found, name = [], log.schema.exposure
    known = {part: entry for part, entry in keys.items() if entry is not None}
    for part, entry in known.items():
        again = entry.repeated()
        if len(again):
            about = "some " if entry.share > 1 else ""
            found.append(
                f"{part}: {about}{len(again) * entry.share:,} of {parts[part].rows:,} rows repeat an exposure that is "
                f"there already, by column {name!r}, such as {example(log, parts[part], again[0])}"
            )
    order = list(known)
    for number, one in enumerate(order):
        for other in order[number + 1 :]:
            share = max(known[one].share, known[other].share)
            common = np.intersect1d(known[one].coarser(share), known[other].coarser(share), assume_unique=True)
            if len(common):
                about = "some " if share > 1 else ""
                found.append(
                    f"{one} and {other} have {about}{len(common) * share:,} exposures in common, by column {name!r}, "
                    f"such as {example(log, parts[other], common[0])}"
                )
    return found


def example(log: Log, part: Part, wanted: np.uint64) -> str:
    """The key of this hash, and where it first is: "17 (FILE: row 3)"."""
    assert log.schema.exposure is not None
    for file in part.files:
        begin = 0
        for index, rows in enumerate(file.row_groups):
            column = log.read_row_group(file, index, [log.schema.exposure]).column(0).combine_chunks()
            place = np.flatnonzero(key_hashes(pa.chunked_array(column), 1) == wanted)
            if len(place):
                row = int(np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))[place[0]])
                return f"{column[row].as_py()!r} ({file.path}: row {begin + row})"
            begin += rows
    return "one that is gone"
