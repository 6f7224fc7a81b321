"""The two nominators as problems (funnel/problem.py: Problem): which item is taken next, learnt from items taken.

    python -m jobs.train --problem fresh_two_tower --data runs/taken --out runs/two_tower
    python -m jobs.train --problem fresh_sequence --data runs/taken --out runs/sequence

A row is an item that a user met, with the user's history before it; rows whose label is 1 (taken: a good click) are
learnt from, each against the other items of its lane of the batch (models/objectives/sampled_softmax.py). Which columns
describe the query and which the item is named by patterns over the schema's features. `fresh_two_tower` sees content
alone: neither the item's id nor its popularity, unless --ids asks for the network that has them, to compare with.
"""

import dataclasses
import itertools
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from data.credentials import shown
from data.encode import Encoder, numeric_moments, one_chunk
from data.errors import UserError
from data.hashing import hash_array
from data.kinds import number
from data.labels import check_labels
from data.log import Log, Part
from data.schema import Schema
from funnel.fresh.counts import AIMS, WATCHED, RecallCounts
from funnel.fresh.features import NominatorSettings, SequenceSettings, Views, corpus_facts, importance, views
from funnel.fresh.units import NominationBatch, Nominations
from funnel.panels import Curve as CurvePanel
from funnel.panels import Panel, Record, Series, Table
from funnel.problem import Given, Outputs
from funnel.spaces import LogUniform, Presets, Space, Spaces, named
from models.objectives.sampled_softmax import sampled_softmax
from models.rows import EVERY_ROW, Share
from models.sequence_nominator import SequenceNominator
from models.two_tower import TwoTower


class NominatorNetwork(nn.Module):
    """A nominator applied to a batch: {"query": (B, O), "item": (B, O)}."""

    def __init__(self, towers: TwoTower) -> None:
        super().__init__()
        self.towers = towers

    def forward(self, batch: NominationBatch) -> dict[str, Tensor]:
        rows = batch.rows
        found: dict[str, Tensor] = self.towers(rows.ids_BK, rows.numeric_BN, rows.bags)
        return found


class FreshTwoTower:
    """The content-only two-tower nominator."""

    name: ClassVar[str] = "fresh_two_tower"
    settings_type: ClassVar[type] = NominatorSettings
    units: ClassVar[str] = "rows"
    roles: ClassVar[Mapping[str, str]] = {}
    watched: ClassVar[Mapping[str, str]] = WATCHED
    tools: ClassVar[Mapping[str, str]] = {}
    goal: str = "recall.50"
    presets: ClassVar[Presets]
    spaces: ClassVar[Spaces]

    @classmethod
    def prepare(
        cls, settings: NominatorSettings, log: Log, parts: Mapping[str, Part], roles: Collection[str] = ()
    ) -> dict[str, Any]:
        """{"label", "numeric_mean", "numeric_std", "buckets", "counts", "idf", "parts"}.

        Raises UserError: patterns that match nothing, an item column the log lacks, a part in which nothing was taken.
        """
        schema, where = log.schema, shown(log.location)
        label = settings.label or next(iter(schema.labels), "")
        if label not in schema.labels:
            raise UserError(f"{where}/schema.json: no label {label!r}; it has {', '.join(schema.labels) or 'none'}")
        if schema.weight is not None:
            raise UserError(f"{where}/schema.json: names a 'weight', which a nominator cannot use; leave it out")
        seen = views(settings, schema, f"{where}/schema.json")
        if settings.age:
            for part in parts.values():
                for file, group in itertools.islice(part.row_groups(), 1):
                    log.read_row_group(file, group, [settings.age])  # else the first validation would miss it
        facts = {name: check_labels(log, part) for name, part in parts.items()}
        for name in ("train", "valid"):
            if not facts[name].positives[label]:
                raise UserError(f"{where}/{name}: {label!r} is 1 in none of {facts[name].rows} rows: nothing was taken")
        narrow = dataclasses.replace(log, schema=seen.schema)
        mean_N, std_N = numeric_moments(narrow, parts["train"])
        counts = {name: {"rows": fact.rows, label: fact.positives[label]} for name, fact in facts.items()}
        return {
            "label": label,
            "numeric_mean": mean_N.tolist(),
            "numeric_std": std_N.tolist(),
            **corpus_facts(settings, seen, log, parts["train"], schema.labels[label]),
            "parts": counts,
        }

    def __init__(
        self,
        settings: NominatorSettings,
        schema: Schema,
        facts: Mapping[str, Any],
        given: Mapping[str, Given] | None = None,
    ) -> None:
        self.settings, self.schema, self.facts = settings, schema, facts
        self.views: Views = views(settings, schema)
        self.encoder = Encoder(self.views.schema)
        self.label = schema.labels[str(facts["label"])]
        self.columns = list(dict.fromkeys([*self.views.schema.features, settings.item, self.label]))
        self.log_share_M = np.log(np.maximum(np.asarray(facts["counts"], np.float64), 0.5))
        self.log_share_M -= np.log(max(float(np.sum(facts["counts"])), 1.0))

    def describe(self) -> str:
        ids = " with ids and popularity" if self.settings.ids else " on content alone"
        return f"a two-tower nominator{ids} ({len(self.views.schema.features)} features)"

    def empty(self) -> Nominations:
        none: np.ndarray = np.empty(0, np.float32)
        return Nominations(self.encoder.empty(), np.empty(0, np.int64), none, np.empty(0, bool), none)

    def sizes(self, log: Log, part: Part) -> tuple[int, ...]:
        return tuple(rows for file in part.files for rows in file.row_groups)

    def encode(self, table: pa.Table) -> Nominations:
        hash_R = hash_array(one_chunk(table, self.settings.item))
        log_q_R = self.log_share_M[(hash_R % np.uint64(len(self.log_share_M))).astype(np.int64)]
        taken_R = number(table, self.label) == 1
        age_R = np.full(table.num_rows, np.nan, np.float32)
        return Nominations(
            self.encoder.encode(table), hash_R.view(np.int64), log_q_R.astype(np.float32), taken_R, age_R
        )

    def towers(self, share: Share, seed: int) -> TwoTower:
        seen = self.views
        rows, numerics = sum(self.encoder.field_rows), len(seen.schema.numeric)
        return TwoTower(self.settings.model, rows, numerics, seen.query, seen.item, seed, share)

    def network(self, share: Share = EVERY_ROW, seed: int = 0) -> NominatorNetwork:
        towers = self.towers(share, seed)
        towers.standardise.mean.copy_(torch.tensor(self.facts["numeric_mean"], dtype=torch.float64))
        towers.standardise.std.copy_(torch.tensor(self.facts["numeric_std"], dtype=torch.float64))
        towers.importance.copy_(torch.from_numpy(importance(self.views, self.facts["idf"], self.settings.idf_power)))
        return NominatorNetwork(towers)

    def complete(self, batch: NominationBatch) -> NominationBatch:
        return batch

    def totals(self, outputs: Outputs, batch: NominationBatch) -> Tensor:
        """(1,): rows whose item was taken."""
        return batch.taken_B.sum().double().unsqueeze(0)

    def loss(
        self, outputs: Outputs, batch: NominationBatch, totals: Tensor, step: int, epoch: int = 0
    ) -> dict[str, Tensor]:
        term_B = sampled_softmax(
            outputs["query"],
            outputs["item"],
            batch.item_B,
            batch.log_q_B,
            batch.taken_B,
            batch.groups,
            self.settings.temperature,
        )
        # An empty batch still takes part: its loss is 0, and its graph reaches the network.
        own = 0.0 * (outputs["query"].sum() + outputs["item"].sum())
        return {"loss": term_B.sum() / totals[0].clamp(min=1e-12) + own}

    def counts(self, log: Log, part: Part, truth: bool = False) -> RecallCounts:
        return RecallCounts(self.settings.age)

    def smaller_is_better(self, figure: str) -> bool:
        if figure not in AIMS:
            raise UserError(f"stop_metric {figure!r}: want one of {', '.join(AIMS)}")
        return AIMS[figure]

    @classmethod
    def results(cls, summary: Mapping[str, Any]) -> Table:
        rows = [("items taken", summary["taken"]), ("candidates", summary["candidates"])] if "taken" in summary else []
        rows += [(key.replace("recall.", "recall@"), summary[key]) for key in summary if key.startswith("recall.")]
        return Table(f"{summary.get('part', 'test')} part", ("figure", "value"), tuple(rows))

    @classmethod
    def panels(cls, record: Record) -> list[Panel]:
        valid = [event for event in record.events if event.get("event") == "valid"]
        found: list[Panel] = [cls.results(record.summary)] if record.summary else []
        for key, name in WATCHED.items():
            known = [event for event in valid if key in event]
            line = Series(record.name, [event["epoch"] for event in known], [event[key] for event in known])
            found.append(CurvePanel(f"{name} by epoch, validation part", "epoch", name, (line,)))
        return found


class FreshSequence(FreshTwoTower):
    """The near-real-time sequence nominator: an id for every item, and a history weighed by how it was watched."""

    name: ClassVar[str] = "fresh_sequence"
    settings_type: ClassVar[type] = SequenceSettings

    def describe(self) -> str:
        return f"a sequence nominator ({len(self.views.schema.features)} features)"

    def towers(self, share: Share, seed: int) -> TwoTower:
        seen = self.views
        assert seen.history is not None
        rows, numerics = sum(self.encoder.field_rows), len(seen.schema.numeric)
        return SequenceNominator(self.settings.model, rows, numerics, seen.query, seen.item, seen.history, seed, share)


def default() -> dict[str, Any]:
    """The defaults of every setting."""
    return {}


def rates() -> Space:
    """Learning rates of the towers and of the embedding table, and the softmax's temperature."""
    return {
        "optimizer.learning_rate": LogUniform(2e-4, 1e-2),
        "optimizer.embedding_learning_rate": LogUniform(5e-3, 0.5),
        "temperature": LogUniform(0.03, 0.5),
    }


FreshTwoTower.presets, FreshTwoTower.spaces = named(default), named(rates)
