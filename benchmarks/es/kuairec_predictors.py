"""Four simple predictors of a watch ratio, fitted on the training rows only.

C rows, U users, I items, Q factors.
"""

import numpy as np
from sklearn.decomposition import TruncatedSVD

NAMES = ("item_finished", "item_rewatched", "factors", "neighbours")
SHRINK = 5.0  # rows at the overall mean that every mean starts with
FACTORS = 8
NEIGHBOUR_SHRINK = 10.0


def predict(
    user_C: np.ndarray, item_C: np.ndarray, ratio_C: np.ndarray, train_C: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of every row, (4, C) float32 at least 0, and two user features, (2, C): mean and spread of the ratios.

    item_finished and item_rewatched are an item's shrunk shares of ratios >= 1 and >= 2; factors is the item's mean
    ratio, the user's bias and the rank-8 part of the residual matrix; neighbours has the residuals of the users most
    alike in its place.
    """
    users, items = int(user_C.max()) + 1, int(item_C.max()) + 1
    user, item, ratio = user_C[train_C], item_C[train_C], ratio_C[train_C]
    mean = float(ratio.mean())
    item_mean_I = shrunk_means(item, ratio, items, mean)
    shares_2I = [shrunk_means(item, reached, items, float(reached.mean())) for reached in (ratio >= 1, ratio >= 2)]
    bias_U = shrunk_means(user, ratio - item_mean_I[item], users, 0.0)
    residual_UI = np.zeros((users, items))
    residual_UI[user, item] = ratio - item_mean_I[item] - bias_U[user]
    svd = TruncatedSVD(FACTORS, random_state=0)
    low_rank_UI = svd.fit_transform(residual_UI) @ svd.components_
    seen_UI = np.zeros((users, items))
    seen_UI[user, item] = 1
    together_UU = seen_UI @ seen_UI.T
    alike_UU = np.maximum(residual_UI @ residual_UI.T, 0) / (together_UU + NEIGHBOUR_SHRINK)
    np.fill_diagonal(alike_UU, 0)
    near_UI = (alike_UU @ residual_UI) / (alike_UU @ seen_UI + alike_UU.mean() * NEIGHBOUR_SHRINK)
    base_C = item_mean_I[item_C] + bias_U[user_C]
    scores_MC = np.stack([
        shares_2I[0][item_C], shares_2I[1][item_C],
        base_C + low_rank_UI[user_C, item_C], base_C + near_UI[user_C, item_C],
    ])  # fmt: skip
    square_U = shrunk_means(user, (ratio - item_mean_I[item] - bias_U[user]) ** 2, users, float(np.var(ratio)))
    features_SC = np.stack([bias_U[user_C], np.sqrt(square_U)[user_C]])
    return np.maximum(scores_MC, 0).astype(np.float32), features_SC.astype(np.float32)


def shrunk_means(index: np.ndarray, values: np.ndarray, count: int, prior: float) -> np.ndarray:
    """Mean of the values of each index, (count,), with SHRINK values of `prior` added to each."""
    sums = np.bincount(index, weights=values, minlength=count)
    return np.asarray((sums + SHRINK * prior) / (np.bincount(index, minlength=count) + SHRINK))
