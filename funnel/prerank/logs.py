"""Logs of the small cascade (world.py), in the project's schema, with truth.

    python -m jobs.make_data --world cascade --out runs/stages                   (whole requests, for pre-ranking)
    python -m jobs.make_data --world cascade --log exposures --out runs/shown    (what was shown, for the ranker)

Both logs of a seed are of the same requests and have the same features, so that a ranker of the one can teach a
pre-ranker on the other. A stage log's train part has the shown items, all others that were ranked, and `negatives` of
those that pre-ranking cut (and what was bought or clicked elsewhere beside them, `sampled` 0); valid and test have all
candidates, for hit rates among all of them. Stage flags are RecFlow's, as in funnel/platform/logs/stages.py; a row
without any is no candidate: it was bought elsewhere and matching had not found it. rank_score and prerank_score are
what the online stages say of every candidate.
Shapes: L requests, C candidates, P shown, R rows.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from data.errors import UserError
from data.schema import Schema, TruthColumns
from data.write import ROWS_PER_FILE, ROWS_PER_GROUP, PartFacts, PartWriter, new_log, truth_table
from funnel.platform.numbers import top
from funnel.prerank.world import BLOCK, MOST_REQUESTS, Cascade, CascadeSettings, Requests

PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class CascadeLogSettings:
    log: Literal["stages", "exposures"] = "stages"
    """stages: whole requests with what each stage left out, for pre-ranking; exposures: what was shown, for the
    ranker."""
    requests: int = 6_000
    """Of the train part."""
    valid: int = 400
    """Requests of the valid part."""
    test: int = 1_200
    """Requests of the test part."""
    seed: int = 0
    """The same settings and seed give the same log."""
    negatives: int = 40
    """stages, train: candidates that pre-ranking cut, drawn at random from each request."""
    elsewhere: float = 0.6
    """Purchases in other scenarios after a request of the train part, on average."""
    elsewhere_held_out: float = 3.0
    """The same of valid and test: what a hit rate is counted on."""
    rows_per_file: int = ROWS_PER_FILE
    """Rows of a parquet file."""
    rows_per_group: int = ROWS_PER_GROUP
    """Rows of a row group, the unit that training workers share out."""

    def __post_init__(self) -> None:
        for name in PARTS:
            if not 1 <= self.counts[name] <= MOST_REQUESTS:
                key = "requests" if name == "train" else name
                raise UserError(f"{key} is {self.counts[name]}, must lie in 1..{MOST_REQUESTS:,}")
        for name in ("seed", "negatives"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least 0")
        for name in ("elsewhere", "elsewhere_held_out"):
            if not 0 <= getattr(self, name) <= 50:
                raise UserError(f"{name} is {getattr(self, name)}, must lie in 0..50")

    @property
    def counts(self) -> dict[str, int]:
        return {"train": self.requests, "valid": self.valid, "test": self.test}

    @property
    def rows(self) -> int:
        """About how many rows there will be: for the progress bar."""
        if self.log == "exposures":
            return CascadeSettings.page * sum(self.counts.values())
        train = (CascadeSettings.kept + self.negatives) * self.requests
        return train + CascadeSettings.candidates * (self.valid + self.test)


class CascadeLogs:
    """What jobs.make_data --world cascade writes (funnel/simulator.py: Logging)."""

    settings_type = CascadeSettings
    log_settings_type = CascadeLogSettings
    presets: Mapping[str, str] = {"plain": "funnel.prerank.presets:plain"}

    @classmethod
    def write(
        cls,
        settings: CascadeSettings,
        asked: CascadeLogSettings,
        policy: Mapping[str, Any],
        where: str,
        out: str | Path,
        progress: Callable[[int], None] = lambda rows: None,
    ) -> dict[str, PartFacts]:
        """The log of a world. Raises UserError for a policy, as the stages are the settings', or a full `out`."""
        if policy:
            raise UserError(f"{where}: the cascade takes no policy: its stages follow the world's settings")
        world = Cascade(settings, asked.seed)
        schema = schema_of(settings, f"cascade-{asked.log}-seed{asked.seed}")
        facts = {}
        with new_log(out, schema) as directory:
            for number, (name, count) in enumerate(asked.counts.items()):
                mean = asked.elsewhere if name == "train" else asked.elsewhere_held_out
                lived = world.live(number, count, mean)
                writer = PartWriter(directory, name, schema, asked.rows_per_file, asked.rows_per_group)
                for table, truth in tables(world, lived, number, asked, schema):
                    writer.write(table, truth)
                    progress(table.num_rows)
                facts[name] = writer.close()
        return facts


def schema_of(settings: CascadeSettings, name: str) -> Schema:
    """user_* and query_* tell who asks what, item_* what an item is; match_* are for the ranker: they need the pair."""
    d = range(settings.dimensions)
    numeric = (
        *(f"user_taste_{k}" for k in d), "user_activity", *(f"query_{k}" for k in d),
        *(f"item_taste_{k}" for k in d), *(f"item_topic_{k}" for k in d), "item_quality", "item_popularity",
        "match_taste", "match_relevance", "match_quality", "match_private",
    )  # fmt: skip
    truth = TruthColumns("exposure_id", "potential_purchase", "propensity", "purchase_probability")
    labels = {"click": "click", "conversion": "purchase"}
    return Schema(name, (), numeric, labels, "exposure_id", "user_id", "request_id", truth=truth)


def tables(
    world: Cascade, lived: Requests, part: int, asked: CascadeLogSettings, schema: Schema
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """The rows of a part and their truth, block by block."""
    rng = np.random.default_rng([world.seed, 3, part])
    for begin in range(0, len(lived), BLOCK):
        rows = Rows.of(world.settings, lived, begin, min(begin + BLOCK, len(lived)), rng, asked, PARTS[part])
        yield rows.table(world, lived, part, schema)


@dataclass(frozen=True)
class Rows:
    """Rows of some requests, by request: the request, the item, and its column among the candidates (-1: none)."""

    request_R: np.ndarray
    item_R: np.ndarray
    column_R: np.ndarray
    sampled_R: np.ndarray
    bought_R: np.ndarray
    clicked_R: np.ndarray
    place_R: np.ndarray
    """On the page; -1: not shown."""

    @classmethod
    def of(
        cls, settings: CascadeSettings, lived: Requests, begin: int, end: int, rng: np.random.Generator,
        asked: CascadeLogSettings, part: str,
    ) -> "Rows":  # fmt: skip
        item_LC, kept_LC = lived.item_LC[begin:end], lived.kept_LC[begin:end]
        if asked.log == "exposures":
            sampled_LC = np.zeros(item_LC.shape, bool)
            np.put_along_axis(sampled_LC, lived.shown_LP[begin:end], True, 1)
        elif part == "train":
            share_LC = np.where(kept_LC, -1.0, rng.random(item_LC.shape))
            cut = min(asked.negatives, settings.candidates - settings.kept)
            sampled_LC = kept_LC.copy()
            if cut:
                np.put_along_axis(sampled_LC, top(share_LC.astype(np.float32), cut), True, 1)
        else:
            sampled_LC = np.ones(item_LC.shape, bool)
        marks, more = [], []
        for request_B, item_B in (lived.bought, lived.clicked):
            here_B = (request_B >= begin) & (request_B < end)
            row_B, wanted_B = request_B[here_B] - begin, item_B[here_B]
            same_BC = item_LC[row_B] == wanted_B[:, None]
            mark_LC = np.zeros(item_LC.shape, bool)
            mark_LC[row_B[same_BC.any(1)], same_BC.argmax(1)[same_BC.any(1)]] = True
            marks.append(mark_LC)
            more.append((row_B[~same_BC.any(1)], wanted_B[~same_BC.any(1)]))
        written_LC = sampled_LC | marks[0] | marks[1] if asked.log == "stages" else sampled_LC
        row_R, column_R = np.nonzero(written_LC)
        place_LC = np.full(item_LC.shape, -1)
        np.put_along_axis(place_LC, lived.shown_LP[begin:end], np.arange(settings.page)[None], 1)
        at = (row_R, column_R)
        found = [
            row_R,
            item_LC[at].astype(np.int64),
            column_R,
            sampled_LC[at],
            marks[0][at],
            marks[1][at],
            place_LC[at],
        ]
        # What was bought or clicked elsewhere and is no candidate: clicks hold the purchases.
        row_X, item_X = more[1] if asked.log == "stages" else (more[1][0][:0], more[1][1][:0])
        bought = set(zip(*(one.tolist() for one in more[0]), strict=True))
        bought_X = np.array([pair in bought for pair in zip(row_X.tolist(), item_X.tolist(), strict=True)], bool)
        count = len(row_X)
        none_X = np.full(count, -1)
        extra = [row_X, item_X, none_X, np.zeros(count, bool), bought_X, np.ones(count, bool), none_X]
        both = [np.concatenate(pair) for pair in zip(found, extra, strict=True)]
        order_R = np.argsort(both[0], kind="stable")
        request_R, *rest = (one[order_R] for one in both)
        return cls(request_R + begin, *rest)

    def table(self, world: Cascade, lived: Requests, part: int, schema: Schema) -> tuple[pa.Table, pa.Table]:
        settings, request_R, item_R = world.settings, self.request_R, self.item_R
        user_R, query_R = lived.user_L[request_R], lived.query_L[request_R]
        there_R, shown_R = self.column_R >= 0, self.place_R >= 0
        column_R, place_R = np.maximum(self.column_R, 0), np.maximum(self.place_R, 0)
        ranked_R = there_R & lived.kept_LC[request_R, column_R]
        click_R = shown_R & lived.click_LP[request_R, place_R]
        potential_R = shown_R & lived.buy_LP[request_R, place_R]
        kept = np.where(lived.kept_LC, lived.rank_LC, np.float32(-np.inf))
        row_L = np.unique(request_R)
        rank_LC = np.argsort(np.argsort(-kept[row_L], 1, kind="stable"), 1, kind="stable")
        rank_R = np.where(ranked_R, rank_LC[np.searchsorted(row_L, request_R), column_R], -1)
        utility_R = world.utility(user_R, query_R, item_R[:, None])[:, 0]
        exposure_R = ((3 * request_R + part) * settings.items) + item_R
        flags = {
            "realshow": shown_R, "rerank_pos": shown_R, "rerank_neg": np.zeros(len(shown_R), bool),
            "rank_pos": ranked_R & shown_R, "rank_neg": ranked_R & ~shown_R,
            "coarse_neg": np.zeros(len(shown_R), bool), "prerank_neg": there_R & ~ranked_R,
            "click": click_R, "purchase": click_R & potential_R,
            "elsewhere_click": self.clicked_R, "elsewhere_purchase": self.bought_R, "sampled": self.sampled_R,
        }  # fmt: skip
        columns = {
            "exposure_id": exposure_R,
            "request_id": 3 * request_R + part,
            "request_timestamp": lived.time_L[request_R],
            "user_id": user_R, "query_id": query_R.astype(np.int32), "item_id": item_R, "video_id": item_R,
            **self.features(world, user_R, query_R),
            "rank_index": rank_R.astype(np.int16),
            "rerank_index": self.place_R.astype(np.int16),
            "rank_score": np.where(there_R, lived.rank_LC[request_R, column_R], np.nan).astype(np.float32),
            "prerank_score": np.where(there_R, lived.prerank_LC[request_R, column_R], np.nan).astype(np.float32),
            **{name: flag.astype(np.int8) for name, flag in flags.items()},
        }  # fmt: skip
        chance_R = world.click_chance(utility_R[:, None], user_R)[:, 0]
        truth = truth_table(
            schema,
            exposure_R,
            potential_R.astype(np.int8),
            propensity=chance_R,
            conversion_probability=world.buy_chance(utility_R),
        )
        return pa.table(columns), truth

    def features(self, world: Cascade, user_R: np.ndarray, query_R: np.ndarray) -> dict[str, np.ndarray]:
        """float32 columns, as the stages of a platform know them."""
        item_R, d = self.item_R, world.settings.dimensions
        found = {f"user_taste_{k}": world.seen_taste_UD[user_R, k] for k in range(d)}
        found["user_activity"] = world.activity_U[user_R]
        found |= {f"query_{k}": world.query_QD[query_R, k] for k in range(d)}
        found |= {f"item_taste_{k}": world.seen_taste_ID[item_R, k] for k in range(d)}
        found |= {f"item_topic_{k}": world.root * world.topic_ID[item_R, k] for k in range(d)}
        found |= {"item_quality": world.seen_quality_I[item_R], "item_popularity": world.popularity_I[item_R]}
        parts = world.parts_of(user_R, query_R, item_R[:, None])
        # Addressed by user, query and item: both logs of a seed say the same of a pair.
        for number, (name, part_R1) in enumerate(parts.items()):
            found[f"match_{name}"] = part_R1[:, 0] + world.pair_noise(number, user_R, query_R, item_R)
        return {name: np.asarray(value_R, np.float32) for name, value_R in found.items()}
