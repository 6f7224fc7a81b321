"""Shares of exposure, features of users and outcomes, made of a table of what users watched: user, item, amount.

For logs without categories (KuaiRec's small matrix has user, video and watch ratio): items that the same users watch
for long are brought together by k-means on their factors, which makes categories; a user's features are its factors
from one half of its views. The other half, dealt into sessions, makes the rows: the share of a session's views in each
category, and the mean watched amount as outcome. Shapes: U users, I items, F factors, K categories, R sessions.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds
from scipy.spatial import cKDTree
from sklearn.cluster import KMeans

from data.errors import UserError
from funnel.exposure.shares import ShareRows


@dataclass(frozen=True)
class WatchedSettings:
    categories: int = 10
    """Kinds of videos, by k-means of their factors."""
    factors: int = 20
    """Features of a user: factors of the half of the views that makes no shares."""
    sessions: int = 8
    """Rows of a user; each draws its views from the user's half that makes no features."""
    views: int = 12
    """Views of a session."""
    users: int = 0
    """More users than there are: so many are drawn between real ones that are alike, and the shares of their sessions
    from a Dirichlet law around their own mix, no multiples of 1/views. 0: the real users and their views."""
    concentration: float = 12.0
    """Of that law: as many views would spread as far."""

    def __post_init__(self) -> None:
        for name, least in (("categories", 2), ("factors", 1), ("sessions", 1), ("views", 1), ("users", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least {least}")
        if not 0 < self.concentration < np.inf:
            raise UserError(f"concentration is {self.concentration}, must be a finite number above 0")


def from_views(
    user_V: np.ndarray, item_V: np.ndarray, amount_V: np.ndarray, settings: WatchedSettings, seed: int
) -> ShareRows:
    """The rows. amount_V: watch ratio, cut at 5 (a video that loops all night). Raises UserError for too few views."""
    random = np.random.default_rng([seed, 7])
    users, user_V = np.unique(user_V, return_inverse=True)
    items, item_V = np.unique(item_V, return_inverse=True)
    amount_V = np.minimum(np.nan_to_num(amount_V), 5.0)
    if len(users) <= settings.factors or len(items) <= settings.factors:
        raise UserError(f"{len(users)} users and {len(items)} items; more than {settings.factors} factors are needed")
    first_V = random.random(len(user_V)) < 0.5
    own_V = amount_V[first_V] - amount_V[first_V].mean()
    matrix = csr_matrix((own_V, (user_V[first_V], item_V[first_V])), (len(users), len(items)))
    left_UF, size_F, right_FI = svds(matrix, settings.factors, rng=np.random.default_rng(seed))
    item_IF = (size_F[:, None] * right_FI).T
    item_IF = item_IF / np.maximum(np.linalg.norm(item_IF, axis=1, keepdims=True), 1e-12)  # what, not how much
    kinds = KMeans(settings.categories, n_init=3, random_state=seed).fit_predict(item_IF)
    features, shares, outcomes = [], [], []
    for user in range(len(users)):
        left = np.flatnonzero((user_V == user) & ~first_V)
        if len(left) < settings.views:
            continue
        for _ in range(settings.sessions):
            drawn = random.choice(left, settings.views, replace=False)
            counts = np.bincount(kinds[item_V[drawn]], minlength=settings.categories)
            features.append(left_UF[user] * np.sqrt(len(users)))
            shares.append(counts / settings.views)
            outcomes.append(amount_V[drawn].mean())
    if not shares:
        raise UserError(f"no user has {settings.views} views left for a session")
    names = tuple(f"factor_{f}" for f in range(settings.factors))
    categories = tuple(f"kind_{k}" for k in range(settings.categories))
    rows = ShareRows(np.array(features), np.array(shares), np.array(outcomes), names, categories, where="views")
    return more_users(rows, settings, random) if settings.users else rows


def more_users(rows: ShareRows, settings: WatchedSettings, random: np.random.Generator) -> ShareRows:
    """Users up to half way from a real one to one of its ten nearest; mix and outcome lie as far between theirs."""
    real_UF, user_R = np.unique(rows.features_RF, axis=0, return_inverse=True)
    count_U1 = np.bincount(user_R.ravel())[:, None]
    mix_UK = np.stack([np.bincount(user_R.ravel(), share_R) for share_R in rows.shares_RK.T], axis=1) / count_U1
    level_U = np.bincount(user_R.ravel(), rows.outcome_R) / count_U1[:, 0]
    scale_F = np.maximum(real_UF.std(axis=0), 1e-12)
    near_UN = cKDTree(real_UF / scale_F).query(real_UF / scale_F, k=min(11, len(real_UF)))[1]
    first = random.integers(0, len(real_UF), settings.users)
    other = near_UN[first, random.integers(1, near_UN.shape[1], settings.users)]
    part = 0.5 * random.random(settings.users)[:, None]
    features, mix = ((1 - part) * each[first] + part * each[other] for each in (real_UF, mix_UK))
    level = (1 - part[:, 0]) * level_U[first] + part[:, 0] * level_U[other]
    amount = random.gamma(np.repeat(settings.concentration * mix, settings.sessions, axis=0) + 0.05)
    shares = amount / amount.sum(axis=1, keepdims=True)
    return ShareRows(np.repeat(features, settings.sessions, axis=0), shares, np.repeat(level, settings.sessions),
                     rows.feature_names, rows.categories, where=rows.where)  # fmt: skip
