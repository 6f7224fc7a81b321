"""The ranker: click, conversion after the click, and both, learnt over the entire space of exposures.

What is minimised is an objective of models/objectives/ (ESCM2 and its rivals), by name in the settings.
Shapes: B rows of a batch.
"""

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import pyarrow as pa
import torch
from torch import Tensor

from data.credentials import shown
from data.encode import Encoder, numeric_moments
from data.errors import UserError
from data.labels import check_labels
from data.log import Log, Part
from data.repeats import repeat_warnings
from data.schema import Schema
from data.suspects import suspicious_columns
from data.truth_check import check_truth
from data.unseen import unseen_warnings
from funnel.batch import Batch
from funnel.figures.threshold import checked
from funnel.network import BatchNetwork, build_network
from funnel.panels import Panel, Record, Table
from funnel.problem import Given, Outputs
from funnel.ranking.balanced_fields import SliceCodes
from funnel.ranking.calibration import Calibration
from funnel.ranking.click_model import ROLES, ClickModel
from funnel.ranking.counts import PROPENSITIES, WEIGHTED, RankingCounts
from funnel.ranking.delays import DELAY, ELAPSED, KNOWN, known_by, moment_of, none_known, time_columns
from funnel.ranking.folds import FOLD, LeftOut, fold_columns, no_folds, with_folds
from funnel.ranking.needed_labels import counted, needed_labels, refuse_empty, refuse_one_class, require_labels
from funnel.ranking.presets import PRESETS, SPACES
from funnel.ranking.results import WATCHED, results
from funnel.ranking.theta import first, settled
from funnel.rows import RowUnits
from funnel.spaces import Presets, Spaces
from models.entire_space import ModelConfig
from models.objectives.base import LEARNT, TINY, TOLD, Labels, Objective, ObjectiveConfig
from models.objectives.delays import DELAYS
from models.objectives.propensity import resolve_clip
from models.registry import BACKBONES, build_objective, find_objective, lookup
from models.rows import EVERY_ROW, Share

AIMS = [f"{space}.{figure}" for space in ("ctr", "cvr.click", "ctcvr", WEIGHTED) for figure in ("auc", "log_loss")]
"""Figures by which an epoch may be chosen."""


@dataclass(frozen=True)
class EntireSpaceSettings:
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    as_of: str = ""
    """Train on the conversions that were known at this moment, such as 2026-01-31, or train: the last moment of the
    training part; what is later keeps its labels. The schema names `time` and `conversion_time`. Left out: all."""
    leave_out: str = ""
    """Train without the rows of one fold of users, FOLD/FOLDS such as 1/3: a click model that weighs the rows it has
    not seen (jobs.ensemble trains one for each fold). Figures are of all rows."""
    threshold: float | str = "auto"
    """Prediction from which on a row is called positive, for precision, recall and F1 among the figures: a probability,
    or auto = the mean label of the rows they are taken over."""

    def __post_init__(self) -> None:
        checked(self.threshold)
        LeftOut.of(self.leave_out)


class EntireSpace:
    """Predicts every task of its objective ("ctr", "cvr", ...) for every exposure (funnel/problem.py: Problem)."""

    name: ClassVar[str] = "entire_space"
    settings_type: ClassVar[type] = EntireSpaceSettings
    units: ClassVar[str] = "rows"
    roles: ClassVar[Mapping[str, str]] = {
        PROPENSITIES: "a run with the same features, whose CTR tower weighs the clicks in place of this run's own; it "
        "may be trained for clicks alone (--preset clicks); several are averaged",
        **dict.fromkeys(ROLES[1:], "one more of them"),
    }
    goal: str = "ctcvr.log_loss"
    watched: ClassVar[Mapping[str, str]] = WATCHED
    tools: ClassVar[Mapping[str, str]] = {
        "score": "funnel.ranking.scoring",
        "calibrate": "funnel.ranking.calibrating",
        "evaluate": "funnel.ranking.evaluating",
        "export": "funnel.ranking.exporting",
        "teach": "funnel.ranking.teaching",
    }
    presets: ClassVar[Presets] = PRESETS
    spaces: ClassVar[Spaces] = SPACES

    @classmethod
    def prepare(
        cls, settings: EntireSpaceSettings, log: Log, parts: Mapping[str, Part], roles: Collection[str] = ()
    ) -> dict[str, Any]:
        """Check labels, measure the features: {"tasks", "click_rate", "conversion_rate", "numeric_mean", "numeric_std",
        "parts"}, and "warnings" of columns and rows that look wrong, if any do.

        Raises UserError: an unknown backbone or objective, a label that is not there or wrong, a part without clicks
        or conversions, a truth that lacks rows or contradicts the log, a click model for an objective that weighs
        nothing.
        """
        lookup(BACKBONES, settings.model.backbone.name, "backbone")
        objective = find_objective(settings.objective.name)
        if PROPENSITIES in roles and not objective.uses_propensities:
            raise UserError(
                f"--given {PROPENSITIES}=...: objective {settings.objective.name} uses no propensities; leave it out"
            )
        if settings.objective.theta != LEARNT and not objective.hidden_cause:
            raise UserError(
                f"objective.theta {settings.objective.theta}: means nothing to objective {settings.objective.name}"
            )
        theta = settings.objective.theta
        if theta in TOLD and not log.schema.instrument:
            raise UserError(f"objective.theta {theta}: the schema declares no 'instrument', which alone tells theta")
        if theta in TOLD and settings.as_of:
            raise UserError(f"objective.theta {theta}: with as_of it would see later conversions; give a number")
        if settings.leave_out and log.schema.user is None:
            raise UserError(f"leave_out {settings.leave_out}: the log's schema names no user, and folds are of users")
        if settings.objective.delay != "none" and not (settings.as_of and objective.takes_delays):
            why = "needs as_of" if objective.takes_delays else f"means nothing to objective {settings.objective.name}"
            raise UserError(f"objective.delay {settings.objective.delay}: {why}")
        if settings.objective.balance.weight and not objective.takes_balance:
            raise UserError(f"objective.balance.weight: means nothing to objective {settings.objective.name}")
        if settings.objective.balance.by_slice:
            SliceCodes(log.schema, settings.objective.balance.by)
        needed = needed_labels(settings.objective.name)
        require_labels(log, needed)
        facts = {name: check_labels(log, part) for name, part in parts.items()}
        for name in ("train", "valid"):
            refuse_empty(f"{shown(log.location)}/{name}", facts[name], needed)
        judged = "test" if "test" in parts else "valid"
        if log.has_truth(parts[judged]):
            check_truth(log, parts[judged])
        mean_N, std_N = numeric_moments(log, parts["train"])
        warnings = [
            *repeat_warnings(log, parts, {name: fact.keys for name, fact in facts.items()}),
            *suspicious_columns(log, parts["train"], mean_N.tolist(), std_N.tolist()),
            *unseen_warnings(log, parts["train"]),
        ]
        if objective.hidden_cause and settings.objective.theta == LEARNT and not log.schema.instrument:
            warnings.append(
                "the schema names no 'instrument': without one nothing tells theta from the features' effects"
            )
        train = facts["train"]
        if not train.positives.get("conversion") or not facts["valid"].positives.get("conversion"):
            warnings.append("train or valid has no conversions: a model of clicks; its pcvr and pctcvr mean nothing")
        elif train.positives["conversion"] == train.positives["click"]:
            warnings.append("every click of train converts: pcvr is 1, and pctcvr pctr; are both labels one column?")
        return {
            **towers(objective, settings.objective),
            "click_rate": train.weights["click"] / train.weight,
            "conversion_rate": train.weights.get("conversion", 0) / train.weights["click"],
            **(moment_of(settings.as_of, log, parts["train"]) if settings.as_of else {}),
            "numeric_mean": mean_N.tolist(),
            "numeric_std": std_N.tolist(),
            "parts": {name: counted(fact) for name, fact in facts.items()},
            **({"warnings": warnings} if warnings else {}),
        }

    @classmethod
    def first(cls, settings: EntireSpaceSettings) -> tuple[EntireSpaceSettings, str] | None:
        """What is trained before, to estimate theta by, if that is asked for (theta.py), and by which preset."""
        return first(settings)

    @classmethod
    def settled(
        cls, settings: EntireSpaceSettings, before: Given, log: Log, parts: Mapping[str, Part]
    ) -> tuple[EntireSpaceSettings, dict[str, Any], str]:
        """(settings with theta as that training tells it, figures of the estimate, a sentence)."""
        return settled(settings, before, log, parts)

    @classmethod
    def facts_with(cls, facts: Mapping[str, Any], settings: EntireSpaceSettings) -> dict[str, Any]:
        """Facts of the same log for other settings: the towers follow the objective. Trials of a search differ so."""
        rest = {key: fact for key, fact in facts.items() if key not in ("hidden_cause", "weighs_clicks")}
        return {**rest, **towers(find_objective(settings.objective.name), settings.objective)}

    def __init__(
        self,
        settings: EntireSpaceSettings,
        schema: Schema,
        facts: Mapping[str, Any],
        given: Mapping[str, Given] | None = None,
    ) -> None:
        self.settings, self.schema, self.facts = settings, schema, facts
        self.encoder = Encoder(schema)
        self.left_out = LeftOut.of(settings.leave_out)
        self.as_of: int | None = facts.get("as_of")
        balance = settings.objective.balance
        self.slices = SliceCodes(schema, balance.by) if balance.by_slice else None
        runs = [given[role] for role in ROLES if role in given] if given else []
        self.click_model = ClickModel(*runs) if runs else None
        if self.folds and schema.user is None:
            raise UserError(f"--given {PROPENSITIES}=...: trained without folds of users, and the log names no user")

    @property
    def folds(self) -> int:
        """Into how many folds users are dealt, if this training or its click model has to know."""
        return self.left_out.folds or (self.click_model.folds if self.click_model else 0)

    @property
    def columns(self) -> list[str]:
        more = fold_columns(self.schema, self.folds) + (time_columns(self.schema) if self.as_of is not None else [])
        return list(dict.fromkeys([*self.schema.columns, *more]))

    @cached_property
    def objective(self) -> Objective:
        """Built when it is needed: a finished run can be used where the module of its own objective is not."""
        return build_objective(self.settings.objective, self.facts["click_rate"])

    @property
    def clip(self) -> float:
        """What the objective raises propensities to."""
        return resolve_clip(self.settings.objective.clip, self.facts["click_rate"])

    def describe(self) -> str:
        settings = self.settings
        rate = self.facts["click_rate"]
        return f"{settings.objective.name} on {settings.model.backbone.name} (click rate {rate:.2%})"

    def choices(self) -> dict[str, str]:
        """What of the model other programs may want to know: {"objective": ., "backbone": .}"""
        return {"objective": self.settings.objective.name, "backbone": self.settings.model.backbone.name}

    def sizes(self, log: Log, part: Part) -> tuple[int, ...]:
        return tuple(file.row_groups[index] for file, index in part.row_groups())

    def encode(self, table: pa.Table) -> RowUnits:
        rows = known_by(self.encoder.encode(table), table, self.schema, self.as_of, self.facts.get(KNOWN))
        return RowUnits(with_folds(rows, table, self.schema, self.folds))

    def empty(self) -> RowUnits:
        return RowUnits(no_folds(none_known(self.encoder.empty(), self.as_of), self.folds))

    def network(self, share: Share = EVERY_ROW, seed: int = 0) -> BatchNetwork:
        facts = self.facts
        tasks = tuple(facts["tasks"])
        cause = self.settings.objective.theta if facts.get("hidden_cause") else None
        if cause in TOLD:
            why = "takes a training before this one, as jobs.train makes it; give a number here"
            raise UserError(f"objective.theta {cause}: {why}")
        network = build_network(BatchNetwork, self.settings.model, self.schema, tasks, seed, share, cause)
        network.ending = self.settings.objective.ending(tasks)
        if "numeric_mean" in facts:  # not in an older checkpoint, whose tensors say the same
            network.start_at({"ctr": facts["click_rate"], "cvr": facts["conversion_rate"]})
            network.standardise.mean.copy_(torch.tensor(facts["numeric_mean"], dtype=torch.float64))
            network.standardise.std.copy_(torch.tensor(facts["numeric_std"], dtype=torch.float64))
        return network

    def complete(self, batch: Batch) -> Batch:
        """With the click model's logits, if there is one."""
        if self.click_model is None:
            return batch
        return dataclasses.replace(batch, given={PROPENSITIES: self.click_model.logits(batch)})

    def totals(self, outputs: Outputs, batch: Batch) -> Tensor:
        logits, labels = dict(outputs), self.labels_of(batch)
        return torch.cat([self.objective.totals(logits, labels), self.objective.balance_totals(logits, labels)])

    def loss(self, outputs: Outputs, batch: Batch, totals: Tensor, step: int, epoch: int = 0) -> dict[str, Tensor]:
        self.objective.step, self.objective.epoch = step, epoch
        # Nothing in the batch weighs anything: the sums above are 0 too, and 0 / TINY is no NaN.
        return self.objective(dict(outputs), self.labels_of(batch), torch.where(totals == 0, TINY, totals))

    def labels_of(self, batch: Batch) -> Labels:
        """With the slices that balance is asked for in."""
        labels, slices = labels_of(batch, self.left_out), self.slices
        if slices is None:
            return labels
        return dataclasses.replace(labels, slice_BS=slices.codes(batch.ids_BK), slices=slices.count)

    def counts(
        self, log: Log, part: Part, truth: bool = False, calibration: Calibration | None = None
    ) -> RankingCounts:
        known = log.truth(part) if truth and log.has_truth(part) else None
        weighted, given = self.schema.weight is not None, self.click_model is not None
        threshold = checked(self.settings.threshold)
        weighs = bool(self.facts.get("weighs_clicks"))
        return RankingCounts(self.clip, calibration, weighted, known, log.schema.exposure, given, threshold, weighs)

    def smaller_is_better(self, figure: str) -> bool:
        if figure not in AIMS:
            raise UserError(f"stop_metric {figure!r}: want one of {', '.join(AIMS)}")
        if figure.startswith(WEIGHTED) and not self.facts.get("weighs_clicks"):
            raise UserError(f"stop_metric {figure}: objective {self.settings.objective.name} weighs no clicks")
        valid = self.facts.get("parts", {}).get("valid", {})
        if not figure.startswith("ctr.") and valid.get("conversions", 1) == 0:
            raise UserError(
                f"stop_metric {figure}: the valid part has no conversions; for a model of clicks take ctr.log_loss, as "
                "--preset clicks does"
            )
        refuse_one_class(figure, (self.facts.get("parts") or {}).get("valid") or {})
        return figure.endswith("log_loss")

    @classmethod
    def results(cls, summary: Mapping[str, Any]) -> Table:
        return results(summary)

    @classmethod
    def panels(cls, record: Record) -> list[Panel]:
        from funnel.ranking.panels import panels

        return panels(record)


def towers(objective: type[Objective], config: ObjectiveConfig) -> dict[str, Any]:
    """Of the facts, what follows from the objective: {"tasks": ., ["hidden_cause": True], ["weighs_clicks": True]}"""
    said = {"hidden_cause": objective.hidden_cause, "weighs_clicks": objective.uses_propensities}
    tasks = [*objective.tasks, *DELAYS[config.delay]]
    return {"tasks": tasks, **{name: True for name, true in said.items() if true}}


def labels_of(batch: Batch, left_out: LeftOut = LeftOut()) -> Labels:  # noqa: B008 - it is frozen
    """The batch's labels as objectives take them, with the click model's logits if it has them; rows of the fold that
    is left out weigh 0."""
    given = batch.given[PROPENSITIES] if batch.given else None
    weight_B = batch.weight_B
    if left_out.folds:
        kept_B = (batch.labels[FOLD] != left_out.fold - 1).float()
        weight_B = kept_B if weight_B is None else weight_B * kept_B
    elapsed_B, delay_B, known_B = (batch.labels.get(name) for name in (ELAPSED, DELAY, KNOWN))
    return Labels(
        batch.labels["click"],
        batch.labels["conversion"],
        weight_B,
        elapsed_B=elapsed_B,
        delay_B=delay_B,
        known_B=known_B,
        click_logit_B=given,
    )
