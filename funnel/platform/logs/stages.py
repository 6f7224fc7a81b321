"""Whole requests with what every stage did: shown, left out by ranking, left out by pre-ranking; RecFlow's names.

    realshow        the user looked at it              rerank_pos, rerank_neg   on the page; offered to re-ranking only
    rank_pos        first `slots` of the ranker        rank_neg                 others that were ranked
    prerank_neg     matched, cut by pre-ranking        coarse_neg               0: there is no stage between
    rank_index      place in the ranker's order        rerank_index             place on the page; -1: none
    playing_time (ms), effective_view (30% or more of it watched), long_view (all of it), like
as in RecFlow (ICLR 2025), of whose columns this log has those that a world knows. Beside them click,
purchase, and what users did in other scenarios: after a request a user buys Poisson(`elsewhere`) items there, from 100
of the candidates drawn with weight exp(.4 log(1 + positives)), those of the largest 2 x logit + Gumbel; the next best
as many again are clicked there. `sampled` is 1 for rows drawn into the log; a row that is not is there because it was
bought or clicked elsewhere. All exposed and ranked items are kept, and `negatives` of those cut by pre-ranking.
Shapes: Q requests, C candidates, K ranked, R rows.
"""

from dataclasses import replace

import numpy as np
import pyarrow as pa

from funnel.platform.behaviour import Potential, Walked
from funnel.platform.cascade import Passed
from funnel.platform.corpus import Corpus
from funnel.platform.draws import bits, key, keys, uniforms
from funnel.platform.logs.columns import item_columns, platform_schema, user_columns
from funnel.platform.logs.exposures import Tables, request_ids
from funnel.platform.numbers import gumbel_table, top
from funnel.platform.settings import PlatformSettings
from funnel.platform.uploads import poisson
from funnel.platform.view import NOBODY, Requests, View

DRAWN, SEEN, BOUGHT, COUNT = 31, 32, 33, 34
"""First words of addresses."""
LOOKED_AT = 100
OUT = np.float32(-np.inf)


class Stages:
    """The pre-ranker's log; a request's rows stand together."""

    def __init__(
        self, settings: PlatformSettings, name: str, history: int, corpus: Corpus, negatives: int, elsewhere: float
    ) -> None:
        self.settings, self.history, self.corpus = settings, history, corpus
        self.negatives, self.elsewhere = negatives, elsewhere
        schema = platform_schema(name, settings, "request_id", history, truth=False)
        self.schema = replace(schema, exposure=None)

    def flush(self) -> list[Tables]:
        return []

    def tables(self, view: View, requests: Requests, passed: Passed, walked: Walked) -> list[Tables]:
        rows, columns = passed.matched_RC.shape
        ranked_QC = np.zeros((rows, columns), bool)
        np.put_along_axis(ranked_QC, passed.kept_RK, True, 1)
        # A request whose every ranked item was shown lately has no page: nothing is to be learnt from it.
        there_QC = (passed.matched_RC != NOBODY) & walked.feedback.seen_RS.any(1, keepdims=True)
        item_QC, bought_QC, clicked_QC = passed.matched_RC, *self.bought_elsewhere(requests, passed.matched_RC, view)
        drawn_QC = ranked_QC | self.drawn(requests, there_QC & ~ranked_QC)
        row_R, column_R = np.nonzero(there_QC & (drawn_QC | bought_QC | clicked_QC))
        at = (row_R, column_R)
        item_R = item_QC[at]
        # Place of every candidate in the ranker's order.
        order_QK = np.argsort(-passed.score_RK, axis=1, kind="stable")
        rank_QK = np.empty_like(order_QK)
        np.put_along_axis(rank_QK, order_QK, np.broadcast_to(np.arange(order_QK.shape[1]), order_QK.shape), 1)
        rank_QC = np.full((rows, columns), NOBODY)
        np.put_along_axis(rank_QC, passed.kept_RK, np.where(passed.score_RK == OUT, NOBODY, rank_QK), 1)
        page = self.on_page(walked, passed, row_R, item_R)
        fresh = self.not_matched(passed)
        table = self.table(view, requests, walked, row_R, item_R, page, rank_QC[at], ranked_QC[at],
                           drawn_QC[at], bought_QC[at], clicked_QC[at])  # fmt: skip
        if len(fresh[0]):
            # What the fresh slot brought in was not matched: it has no place in the ranker's order.
            nothing = (np.full(len(fresh[0]), value) for value in (NOBODY, False, True, False, False))
            extra = self.table(view, requests, walked, *fresh, self.on_page(walked, passed, *fresh), *nothing)
            table = pa.concat_tables([table, extra])
            table = table.take(pa.array(np.argsort(table.column("request_id").to_numpy(), kind="stable")))
        return [(table, None)]

    def drawn(self, requests: Requests, cut_QC: np.ndarray) -> np.ndarray:
        """bool_QC: `negatives` of those that pre-ranking cut, at random."""
        number_C = np.arange(1, cut_QC.shape[1] + 1, dtype=np.uint64)
        share_QC = uniforms(key(0, DRAWN), keys(key(1, DRAWN), requests.key_R)[:, None] + number_C)
        column_Qn = top(np.where(cut_QC, share_QC.astype(np.float32), OUT), min(self.negatives, cut_QC.shape[1]))
        drawn_QC = np.zeros_like(cut_QC)
        np.put_along_axis(drawn_QC, column_Qn, True, 1)
        return drawn_QC & cut_QC

    def bought_elsewhere(self, requests: Requests, item_QC: np.ndarray, view: View) -> tuple[np.ndarray, np.ndarray]:
        """bool_QC twice: bought, and clicked (bought ones among them), in other scenarios after this request."""
        count_Q = poisson(np.full(len(requests), self.elsewhere), uniforms(key(0, COUNT), requests.key_R))
        there_QC = item_QC != NOBODY
        known_QC = np.maximum(item_QC, 0)
        seen_QC, gumbel_QC = (
            gumbel_table().take(
                bits(keys(key(0, word), requests.key_R), self.corpus.items.key_I.take(known_QC)) >> np.uint64(48)
            )
            for word in (SEEN, BOUGHT)
        )
        seen_QC = np.where(there_QC, seen_QC + np.float32(0.4) * view.popularity_I.take(known_QC), OUT)
        column_Qn = top(seen_QC, min(LOOKED_AT, item_QC.shape[1]))
        ahead = Potential.of(self.settings, requests, np.take_along_axis(known_QC, column_Qn, 1), self.corpus)
        worth_Qn = 2 * ahead.logit_RM + np.take_along_axis(gumbel_QC, column_Qn, 1)
        worth_Qn = np.where(np.take_along_axis(there_QC, column_Qn, 1), worth_Qn, OUT)
        rank_Qn = np.argsort(np.argsort(-worth_Qn, axis=1, kind="stable"), axis=1, kind="stable")
        found = []
        for times in (1, 2):
            mask_QC = np.zeros(item_QC.shape, bool)
            np.put_along_axis(mask_QC, column_Qn, (rank_Qn < times * count_Q[:, None]) & (worth_Qn > OUT), 1)
            found.append(mask_QC)
        return found[0], found[1]

    def on_page(self, walked: Walked, passed: Passed, row_R: np.ndarray, item_R: np.ndarray) -> dict[str, np.ndarray]:
        """Place on the page (-1: not there), what re-ranking was offered, and what came of it, of each row."""
        same_RS = walked.feedback.item_RS[row_R] == item_R[:, None]
        place_R = np.where(same_RS.any(1), same_RS.argmax(1), NOBODY)
        offered_R = (passed.page.item_RM[row_R] == item_R[:, None]).any(1)
        return {"place": place_R, "offered": offered_R}

    def not_matched(self, passed: Passed) -> tuple[np.ndarray, np.ndarray]:
        """(row, item) of what the fresh slot brought in and matching had not found."""
        row_R, column_R = np.nonzero(passed.page.slot_RM)
        item_R = passed.page.item_RM[row_R, column_R]
        new_R = ~(passed.matched_RC[row_R] == item_R[:, None]).any(1)
        return row_R[new_R], item_R[new_R]

    def table(
        self, view: View, requests: Requests, walked: Walked, row_R: np.ndarray, item_R: np.ndarray,
        page: dict[str, np.ndarray], rank_R: np.ndarray, ranked_R: np.ndarray, drawn_R: np.ndarray,
        bought_R: np.ndarray, clicked_R: np.ndarray,
    ) -> pa.Table:  # fmt: skip
        feedback, place_R = walked.feedback, np.maximum(page["place"], 0)
        on_R = page["place"] != NOBODY

        def done(what_RS: np.ndarray) -> np.ndarray:
            return np.where(on_R, what_RS[row_R, place_R], 0)

        items = item_columns(item_R, view)
        dwell_R, length_R = done(feedback.dwell_RS), items["item_length"]
        first_R = (rank_R >= 0) & (rank_R < self.settings.slots)
        flags = {
            "realshow": done(feedback.seen_RS),
            "rerank_pos": on_R,
            "rerank_neg": page["offered"] & ~on_R,
            "rank_pos": first_R,
            "rank_neg": ranked_R & ~first_R,
            "coarse_neg": np.zeros(len(row_R), bool),
            "prerank_neg": ~ranked_R & ~on_R,
            "effective_view": dwell_R >= np.float32(0.3) * length_R,
            "long_view": dwell_R >= length_R,
            "like": done(feedback.like_RS),
            "click": done(feedback.click_RS),
            "purchase": done(feedback.purchase_RS),
            "fresh_slot": done(feedback.slot_RS),
            "elsewhere_click": clicked_R,
            "elsewhere_purchase": bought_R,
            "sampled": drawn_R,
        }
        return pa.table({
            "request_id": request_ids(self.settings, requests)[row_R],
            "request_timestamp": milliseconds(np.full(len(row_R), requests.now)),
            **user_columns(requests, view, row_R, self.history),
            **items,
            "video_id": items["item_id"],
            "author_id": items["item_provider"],
            "category_level_one": items["item_category"],
            "upload_timestamp": milliseconds(view.items.upload_I[item_R]),
            "duration": (1000 * length_R).astype(np.int64),
            "rank_index": rank_R.astype(np.int16),
            "rerank_index": page["place"].astype(np.int16),
            "playing_time": (1000 * dwell_R).astype(np.int64),
            **{name: flag.astype(np.int8) for name, flag in flags.items()},
        })  # fmt: skip


def milliseconds(days: np.ndarray) -> np.ndarray:
    """int64: since the world began."""
    return np.rint(days.astype(np.float64) * 86_400_000).astype(np.int64)
