"""The list scorer as a problem (funnel/problem.py: Problem): what comes of the next item of a session, from what was
watched before it.

    python -m jobs.make_data --world platform --log sessions --rows 300000 --out runs/sessions
    python -m jobs.train --problem rerank --data runs/sessions --out runs/rerank
    python -m jobs.calibrate --run runs/rerank
    python -m jobs.export --run runs/rerank --out runs/phone         # list_scorer.onnx, .pt2, and .npz for the platform

Units are whole sessions. Three binary heads are learnt on every item that was watched: an effective view, a like, and
looking on. Half of the rows see the feedback of all items before them, as the device does for what comes next; for the
other half that of the last ones is hidden, as it is for items that are planned behind each other.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from data.credentials import shown
from data.encode import Encoder, numeric_moments, one_chunk
from data.errors import UserError
from data.hashing import hash_array
from data.kinds import number
from data.log import Log, Part
from data.schema import Schema
from funnel.lists.units import Lists, request_begins, request_sizes
from funnel.panels import Panel, Record, Table
from funnel.problem import Given, Outputs
from funnel.rerank.check_sessions import check_sessions, lengths_of
from funnel.rerank.counts import AIMS, WATCHED, SessionCounts
from funnel.rerank.features import RerankSettings, views
from funnel.rerank.rivals import fit_weibull
from funnel.rerank.units import SessionBatch, Sessions, hidden
from funnel.spaces import LogUniform, Presets, Space, Spaces, named
from models.list_scorer import HEADS, Before, ListScorer
from models.rows import EVERY_ROW, Share


class SessionNetwork(nn.Module):
    """{"view", "like", "next": logit_B} of every row of a batch, after what stands before it in its session. In
    training the feedback of the last `hide` items of each is hidden."""

    def __init__(self, scorer: ListScorer) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, batch: SessionBatch) -> dict[str, Tensor]:
        rows = batch.lists.rows
        query_BO, item_BO = self.scorer.vectors(rows.ids_BK, rows.numeric_BN)
        place_B, hide_B = batch.place_B, batch.hide_B if self.training else torch.zeros_like(batch.hide_B)
        back_N = 1 + torch.arange(self.scorer.config.before, device=place_B.device)
        there_BN = back_N <= place_B.unsqueeze(1)
        row_BN = (torch.arange(len(place_B), device=place_B.device).unsqueeze(1) - back_N).clamp(min=0)
        before = Before(
            item_BO[row_BN],
            there_BN,
            there_BN & (back_N > hide_B.unsqueeze(1)),
            batch.feedback_BF[row_BN],
        )
        logit_BT = self.scorer.logits(query_BO, item_BO.unsqueeze(1), before)[:, 0]
        return dict(zip(HEADS, logit_BT.unbind(1), strict=True))


class Rerank:
    name: ClassVar[str] = "rerank"
    settings_type: ClassVar[type] = RerankSettings
    units: ClassVar[str] = "sessions"
    roles: ClassVar[Mapping[str, str]] = {}
    watched: ClassVar[Mapping[str, str]] = WATCHED
    tools: ClassVar[Mapping[str, str]] = {
        "calibrate": "funnel.rerank.calibration",
        "evaluate": "funnel.rerank.evaluating",
        "export": "funnel.rerank.export",
    }
    goal: str = "log_loss"
    presets: ClassVar[Presets]
    spaces: ClassVar[Spaces]

    @classmethod
    def prepare(
        cls, settings: RerankSettings, log: Log, parts: Mapping[str, Part], roles: Collection[str] = ()
    ) -> dict[str, Any]:
        """{"session", "order", "numeric_mean", "numeric_std", "rates", "leave", "parts"}.

        Raises UserError: a schema without sessions, columns that the log lacks, wrong outcomes, sessions out of order.
        """
        schema, where = log.schema, shown(log.location)
        if schema.request is None:
            raise UserError(f"{where}/schema.json: names no 'request': the column of the session that a row belongs to")
        if schema.weight is not None:
            raise UserError(f"{where}/schema.json: names a 'weight', which a list scorer cannot use; leave it out")
        order = settings.order or schema.exposure
        if order is None:
            raise UserError(f"{where}/schema.json: names no 'exposure': say which column rises in a session (--order)")
        seen = views(settings, schema, f"{where}/schema.json")
        checked: dict[str, dict[str, Any]] = {}
        for name, part in parts.items():
            checked[name] = check_sessions(settings, log, part, schema.request, order)
        for name in ("train", "valid"):
            for label in settings.labels:
                if not 0 < checked[name][label] < checked[name]["rows"]:
                    raise UserError(f"{where}/{name}: {label!r} is the same in all {checked[name]['rows']} rows")
        mean_N, std_N = numeric_moments(dataclasses.replace(log, schema=seen.schema), parts["train"])
        law = fit_weibull(*lengths_of(checked["train"]))
        counts = {name: {key: value for key, value in one.items() if key != "lengths"} for name, one in checked.items()}
        return {
            "session": schema.request,
            "order": order,
            "numeric_mean": mean_N.tolist(),
            "numeric_std": std_N.tolist(),
            "rates": [checked["train"][label] / checked["train"]["rows"] for label in settings.labels],
            "leave": [law.scale, law.shape],
            "parts": counts,
        }

    def __init__(
        self,
        settings: RerankSettings,
        schema: Schema,
        facts: Mapping[str, Any],
        given: Mapping[str, Given] | None = None,
    ) -> None:
        self.settings, self.schema, self.facts = settings, schema, facts
        self.views = views(settings, schema)
        self.encoder = Encoder(self.views.schema)
        self.session = str(facts["session"])
        self.columns = list(
            dict.fromkeys([*self.views.schema.features, self.session, *settings.labels, *settings.feedback])
        )

    def describe(self) -> str:
        settings = self.settings
        told = f"feedback {', '.join(settings.feedback)}" if settings.feedback else "no feedback"
        return f"a list scorer ({len(self.views.schema.features)} features, {told})"

    def sizes(self, log: Log, part: Part) -> tuple[int, ...]:
        """Sessions of each row group. Raises UserError where one is torn."""
        return request_sizes(log, part, self.session)

    def empty(self) -> Sessions:
        none = np.empty(0, np.float32)
        return Sessions(
            Lists(self.encoder.empty(), np.zeros(1, np.int64)),
            none.reshape(0, len(self.settings.feedback)),
            none.reshape(0, 3),
            np.empty(0, np.int64),
        )

    def encode(self, table: pa.Table) -> Sessions:
        session_R = one_chunk(table, self.session)
        begin_L1 = request_begins(session_R)
        return Sessions(
            Lists(self.encoder.encode(table), begin_L1),
            self.feedback(table),
            np.stack([number(table, name) for name in self.settings.labels], 1),
            hidden(hash_array(session_R), begin_L1),
        )

    def feedback(self, table: pa.Table) -> np.ndarray:
        """float32 (R, F): log(1 + x) of the feedback's columns."""
        found = [np.log1p(number(table, name)) for name in self.settings.feedback]
        return np.stack(found, 1) if found else np.zeros((table.num_rows, 0), np.float32)

    def scorer(self, share: Share = EVERY_ROW, seed: int = 0) -> ListScorer:
        seen = self.views
        scorer = ListScorer(
            self.settings.model,
            sum(self.encoder.field_rows),
            len(seen.schema.numeric),
            seen.query,
            seen.item,
            len(self.settings.feedback),
            seed,
            share,
        )
        scorer.standardise.mean.copy_(torch.tensor(self.facts["numeric_mean"], dtype=torch.float64))
        scorer.standardise.std.copy_(torch.tensor(self.facts["numeric_std"], dtype=torch.float64))
        with torch.no_grad():
            for head, rate in zip(scorer.heads, self.facts["rates"], strict=True):
                # Begin at the mean: a like is rare.
                head.bias.fill_(float(np.log(rate / (1 - rate))))  # type: ignore[operator]
        return scorer

    def network(self, share: Share = EVERY_ROW, seed: int = 0) -> SessionNetwork:
        return SessionNetwork(self.scorer(share, seed))

    def complete(self, batch: SessionBatch) -> SessionBatch:
        return batch

    def totals(self, outputs: Outputs, batch: SessionBatch) -> Tensor:
        """(1,): rows."""
        return torch.tensor([float(len(batch.label_B3))], dtype=torch.float64, device=batch.label_B3.device)

    def loss(
        self, outputs: Outputs, batch: SessionBatch, totals: Tensor, step: int, epoch: int = 0
    ) -> dict[str, Tensor]:
        count = totals[0].clamp(min=1e-12)
        terms = {}
        for h, head in enumerate(HEADS):
            total = binary_cross_entropy_with_logits(outputs[head], batch.label_B3[:, h], reduction="sum")
            terms[head] = total / count
        loss = terms["view"] + self.settings.like_weight * terms["like"] + terms["next"]
        return {"loss": loss, **{head: term.detach() for head, term in terms.items()}}

    def counts(self, log: Log, part: Part, truth: bool = False) -> SessionCounts:
        return SessionCounts(self.settings.alpha, self.settings.beta)

    def smaller_is_better(self, figure: str) -> bool:
        if figure not in AIMS:
            raise UserError(f"stop_metric {figure!r}: want one of {', '.join(AIMS)}")
        return AIMS[figure]

    @classmethod
    def results(cls, summary: Mapping[str, Any]) -> Table:
        from funnel.rerank.panels import results

        return results(summary)

    @classmethod
    def panels(cls, record: Record) -> list[Panel]:
        from funnel.rerank.panels import panels

        return panels(record)


def default() -> dict[str, Any]:
    """The defaults of every setting."""
    return {}


def rates() -> Space:
    """Learning rates of the network and of the embedding table, and the weight of likes."""
    return {
        "optimizer.learning_rate": LogUniform(2e-4, 1e-2),
        "optimizer.embedding_learning_rate": LogUniform(5e-3, 0.5),
        "like_weight": LogUniform(0.3, 10.0),
    }


Rerank.presets, Rerank.spaces = named(default), named(rates)
