"""What is wrong with a log of sessions is found before a cluster starts: outcomes, order, and when users left.

Shapes: R rows of a row group, L sessions.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from data.encode import one_chunk
from data.errors import UserError
from data.kinds import number
from data.log import Log, Part
from funnel.lists.units import request_begins
from funnel.rerank.features import RerankSettings


def check_sessions(settings: RerankSettings, log: Log, part: Part, session: str, order: str) -> dict[str, Any]:
    """{"rows", "sessions", outcome: rows where it is 1, "lengths": {length: [left, not left]}} of a part.

    Raises UserError naming file, row and column: an outcome that is missing or neither 0 nor 1, feedback below 0 or no
    number, a session whose order does not rise, an item after one at which the user left.
    """
    columns = list(dict.fromkeys([session, order, *settings.labels, *settings.feedback]))
    totals = dict.fromkeys(settings.labels, 0)
    lengths: dict[int, list[int]] = {}
    rows = sessions = 0
    starts: dict[str, int] = {}
    for file, group in part.row_groups():
        table = log.read_row_group(file, group, columns)
        start = starts.get(file.path, 0)
        starts[file.path] = start + table.num_rows
        values = {name: number(table, name, wide=True) for name in columns[1:]}
        for name in settings.labels:
            refuse((values[name] != 0) & (values[name] != 1), file.path, start, name, values[name], "must be 0 or 1")
            totals[name] += int(values[name].sum())
        for name in settings.feedback:
            wrong_R = ~(np.isfinite(values[name]) & (values[name] >= 0))
            refuse(wrong_R, file.path, start, name, values[name], "must be a number of at least 0")
        begin_L1 = request_begins(one_chunk(table, session))
        first_R = np.zeros(table.num_rows, bool)
        first_R[begin_L1[:-1]] = True
        falls_R = np.concatenate([[False], np.diff(values[order]) <= 0]) & ~first_R
        refuse(falls_R, file.path, start, order, values[order], "must rise within a session: sessions are out of order")
        gone_R = np.concatenate([[False], values[settings.next][:-1] == 0]) & ~first_R
        refuse(
            gone_R, file.path, start, settings.next, np.zeros(table.num_rows),
            "in the row before, but the session goes on: sessions are out of order, or it is wrong",
        )  # fmt: skip
        length_L, left_L = np.diff(begin_L1), values[settings.next][begin_L1[1:] - 1] == 0
        for length, left in zip(length_L.tolist(), left_L.tolist(), strict=True):
            lengths.setdefault(length, [0, 0])[0 if left else 1] += 1
        rows, sessions = rows + table.num_rows, sessions + len(length_L)
    return {"rows": rows, "sessions": sessions, **totals, "lengths": lengths}


def refuse(wrong_R: np.ndarray, path: str, start: int, column: str, value_R: np.ndarray, rule: str) -> None:
    if wrong_R.any():
        row = int(wrong_R.argmax())
        value = value_R[row]
        shown = "missing" if np.isnan(value) else f"{value:.15g}"
        raise UserError(f"{path}: row {start + row}: column {column!r} is {shown}, {rule}")


def lengths_of(facts: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """(length_V, left_V) of the sessions counted by `check_sessions`."""
    length, left = [], []
    for key, (gone, cut) in facts["lengths"].items():
        length += [int(key)] * (gone + cut)
        left += [True] * gone + [False] * cut
    return np.array(length), np.array(left, bool)
