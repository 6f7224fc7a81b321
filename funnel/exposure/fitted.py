"""The forest for jobs.fit --system exposure (funnel/fitted.py: Fitted).

    python -m jobs.make_data --world shares --out runs/shares
    python -m jobs.fit --system exposure --data runs/shares --out runs/forest
    python -m jobs.fit --system exposure --data runs/shares --out runs/points --leaves points --workers 2

Fitted on the train part, judged on the test part by a model of outcomes that is fitted on the half of the test part
that it does not judge, and doubly robust. Shares that users alike were never shown are drawn in towards the log's mean
ones (overlap.py) wherever the forest is used: judged, or on the platform.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from data.errors import UserError
from data.log import Log
from funnel.exposure.evidence import evidence
from funnel.exposure.explain import curves_of, groups_of, importance
from funnel.exposure.forest import ForestSettings, MDP2Forest
from funnel.exposure.judged import judged, seen_range
from funnel.exposure.outcome import OutcomeSettings
from funnel.exposure.overlap import Overlap, OverlapSettings
from funnel.exposure.panels import forest_panels, policy_results
from funnel.exposure.preference import ShareGrid
from funnel.exposure.reading import read_shares, rows_of
from funnel.exposure.shares import ShareRows, limits
from funnel.exposure.tree import Tree
from funnel.fitted import Arrays, Map, here
from funnel.panels import Panel, Record, Table


@dataclass(frozen=True)
class ForestFitSettings:
    outcomes: tuple[str, ...] = ()
    """What is to be raised, NAME=WEIGHT; left out, the log's only outcome."""
    evidence: float = 2.0
    """Standard errors by which rows in the direction of the learnt shares must come to more (evidence.py); below,
    everybody is given the log's mean shares. 0: shares are given whatever the evidence."""
    forest: ForestSettings = field(default_factory=ForestSettings)
    outcome_model: OutcomeSettings = field(default_factory=OutcomeSettings)
    overlap: OverlapSettings = field(default_factory=OverlapSettings)

    def __post_init__(self) -> None:
        if not 0 <= self.evidence < np.inf:
            raise UserError(f"evidence is {self.evidence}, must be a finite number of at least 0")


class ExposureForest:
    """Groups of users and the shares that suit each."""

    name: ClassVar[str] = "exposure"
    settings_type: ClassVar[type] = ForestFitSettings

    def __init__(
        self, settings: ForestFitSettings, forest: MDP2Forest, overlap: Overlap, facts: Mapping[str, Any]
    ) -> None:
        self.settings, self.forest, self.overlap, self.facts = settings, forest, overlap, facts

    @classmethod
    def read(cls, settings: ForestFitSettings, log: Log, part: str) -> dict[str, np.ndarray]:
        return read_arrays(settings.outcomes, log, part)

    @classmethod
    def check(cls, settings: ForestFitSettings, train: Arrays, judging: Arrays, where: str) -> None:
        """Whether there are rows and features for two groups."""
        MDP2Forest(settings.forest).check(checked(settings, train, f"{where}/train"))

    @classmethod
    def fit(cls, settings: ForestFitSettings, arrays: Arrays, seed: int, map: Map = here) -> Self:
        rows = checked(settings, arrays)
        forest = MDP2Forest(settings.forest).fit(rows, seed, map)
        facts = {**seen_range(rows), "evidence": evidence(forest, rows, seed)}
        return cls(settings, forest, Overlap.fit(rows, settings.overlap, seed), facts)

    @property
    def told(self) -> bool:
        """Whether the log tells the learnt shares from its mean ones."""
        return not self.settings.evidence or self.facts["evidence"] >= self.settings.evidence

    @property
    def categories(self) -> tuple[str, ...]:
        return self.forest.categories

    def shares(self, features_UF: np.ndarray) -> np.ndarray:
        """What each user should get, (U, K), as far as the log has seen it and has evidence that it brings more."""
        if not self.told:
            return np.tile(np.array(self.facts["mean"]), (len(features_UF), 1))
        return self.overlap.drawn_in(features_UF, self.forest.shares(features_UF), np.array(self.facts["mean"]))

    def wanted(self, features_UF: np.ndarray) -> np.ndarray:
        """The shares before they are drawn in."""
        return self.forest.shares(features_UF) if self.told else self.shares(features_UF)

    def describe(self) -> str:
        forest = self.forest
        leaves = np.mean([(tree.feature_V < 0).sum() for tree in forest.trees])
        kind = {"additive": "additive outcome models", "points": "points of largest difference"}
        return (
            f"shares of {len(forest.categories)} categories by {len(forest.trees)} trees of {leaves:.0f} groups with "
            f"{kind[forest.settings.leaves]} on {self.facts['rows']:,} rows"
        )

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Trees end to end, each with its number of nodes."""
        forest = self.forest
        assert forest.grid is not None
        arrays = {
            "nodes": np.array([len(tree.feature_V) for tree in forest.trees]),
            "edges": np.concatenate(forest.edges),
            "edges_of_feature": np.array([len(edges) for edges in forest.edges]),
            "share_edges": forest.grid.edges_KQ1,
            "reach": forest.reach_K,
            **{f"tree.{key}": np.concatenate([tree.arrays()[key] for tree in forest.trees])
               for key in forest.trees[0].arrays()},
        }  # fmt: skip
        if forest.curves:
            arrays["curves"] = np.concatenate(forest.curves)
        arrays |= {f"overlap.{key}": value for key, value in self.overlap.arrays().items()}
        names = {"features": list(forest.feature_names), "categories": list(forest.categories)}
        return arrays, {**self.facts, **names, "ridge": forest.ridge}

    @classmethod
    def restore(cls, settings: ForestFitSettings, arrays: Arrays, facts: Mapping[str, Any]) -> Self:
        cuts = np.cumsum(arrays["nodes"])[:-1]
        trees = {key.removeprefix("tree."): np.split(value, cuts) for key, value in arrays.items()
                 if key.startswith("tree.")}  # fmt: skip
        forest = MDP2Forest(
            settings.forest,
            [Tree.of({key: parts[b] for key, parts in trees.items()}) for b in range(len(arrays["nodes"]))],
            np.split(arrays["curves"], cuts) if "curves" in arrays else [],
            float(facts["ridge"]),
            arrays["reach"],
            np.split(arrays["edges"], np.cumsum(arrays["edges_of_feature"])[:-1]),
            ShareGrid(arrays["share_edges"]),
            tuple(facts["features"]),
            tuple(facts["categories"]),
        )
        seen = {key.removeprefix("overlap."): value for key, value in arrays.items() if key.startswith("overlap.")}
        if not seen:
            raise UserError("this forest was fitted before forests kept what the log has seen: fit it again")
        return cls(settings, forest, Overlap.restore(seen), facts)

    def judge(self, arrays: Arrays, resamples: int, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Against the log's mean shares, the best constant and the log's own. Nothing is resampled."""
        rows, settings = checked(self.settings, arrays), self.settings
        summary, judging, own = judged(
            rows, self.shares, self.wanted, self.facts, settings.outcome_model, settings.overlap,
            1 / settings.forest.additive.steps, seed,
        )  # fmt: skip
        summary["exposure.evidence"] = self.facts["evidence"]
        if not self.told:
            summary["message"] = (
                f"Rows in the direction of the learnt shares come to no more than others "
                f"({self.facts['evidence']:+.1f} standard errors, want {settings.evidence:g}): everybody is given the "
                "log's mean shares. " + summary["message"]
            )
        plots = {
            "categories": list(rows.categories),
            "importance": importance(self.forest),
            "groups": groups_of(self.forest, judging.features_RF, own),
            "curves": curves_of(self.forest, judging.features_RF),
            "limits": limits(own.mean(axis=0)),
        }
        return summary, plots

    @classmethod
    def results(cls, summary: Mapping[str, Any]) -> Table | None:
        return policy_results(summary)

    @classmethod
    def panels(cls, record: Record) -> list[Panel]:
        return forest_panels(record)


class Weighted(Protocol):
    """Settings that say which outcomes are to be raised."""

    @property
    def outcomes(self) -> tuple[str, ...]: ...


def read_arrays(outcomes: tuple[str, ...], log: Log, part: str) -> dict[str, np.ndarray]:
    """A part's arrays with the names of features and categories, checked."""
    arrays = read_shares(log, part)
    assert log.schema.treatment is not None
    rows_of(arrays, log.schema.numeric, log.schema.treatment.vector, outcomes, f"{log.location}/{part}")
    names = {"features": np.array(log.schema.numeric), "categories": np.array(log.schema.treatment.vector)}
    return arrays | names


def checked(settings: Weighted, arrays: Arrays, where: str = "shares") -> ShareRows:
    """The rows of arrays that `read_arrays` gave."""
    features, categories = (tuple(arrays[key].tolist()) for key in ("features", "categories"))
    return rows_of(arrays, features, categories, settings.outcomes, where)
