"""One pass over a stage log before anything starts: what contradicts itself is refused, in one line, by file and row.

Shapes: R rows of a row group, L requests.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from data.credentials import shown
from data.encode import one_chunk
from data.errors import UserError
from data.hashing import hash_array
from data.kinds import number
from data.labels import label_values
from data.log import Log, Part, footer_schema, open_parquet
from funnel.lists.units import request_begins
from funnel.prerank.samples import ELSEWHERE, NEEDED, OPTIONAL, pairs, stages
from funnel.prerank.settings import PreRankSettings

TIME = "request_timestamp"
EXCLUSIVE = (
    ("rank_pos", "rank_neg"),
    ("rerank_pos", "rerank_neg"),
    ("prerank_neg", "rank_pos"),
    ("prerank_neg", "rank_neg"),
    ("prerank_neg", "rerank_pos"),
    ("prerank_neg", "rerank_neg"),
    ("prerank_neg", "realshow"),
    ("prerank_neg", "coarse_neg"),
    ("coarse_neg", "rank_pos"),
    ("coarse_neg", "rank_neg"),
    ("coarse_neg", "realshow"),
)
"""Flags of which a row can have one: an item leaves the cascade once."""


@dataclass
class StageFacts:
    """What a part holds."""

    rows: int = 0
    requests: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    """Rows that are exposed, ranked, cut, bought and so on."""
    most: int = 0
    """Candidates of the request that has most of them."""
    not_drawn: int = 0
    """Candidates that are there for another reason than the draw of the log: then others like them are not there."""
    repeats: dict[str, np.ndarray] = field(default_factory=dict)
    """uint64: pairs of request and item whose purchase or click elsewhere counts for a later request."""

    def plain(self) -> dict[str, int]:
        return {"requests": self.requests, "rows": self.rows, **self.counts, "candidates": self.most}


def columns_of(log: Log, part: Part) -> list[str]:
    """Names of the columns that all files of a part have."""
    there: set[str] | None = None
    for file in part.files:
        with open_parquet(log.filesystem, file.path) as source:
            names = set(footer_schema(source, file.path).names)
        there = names if there is None else there & names
    return sorted(there or ())


def stage_columns(log: Log, part: Part) -> list[str]:
    """The stage columns of a part. Raises UserError for one that must be there."""
    have = columns_of(log, part)
    for name in NEEDED:
        if name not in have:
            raise UserError(
                f"{shown(log.location)}/{part.name}: no column {name!r}: a pre-ranker learns from a log of what every "
                f"stage left out, with {', '.join(NEEDED)} (docs/prerank.md)"
            )
    return [name for name in (*NEEDED, *OPTIONAL) if name in have]


def check_stages(settings: PreRankSettings, log: Log, part: Part, held_out: bool) -> StageFacts:
    """Raises UserError naming file and row: a flag that is not 0 or 1, stages out of order, a label that contradicts
    them, an item twice in a request, a request without exposed items, a score of a candidate that is no number."""
    schema = log.schema
    assert schema.request is not None
    have = columns_of(log, part)
    flags = stage_columns(log, part)
    more = [name for name in (settings.item_id, schema.user, TIME) if name in have]
    scored = [settings.rank_score] if held_out and settings.rank_score in have else []
    if settings.item_id not in have:
        raise UserError(f"{shown(log.location)}/{part.name}: no column {settings.item_id!r} (--item-id)")
    labels = [schema.labels[name] for name in (settings.click, settings.purchase)]
    columns = list(dict.fromkeys([schema.request, *more, *flags, *labels, *scored]))
    found = StageFacts()
    events: dict[str, list[tuple[np.ndarray, ...]]] = {name: [] for name in ELSEWHERE if name in flags}
    for path, start, table in tables(log, part, columns):
        here = Group(path, start, table, schema.request)
        here.check(settings, flags, labels, scored)
        found.rows += table.num_rows
        found.requests += len(here.begin_L1) - 1
        found.most = max(found.most, here.candidates())
        found.not_drawn += here.not_drawn()
        for name, count in here.counts(flags, labels).items():
            found.counts[name] = found.counts.get(name, 0) + count
        if schema.user in have:
            for name, kept in events.items():
                kept.append(here.events(name, settings.item_id, str(schema.user)))
    found.repeats = {name: repeated(kept) for name, kept in events.items() if kept}
    return found


def tables(log: Log, part: Part, columns: list[str]) -> Iterator[tuple[str, int, pa.Table]]:
    """(file, rows before it in the file, table) of every row group."""
    for file in part.files:
        start = 0
        for index, rows in enumerate(file.row_groups):
            yield file.path, start, log.read_row_group(file, index, columns)
            start += rows


class Group:
    """A row group under examination."""

    def __init__(self, path: str, start: int, table: pa.Table, request: str) -> None:
        self.path, self.start, self.table = path, start, table
        self.request_R = one_chunk(table, request)
        self.begin_L1 = request_begins(self.request_R)
        self.values: dict[str, np.ndarray] = {}

    def refuse(self, wrong_R: np.ndarray, why: str) -> None:
        """Raise UserError with the first such row."""
        if wrong_R.any():
            row = int(wrong_R.argmax())
            raise UserError(f"{self.path}: row {self.start + row}: {why.format(request=self.request_R[row].as_py())}")

    def check(self, settings: PreRankSettings, flags: list[str], labels: list[str], scored: list[str]) -> None:
        for name in (*flags, *labels):
            value_R = label_values(self.table.column(name))
            self.refuse((value_R != 0) & (value_R != 1), f"column {name!r} is missing or neither 0 nor 1")
            self.values[name] = value_R == 1
        there = self.values
        for one, other in EXCLUSIVE:
            if one in there and other in there:
                self.refuse(
                    there[one] & there[other],
                    f"stages out of order: {one!r} and {other!r} are both 1; an item leaves the cascade at one stage",
                )
        shown_R = there["realshow"]
        self.refuse(
            shown_R & ~there["rerank_pos"], "stages out of order: 'realshow' is 1 where 'rerank_pos' is 0: what was "
            "shown was on the page",
        )  # fmt: skip
        for name in labels:
            self.refuse(there[name] & ~shown_R, f"column {name!r} is 1 where 'realshow' is 0; it was not shown")
        click, purchase = labels
        self.refuse(
            there[purchase] & ~there[click], f"column {purchase!r} is 1 where {click!r} is 0; a purchase needs a click"
        )
        if set(ELSEWHERE) <= there.keys():
            click, purchase = ELSEWHERE
            self.refuse(
                there[purchase] & ~there[click],
                f"column {purchase!r} is 1 where {click!r} is 0; a purchase needs a click",
            )
        without_L = np.add.reduceat(shown_R.astype(np.int64), self.begin_L1[:-1]) == 0
        without_R = np.zeros(self.table.num_rows, bool)
        without_R[self.begin_L1[:-1][without_L]] = True
        self.refuse(without_R, "request {request} has no exposed item ('realshow' is 0 in all its rows); leave it out")
        nothing_R = self.table.column(settings.item_id).is_null().to_numpy()
        self.refuse(nothing_R, f"column {settings.item_id!r} is missing; every row needs its item")
        self.pair_R = self.pairs(settings.item_id)
        order_R = np.argsort(self.pair_R, kind="stable")
        again_R = np.zeros(len(order_R), bool)
        again_R[order_R[1:]] = self.pair_R[order_R[1:]] == self.pair_R[order_R[:-1]]
        self.refuse(again_R, f"request {{request}} has this item (column {settings.item_id!r}) in a row before")
        for name in scored:
            wrong_R = self.candidate_R() & ~np.isfinite(number(self.table, name))
            self.refuse(wrong_R, f"column {name!r} is no finite number; it is the ranker's score of every candidate")

    def pairs(self, item_id: str) -> np.ndarray:
        length_L = np.diff(self.begin_L1)
        request_L = hash_array(self.request_R.take(pa.array(self.begin_L1[:-1])))
        return pairs(request_L.repeat(length_L), hash_array(one_chunk(self.table, item_id)))

    def candidate_R(self) -> np.ndarray:
        return stages(self.table)["candidate"]

    def candidates(self) -> int:
        return int(np.add.reduceat(self.candidate_R().astype(np.int64), self.begin_L1[:-1]).max(initial=0))

    def not_drawn(self) -> int:
        return int((self.candidate_R() & ~self.values["sampled"]).sum()) if "sampled" in self.values else 0

    def counts(self, flags: list[str], labels: list[str]) -> dict[str, int]:
        found = {name: int(mark_R.sum()) for name, mark_R in stages(self.table).items() if name != "candidate"}
        wanted = [*labels, *(name for name in ELSEWHERE if name in flags)]
        return found | {name: int(self.values[name].sum()) for name in wanted}

    def events(self, name: str, item_id: str, user: str) -> tuple[np.ndarray, ...]:
        """(user, item, time, pair) of what was done elsewhere; hashes, and times in the order of the log if it has
        none."""
        row_E = np.flatnonzero(self.values[name])
        picked = self.table.take(pa.array(row_E))
        user_E, item_E = (hash_array(one_chunk(picked, column)) for column in (user, item_id))
        timed = TIME in picked.column_names
        time_E = number(picked, TIME, wide=True) if timed else np.zeros(len(row_E))
        return user_E, item_E, time_E, self.pair_R[row_E]


def repeated(kept: list[tuple[np.ndarray, ...]]) -> np.ndarray:
    """uint64: the pairs of all events of one user and item but the latest."""
    user_E, item_E, time_E, pair_E = (np.concatenate(one) for one in zip(*kept, strict=True))
    order_E = np.lexsort((np.arange(len(user_E)), time_E, item_E, user_E))
    user_E, item_E = user_E[order_E], item_E[order_E]
    again_E = np.zeros(len(order_E), bool)
    again_E[:-1] = (user_E[:-1] == user_E[1:]) & (item_E[:-1] == item_E[1:])
    return np.sort(pair_E[order_E[again_E]])


def check_outputs(settings: PreRankSettings, where: str, facts: dict[str, Any]) -> None:
    """Raises UserError if hit rates of the first k say nothing in one of these parts: k above the candidates."""
    for name in facts:
        if facts[name]["candidates"] <= settings.k:
            raise UserError(
                f"{where}/{name}: k is {settings.k}, but no request has more than {facts[name]['candidates']} "
                "candidates: every hit rate would be 1; take a smaller --k, or log all candidates"
            )
