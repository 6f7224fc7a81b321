"""What learnt shares are compared with: one category at a time by DML, DRNet or VCNet, shares by the outcome model, and
how far a class of policies reaches at all."""

from collections.abc import Callable

import numpy as np
import torch

from funnel.effects.dml import DMLSettings, fit_dml
from funnel.effects.nuisances import NuisanceSettings
from funnel.effects.rows import TreatedRows
from funnel.exposure.joint import JointSettings, JointShares
from funnel.exposure.outcome import OutcomeModel, one_thread
from funnel.exposure.policy import SharePolicy
from funnel.exposure.shares import ShareRows
from funnel.exposure.simulation import best_shares
from models.dose_response import dose_response
from models.objectives.dose_response import dose_terms
from models.varying_coefficient import DoseConfig, DoseNetwork, varying_coefficient

GRID = 21


def normalised(shares_UK: np.ndarray) -> np.ndarray:
    """Each category's best dose, divided by their sum."""
    total_U1 = shares_UK.sum(axis=1, keepdims=True)
    return np.where(total_U1 > 0, shares_UK / np.maximum(total_U1, 1e-12), 1 / shares_UK.shape[1])


def dml(train: ShareRows, features_UF: np.ndarray, seed: int) -> np.ndarray:
    """Each category alone: effects cubic in its share, with squares of the features."""
    found = []
    for share_R in train.shares_RK.T:
        rows = TreatedRows(x_RF=train.features_RF, outcome_R=train.outcome_R, treatment_RT=share_R[:, None])
        nuisances = NuisanceSettings(learner="linear")
        effects = fit_dml(rows, DMLSettings(degree=3, basis="squares", folds=2), nuisances, seed)
        dose_D = np.linspace(share_R.min(), np.quantile(share_R, 0.995), GRID)
        found.append(dose_D[effects.effects(features_UF, dose_D[:, None]).argmax(axis=1)])
    return normalised(np.stack(found, axis=1))


def dose_network(
    make: Callable[[int, DoseConfig, int], DoseNetwork],
    train: ShareRows,
    features_UF: np.ndarray,
    seed: int,
    steps: int,
) -> np.ndarray:
    """Each category alone, by the curve of each user."""
    config = DoseConfig(hidden=(48,), head=(24,), head_scale=0.3, hidden_scale=0.1)
    target_R = torch.from_numpy((train.outcome_R - train.outcome_R.mean()) / train.outcome_R.std()).float()
    input_RF, input_UF = torch.from_numpy(train.features_RF).float(), torch.from_numpy(features_UF).float()
    found = []
    with one_thread():
        for k, share_R in enumerate(train.shares_RK.T):
            low, high = share_R.min(), np.quantile(share_R, 0.995)
            dose_R = torch.from_numpy(((share_R - low) / (high - low)).clip(0, 1)).float()
            network = make(input_RF.shape[1], config, seed + k)
            network.standardise.mean.copy_(input_RF.double().mean(0))
            network.standardise.std.copy_(input_RF.double().std(0).clamp(min=1e-9))
            optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=0.01)
            generator = torch.Generator().manual_seed(seed)
            for step in range(steps):
                optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / steps)
                rows = torch.randint(len(target_R), (512,), generator=generator)
                terms = dose_terms(network(input_RF[rows], dose_R[rows]), target_R[rows], 0.5, 0.0)
                loss = torch.stack([term.mean() for term in terms.values()]).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                dose_D = torch.linspace(0, 1, GRID)
                curve_UD = torch.cat([network.curve(piece, dose_D, False) for piece in input_UF.split(512)])
            found.append(low + (high - low) * dose_D[curve_UD.argmax(1)].double().numpy())
    return normalised(np.stack(found, axis=1))


def drnet(train: ShareRows, features_UF: np.ndarray, seed: int, steps: int = 800) -> np.ndarray:
    return dose_network(dose_response, train, features_UF, seed, steps)


def vcnet(train: ShareRows, features_UF: np.ndarray, seed: int, steps: int = 800) -> np.ndarray:
    return dose_network(varying_coefficient, train, features_UF, seed, steps)


def outcome_argmax(model: OutcomeModel, features_UF: np.ndarray, start_K: np.ndarray, steps: int = 150) -> np.ndarray:
    """The shares of each user's highest outcome by the model: gradient ascent of softmax shares from the mean ones."""
    weights, user_UF = model.tensors(), model.users(features_UF)
    centre_K, scale_K = torch.from_numpy(model.centre_K).float(), torch.from_numpy(model.scale_K).float()
    logit_UK = torch.from_numpy(np.tile(np.log(start_K), (len(features_UF), 1))).float().requires_grad_()
    optimizer = torch.optim.Adam([logit_UK], 0.05)
    with one_thread():
        for _ in range(steps):
            shares_UK = logit_UK.softmax(1)
            loss = -model.forward(user_UF, (shares_UK - centre_K) / scale_K, weights).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return logit_UK.detach().softmax(1).double().numpy()


def joint(train: ShareRows, features_UF: np.ndarray, seed: int) -> np.ndarray:
    """A network of all shares at once, and a policy by gradient that keeps to what the log has seen."""
    arrays = {"x": train.features_RF, "treatment": train.shares_RK, "outcome.value": train.outcome_R,
              "features": np.array(train.feature_names), "categories": np.array(train.categories)}  # fmt: skip
    return JointShares.fit(JointSettings(), arrays, seed).shares(features_UF)


def ceiling(train: ShareRows, features_UF: np.ndarray, hidden: int, seed: int, steps: int = 1500) -> np.ndarray:
    """The best that evolution could find: a policy of its class by gradient ascent on the simulator's own value."""
    policy = SharePolicy.of(len(train.feature_names), train.categories, train.shares_RK.mean(axis=0), hidden)
    mean_F, scale_F = train.features_RF.mean(axis=0), train.features_RF.std(axis=0)
    standard_RF = torch.from_numpy((train.features_RF - mean_F) / scale_F).float()
    best_RK = torch.from_numpy(best_shares(train.features_RF)).float()
    theta_P = torch.from_numpy(policy.initial(seed)).requires_grad_()
    optimizer, generator = torch.optim.Adam([theta_P], 0.02), torch.Generator().manual_seed(seed)
    with one_thread():
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / steps)
            rows = torch.randint(len(best_RK), (1000,), generator=generator)
            shares_UK = policy.of_candidates(theta_P[None], standard_RF[rows][None])[0]
            loss = (shares_UK - best_RK[rows]).abs().sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return policy.shares(theta_P.detach().numpy(), (features_UF - mean_F) / scale_F)
