"""A trained pre-ranker as a stage of the platform, from its weights file.

    {"preranking": {"kind": "trained", "weights": "runs/served/pre_ranker.npz"}}

It was trained on a stage log of such a platform (jobs.make_data --world platform --log stages), whose columns are made
here of what the stage sees. Items' vectors are made anew in every part of a day, users' for each block of requests;
both lie on the platform's grid, so that a score is the same however blocks are cut. Shapes: R requests, C candidates,
I items, O width.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from data.errors import UserError
from funnel.batch import Batch
from funnel.platform.logs.columns import HISTORY, item_columns, user_columns
from funnel.platform.numbers import inner, on_grid
from funnel.platform.preranking import checked_keep
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policy
from funnel.platform.view import Requests, View
from funnel.prerank.network import PreRankNetwork
from funnel.prerank.problem import PreRank
from funnel.prerank.weights_file import load_weights

STRETCH = 4.0
"""Unit vectors are stretched to use the grid on which inner products are exact."""
USER = ("user_id", "user_group", "user_activity", "user_budget", "intent", "page", "hour", "day")
ITEM = ("item_id", "item_category", "item_provider", "item_age", "item_popularity", "item_rating", "item_length",
        "price")  # fmt: skip


@dataclass(frozen=True)
class TrainedSettings:
    weights: str = ""
    """The pre_ranker.npz that jobs.export has written."""
    keep: int = 0
    """How many go on to ranking; 0: as many as the world's settings say."""


@lru_cache(maxsize=32)
def opened(path: str, changed: int) -> tuple[PreRank, PreRankNetwork]:
    """Read once for as long as the file stays as it is: a test makes many worlds."""
    return load_weights(Path(path))


class TrainedPreRanking(Policy):
    settings_type = TrainedSettings

    def __init__(self, settings: TrainedSettings, world: PlatformSettings, seed: int) -> None:
        super().__init__(settings, world, seed)
        if not settings.weights:
            raise UserError("weights is needed: the pre_ranker.npz of jobs.export")
        self.keep = checked_keep(settings.keep, world)
        path = Path(settings.weights).expanduser().absolute()
        self.problem, self.network = opened(str(path), path.stat().st_mtime_ns if path.exists() else 0)
        known = {*USER, *ITEM, HISTORY[0], *(f"content_{d}" for d in range(world.dimensions))}
        if strange := [name for name in self.problem.schema.features if name not in known]:
            raise UserError(f"{path}: was trained on the feature {strange[0]!r}, which the platform has not")
        lists = [field.many.max for field in self.problem.schema.many if field.many]
        self.history = max((most or 0 for most in lists), default=0)

    def __deepcopy__(self, memo: dict[int, Any]) -> "TrainedPreRanking":
        """Weights are shared: nothing changes them."""
        twin = TrainedPreRanking.__new__(TrainedPreRanking)
        twin.__dict__.update(self.__dict__)
        return twin

    def tick(self, view: View) -> None:
        """Items' vectors, as of this part of the day."""
        batch = self.batch(np.arange(len(view)), None, view)
        one = torch.tensor([0, len(view)])
        self.item_KIO = [on_grid(STRETCH * items) for _, items in self.vectors(batch, one)]

    def score(self, requests: Requests, item_RC: np.ndarray, view: View) -> np.ndarray:
        rows = len(requests)
        batch = self.batch(np.zeros(rows, np.int64), requests, view)
        queries = [on_grid(STRETCH * found) for found, _ in self.vectors(batch, torch.arange(rows + 1))]
        found = [inner(item_IO, item_RC, query) for item_IO, query in zip(self.item_KIO, queries, strict=True)]
        bias_2 = self.network.bias_2
        if bias_2 is None:
            return found[0]
        total_RC: np.ndarray = np.zeros(item_RC.shape, np.float32)
        for cosine_RC, ranker, bias in zip(found, self.network.rankers, bias_2.tolist(), strict=True):
            logit_RC = cosine_RC * np.float32(float(ranker.log_scale.detach().exp()) / STRETCH**2) + np.float32(bias)
            total_RC -= np.logaddexp(np.float32(0), -logit_RC)
        return total_RC

    @torch.inference_mode()
    def vectors(self, batch: Batch, begin_L1: torch.Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
        """(queries, items) of each of the network's pre-rankers."""
        pairs = [ranker.both(batch.ids_BK, batch.numeric_BN, batch.bags, begin_L1) for ranker in self.network.rankers]
        return [(query.numpy(), item.numpy()) for query, item in pairs]

    def batch(self, item_R: np.ndarray, requests: Requests | None, view: View) -> Batch:
        """Rows of these items, asked for by these requests (None: by nobody: only the items' side is wanted)."""
        rows = len(item_R)
        columns: dict[str, Any] = dict(item_columns(item_R, view))
        if requests is not None:
            columns |= user_columns(requests, view, np.arange(rows), self.history)
        else:
            columns |= {name: np.zeros(rows, np.int64) for name in USER}
            columns["user_group"] = pa.array([""] * rows)
            none = pa.ListArray.from_arrays(pa.array(np.zeros(rows + 1, np.int32)), pa.array([], pa.int64()))
            columns |= dict.fromkeys(HISTORY, none)
        schema = self.problem.schema
        columns |= {column: np.zeros(rows, np.int8) for column in schema.labels.values()}
        wanted = [*schema.features, *schema.labels.values()]
        return Batch.of(self.problem.encoder.encode(pa.table({name: columns[name] for name in wanted})))
