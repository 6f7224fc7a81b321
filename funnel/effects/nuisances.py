"""What has to be predicted before an effect can be seen: outcomes, treatments, propensities; cross-fitted.

Each prediction of a row comes from a model that saw no row of its fold [Chernozhukov et al. 2018]. Pieces run one by
one through a map (funnel/fitted.py) with one thread each, so that it does not matter where they run.
Shapes: R rows, F features, A arms.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from threadpoolctl import threadpool_limits

from data.errors import UserError
from funnel.effects.basis import KINDS, Kind, UserBasis
from funnel.effects.gram import sums
from funnel.effects.trees import Trees

Learner = Literal["boosting", "linear"]


@dataclass(frozen=True)
class NuisanceSettings:
    """How outcomes and effects of users are predicted."""

    learner: Learner = "boosting"
    """boosting: scikit-learn's histogram gradient boosting; linear: ridge regression on `basis`."""
    trees: int = 100
    """boosting: how many, one after the other."""
    leaves: int = 15
    """boosting: of a tree, at most."""
    learning_rate: float = 0.08
    """boosting: what a tree's values are multiplied with."""
    smallest_leaf: int = 20
    """Rows of a leaf, at least."""
    basis: Kind = "squares"
    """linear: of the features; it serves the propensities of arms as well."""
    penalty: float = 10.0
    """linear: as so many rows."""
    rows: int = 200_000
    """Rows that one such model is fitted on, at most, drawn at random: they are a step on the way, and more make them
    little better."""

    def __post_init__(self) -> None:
        for name in ("trees", "leaves", "smallest_leaf", "rows"):
            if getattr(self, name) < 1 + (name == "leaves"):
                raise UserError(f"{name} is {getattr(self, name)}, must be at least {1 + (name == 'leaves')}")
        if not 0 < self.learning_rate <= 1:
            raise UserError(f"learning_rate is {self.learning_rate}, must lie in (0, 1]")
        if not 0 <= self.penalty < np.inf:
            raise UserError(f"penalty is {self.penalty}, must be a finite number of at least 0")


class Predictor(Protocol):
    def predict(self, x_RF: np.ndarray) -> np.ndarray: ...
    def arrays(self) -> dict[str, np.ndarray]:
        """From which `restored` makes it again."""


@dataclass(frozen=True)
class Linear:
    """Coefficients on a basis."""

    basis: UserBasis
    theta_P: np.ndarray

    def predict(self, x_RF: np.ndarray) -> np.ndarray:
        """float64_R (or (R, A) for a matrix of coefficients)."""
        pieces = [self.basis(x_RF[begin : begin + 65_536]) @ self.theta_P for begin in range(0, len(x_RF), 65_536)]
        return np.concatenate(pieces) if pieces else np.zeros((0, *self.theta_P.shape[1:]))

    def arrays(self) -> dict[str, np.ndarray]:
        basis = self.basis
        kind = np.array(KINDS.index(basis.kind))
        return {"mean_F": basis.mean_F, "std_F": basis.std_F, "theta_P": self.theta_P, "kind": kind}


@dataclass(frozen=True)
class Boosted:
    """scikit-learn's model while it is in memory; its trees where it is kept."""

    model: Any

    def predict(self, x_RF: np.ndarray) -> np.ndarray:
        return np.asarray(self.model.predict(x_RF), np.float64)

    def arrays(self) -> dict[str, np.ndarray]:
        return Trees.of(self.model).arrays()


def restored(arrays: Mapping[str, np.ndarray]) -> Predictor:
    """A predictor from its arrays."""
    if "root_K" in arrays:
        return Trees.restore(arrays)
    basis = UserBasis(arrays["mean_F"], arrays["std_F"], KINDS[int(arrays["kind"])])
    return Linear(basis, arrays["theta_P"])


def some_rows(rows: int, most: int, seed: int) -> np.ndarray:
    """Indices of at most so many rows, in order."""
    if rows <= most:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def regression(
    settings: NuisanceSettings, x_RF: np.ndarray, y_R: np.ndarray, seed: int, weight_R: np.ndarray | None = None
) -> Predictor:
    """A model of E[y | x]."""
    kept_N = some_rows(len(y_R), settings.rows, seed)
    x_NF, y_N = x_RF[kept_N], y_R[kept_N]
    weight_N = None if weight_R is None else weight_R[kept_N]
    if settings.learner == "boosting" and len(y_N) >= 2 * settings.smallest_leaf:
        from sklearn.ensemble import HistGradientBoostingRegressor

        model = HistGradientBoostingRegressor(
            max_iter=settings.trees,
            max_leaf_nodes=settings.leaves,
            learning_rate=settings.learning_rate,
            min_samples_leaf=settings.smallest_leaf,
            early_stopping=False,
            random_state=seed,
        )
        with threadpool_limits(1):
            return Boosted(model.fit(x_NF, y_N, sample_weight=weight_N))
    basis = UserBasis.of(x_NF, settings.basis)
    root_N = np.ones(len(y_N)) if weight_N is None else np.sqrt(weight_N)

    def block(piece: slice) -> tuple[np.ndarray, np.ndarray]:
        return basis(x_NF[piece]) * root_N[piece, None], (y_N[piece] - centre) * root_N[piece]

    centre = float(np.average(y_N, weights=weight_N)) if len(y_N) else 0.0
    with threadpool_limits(1):
        theta_P = sums(len(y_N), basis.size, block).solve(settings.penalty)
    theta_P[0] += centre
    return Linear(basis, theta_P)


def propensity_model(settings: NuisanceSettings, x_RF: np.ndarray, arm_R: np.ndarray, arms: int, seed: int) -> Linear:
    """A multinomial logistic model; `softmax` of its predictions are the arms' propensities.

    An arm that nobody got has probability 0 (a logit of -inf).
    """
    from sklearn.linear_model import LogisticRegression

    kept_N = some_rows(len(arm_R), settings.rows, seed)
    basis = UserBasis.of(x_RF[kept_N], settings.basis)
    seen = np.unique(arm_R[kept_N])
    theta_PA = np.zeros((basis.size, arms))
    theta_PA[0] = -np.inf
    if len(seen) == 1:
        theta_PA[0, seen[0]] = 0.0
        return Linear(basis, theta_PA)
    model = LogisticRegression(C=1.0, max_iter=200)
    with threadpool_limits(1):
        model.fit(basis(x_RF[kept_N])[:, 1:], arm_R[kept_N])
    coefficients_AP = np.concatenate([model.intercept_[:, None], model.coef_], 1)
    if len(seen) == 2:  # one logit, of the second arm
        coefficients_AP = np.concatenate([np.zeros_like(coefficients_AP), coefficients_AP])
    theta_PA[:, seen] = coefficients_AP.T
    return Linear(basis, theta_PA)


def softmax(logit_RA: np.ndarray) -> np.ndarray:
    largest_R1 = logit_RA.max(1, keepdims=True)
    weight_RA = np.exp(logit_RA - largest_R1)
    return np.asarray(weight_RA / weight_RA.sum(1, keepdims=True))


def propensities(model: Linear, x_RF: np.ndarray) -> np.ndarray:
    """(R, A). An arm with an infinite logit is never multiplied by a feature that is 0."""
    theta_PA = model.theta_P
    open_A = np.isfinite(theta_PA[0])
    logit_RA = np.full((len(x_RF), theta_PA.shape[1]), -np.inf)
    logit_RA[:, open_A] = Linear(model.basis, theta_PA[:, open_A]).predict(x_RF)
    return softmax(logit_RA)


def folds(rows: int, count: int, seed: int, cluster_R: np.ndarray | None = None) -> np.ndarray:
    """The fold of each row, of even size; a cluster's rows share one. (R,) int64."""
    draws = np.random.default_rng([seed, 0xF01D])
    if cluster_R is None or not len(cluster_R):
        return draws.permutation(rows) % count
    _, own_R = np.unique(cluster_R, return_inverse=True)
    return np.asarray((draws.permutation(int(own_R.max()) + 1) % count)[own_R])
