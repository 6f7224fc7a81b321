"""A forest in words and numbers: which features split, who is in which group and gets what, curves by group."""

from typing import Any

import numpy as np

from funnel.exposure.forest import MDP2Forest
from funnel.exposure.tree import Tree

LARGEST = 6
"""Groups of which curves are shown."""


def importance(forest: MDP2Forest) -> list[dict[str, Any]]:
    """[{"feature", "gain" (share of all splits' gains), "splits"}], the most telling first."""
    gain_F, splits_F = np.zeros(len(forest.feature_names)), np.zeros(len(forest.feature_names), int)
    for tree in forest.trees:
        inner = tree.feature_V >= 0
        np.add.at(gain_F, tree.feature_V[inner], tree.gain_V[inner])
        np.add.at(splits_F, tree.feature_V[inner], 1)
    total = gain_F.sum() or 1.0
    order = np.argsort(-gain_F, kind="stable")
    return [
        {"feature": forest.feature_names[f], "gain": float(gain_F[f] / total), "splits": int(splits_F[f])}
        for f in order
    ]


def paths(forest: MDP2Forest, tree: Tree) -> dict[int, str]:
    """What every leaf's users have in common: "age <= 44, x_alpha > 0.5"."""
    bounds: dict[int, dict[str, list[float]]] = {0: {}}
    for node in range(len(tree.feature_V)):
        feature = int(tree.feature_V[node])
        if feature < 0:
            continue
        name, edge = forest.feature_names[feature], float(forest.edges[feature][tree.cut_V[node]])
        for side in (0, 1):
            own = {key: list(ends) for key, ends in bounds[node].items()}
            low, high = own.get(name, [-np.inf, np.inf])
            own[name] = [low, min(high, edge)] if side == 0 else [max(low, edge), high]
            bounds[int(tree.left_V[node]) + side] = own
    return {node: words(own) for node, own in bounds.items() if tree.feature_V[node] < 0}


def words(bounds: dict[str, list[float]]) -> str:
    parts = []
    for name, (low, high) in bounds.items():
        if np.isfinite(low) and np.isfinite(high):
            parts.append(f"{low:.4g} < {name} <= {high:.4g}")
        else:
            parts.append(f"{name} <= {high:.4g}" if np.isfinite(high) else f"{name} > {low:.4g}")
    return ", ".join(parts) or "everybody"


def groups_of(forest: MDP2Forest, features_UF: np.ndarray, shares_UK: np.ndarray) -> list[dict[str, Any]]:
    """Groups of the first tree, the largest first: who, how many of these users, and what the forest gives them."""
    tree = forest.trees[0]
    leaf_U, named = tree.leaves(forest.bins(features_UF)), paths(forest, tree)
    found = []
    for leaf, users in zip(*np.unique(leaf_U, return_counts=True), strict=True):
        mean_K = shares_UK[leaf_U == leaf].mean(axis=0)
        found.append({"group": named[int(leaf)], "users": int(users), "shares": mean_K.tolist()})
    return sorted(found, key=lambda each: -each["users"])


def curves_of(forest: MDP2Forest, features_UF: np.ndarray) -> list[dict[str, Any]]:
    """Of additive leaves: by category, the mean curve g_k over the users of each of the largest groups."""
    if not forest.curves:
        return []
    tree = forest.trees[0]
    bins_UF = forest.bins(features_UF)
    leaf_U, named = tree.leaves(bins_UF), paths(forest, tree)
    leaves, counts = np.unique(leaf_U, return_counts=True)
    largest = leaves[np.argsort(-counts, kind="stable")][:LARGEST]
    steps = forest.settings.additive.steps
    mean_GKS = np.stack([forest.curves_mean(bins_UF[leaf_U == leaf]) for leaf in largest])
    found = []
    for k, category in enumerate(forest.categories):
        most = int(forest.reach_K[k])
        heights = mean_GKS[:, k, : most + 1].tolist()
        groups = [{"group": named[int(leaf)], "y": y} for leaf, y in zip(largest, heights, strict=True)]
        found.append({"category": category, "x": (np.arange(most + 1) / steps).tolist(), "groups": groups})
    return found
