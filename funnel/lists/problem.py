"""A score that puts the positives of a request above its negatives, learnt over whole requests.

The smallest problem over lists, and what pre-ranking builds on: a network scores each row, the loss looks at a request
as a whole. Requests are never torn: a log whose row groups cut one is refused.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from data.credentials import shown
from data.encode import Encoder, numeric_moments, one_chunk
from data.errors import UserError
from data.labels import check_labels
from data.log import Log, Part
from data.repeats import repeat_warnings
from data.schema import Schema
from data.suspects import suspicious_columns
from funnel.lists.counts import ListCounts
from funnel.lists.units import ListBatch, Lists, request_begins, request_sizes
from funnel.network import BatchNetwork, build_network
from funnel.panels import Curve as CurvePanel
from funnel.panels import Panel, Record, Series, Table
from funnel.problem import Given, Outputs
from funnel.spaces import LogUniform, Presets, Space, Spaces, named
from models.entire_space import ModelConfig
from models.objectives.listwise import counted, listwise_terms
from models.rows import EVERY_ROW, Share

SCORE = "score"
AIMS = {"list.auc": False, "list.log_loss": True}
"""Figures by which an epoch may be chosen, and whether smaller is better."""
WATCHED = {"list.auc": "AUC in a request", "list.log_loss": "list log-loss"}


@dataclass(frozen=True)
class ListWiseSettings:
    label: str = ""
    """The outcome that counts as positive, a name of the schema's labels; left out, the first one."""
    model: ModelConfig = field(default_factory=ModelConfig)


class ListNetwork(BatchNetwork):
    """{"score": logit_B} of every row of a batch of requests."""

    def forward(self, batch: ListBatch) -> dict[str, Tensor]:  # type: ignore[override]
        return super().forward(batch.rows)

    def asked(self, batch: ListBatch) -> list[Tensor]:  # type: ignore[override]
        return super().asked(batch.rows)


class ListWise:
    """models/objectives/listwise.py on the requests of a log (funnel/problem.py: Problem)."""

    name: ClassVar[str] = "listwise"
    settings_type: ClassVar[type] = ListWiseSettings
    units: ClassVar[str] = "requests"
    roles: ClassVar[Mapping[str, str]] = {}
    watched: ClassVar[Mapping[str, str]] = WATCHED
    tools: ClassVar[Mapping[str, str]] = {}
    goal: str = "list.auc"

    @classmethod
    def prepare(
        cls, settings: ListWiseSettings, log: Log, parts: Mapping[str, Part], roles: Collection[str] = ()
    ) -> dict[str, Any]:
        """{"label", "numeric_mean", "numeric_std", "parts"}, and "warnings" of what looks wrong, if anything does.

        Raises UserError: a schema without requests or without the label, wrong labels, a part without positives.
        """
        schema, where = log.schema, shown(log.location)
        if schema.request is None:
            raise UserError(f"{where}/schema.json: names no 'request'; a list-wise problem needs one")
        if schema.weight is not None:
            raise UserError(f"{where}/schema.json: names a 'weight', which a list-wise loss cannot use; leave it out")
        label = settings.label or next(iter(schema.labels), "")
        if label not in schema.labels:
            raise UserError(f"{where}/schema.json: no label {label!r}; it has {', '.join(schema.labels) or 'none'}")
        facts = {name: check_labels(log, part) for name, part in parts.items()}
        for name in ("train", "valid"):
            if not 0 < facts[name].positives[label] < facts[name].rows:
                raise UserError(f"{where}/{name}: {label!r} is the same in all {facts[name].rows} rows")
            if not mixed(log, parts[name], schema.request, schema.labels[label]):
                raise UserError(f"{where}/{name}: no request has a row where {label!r} is 1 and one where it is 0")
        mean_N, std_N = numeric_moments(log, parts["train"])
        warnings = [
            *repeat_warnings(log, parts, {name: fact.keys for name, fact in facts.items()}),
            *suspicious_columns(log, parts["train"], mean_N.tolist(), std_N.tolist()),
        ]
        counts = {name: {"rows": fact.rows, label: fact.positives[label]} for name, fact in facts.items()}
        return {
            "label": label,
            "numeric_mean": mean_N.tolist(),
            "numeric_std": std_N.tolist(),
            "parts": counts,
            **({"warnings": warnings} if warnings else {}),
        }

    def __init__(
        self,
        settings: ListWiseSettings,
        schema: Schema,
        facts: Mapping[str, Any],
        given: Mapping[str, Given] | None = None,
    ) -> None:
        assert schema.request is not None
        self.settings, self.schema, self.facts, self.request = settings, schema, facts, schema.request
        self.label = str(facts["label"])
        self.encoder = Encoder(schema)
        self.columns = list(dict.fromkeys([*schema.columns, schema.request]))

    def describe(self) -> str:
        return f"a list-wise score of {self.label!r} on {self.settings.model.backbone.name}"

    def sizes(self, log: Log, part: Part) -> tuple[int, ...]:
        """Requests of each row group. Raises UserError where a request is torn or out of sequence."""
        return request_sizes(log, part, self.request)

    def encode(self, table: pa.Table) -> Lists:
        return Lists(self.encoder.encode(table), request_begins(one_chunk(table, self.request)))

    def empty(self) -> Lists:
        return Lists(self.encoder.empty(), np.zeros(1, np.int64))

    def network(self, share: Share = EVERY_ROW, seed: int = 0) -> ListNetwork:
        network = build_network(ListNetwork, self.settings.model, self.schema, (SCORE,), seed, share)
        network.standardise.mean.copy_(torch.tensor(self.facts["numeric_mean"], dtype=torch.float64))
        network.standardise.std.copy_(torch.tensor(self.facts["numeric_std"], dtype=torch.float64))
        return network

    def complete(self, batch: ListBatch) -> ListBatch:
        return batch

    def totals(self, outputs: Outputs, batch: ListBatch) -> Tensor:
        """(1,): weight of the positives whose request has a negative."""
        rows = batch.rows
        counts_B = counted(batch.list_B, len(batch), rows.labels[self.label]).double()
        return (counts_B if rows.weight_B is None else counts_B * rows.weight_B).sum().unsqueeze(0)

    def loss(self, outputs: Outputs, batch: ListBatch, totals: Tensor, step: int, epoch: int = 0) -> dict[str, Tensor]:
        rows = batch.rows
        index_P, term_P = listwise_terms(outputs[SCORE], batch.list_B, len(batch), rows.labels[self.label])
        if rows.weight_B is not None:
            term_P = term_P * rows.weight_B[index_P]
        # An empty batch still takes part: its loss is 0, and its graph reaches the network.
        return {"loss": term_P.sum() / totals[0].clamp(min=1e-12) + 0.0 * outputs[SCORE].sum()}

    def counts(self, log: Log, part: Part, truth: bool = False) -> ListCounts:
        return ListCounts(self.label, SCORE)

    def smaller_is_better(self, figure: str) -> bool:
        if figure not in AIMS:
            raise UserError(f"stop_metric {figure!r}: want one of {', '.join(AIMS)}")
        return AIMS[figure]

    @classmethod
    def results(cls, summary: Mapping[str, Any]) -> Table:
        names = {**WATCHED, "list.both": "requests with both labels"}
        rows = tuple((name, summary[key]) for key, name in names.items() if key in summary)
        return Table(f"{summary.get('part', 'test')} part", ("figure", "value"), rows)

    @classmethod
    def panels(cls, record: Record) -> list[Panel]:
        valid = [event for event in record.events if event.get("event") == "valid"]
        found: list[Panel] = [cls.results(record.summary)] if record.summary else []
        for key, name in WATCHED.items():
            known = [event for event in valid if key in event]
            line = Series(record.name, [event["epoch"] for event in known], [event[key] for event in known])
            found.append(CurvePanel(f"{name} by epoch, validation part", "epoch", name, (line,)))
        return found

    presets: ClassVar[Presets]
    spaces: ClassVar[Spaces]


def mixed(log: Log, part: Part, request: str, label: str) -> bool:
    """Whether some request has rows of both labels: without one there is nothing to order, and no figure."""
    for table in log.read(part, [request, label]):
        begins, one_R = request_begins(one_chunk(table, request)), table.column(label).to_numpy() == 1
        positives, sizes = np.add.reduceat(one_R.astype(np.int64), begins[:-1]), np.diff(begins)
        if bool(((positives > 0) & (positives < sizes)).any()):
            return True
    return False


def default() -> dict[str, Any]:
    """The defaults of every setting."""
    return {}


def rates() -> Space:
    """Learning rates of the network and of the embedding table."""
    return {
        "optimizer.learning_rate": LogUniform(2e-4, 1e-2),
        "optimizer.embedding_learning_rate": LogUniform(5e-3, 0.5),
    }


ListWise.presets, ListWise.spaces = named(default), named(rates)
