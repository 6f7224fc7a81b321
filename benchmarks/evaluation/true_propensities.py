"""The ranker with the true propensities of a generated log as its click model: a rung of the ladder of references."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from data.log import Log, open_log
from data.schema import Schema
from funnel.batch import Batch
from funnel.problem import Given
from funnel.ranking.problem import PROPENSITIES, EntireSpace, EntireSpaceSettings
from funnel.rows import RowUnits

NAME = "benchmarks.evaluation.true_propensities:TrulyWeighted"
PARTS = ("train", "valid", "test")
TRUE = "true_propensity"
LOCATION = "log_of_truth"
"""Among the facts: the log whose truth it reads."""


class TrulyWeighted(EntireSpace):
    """Knows P(o = 1) of every exposure, hidden cause and all; trained as the ranker is, in every other way."""

    def __init__(
        self,
        settings: EntireSpaceSettings,
        schema: Schema,
        facts: Mapping[str, Any],
        given: Mapping[str, Given] | None = None,
    ) -> None:
        super().__init__(settings, schema, facts, given)
        assert schema.exposure is not None
        self.key = schema.exposure
        self.known: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def columns(self) -> list[str]:
        return [*self.schema.columns, self.key]

    def truth(self) -> tuple[np.ndarray, np.ndarray]:
        """(keys in order, propensities) of all parts."""
        if self.known is None:
            log: Log = open_log(self.facts[LOCATION])
            found = [log.truth(part) for part in PARTS]
            key = np.concatenate([truth.key_R for truth in found])
            order = np.argsort(key)
            propensities = [truth.propensity_R for truth in found if truth.propensity_R is not None]
            self.known = key[order], np.concatenate(propensities)[order]
        return self.known

    def encode(self, table: pa.Table) -> RowUnits:
        rows = self.encoder.encode(table)
        key_R, propensity_R = self.truth()
        found = propensity_R[np.searchsorted(key_R, table.column(self.key).to_numpy())].astype(np.float32)
        return RowUnits(dataclasses.replace(rows, labels={**rows.labels, TRUE: found}))

    def empty(self) -> RowUnits:
        rows = self.encoder.empty()
        return RowUnits(dataclasses.replace(rows, labels={**rows.labels, TRUE: np.empty(0, np.float32)}))

    def complete(self, batch: Batch) -> Batch:
        return dataclasses.replace(batch, given={PROPENSITIES: torch.logit(batch.labels[TRUE].double()).float()})
