"""Read a file of scored exposures (as jobs.score writes it) into arrays, checking everything a tuning relies on."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.errors import UserError
from data.filesystems import UNREADABLE
from data.kinds import is_number
from data.labels import label_values
from data.schema import WITHIN
from es.hashing import hash64
from funnel.fusion.forms import ScoredLog

SCORES = ("pctr", "pcvr", "pctcvr")
LABELS = ("click", "conversion")
VALUE, REWARD, WEIGHT = "value", "reward", "weight"
USER, REQUEST, EXPOSURE = "user", "request", "exposure_id"
ROUNDING = 1e-6  # of a probability of 1 in float32
FEWEST_COMPARED = 10
"""Distinct rows from which on rows that all stand twice are no chance."""


@dataclass(frozen=True)
class Scored:
    """The log, and for each user a key that does not depend on its place in the file (U uint64)."""

    log: ScoredLog
    user_keys_U: np.ndarray
    grouping: str


def scored_table(table: pa.Table, path: Path, conversion_weight: float, by: tuple[str, ...] = ()) -> Scored:
    """The same of a table; `path` is what messages call it."""
    check_columns(table.column_names, path, by)
    return _scored(path, table.column_names, table.num_rows, table.column, conversion_weight, by)


def read_scored(path: Path, conversion_weight: float, by: tuple[str, ...] = (), option: str = "--scored") -> Scored:
    """Read the needed columns, `by` among them: numbers, the same in a whole request. One after the other, so that of a
    large file little more than the arrays is in memory.

    Raises UserError naming the file, the column and the row.
    """
    file = _open(path, option)
    names = file.schema_arrow.names
    check_columns(names, path, by)

    def column(name: str) -> pa.ChunkedArray:
        try:
            return file.read([name]).column(name)
        except UNREADABLE as error:
            raise UserError(f"{path}: its data are corrupt ({str(error).splitlines()[0]})") from error

    with file:
        return _scored(path, names, file.metadata.num_rows, column, conversion_weight, by)


def _scored(
    path: Path,
    names: list[str],
    rows: int,
    column: Callable[[str], pa.ChunkedArray],
    conversion_weight: float,
    by: tuple[str, ...],
) -> Scored:
    """reward = click + conversion_weight conversion worth: the conversion's own `reward`, where the file has that
    column, else its `value`, else 1.

    A request is a (user, request) pair; without a request column a user's exposures are one request, without a user
    column every request is a user of its own.
    """
    if not rows:
        raise UserError(f"{path}: holds no rows")
    if EXPOSURE in names:
        _refuse_repeated_ids(path, column(EXPOSURE))
    if WEIGHT in names:  # a list that lacks nine in ten of its candidates cannot be ordered
        weight_C = _numbers(path, column(WEIGHT), WEIGHT)
        what = (
            "is another than in row 0: lists of sampled rows are not what users saw; score a log of all rows, or leave "
        )
        _first(path, WEIGHT, weight_C != weight_C[0], f"{what}'weight' out of its schema;")
    user_C, request_C, keys_U, grouping = _groups(path, names, column)
    scored = (*SCORES, *([VALUE] if VALUE in names else []))
    scores_MC = np.empty((len(scored), rows), np.float32)
    for index, name in enumerate(scored):
        score_C = scores_MC[index] = _numbers(path, column(name), name)
        if name == VALUE:
            _first(path, VALUE, score_C < 0, "is negative: a value must be at least 0")
        else:
            what = "is below 0 or above 1, no probability,"
            _first(path, name, (score_C < 0) | (score_C > 1 + ROUNDING), what, score_C)
    labels, most = _labels(path, column), None
    reward_C = labels["conversion"] * np.float64(conversion_weight)
    if REWARD in names:
        worth_C = _rewards(path, column(REWARD), labels["conversion"] == 1)
        most = float(worth_C.max(initial=0))
        reward_C *= worth_C
    elif VALUE in names:
        reward_C *= scores_MC[-1]
    reward_C += labels["click"]
    features = [_numbers(path, column(name), name) for name in by]
    for name, feature_C in zip(by, features, strict=True):
        first_R = feature_C[np.unique(request_C, return_index=True)[1]]
        what = "differs from the request's first row: weights hold for all that is ordered together, so it must, too,"
        _first(path, name, feature_C != first_R[request_C], what)
    log = ScoredLog(
        names=scored,
        scores_MC=scores_MC,
        reward_C=reward_C.astype(np.float32),
        request_C=request_C,
        user_C=user_C,
        feature_names=tuple(by),
        features_SC=np.stack(features) if features else np.empty((0, 0), np.float32),
        outcomes=labels,
        most=most,
    )
    if EXPOSURE not in names:
        _refuse_repeated_rows(path, log)
    return Scored(log, keys_U, grouping)


def largest_reward(log: ScoredLog, conversion_weight: float) -> float:
    """Of a candidate that is clicked and converts, whether the log holds one or not; of rewards, the largest seen."""
    if log.most is not None:
        return 1 + conversion_weight * log.most
    value = float(log.scores_MC[log.names.index(VALUE)].max()) if VALUE in log.names else 1.0
    return 1 + conversion_weight * value


def _groups(
    path: Path, names: list[str], column: Callable[[str], pa.ChunkedArray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """User and request of each row, numbered from 0; a key of each user; what a request is told by.

    Where both are named, a row without a request is one by itself, and a request without a user (somebody who is not
    logged in) a user by itself.
    """
    present = [name for name in (USER, REQUEST) if name in names]
    both = len(present) == 2
    user_C, users = _codes(path, column(present[0]), present[0], both)
    if not both:
        return user_C, user_C, _keys(users), present[0]
    code_C, values = _codes(path, column(REQUEST), REQUEST, True)
    alone_N = np.flatnonzero(code_C < 0)
    code_C[alone_N] = len(values) + np.arange(len(alone_N))
    keys_U, nobody_N = _keys(users), np.flatnonzero(user_C < 0)
    if len(nobody_N):
        keys_R = np.concatenate([_keys(values), hash64((1,), alone_N.astype(np.uint64))])
        own_K, place_N = np.unique(keys_R[code_C[nobody_N]], return_inverse=True)
        user_C[nobody_N] = len(users) + place_N
        keys_U = np.concatenate([keys_U, own_K])
    code_C += user_C * (len(values) + len(alone_N))
    return user_C, _places(code_C), keys_U, " and ".join(present)


def _refuse_repeated_ids(path: Path, column: pa.ChunkedArray) -> None:
    """A row that stands twice counts twice, and no order can put the two apart.

    Sorted numbers (of texts: their hashes) take a tenth of the memory that a dictionary of so many ids would.
    """
    if pa.types.is_nested(column.type):
        return
    known_N = np.flatnonzero(pc.is_valid(column).to_numpy())
    column = column.drop_null()
    if pa.types.is_integer(column.type):
        state_N = column.to_numpy().astype(np.uint64, casting="unsafe")
    else:
        parts = [np.fromiter(map(hash, chunk.to_pylist()), np.int64, len(chunk)) for chunk in column.chunks]
        state_N = np.concatenate([np.empty(0, np.int64), *parts])
    sorted_N = np.sort(state_N)
    if (sorted_N[1:] == sorted_N[:-1]).any():
        _, code_N = np.unique(state_N, return_inverse=True)
        _refuse_repeats(path, code_N, known_N, lambda row: f"{EXPOSURE} {column[row].as_py()}")


def _refuse_repeated_rows(path: Path, log: ScoredLog) -> None:
    """Where no id tells exposures apart, two alike may be two. If every row stands again, it was written twice."""
    state_C = log.request_C.astype(np.uint64)
    for column_C in (log.reward_C, *log.scores_MC):
        state_C = hash64((0,), state_C ^ column_C.view(np.uint32).astype(np.uint64))
    _, code_C, counts_V = np.unique(state_C, return_inverse=True, return_counts=True)
    if counts_V.min() > 1 and len(counts_V) >= FEWEST_COMPARED:
        _refuse_repeats(path, code_C, np.arange(len(code_C)), lambda row: "the exposure")


def _refuse_repeats(path: Path, code_N: np.ndarray, row_N: np.ndarray, name: Callable[[int], str]) -> None:
    first_V = np.unique(code_N, return_index=True)[1]
    again_N = first_V[code_N] != np.arange(len(code_N))
    again = int(np.argmax(again_N))
    raise UserError(
        f"{path}: {name(again)} of row {row_N[first_V[code_N[again]]]} stands again in row {row_N[again]} "
        f"({int(again_N.sum())} repeated rows in all): every exposure must stand once"
    )


def _open(path: Path, option: str) -> pq.ParquetFile:
    if not path.exists():
        raise UserError(f"{option} {path}: no such file (jobs.score writes one)")
    if path.is_dir():
        raise UserError(f"{option} {path} is a directory: name the Parquet file in it")
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except UNREADABLE as error:
        raise UserError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from error


def check_columns(names: list[str], path: Path, by: tuple[str, ...]) -> None:
    wanted = [name for name in (*SCORES, *LABELS, VALUE, REWARD, USER, REQUEST, EXPOSURE, *by) if names.count(name) > 1]
    if wanted:
        raise UserError(f"{path}: has {names.count(wanted[0])} columns named {wanted[0]!r}: which one is meant?")
    if reserved := [name for name in by if name in (*SCORES, *LABELS, VALUE, REWARD, USER, REQUEST)]:
        raise UserError(f"--by {reserved[0]}: weights follow columns that describe the user or request, not this one")
    missing = [name for name in (*SCORES, *LABELS, *by) if name not in names]
    if missing:
        how = f"; jobs.score --keep {missing[0]} writes it" if missing[0] in by else ""
        raise UserError(f"{path}: has no column {', '.join(missing)} (it has {', '.join(names)}){how}")
    if USER not in names and REQUEST not in names:
        raise UserError(f"{path}: needs a column {USER!r} or {REQUEST!r}: it tells which exposures were shown together")


def _whole(path: Path, column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise UserError(f"{path}: column {name!r} is null in row {row} ({column.null_count} rows in all)")
    return column


def _numbers(path: Path, column: pa.ChunkedArray, name: str) -> np.ndarray:
    column = _whole(path, column, name)
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise UserError(f"{path}: column {name!r} is {column.type}: a score must be a number")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        values = column.to_numpy().astype(np.float32, copy=False)
    _first(path, name, ~np.isfinite(values), "is not finite")
    return values


def _labels(path: Path, column: Callable[[str], pa.ChunkedArray]) -> dict[str, np.ndarray]:
    """click and conversion, float32. As in a log (data/labels.py), any type of numbers holds them, and a conversion may
    be missing where there was no click."""
    found: dict[str, np.ndarray] = {}
    for name in LABELS:
        values = column(name)
        if not is_number(values.type):
            raise UserError(f"{path}: column {name!r} is {values.type}: a label must be 0 or 1")
        values_C = label_values(values)
        missing_C = np.isnan(values_C)
        needed_C = missing_C & (found["click"] == 1) if name in WITHIN else missing_C
        _first(path, name, needed_C, "is null where click is 1" if name in WITHIN else "is null")
        _first(path, name, ~missing_C & (values_C != 0) & (values_C != 1), "is neither 0 nor 1")
        found[name] = (values_C == 1).astype(np.float32)
    _first(path, "conversion", found["conversion"] > found["click"], "is 1 where click is 0")
    return found


def _rewards(path: Path, column: pa.ChunkedArray, converted_C: np.ndarray) -> np.ndarray:
    """What came of each conversion, float64; 0 where there was none."""
    if not is_number(column.type):
        raise UserError(f"{path}: column {REWARD!r} is {column.type}: a reward must be a number")
    worth_C = label_values(column).astype(np.float64)
    _first(path, REWARD, converted_C & ~np.isfinite(worth_C), "is missing or not finite where conversion is 1")
    worth_C = np.where(converted_C, worth_C, 0.0)
    _first(path, REWARD, worth_C < 0, "is negative: a reward must be at least 0")
    return worth_C


def _first(path: Path, name: str, bad: np.ndarray, what: str, values: np.ndarray | None = None) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        value = "" if values is None else f": {values[row]:g}"
        raise UserError(f"{path}: column {name!r} {what} in row {row}{value} ({int(bad.sum())} rows in all)")


def _codes(path: Path, column: pa.ChunkedArray, name: str, missing: bool = False) -> tuple[np.ndarray, pa.Array]:
    """Numbers from 0 for the values of a column, and the values; -1 where one is missing, if it may be."""
    column = column if missing else _whole(path, column, name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (
        pa.types.is_integer(column.type) or pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    ):
        raise UserError(f"{path}: column {name!r} is {column.type}: an id must be a whole number or a string")
    encoded = column.combine_chunks()
    encoded = (encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded).dictionary_encode()
    return encoded.indices.fill_null(-1).to_numpy().astype(np.int64), encoded.dictionary


def _places(key_C: np.ndarray) -> np.ndarray:
    """The place of each key among the distinct ones in order: np.unique's inverse, without sorting all rows."""
    encoded = pa.array(key_C).dictionary_encode()
    place_V = np.argsort(np.argsort(encoded.dictionary.to_numpy()))
    return np.asarray(place_V[encoded.indices.to_numpy()])


def _keys(values: pa.Array) -> np.ndarray:
    """A uint64 for each id: its own bits, or a hash of its text."""
    if pa.types.is_integer(values.type):
        return np.asarray(pc.cast(values, pa.int64(), safe=False)).view(np.uint64)
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in values.to_pylist())
    return np.frombuffer(digests, np.uint64)
