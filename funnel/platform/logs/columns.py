"""Columns that all logs share: what is known of user, item and request when it is made. Shapes: R rows of a log."""

from typing import Any

import numpy as np
import pyarrow as pa

from data.schema import CategoricalField, Many, Schema, TruthColumns
from funnel.platform.corpus import PAST
from funnel.platform.settings import PlatformSettings
from funnel.platform.view import NOBODY, Requests, View

GROUPS = ("casual", "core")
HISTORY = ("history", "history_dwell", "history_gap")
"""Lists of a user's last clicks, oldest first: items, seconds, days ago."""


def user_columns(requests: Requests, view: View, row_R: np.ndarray, history: int) -> dict[str, Any]:
    """Of the requests of each row: who asks, what for, when."""
    user_R = requests.user_R[row_R]
    columns: dict[str, Any] = {
        "user_id": user_R.astype(np.int64),
        "user_group": named(view.users.core_U[user_R].astype(np.int32), GROUPS),
        "user_activity": view.users.activity_U[user_R],
        "user_budget": view.users.budget_U[user_R],
        "intent": requests.intent_R[row_R].astype(np.int16),
        "page": np.full(len(row_R), requests.page, np.int8),
        "hour": np.full(len(row_R), requests.now % 1 * 24, np.int8),
        "day": np.full(len(row_R), requests.day, np.int32),
    }
    if history:
        columns |= history_columns(requests, view, row_R, history)
    return columns


def history_columns(requests: Requests, view: View, row_R: np.ndarray, history: int) -> dict[str, pa.Array]:
    past = view.history
    item_RN = past.item_UN[requests.user_R, :history][:, ::-1]
    there_RN = item_RN != NOBODY
    dwell_RN = past.dwell_UN[requests.user_R, :history][:, ::-1]
    gap_RN = np.float32(requests.now) - past.time_UN[requests.user_R, :history][:, ::-1]
    found = {}
    values: tuple[np.ndarray, ...] = (item_RN.astype(np.int64), dwell_RN, gap_RN)
    for name, value_RN in zip(HISTORY, values, strict=True):
        begin_R1 = np.concatenate([[0], np.cumsum(there_RN.sum(1))]).astype(np.int32)
        lists = pa.ListArray.from_arrays(pa.array(begin_R1), pa.array(value_RN[there_RN]))
        found[name] = lists.take(pa.array(row_R))
    return found


def item_columns(item_R: np.ndarray, view: View) -> dict[str, np.ndarray]:
    """Of the item of each row, as the platform knows it that day."""
    items = view.items
    content = {f"content_{d}": items.content_ID[item_R, d] for d in range(items.content_ID.shape[1])}
    return {
        "item_id": item_R.astype(np.int64),
        "item_category": items.category_I[item_R].astype(np.int16),
        "item_provider": items.provider_I[item_R].astype(np.int32),
        "item_age": np.float32(view.now) - items.upload_I[item_R],
        "item_popularity": view.popularity_I[item_R],
        "item_rating": items.rating_I[item_R],
        "item_length": items.length_I[item_R],
        "price": np.exp(items.log_price_I[item_R]).astype(np.float32),
        **content,
    }


def platform_schema(name: str, settings: PlatformSettings, request: str, history: int, truth: bool) -> Schema:
    """`request`: the column of what belongs together."""
    item = CategoricalField("item_id", "hash", 4 * settings.items)
    past = item.shared(HISTORY[0], Many("attention", max=history, query="item_id"))
    return Schema(
        name=name,
        categorical=(
            CategoricalField("user_id", "range", settings.users),
            CategoricalField("user_group", "vocabulary", vocabulary=GROUPS),
            CategoricalField("intent", "range", settings.categories),
            CategoricalField("page", "range", settings.pages),
            CategoricalField("hour", "range", 24),
            item,
            CategoricalField("item_category", "range", settings.categories),
            CategoricalField("item_provider", "range", settings.providers),
            *((past,) if history else ()),
        ),
        numeric=(
            "user_activity", "user_budget", "item_age", "item_popularity", "item_rating", "item_length", "price",
            *(("position", "recent_same") if truth else ()),
            *(f"content_{d}" for d in range(settings.dimensions)),
        ),
        labels={"click": "click", "conversion": "purchase"},
        exposure="exposure_id",
        user="user_id",
        request=request,
        truth=TruthColumns("exposure_id", "potential_purchase", "propensity", "purchase_probability")
        if truth
        else None,
    )  # fmt: skip


def named(code_R: np.ndarray, names: tuple[str, ...]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(code_R), pa.array(names)).cast(pa.string())


def check_history(history: int) -> str:
    """What is wrong with that many clicks; empty: nothing."""
    return "" if 0 <= history <= PAST else f"history is {history}, must lie in 0..{PAST}: so many clicks are kept"
