"""Read a file of scored exposures (as jobs.score writes it) into arrays, checking everything a tuning relies on."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.errors import UserError
from funnel.fusion.forms import ScoredLog

SCORES = ("pctr", "pcvr", "pctcvr")
LABELS = ("click", "conversion")
VALUE, USER, REQUEST = "value", "user", "request"


@dataclass(frozen=True)
class Scored:
    """The log, and for each user a key that does not depend on its place in the file (U uint64)."""

    log: ScoredLog
    user_keys_U: np.ndarray
    grouping: str


def read_scored(path: Path, conversion_weight: float, by: tuple[str, ...] = (), option: str = "--scored") -> Scored:
    """Read the needed columns, `by` among them: numbers that describe the user.

    Raises UserError naming the file, the column and the row.
    """
    return scored_table(_read(path, by, option), path, conversion_weight, by)


def scored_table(table: pa.Table, path: Path, conversion_weight: float, by: tuple[str, ...] = ()) -> Scored:
    """The same of a table; `path` is what messages call it.

    reward = click + conversion_weight conversion (value), value being 1 where absent.

    A request is a (user, request) pair; without a request column a user's exposures are one request, without a user
    column every request is a user of its own.
    """
    check_columns(table.column_names, path, by)
    if not table.num_rows:
        raise UserError(f"{path}: holds no rows")
    scores = {name: _numbers(path, table, name) for name in SCORES}
    labels = {name: _label(path, table, name) for name in LABELS}
    _first(path, "conversion", labels["conversion"] > labels["click"], "is 1 where click is 0")
    reward_C = labels["click"] + conversion_weight * labels["conversion"]
    if VALUE in table.column_names:
        value_C = scores[VALUE] = _numbers(path, table, VALUE)
        _first(path, VALUE, value_C < 0, "is negative: a value must be at least 0")
        reward_C = labels["click"] + conversion_weight * labels["conversion"] * value_C
    present = [name for name in (USER, REQUEST) if name in table.column_names]
    codes = {name: _codes(path, table, name) for name in present}
    user_C, users = codes[present[0]]
    request_C = user_C if len(present) == 1 else user_C * len(codes[REQUEST][1]) + codes[REQUEST][0]
    features = [_numbers(path, table, name) for name in by]
    for name, feature_C in zip(by, features, strict=True):
        first_U = feature_C[np.unique(user_C, return_index=True)[1]]
        _first(path, name, feature_C != first_U[user_C], "differs from the user's first row: it must be the user's own")
    log = ScoredLog(
        names=tuple(scores),
        scores_MC=np.stack(list(scores.values())).astype(np.float32),
        reward_C=reward_C.astype(np.float32),
        request_C=np.unique(request_C, return_inverse=True)[1],
        user_C=user_C,
        feature_names=tuple(by),
        features_SC=np.stack(features) if features else np.empty((0, 0), np.float32),
        outcomes={name: values_C.astype(np.float32) for name, values_C in labels.items()},
    )
    return Scored(log, _keys(users), " and ".join(present))


def _read(path: Path, by: tuple[str, ...], option: str) -> pa.Table:
    if not path.exists():
        raise UserError(f"{option} {path}: no such file (jobs.score writes one)")
    if path.is_dir():
        raise UserError(f"{option} {path} is a directory: name the Parquet file in it")
    try:
        names = pq.read_schema(path).names
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({error})") from error
    check_columns(names, path, by)
    wanted = [name for name in (*SCORES, *LABELS, VALUE, USER, REQUEST, *by) if name in names]
    try:
        return pq.read_table(path, columns=wanted, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: its data are corrupt ({error})") from error


def check_columns(names: list[str], path: Path, by: tuple[str, ...]) -> None:
    if reserved := [name for name in by if name in (*SCORES, *LABELS, VALUE, USER, REQUEST)]:
        raise UserError(f"--by {reserved[0]}: weights follow columns that describe the user, not this one")
    missing = [name for name in (*SCORES, *LABELS, *by) if name not in names]
    if missing:
        raise UserError(f"{path}: has no column {', '.join(missing)} (it has {', '.join(names)})")
    if USER not in names and REQUEST not in names:
        raise UserError(f"{path}: needs a column {USER!r} or {REQUEST!r}: it tells which exposures were shown together")


def _column(path: Path, table: pa.Table, name: str) -> pa.ChunkedArray:
    column = table.column(name)
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise UserError(f"{path}: column {name!r} is null in row {row} ({column.null_count} rows in all)")
    return column


def _numbers(path: Path, table: pa.Table, name: str) -> np.ndarray:
    column = _column(path, table, name)
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise UserError(f"{path}: column {name!r} is {column.type}: a score must be a number")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        values = column.to_numpy().astype(np.float32)
    _first(path, name, ~np.isfinite(values), "is not finite")
    return values


def _label(path: Path, table: pa.Table, name: str) -> np.ndarray:
    column = _column(path, table, name)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise UserError(f"{path}: column {name!r} is {column.type}: a label must be 0 or 1")
    values = column.to_numpy()
    _first(path, name, (values != 0) & (values != 1), "is neither 0 nor 1")
    return values.astype(np.float64)


def _first(path: Path, name: str, bad: np.ndarray, what: str) -> None:
    if bad.any():
        raise UserError(f"{path}: column {name!r} {what} in row {int(np.argmax(bad))} ({int(bad.sum())} rows in all)")


def _codes(path: Path, table: pa.Table, name: str) -> tuple[np.ndarray, pa.Array]:
    """Numbers from 0 for the values of a column, and the values."""
    column = _column(path, table, name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (
        pa.types.is_integer(column.type) or pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    ):
        raise UserError(f"{path}: column {name!r} is {column.type}: an id must be a whole number or a string")
    encoded = column.combine_chunks()
    encoded = (encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded).dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary


def _keys(values: pa.Array) -> np.ndarray:
    """A uint64 for each id: its own bits, or a hash of its text."""
    if pa.types.is_integer(values.type):
        return np.asarray(pc.cast(values, pa.int64(), safe=False)).view(np.uint64)
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in values.to_pylist())
    return np.frombuffer(digests, np.uint64)
