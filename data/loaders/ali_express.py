"""AliExpress search logs (Tianchi 74690), one CSV for train and one for test a country.

Columns: search_id, categorical_1 .. 16, numerical_1 .. 63, click, conversion. A search is a request; without a
validation file a tenth of the searches of train is held out. Download is left to the user: the terms want an account.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from data.errors import UserError
from data.loaders.common import (
    PARTS,
    Progress,
    csv_blocks,
    csv_header,
    hash_split,
    held_out,
    part_files,
    silent,
    write_log,
)
from data.schema import CategoricalField, Schema
from data.write import PartFacts

CATEGORICAL = tuple(f"categorical_{i}" for i in range(1, 17))
NUMERIC = tuple(f"numerical_{i}" for i in range(1, 64))
# The published values are small codes: 4096 buckets keep them apart.
BUCKETS = 4096


def load_ali_express(
    source: str | Path, out: str | Path, seed: int = 0, progress: Progress = silent
) -> dict[str, PartFacts]:
    """Turn the CSV files of one country into a log at `out`.

    Raises UserError: no CSV file, a column absent, a value that does not parse, an `out` that is not empty.
    """
    files = part_files(Path(source), "*.csv")
    return write_log(out, ali_express_schema(), blocks(files, seed), progress)


def ali_express_schema() -> Schema:
    return Schema(
        name="ali_express",
        categorical=tuple(CategoricalField(name, "hash", BUCKETS) for name in CATEGORICAL),
        numeric=NUMERIC,
        labels={"click": "click", "conversion": "conversion"},
        request="search_id",
    )


def blocks(files: dict[str, list[Path]], seed: int) -> Iterator[tuple[pa.Table, np.ndarray, Path]]:
    types = {name: pa.int64() for name in ("search_id", *CATEGORICAL)}
    types |= {name: pa.float32() for name in NUMERIC} | {"click": pa.int8(), "conversion": pa.int8()}
    shares = held_out(files)
    for index, part in enumerate(PARTS):
        for path in files[part]:
            absent = [name for name in types if name not in csv_header(path)]
            if absent:
                raise UserError(f"{path}: no column {absent[0]!r}")
            for table in csv_blocks(path, types):
                key = table.column("search_id").combine_chunks()
                yield table, np.full(len(key), index) if index else hash_split(key, shares, seed), path
