"""UCI Adult [Becker and Kohavi 1996, CC BY 4.0]: two tasks on census rows, income over 50K and never married.

No funnel, so no log: a table of arrays for multi-task models, the stand-in for the census tables of the MMoE and PLE
papers. Input: a directory with adult.parquet (named columns), or with UCI's own adult.data and adult.test (no header).

Left out of the features: income and marital-status (the labels), relationship (Husband and Wife give marital-status
away), fnlwgt (a sampling weight), and nothing else. Shapes: R rows, K categorical and N numeric features.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from data.errors import UserError
from data.filesystems import UNREADABLE

CATEGORICAL = ("workclass", "education", "occupation", "race", "gender", "native-country")
NUMERIC = ("age", "educational-num", "capital-gain", "capital-loss", "hours-per-week")
TASKS = ("income", "never_married")
UCI_COLUMNS = (
    "age", "workclass", "fnlwgt", "education", "educational-num", "marital-status", "occupation", "relationship",
    "race", "gender", "capital-gain", "capital-loss", "hours-per-week", "native-country", "income",
)  # fmt: skip
MISSING = "?"


@dataclass(frozen=True)
class Adult:
    """ids_RK int64 with each field's offset added (first row of a field: missing), numeric_RN and labels_RT float32."""

    ids_RK: np.ndarray
    field_rows: tuple[int, ...]
    numeric_RN: np.ndarray
    labels_RT: np.ndarray
    """In the order of TASKS."""


def load_adult(source: str | Path) -> Adult:
    """Read and encode all rows (48,842 in the original); UserError names the file, and the column at fault."""
    table, path = read(Path(source))
    absent = [name for name in (*CATEGORICAL, *NUMERIC, "marital-status", "income") if name not in table.column_names]
    if absent:
        raise UserError(f"{path}: no column {absent[0]!r}")
    encoded = [encode(table.column(name)) for name in CATEGORICAL]
    rows = tuple(count for _, count in encoded)
    offsets = np.cumsum((0, *rows[:-1]))
    ids_RK = np.stack([ids_R + offset for (ids_R, _), offset in zip(encoded, offsets, strict=True)], axis=1)
    numeric_RN = np.stack([number(table, name, path) for name in NUMERIC], axis=1)
    income = pc.utf8_rtrim(text(table.column("income")), characters=".")  # UCI's test file writes ">50K."
    strange = set(pc.unique(income).to_pylist()) - {">50K", "<=50K"}
    if strange:
        raise UserError(f"{path}: column 'income' holds {sorted(map(str, strange))[0]!r}; want >50K or <=50K")
    positive = (pc.equal(income, ">50K"), pc.equal(text(table.column("marital-status")), "Never-married"))
    labels_RT = np.stack([column.cast(pa.float32()).to_numpy() for column in positive], axis=1)
    return Adult(ids_RK, rows, numeric_RN, labels_RT)


def read(source: Path) -> tuple[pa.Table, Path]:
    """The table and the file to name in errors about it."""
    path = source / "adult.parquet"
    try:
        if path.is_file():
            return pq.read_table(path), path
        path = source / "adult.data"
        return pa.concat_tables([read_uci(path, 0), read_uci(source / "adult.test", 1)]), path
    except FileNotFoundError:
        raise UserError(f"{source}: holds neither adult.parquet nor adult.data with adult.test") from None
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None


def read_uci(path: Path, skipped: int) -> pa.Table:
    """UCI's form: no header, ", " between cells, an empty line at the end; one line more on top of the test file."""
    read_options = pacsv.ReadOptions(column_names=list(UCI_COLUMNS), skip_rows=skipped)
    types = dict.fromkeys(UCI_COLUMNS, pa.string())
    table = pacsv.read_csv(path, read_options, convert_options=pacsv.ConvertOptions(column_types=types))
    return pa.table({name: pc.utf8_trim_whitespace(table.column(name)) for name in table.column_names})


def text(column: pa.ChunkedArray) -> pa.Array:
    return pc.utf8_trim_whitespace(column.combine_chunks().cast(pa.string()))


def encode(column: pa.ChunkedArray) -> tuple[np.ndarray, int]:
    """int64_R: 0 for missing ("?" or null), else 1 + the value's place in the alphabet; and how many ids there are."""
    values = text(column)
    values = pc.if_else(pc.equal(values, MISSING), None, values)
    vocabulary = pc.array_sort_indices(pc.unique(values).drop_null())
    vocabulary = pc.unique(values).drop_null().take(vocabulary)
    ids_R = pc.fill_null(pc.add(pc.index_in(values, vocabulary).cast(pa.int64()), 1), 0)
    return ids_R.to_numpy(zero_copy_only=False), len(vocabulary) + 1


def number(table: pa.Table, name: str, path: Path) -> np.ndarray:
    try:
        values = table.column(name).combine_chunks().cast(pa.float64())
    except pa.ArrowException:
        raise UserError(f"{path}: column {name!r} holds something that is no number") from None
    return values.to_numpy(zero_copy_only=False).astype(np.float32)
