"""Pre-ranking as a problem (funnel/problem.py: Problem): two towers learnt from what every stage left out.

    python -m jobs.train --problem prerank --data runs/stages --out runs/prerank
    python -m jobs.train --problem prerank --data runs/stages --given teacher=runs/ranker --out runs/taught

    L = a_ex L_ex + a_cl L_cl + a_pur L_pur + L_distill, a mean over requests                [ASMOL, arXiv 2305.13647]

A sample is a request's exposed rows, and a draw of its ranked and its cut ones (samples.py). Positives of L_pur: what
was bought, also elsewhere; of L_cl: clicked or bought; of L_ex: shown, clicked or bought. L_distill is a_cl L_ctr +
a_pur L_ctcvr, from a finished ranker's calibrated probabilities. Shapes: D drawn rows, L requests.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
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
from data.schema import Schema
from funnel.lists.units import Lists, request_begins, request_sizes
from funnel.panels import Panel, Record, Table
from funnel.prerank.checks import check_outputs, check_stages, columns_of, stage_columns
from funnel.prerank.counts import AIMS, PreRankCounts
from funnel.prerank.features import sides
from funnel.prerank.losses import pointwise_loss, request_loss
from funnel.prerank.network import PreRankNetwork
from funnel.prerank.panels import WATCHED, panels, results
from funnel.prerank.samples import ELSEWHERE, MARKS, NEEDED, OPTIONAL, marks, packed, repeats_of
from funnel.prerank.settings import PreRankSettings
from funnel.prerank.units import PreRankBatch, PreRankUnits
from funnel.problem import Given, Outputs
from funnel.registry import tool
from funnel.spaces import Choice, LogUniform, Presets, Space, Spaces, named
from models.rows import EVERY_ROW, Share

TEACHER = "teacher"
"""The role of the ranker that is distilled."""


class PreRank:
    """The pre-ranker."""

    name: ClassVar[str] = "prerank"
    settings_type: ClassVar[type] = PreRankSettings
    units: ClassVar[str] = "requests"
    roles: ClassVar[Mapping[str, str]] = {
        TEACHER: "a finished ranker with the same features: what it says of the exposed rows is distilled"
    }
    watched: ClassVar[Mapping[str, str]] = WATCHED
    tools: ClassVar[Mapping[str, str]] = {"evaluate": "funnel.prerank.evaluating", "export": "funnel.prerank.exporting"}
    goal: str = "asph"
    presets: ClassVar[Presets]
    spaces: ClassVar[Spaces]

    @classmethod
    def prepare(
        cls, settings: PreRankSettings, log: Log, parts: Mapping[str, Part], roles: Collection[str] = ()
    ) -> dict[str, Any]:
        """{"columns", "numeric_mean", "numeric_std", "repeats", "parts"}, and "warnings".

        Raises UserError: no request, labels or stages in the log, what check_stages finds, nothing to learn from, a
        teacher that nothing asks.
        """
        schema, where = log.schema, shown(log.location)
        if schema.request is None:
            raise UserError(f"{where}/schema.json: names no 'request'; a pre-ranker learns from whole requests")
        if schema.weight is not None:
            raise UserError(f"{where}/schema.json: names a 'weight', which a list-wise loss cannot use; leave it out")
        for name in (settings.click, settings.purchase):
            if name not in schema.labels:
                raise UserError(f"{where}/schema.json: no label {name!r}; it has {', '.join(schema.labels) or 'none'}")
        sides(settings, schema, f"{where}/schema.json")
        if TEACHER in roles and (settings.distill == "none" or settings.loss == "pointwise"):
            raise UserError(f"--given {TEACHER}=...: --distill none and --loss pointwise ask no teacher; leave it out")
        columns = stage_columns(log, parts["train"])
        lacking = [name for name in ELSEWHERE if name not in columns]
        if settings.labels == "all" and lacking:
            raise UserError(
                f"{where}/train: no column {lacking[0]!r}, what users did in other scenarios: --labels in learns "
                "without (and --stop-metric isph)"
            )
        for part in parts.values():
            check_labels(log, part)
        found = {}
        for name, part in parts.items():
            try:
                found[name] = check_stages(settings, log, part, name != "train")
            except UserError:
                request_sizes(log, part, schema.request)  # where a request is torn, that is what is wrong
                raise
        plain = {name: fact.plain() for name, fact in found.items()}
        check_outputs(settings, where, {name: plain[name] for name in plain if name != "train"})
        refuse_nothing(settings, where, plain["train"], schema)
        mean_N, std_N = numeric_moments(log, parts["train"])
        return {
            "columns": [name for name in columns if name in OPTIONAL],
            "numeric_mean": mean_N.tolist(),
            "numeric_std": std_N.tolist(),
            "repeats": packed_repeats(found),
            "parts": plain,
        }

    def __init__(
        self,
        settings: PreRankSettings,
        schema: Schema,
        facts: Mapping[str, Any],
        given: Mapping[str, Given] | None = None,
    ) -> None:
        assert schema.request is not None
        self.settings, self.schema, self.facts, self.request = settings, schema, facts, schema.request
        self.encoder = Encoder(schema)
        self.sides = sides(settings, schema)
        self.repeats = repeats_of(facts)
        flags = [*NEEDED, *facts.get("columns", ())]
        self.columns = list(dict.fromkeys([*schema.columns, schema.request, settings.item_id, *flags]))
        self.teacher = None
        if given and TEACHER in given:
            run = given[TEACHER]
            check_teacher(run.problem.schema, run.directory, schema)
            self.teacher = tool(run.problem, "teach").teacher(run)

    def describe(self) -> str:
        settings = self.settings
        drawn = f"{settings.ranked} ranked and {settings.cut} cut rows a request"
        return f"a pre-ranker ({settings.loss} loss, {settings.labels}-scenario labels, {drawn})"

    def sizes(self, log: Log, part: Part) -> tuple[int, ...]:
        """Requests of each row group. Raises UserError where a request is torn or out of sequence."""
        return request_sizes(log, part, self.request)

    def encode(self, table: pa.Table) -> PreRankUnits:
        rows = self.encoder.encode(table)
        begin_L1 = request_begins(one_chunk(table, self.request))
        found = marks(self.settings, table, self.request, begin_L1, self.repeats)
        return PreRankUnits(Lists(replace(rows, labels=rows.labels | found), begin_L1))

    def empty(self) -> PreRankUnits:
        rows = self.encoder.empty()
        none = dict.fromkeys(MARKS, np.empty(0, np.float32))
        return PreRankUnits(Lists(replace(rows, labels=rows.labels | none), np.zeros(1, np.int64)))

    def network(self, share: Share = EVERY_ROW, seed: int = 0) -> PreRankNetwork:
        rows, numerics = sum(self.encoder.field_rows), len(self.schema.numeric)
        network = PreRankNetwork(self.settings, rows, numerics, self.sides, seed, share)
        for tower in network.rankers:
            tower.standardise.mean.copy_(torch.tensor(self.facts["numeric_mean"], dtype=torch.float64))
            tower.standardise.std.copy_(torch.tensor(self.facts["numeric_std"], dtype=torch.float64))
        return network

    def complete(self, batch: PreRankBatch) -> PreRankBatch:
        """With what the teacher says of the sample's rows, if there is a teacher."""
        if self.teacher is None or not len(batch):
            return batch
        return replace(batch, taught=self.teacher(batch.sample.rows))

    def totals(self, outputs: Outputs, batch: PreRankBatch) -> Tensor:
        """(3,): requests, exposed rows, clicked rows."""
        labels = batch.sample.rows.labels
        exposed, clicked = (labels[name].sum(dtype=torch.float64) for name in ("exposed", self.settings.click))
        return torch.stack([exposed.new_tensor(float(len(batch))), exposed, clicked])

    def loss(
        self, outputs: Outputs, batch: PreRankBatch, totals: Tensor, step: int, epoch: int = 0
    ) -> dict[str, Tensor]:
        if self.settings.loss == "pointwise":
            return pointwise_loss(self.settings, outputs, batch.sample.rows.labels, totals)
        return request_loss(self.settings, outputs["score"], batch, totals)

    def counts(self, log: Log, part: Part, truth: bool = False) -> PreRankCounts:
        known = log.truth(part) if truth and log.has_truth(part) else None
        if known is not None and (known.propensity_R is None or known.probability_R is None):
            known = None
        scored = self.settings.rank_score in columns_of(log, part)
        return PreRankCounts(self.settings, self.settings.purchase, known, log.schema.exposure, scored)

    def smaller_is_better(self, figure: str) -> bool:
        if figure not in AIMS:
            raise UserError(f"stop_metric {figure!r}: want one of {', '.join(AIMS)}")
        if figure in ("asph", "recall") and "elsewhere_purchase" not in self.facts.get("columns", ()):
            raise UserError(f"stop_metric {figure}: the log has no purchases in other scenarios; take isph or pauc")
        return AIMS[figure]

    @classmethod
    def check_given(cls, role: str, problem: Any, directory: Path, known: Schema, schema: Schema) -> None:
        """In the driver, without weights: raises UserError for a run that cannot teach this log's features."""
        if "teach" not in problem.tools:
            raise UserError(f"--given {role}={directory}: a run of {problem.name} cannot teach; name a ranker's")
        check_teacher(known, directory, schema)

    @classmethod
    def results(cls, summary: Mapping[str, Any]) -> Table:
        return results(summary)

    @classmethod
    def panels(cls, record: Record) -> list[Panel]:
        return panels(record)


def check_teacher(known: Schema, directory: Path, schema: Schema) -> None:
    """Raises UserError if the teacher reads other features than the log has."""
    for name in known.features:
        if name not in schema.features:
            raise UserError(f"{directory}: the teacher has the feature {name!r}, which the log has not")
    if strange := [name for name in schema.features if name not in known.features]:
        raise UserError(f"{directory}: the teacher has no feature {strange[0]!r}, which the log has")
    if (known.categorical, known.numeric) != (schema.categorical, schema.numeric):
        raise UserError(f"{directory}: the teacher's features are not in the log's order, or mean something else")


def refuse_nothing(settings: PreRankSettings, where: str, counts: Mapping[str, int], schema: Schema) -> None:
    """Raises UserError where the training part has nothing that is asked for."""
    clicks = counts[schema.labels[settings.click]]
    bought = counts[schema.labels[settings.purchase]]
    if settings.labels == "all":
        bought += counts.get("elsewhere_purchase", 0)
    if not clicks or not bought:
        what = "clicks" if not clicks else "purchases"
        raise UserError(f"{where}/train: no {what} in {counts['rows']} rows; there is nothing to learn")
    for quota, kind in (("ranked", "ranked and not shown"), ("cut", "cut by pre-ranking")):
        if getattr(settings, quota) and not counts[quota]:
            raise UserError(f"{where}/train: no row is {kind}; --{quota} 0 learns without them")


def packed_repeats(found: Mapping[str, Any]) -> dict[str, str]:
    """Of all parts together: a pair of request and item is of one part."""
    whole = {}
    for name in ELSEWHERE:
        pairs = [fact.repeats[name] for fact in found.values() if name in fact.repeats]
        if pairs and sum(map(len, pairs)):
            whole[name] = packed(np.concatenate(pairs))
    return whole


def default() -> dict[str, Any]:
    """ASMOL's."""
    return {}


def point_wise() -> dict[str, Any]:
    """Clicks and purchases of what was shown, each row by itself: what pre-rankers were before."""
    return {"loss": "pointwise", "ranked": 0, "cut": 0, "labels": "in", "distill": "none"}


def survival() -> dict[str, Any]:
    """A lower bound of surviving all stages (LCRON)."""
    return {"loss": "survival"}


def rates() -> Space:
    """Learning rates and the width of the towers."""
    return {
        "optimizer.learning_rate": LogUniform(2e-4, 2e-2),
        "optimizer.embedding_learning_rate": LogUniform(5e-3, 0.5),
        "model.hidden": Choice(("32", "64", "128")),
    }


def objective() -> Space:
    """Weights of the tasks and what is drawn of each stage."""
    return {
        "exposure_weight": LogUniform(0.01, 1.0),
        "click_weight": LogUniform(0.05, 5.0),
        "ranked": Choice((0, 5, 10, 20)),
        "cut": Choice((10, 20, 40)),
    }


PreRank.presets, PreRank.spaces = named(default, point_wise, survival), named(rates, objective)
