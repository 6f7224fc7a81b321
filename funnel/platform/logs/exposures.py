"""Rows of items that users looked at, with what they did and the truth behind it. Shapes: R rows."""

import numpy as np
import pyarrow as pa

from data.schema import Schema
from data.write import truth_table
from funnel.platform.behaviour import Walked
from funnel.platform.cascade import Passed
from funnel.platform.logs.columns import item_columns, platform_schema, user_columns
from funnel.platform.numbers import LEVELS
from funnel.platform.settings import PlatformSettings
from funnel.platform.view import Requests, View

Tables = tuple[pa.Table, pa.Table | None]


class Exposures:
    """The ranker's log; `history`: so many past clicks as lists."""

    def __init__(self, settings: PlatformSettings, name: str, history: int) -> None:
        self.settings, self.history = settings, history
        self.schema = platform_schema(name, settings, "request_id", history, truth=True)

    def tables(self, view: View, requests: Requests, passed: Passed, walked: Walked) -> list[Tables]:
        rows_R, place_R = np.nonzero(walked.feedback.seen_RS)
        return [rows_of(self.settings, self.schema, view, requests, walked, rows_R, place_R, self.history)]

    def flush(self) -> list[Tables]:
        return []


def rows_of(
    settings: PlatformSettings,
    schema: Schema,
    view: View,
    requests: Requests,
    walked: Walked,
    row_R: np.ndarray,
    place_R: np.ndarray,
    history: int,
) -> Tables:
    """The log rows of seen items, and their truth."""
    feedback, at = walked.feedback, (row_R, place_R)
    request_R = request_ids(settings, requests)[row_R]
    exposure_R = request_R * settings.slots + place_R
    dwell_R, length_R = feedback.dwell_RS[at], view.items.length_I[feedback.item_RS[at]]
    columns = {
        "exposure_id": exposure_R,
        "request_id": request_R,
        "visit_id": requests.visit_R[row_R].astype(np.int64),
        **user_columns(requests, view, row_R, history),
        **item_columns(feedback.item_RS[at], view),
        "position": place_R.astype(np.int16),
        "recent_same": walked.same_RS[at],
        "fresh_slot": feedback.slot_RS[at].astype(np.int8),
        "click": feedback.click_RS[at].astype(np.int8),
        "purchase": feedback.purchase_RS[at].astype(np.int8),
        "good": feedback.good_RS[at].astype(np.int8),
        "like": feedback.like_RS[at].astype(np.int8),
        "has_next": feedback.next_RS[at].astype(np.int8),
        "effective_view": (dwell_R >= np.float32(0.3) * length_R).astype(np.int8),
        "dwell": dwell_R,
    }
    truth = None
    if schema.truth is not None:
        truth = truth_table(
            schema,
            exposure_R,
            walked.would_buy_RS[at].astype(np.int8),
            propensity=walked.click_chance_RS[at] / LEVELS,
            conversion_probability=walked.purchase_chance_RS[at] / LEVELS,
        )
    return pa.table(columns), truth


def request_ids(settings: PlatformSettings, requests: Requests) -> np.ndarray:
    """int64_R: unique in the world: visit and page."""
    return requests.visit_R.astype(np.int64) * settings.pages + requests.page
