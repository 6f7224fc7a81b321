"""Whole visits: every item that was looked at, in order, with what came of it; what belongs together is the visit.

Pages of a visit are asked for in different rounds of a tick, so the rows of a tick are kept until it has ended.
"""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from funnel.platform.behaviour import Walked
from funnel.platform.cascade import Passed
from funnel.platform.logs.columns import platform_schema
from funnel.platform.logs.exposures import Exposures, Tables
from funnel.platform.settings import PlatformSettings
from funnel.platform.view import Requests, View


class Sessions(Exposures):
    """The re-ranker's log. Labels beside click and purchase: effective_view, like, has_next. `rank_score` is what the
    main system's order was made by, `rank_good` the ranker's logit of a good click."""

    def __init__(self, settings: PlatformSettings, name: str, history: int) -> None:
        super().__init__(settings, name, history)
        schema = platform_schema(name, settings, "visit_id", history, truth=True)
        self.schema = replace(schema, numeric=(*schema.numeric, "rank_score", "rank_good"))
        self._when: tuple[int, int] = (-1, -1)
        self._waiting: list[Tables] = []

    def tables(self, view: View, requests: Requests, passed: Passed, walked: Walked) -> list[Tables]:
        now = (requests.day, requests.tick)
        done = self.flush() if now != self._when else []
        self._when = now
        scores = scores_of(passed, walked)
        for table, truth in super().tables(view, requests, passed, walked):
            for name, score_R in scores.items():
                table = table.append_column(name, pa.array(score_R))
            self._waiting.append((table, truth))
        return done

    def flush(self) -> list[Tables]:
        """All visits of the tick that has ended, by visit and place."""
        if not self._waiting:
            return []
        rows = pa.concat_tables([table for table, _ in self._waiting])
        truth = pa.concat_tables([table for _, table in self._waiting if table is not None])
        self._waiting = []
        # An exposure's id is made of visit, page and place in this order.
        order = pc.sort_indices(rows.column("exposure_id"))
        return [(rows.take(order), truth.take(order))]


def scores_of(passed: Passed, walked: Walked) -> dict[str, np.ndarray]:
    """float32: what the main system said of every item that was looked at, row by row."""
    row_R, place_R = np.nonzero(walked.feedback.seen_RS)
    item_R = walked.feedback.item_RS[row_R, place_R]
    column_R = (passed.page.item_RM[row_R] == item_R[:, None]).argmax(1)
    page = passed.page
    return {"rank_score": page.score_RM[row_R, column_R], "rank_good": page.good_RM[row_R, column_R]}
