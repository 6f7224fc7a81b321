"""What a row of a stage log is to a pre-ranker, and which rows of a request it learns from.

    exposed    shown to the user                                    all of them
    ranked     ranked, not shown (RC)                               `ranked` of a request, drawn
    cut        what pre-ranking (or a coarse stage) cut (PRC)       `cut` of a request, drawn
    candidate  stood before pre-ranking: what hit rates are counted over

A draw is a function of (seed, request, item): the same in every epoch, on any number of workers, whatever else is in
the log. A log may hold a draw already (`sampled` 1): rows that are there for another reason are never drawn.
Shapes: R rows of L requests.
"""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from data.encode import one_chunk
from data.hashing import hash_array, splitmix64
from funnel.lists.units import request_begins
from funnel.prerank.settings import PreRankSettings

NEEDED = ("realshow", "rerank_pos", "rank_pos", "rank_neg", "prerank_neg")
"""Columns of a stage log, RecFlow's names."""
OPTIONAL = ("rerank_neg", "coarse_neg", "elsewhere_click", "elsewhere_purchase", "sampled")
ELSEWHERE = ("elsewhere_click", "elsewhere_purchase")
MARKS = ("exposed", "ranked", "cut", "candidate", "drawn", *ELSEWHERE)
"""What is kept of a row beside its labels, 0 or 1."""


def flag(table: pa.Table, name: str) -> np.ndarray:
    """bool_R of a column that has been checked to be 0 or 1; False where the log has no such column."""
    if name not in table.column_names:
        return np.zeros(table.num_rows, bool)
    return one_chunk(table, name).to_numpy(zero_copy_only=False) == 1


def stages(table: pa.Table) -> dict[str, np.ndarray]:
    """bool_R of exposed, ranked, cut and candidate."""
    exposed_R = flag(table, "realshow")
    ranked_R = flag(table, "rank_pos") | flag(table, "rank_neg")
    cut_R = flag(table, "prerank_neg") | flag(table, "coarse_neg")
    on_page_R = flag(table, "rerank_pos") | flag(table, "rerank_neg")
    return {
        "exposed": exposed_R,
        "ranked": (ranked_R | on_page_R) & ~exposed_R,
        "cut": cut_R,
        "candidate": ranked_R | cut_R,
    }


def marks(
    settings: PreRankSettings, table: pa.Table, request: str, begin_L1: np.ndarray, repeats: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """float32_R of MARKS. `repeats`: pairs whose purchase (or click) elsewhere counts for a later request."""
    found = stages(table)
    length_L = np.diff(begin_L1)
    request_R = hash_array(one_chunk(table, request).take(pa.array(begin_L1[:-1]))).repeat(length_L)
    item_R = hash_array(one_chunk(table, settings.item_id))
    pair_R = pairs(request_R, item_R)
    for name in ELSEWHERE:
        found[name] = flag(table, name)
        if len(repeats[name]):
            found[name] &= ~np.isin(pair_R, repeats[name])
    found["elsewhere_click"] |= found["elsewhere_purchase"]
    allowed_R = flag(table, "sampled") if "sampled" in table.column_names else np.ones(table.num_rows, bool)
    list_R: np.ndarray = np.repeat(np.arange(len(length_L)), length_L)
    share_R = shares(pair_R, settings.draw_seed)
    drawn_R = found["exposed"].copy()
    for name, most in (("ranked", settings.ranked), ("cut", settings.cut)):
        drawn_R |= draw_order(list_R, share_R, found[name] & allowed_R) < most
    if settings.keep:
        drawn_R |= found["elsewhere_click"]
    found["drawn"] = drawn_R
    return {name: found[name].astype(np.float32) for name in MARKS}


def pairs(request_R: np.ndarray, item_R: np.ndarray) -> np.ndarray:
    """uint64_R: a number for each request and item, from their hashes."""
    return splitmix64(request_R ^ splitmix64(item_R))


def shares(pair_R: np.ndarray, seed: int) -> np.ndarray:
    """uint64_R: what is drawn first has the least."""
    return splitmix64(pair_R ^ splitmix64(np.array([seed], np.uint64)))


def draw_order(list_R: np.ndarray, share_R: np.ndarray, among_R: np.ndarray) -> np.ndarray:
    """int64_R: each row's place among its list's rows that are `among`, by share; very large for the others."""
    place_R = np.full(len(list_R), 1 << 40)
    row_A = np.flatnonzero(among_R)
    row_A = row_A[np.lexsort((share_R[row_A], list_R[row_A]))]
    list_A = list_R[row_A]
    place_R[row_A] = np.arange(len(row_A)) - np.searchsorted(list_A, list_A)
    return place_R


def draw_places(settings: PreRankSettings, table: pa.Table, request: str) -> np.ndarray:
    """int64_R: each row's place in the draw of its stage."""
    begin_L1 = request_begins(one_chunk(table, request))
    length_L = np.diff(begin_L1)
    request_R = hash_array(one_chunk(table, request).take(pa.array(begin_L1[:-1]))).repeat(length_L)
    share_R = shares(pairs(request_R, hash_array(one_chunk(table, settings.item_id))), settings.draw_seed)
    list_R: np.ndarray = np.repeat(np.arange(len(length_L)), length_L)
    found = stages(table)
    allowed_R = flag(table, "sampled") if "sampled" in table.column_names else np.ones(table.num_rows, bool)
    orders = [draw_order(list_R, share_R, found[name] & allowed_R) for name in ("ranked", "cut")]
    least: np.ndarray = np.minimum(*orders)
    return least


def packed(numbers: np.ndarray) -> str:
    """uint64 numbers as text, for facts."""
    return base64.b64encode(np.sort(numbers).astype("<u8").tobytes()).decode()


def unpacked(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<u8").astype(np.uint64)


def repeats_of(facts: Mapping[str, Any]) -> dict[str, np.ndarray]:
    known = facts.get("repeats") or {}
    return {name: unpacked(known[name]) if name in known else np.empty(0, np.uint64) for name in ELSEWHERE}
