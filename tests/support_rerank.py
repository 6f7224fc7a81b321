"""Small logs of sessions whose outcomes depend on what was watched before and on what came of it."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from data.fields import CategoricalField
from data.schema import Schema
from data.write import PartWriter, new_log

CATEGORIES = 4


def schema() -> Schema:
    return Schema(
        "small sessions",
        (
            CategoricalField("user_group", "vocabulary", vocabulary=("a", "b")),
            CategoricalField("item_id", "hash", size=50),
            CategoricalField("item_category", "range", size=CATEGORIES),
        ),
        ("user_activity", "rank_score"),
        {"click": "click"},
        exposure="exposure_id",
        user="user_id",
        request="visit_id",
    )


def sessions(count: int, seed: int, first: int = 0) -> pa.Table:
    """Users have a mood for a category; an item of the category before it is watched less."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list] = {name: [] for name in (
        "visit_id", "exposure_id", "user_id", "user_group", "item_id", "item_category", "user_activity", "rank_score",
        "click", "effective_view", "like", "has_next", "dwell")}  # fmt: skip
    for visit in range(first, first + count):
        mood, last, place = int(rng.integers(CATEGORIES)), -1, 0
        while True:
            category, score = int(rng.integers(CATEGORIES)), rng.normal()
            logit = -0.5 + score + 2.0 * (category == mood) - 2.0 * (category == last)
            view = rng.random() < 1 / (1 + np.exp(-logit))
            like = view and rng.random() < 0.2
            stays = rng.random() < (0.9 if view else 0.7) and place < 14
            values = (visit, visit * 100 + place, visit % 30, "ab"[visit % 2], int(rng.integers(50)), category, 1.0,
                      score, int(view), int(view), int(like), int(stays), 20.0 * view)  # fmt: skip
            for name, value in zip(rows, values, strict=True):
                rows[name].append(value)
            last, place = category, place + 1
            if not stays:
                break
    return pa.table(rows)


def write_sessions(out: Path, train: int = 400, other: int = 60, seed: int = 0, group: int = 400) -> Path:
    with new_log(out, schema()) as directory:
        for number, (part, count) in enumerate((("train", train), ("valid", other), ("test", other))):
            with PartWriter(directory, part, schema(), rows_per_group=group) as writer:
                writer.write(sessions(count, seed + number, first=100_000 * number))
    return out
