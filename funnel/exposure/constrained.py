"""A policy on the simplex by gradient, held to what the log has seen [Schweisthal et al., NeurIPS 2023].

    max over theta, min over lambda_i >= 0 of
        mean_i [ mu(pi_theta(x_i), x_i) - lambda_i (e_i - f(pi_theta(x_i) | x_i)) ]

pi_theta = softmax(log start + g_theta(x)), f the log density of logged shares among users that are alike (overlap.py,
in place of the paper's normalising flow), e_i the floor of the user's group. theta goes up by Adam, every user's
lambda_i up where the floor is broken and down to 0 where it is not. Of several starts the policy with the best mean
outcome on users set apart is kept, where users below the floor count with what the log's mean shares bring them.
Shapes: R rows, F features, K categories, P parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.errors import UserError
from funnel.exposure.outcome import one_thread
from funnel.exposure.overlap import Overlap
from funnel.exposure.policy import SharePolicy

HELD_OUT = 7
Predict = Callable[[Tensor, Tensor], Tensor]
"""mu of standardised features (R, F) and shares (R, K), in standard deviations of the outcome; gradients pass."""


@dataclass(frozen=True)
class ConstrainedSettings:
    hidden: int = 24
    """Units of the policy's network; 0: linear."""
    steps: int = 600
    """Steps of a start."""
    starts: int = 3
    """How often the policy is begun anew."""
    users: int = 500
    """Users of a step."""
    learning_rate: float = 0.02
    """Of theta, at the first step; it falls to 0."""
    price_rate: float = 0.05
    """Of the lambdas."""

    def __post_init__(self) -> None:
        for name, least in (("hidden", 0), ("steps", 1), ("starts", 1), ("users", 1)):
            if getattr(self, name) < least:
                raise UserError(f"policy.{name} is {getattr(self, name)}, must be at least {least}")
        for name in ("learning_rate", "price_rate"):
            if not 0 < getattr(self, name) < 10:
                raise UserError(f"policy.{name} is {getattr(self, name)}, must lie between 0 and 10")


def learn(
    predict: Predict, policy: SharePolicy, standard_RF: Tensor, overlap: Overlap, group_R: np.ndarray,
    settings: ConstrainedSettings, seed: int,
) -> np.ndarray:  # fmt: skip
    """(P,) float32: theta of the best start."""
    floor_R = torch.from_numpy(np.nan_to_num(overlap.floor_G, neginf=-1e6)[group_R]).float()
    groups_R, kernels = torch.from_numpy(group_R), overlap.tensors()
    order_R = torch.randperm(len(standard_RF), generator=torch.Generator().manual_seed(seed))
    apart, used = order_R[: len(order_R) // HELD_OUT], order_R[len(order_R) // HELD_OUT :]
    best, kept = -np.inf, policy.initial(seed)
    with one_thread():
        for start in range(settings.starts):
            theta_P = one_start(predict, policy, standard_RF[used], overlap, groups_R[used], floor_R[used], kernels,
                                settings, seed + 1000 * start)  # fmt: skip
            with torch.no_grad():
                value = worth(predict, policy, theta_P, standard_RF[apart], overlap, groups_R[apart], kernels)
            if value > best:
                best, kept = value, theta_P.detach().numpy()
    return kept


def one_start(
    predict: Predict, policy: SharePolicy, standard_RF: Tensor, overlap: Overlap, group_R: Tensor, floor_R: Tensor,
    kernels: list[tuple[Tensor, Tensor]], settings: ConstrainedSettings, seed: int,
) -> Tensor:  # fmt: skip
    """theta after all steps of gradient ascent and of the lambdas' answer."""
    theta_P = torch.from_numpy(policy.initial(seed)).requires_grad_()
    price_R = torch.zeros(len(standard_RF))
    optimizer, generator = torch.optim.Adam([theta_P], settings.learning_rate), torch.Generator().manual_seed(seed)
    for step in range(settings.steps):
        optimizer.param_groups[0]["lr"] = settings.learning_rate * (1 - step / settings.steps)
        some = torch.randint(len(standard_RF), (settings.users,), generator=generator)
        shares_UK = policy.of_candidates(theta_P[None], standard_RF[some][None])[0]
        missing_U = floor_R[some] - overlap.log_density_fast(group_R[some], shares_UK, kernels)
        gain = predict(standard_RF[some], shares_UK).mean() - (price_R[some] * missing_U).mean()
        optimizer.zero_grad()
        (-gain).backward()
        optimizer.step()
        price_R[some] = (price_R[some] + settings.price_rate * missing_U.detach()).clamp(0.0, 100.0)
    return theta_P


def worth(
    predict: Predict, policy: SharePolicy, theta_P: Tensor, standard_RF: Tensor, overlap: Overlap, group_R: Tensor,
    kernels: list[tuple[Tensor, Tensor]],
) -> float:  # fmt: skip
    """The mean outcome; who is below the floor has the start's shares."""
    shares_RK = policy.of_candidates(theta_P[None], standard_RF[None])[0]
    refused_R = overlap.refused_fast(group_R, shares_RK, kernels)
    start_K = torch.tensor(policy.start_K, dtype=shares_RK.dtype)
    return float(predict(standard_RF, torch.where(refused_R[:, None], start_K, shares_RK)).mean())
