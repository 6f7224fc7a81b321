"""A part scored once and kept in buckets of whole users, so that figures by user need one bucket in memory at a time.

A row takes 17 bytes, 2 for each slicing, 4 for a weight and 4 for a click model's logit. Up to a million rows stay in
memory; larger parts go to one temporary file a bucket, some million rows each. What bucket a user is in, and the users'
order in it, follow from their ids alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from data.encode import Encoder
from data.log import Log, Part
from data.reading import ordered_tables
from funnel.figures.slices import Slicing
from funnel.network import BatchNetwork
from funnel.ranking.click_model import ClickModel
from funnel.ranking.counts import predict
from funnel.ranking.folds import with_folds
from funnel.trained_log import user_keys
from models.hidden_cause import LIFT
from models.instrument import SHIFT

BUCKET_ROWS = 1 << 20
CLICK, CONVERSION, POTENTIAL = 1, 2, 4
EXTRA = (LIFT, SHIFT)


@dataclass
class ScoredPart:
    """Scored rows with their labels, one bucket after the other."""

    folder: Path
    """An empty directory for what does not fit in memory; the caller deletes it."""
    buckets: int
    has_users: bool
    has_truth: bool
    slicings: list[Slicing] = field(default_factory=list)
    weighted: bool = False
    """Whether rows have weights."""
    has_click_model: bool = False
    """Whether a click model's logits are kept, which gave the training its propensities."""
    extra: tuple[str, ...] = ()
    """What the network says beside the logits of its tasks, which is kept too: of a hidden cause, of instruments."""
    rows: int = 0
    bucket_rows: int = BUCKET_ROWS
    kept: dict[int, list[np.ndarray]] = field(default_factory=dict)

    @property
    def dtype(self) -> np.dtype:
        """user uint64 (a hash), ctr and cvr float32 logits, labels uint8 (bits), a slice number for each slicing;
        weight and the click model's logit, float32, where there are such."""
        fixed = [("user", "u8"), ("ctr", "f4"), ("cvr", "f4"), ("labels", "u1")]
        fixed += [("weight", "f4")] if self.weighted else []
        fixed += [("click", "f4")] if self.has_click_model else []
        fixed += [(name, "f4") for name in self.extra]
        return np.dtype(fixed + [(f"by{index}", "i2") for index in range(len(self.slicings))])

    def add(self, rows: np.ndarray) -> None:
        self.rows += len(rows)
        if self.buckets == 1:
            self.kept.setdefault(0, []).append(rows)
            return
        bucket_R = rows["user"] % np.uint64(self.buckets)
        order_R = np.argsort(bucket_R, kind="stable")
        ends = np.searchsorted(bucket_R[order_R], np.arange(self.buckets), side="right")
        for bucket, piece in enumerate(np.split(rows[order_R], ends[:-1])):
            if len(piece):
                with (self.folder / f"{bucket:05d}.rows").open("ab") as file:
                    piece.tofile(file)

    def read(self) -> Iterator[np.ndarray]:
        """The rows of each bucket, sorted by user."""
        for bucket in range(self.buckets):
            path = self.folder / f"{bucket:05d}.rows"
            if self.buckets == 1:
                rows = np.concatenate(self.kept.get(0) or [np.empty(0, self.dtype)])
                self.kept[0] = [rows]
            else:
                rows = np.fromfile(path, self.dtype) if path.exists() else np.empty(0, self.dtype)
            yield rows[np.argsort(rows["user"], kind="stable")] if self.has_users else rows


def score_part(
    network: BatchNetwork,
    log: Log,
    part: Part,
    device: torch.device,
    folder: Path,
    slicings: list[Slicing],
    on_rows: Callable[[int], None] = lambda rows: None,
    click_model: ClickModel | None = None,
) -> ScoredPart:
    """Score a part once: raw logits, labels, weights, the truth where the log has it, slice numbers. `on_rows` is
    called with the number of rows so far."""
    schema = log.schema
    truth = log.truth(part) if log.has_truth(part) else None
    buckets = max(1, -(-part.rows // BUCKET_ROWS))
    weighted, given = schema.weight is not None, click_model is not None
    has_users, extra = schema.user is not None, tuple(name for name in EXTRA if name in network.says)
    scored = ScoredPart(folder, buckets, has_users, truth is not None, slicings, weighted, given, extra)
    wanted = [*schema.columns, schema.user, schema.exposure if truth else None, *(s.column for s in slicings)]
    columns = list(dict.fromkeys(name for name in wanted if name))
    encoder = Encoder(schema)
    for table in ordered_tables(log, part, columns):
        encoded = encoder.encode(table)
        logits = predict(network, encoded, device)
        rows = np.empty(table.num_rows, scored.dtype)
        rows["user"] = user_keys(table, schema.user) if schema.user else scored.rows // max(BUCKET_ROWS, 1)
        rows["ctr"], rows["cvr"] = logits["ctr"].numpy(), logits["cvr"].numpy()
        labels_R = CLICK * (encoded.labels["click"] > 0.5) + CONVERSION * (encoded.labels["conversion"] > 0.5)
        if truth is not None:
            potential_R = truth.potential_R[truth.lookup(table.column(schema.exposure).to_numpy())]
            labels_R = labels_R + POTENTIAL * (potential_R > 0)
        rows["labels"] = labels_R
        for name in extra:
            rows[name] = logits[name].numpy()
        if encoded.weight_R is not None:
            rows["weight"] = encoded.weight_R
        if click_model is not None:
            folded = with_folds(encoded, table, schema, click_model.folds)
            rows["click"] = click_model.logits_of(folded, device).numpy()
        for index, slicing in enumerate(slicings):
            rows[f"by{index}"] = slicing.codes(table)
        scored.add(rows)
        on_rows(scored.rows)
    return scored
