"""Boosted trees as plain arrays: scikit-learn fits them, these predict, and are kept without pickle.

Shapes: N nodes of all trees, K trees, R rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

BLOCK = 1 << 16


@dataclass(frozen=True)
class Trees:
    """The sum over trees of a leaf's value. A row goes left where its feature is at most the threshold."""

    root_K: np.ndarray
    feature_N: np.ndarray
    threshold_N: np.ndarray
    left_N: np.ndarray
    """Index of the left child; a leaf is its own child."""
    right_N: np.ndarray
    missing_left_N: np.ndarray
    value_N: np.ndarray
    base: float
    depth: int

    @classmethod
    def of(cls, model: Any) -> "Trees":
        """Of a fitted HistGradientBoostingRegressor, which has no public way to its trees. The layout of nodes is
        checked by tests against its own predictions."""
        nodes = [each[0].nodes for each in model._predictors]
        sizes_K = np.array([len(each) for each in nodes])
        root_K = np.concatenate([[0], np.cumsum(sizes_K)[:-1]])
        joined = np.concatenate(nodes)
        own_N = np.arange(len(joined))
        start_N, leaf_N = np.repeat(root_K, sizes_K), joined["is_leaf"].astype(bool)
        return cls(
            root_K,
            joined["feature_idx"].astype(np.int32),
            joined["num_threshold"].astype(np.float64),
            np.where(leaf_N, own_N, start_N + joined["left"]),
            np.where(leaf_N, own_N, start_N + joined["right"]),
            joined["missing_go_to_left"].astype(bool),
            joined["value"].astype(np.float64),
            float(np.ravel(model._baseline_prediction)[0]),
            int(joined["depth"].max(initial=0)),
        )

    def predict(self, x_RF: np.ndarray) -> np.ndarray:
        """float64_R."""
        total_R = np.full(len(x_RF), self.base)
        for begin in range(0, len(x_RF), BLOCK):
            x_BF = x_RF[begin : begin + BLOCK]
            rows_B = np.arange(len(x_BF))
            for root in self.root_K:
                at_B = np.full(len(x_BF), root)
                for _ in range(self.depth):
                    own_B = x_BF[rows_B, self.feature_N[at_B]]
                    left_B = np.where(np.isnan(own_B), self.missing_left_N[at_B], own_B <= self.threshold_N[at_B])
                    at_B = np.where(left_B, self.left_N[at_B], self.right_N[at_B])
                total_R[begin : begin + len(x_BF)] += self.value_N[at_B]
        return total_R

    def arrays(self) -> dict[str, np.ndarray]:
        return {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def restore(cls, arrays: Mapping[str, np.ndarray]) -> "Trees":
        given: dict[str, Any] = {field.name: arrays[field.name] for field in fields(cls)}
        return cls(**given | {"base": float(given["base"]), "depth": int(given["depth"])})
