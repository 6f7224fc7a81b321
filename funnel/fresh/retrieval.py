"""Exact top k of an inner product, in blocks; beyond a million items an approximate index, if faiss is there.

Shapes: Q queries, I items, O width, k found.
"""

from typing import Any

import numpy as np
import torch

from data.errors import UserError

EXACT_ITEMS = 1_000_000
"""Up to here every item is compared: at 32 numbers an item that is 128 MB and some 20 ms a query on one core."""
FLOATS = 1 << 24
"""Scores in memory at a time."""


def exact_top(query_QO: np.ndarray, item_IO: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(places (Q, k) int64, scores (Q, k) float32) of the largest inner products, best first; of equal scores the
    first items. Raises UserError for more than there are, or vectors of another width."""
    check(query_QO, item_IO, k)
    items = torch.from_numpy(np.ascontiguousarray(item_IO, np.float32))
    queries = torch.from_numpy(np.ascontiguousarray(query_QO, np.float32))
    places, scores = [], []
    with torch.inference_mode():
        for block_BO in queries.split(max(1, FLOATS // max(len(items), 1))):
            score_BI = block_BO @ items.T
            # A stable order among equals: topk alone promises none. Its last score may be shared beyond its cut.
            score_Bk, place_Bk = score_BI.topk(k, dim=1)
            shared_B = (score_BI >= score_Bk[:, -1:]).sum(1) > k
            if bool(shared_B.any()):
                order_BI = score_BI[shared_B].sort(dim=1, descending=True, stable=True)
                score_Bk[shared_B], place_Bk[shared_B] = order_BI.values[:, :k], order_BI.indices[:, :k]
            rank_Bk = np.lexsort((place_Bk.numpy(), -score_Bk.numpy()), axis=1)
            places.append(np.take_along_axis(place_Bk.numpy(), rank_Bk, 1))
            scores.append(np.take_along_axis(score_Bk.numpy(), rank_Bk, 1))
    if not places:
        return np.empty((0, k), np.int64), np.empty((0, k), np.float32)
    return np.concatenate(places), np.concatenate(scores)


def check(query_QO: np.ndarray, item_IO: np.ndarray, k: int) -> None:
    if query_QO.ndim != 2 or item_IO.ndim != 2 or query_QO.shape[1] != item_IO.shape[1]:
        raise UserError(f"queries {query_QO.shape} and items {item_IO.shape} are no vectors of one width")
    if not 1 <= k <= len(item_IO):
        raise UserError(f"the top {k} of {len(item_IO)} items: ask for 1 to {len(item_IO)}")


class Approximate:
    """An inverted-file index of faiss (the extra `ann`): `lists` clusters of items, of which `probes` are searched."""

    def __init__(self, item_IO: np.ndarray, lists: int = 0, probes: int = 0, seed: int = 0) -> None:
        faiss = imported()
        self.item_IO = np.ascontiguousarray(item_IO, np.float32)
        items, width = self.item_IO.shape
        lists = lists or max(1, int(4 * items**0.5))
        if lists > items:
            raise UserError(f"{lists} lists of {items} items: ask for at most one an item")
        flat = faiss.IndexFlatIP(width)
        self.index: Any = faiss.IndexIVFFlat(flat, width, lists, faiss.METRIC_INNER_PRODUCT)
        self.index.cp.seed = seed + 1
        self.index.train(self.item_IO)
        self.index.add(self.item_IO)
        self.index.nprobe = probes or max(1, lists // 32)

    def top(self, query_QO: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As exact_top; -1 where too few items were looked at."""
        check(query_QO, self.item_IO, k)
        score_Qk, place_Qk = self.index.search(np.ascontiguousarray(query_QO, np.float32), k)
        return place_Qk, score_Qk

    def recall(self, query_QO: np.ndarray, k: int) -> float:
        """Share of the exact top k that the index finds, over these queries."""
        exact_Qk, _ = exact_top(query_QO, self.item_IO, k)
        return overlap(self.top(query_QO, k)[0], exact_Qk)


def within(found_Qk: np.ndarray, pool_P: np.ndarray, count: int) -> np.ndarray:
    """(Q, count): places in a pool (item numbers, rising) of the first found items that are in it; where fewer are, the
    first one again, or place 0."""
    place_Qk = np.minimum(np.searchsorted(pool_P, found_Qk), len(pool_P) - 1)
    there_Qk = pool_P[place_Qk] == found_Qk
    order_Qk = np.argsort(~there_Qk, axis=1, kind="stable")[:, :count]
    there_Qk = np.take_along_axis(there_Qk, order_Qk, 1)
    place_Qk = np.where(there_Qk, np.take_along_axis(place_Qk, order_Qk, 1), 0)
    return np.where(there_Qk, place_Qk, place_Qk[:, :1])


def overlap(found_Qk: np.ndarray, exact_Qk: np.ndarray) -> float:
    """Share of the exact places that were found."""
    hits = [len(np.intersect1d(found, exact)) for found, exact in zip(found_Qk, exact_Qk, strict=True)]
    return float(np.sum(hits) / max(exact_Qk.size, 1))


def imported() -> Any:
    """faiss. Raises UserError where it is not installed."""
    try:
        import faiss
    except ImportError:
        raise UserError(
            f"more than {EXACT_ITEMS:,} items need an approximate index: install the extra `ann` (faiss-cpu)"
        ) from None
    return faiss
