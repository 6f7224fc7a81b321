"""What learnt shares are compared with: one category at a time by DML, DRNet or VCNet, shares by the outcome model, and
how far a class of policies reaches at all."""

import contextlib
import io
import tempfile
from pathlib import Path

import numpy as np
import torch

from distributed.finished_run import FinishedRun, load_run
from funnel.effects.dml import DMLSettings, fit_dml
from funnel.effects.nuisances import NuisanceSettings
from funnel.effects.rows import TreatedRows
from funnel.exposure.joint import JointModule, JointProblem
from funnel.exposure.outcome import OutcomeModel, one_thread
from funnel.exposure.policy import SharePolicy
from funnel.exposure.problem import DoseModule
from funnel.exposure.shares import ShareRows
from funnel.exposure.simulation import best_shares
from jobs import train

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


def trained(problem: str, log: Path, seed: int, *words: object) -> FinishedRun:
    """What `jobs.train --problem NAME` leaves, in this process, on the log that all policies learn from."""
    with tempfile.TemporaryDirectory() as folder:
        given = ("--problem", problem, "--data", log, "--out", Path(folder) / "run", "--workers", 0, "--seed", seed)
        with contextlib.redirect_stdout(io.StringIO()):
            train.run(train.arguments_of(*map(str, (*given, *words))))
        return load_run(Path(folder) / "run")


# most shares lie in the lower half of what was seen: for DRNet finer blocks than its default; VCNet's published knots
# were better than five of them
FINER: dict[str, tuple[object, ...]] = {"drnet": ("--model.blocks", 10), "vcnet": ()}
DOSE_WORDS = ("--epochs", 10, "--batch-size", 512, "--patience", 0, "--optimizer.learning-rate", 3e-3,
              "--optimizer.weight-decay", 0.01, "--model.hidden", 48, "--model.head", 24, "--model.head-scale", 0.3,
              "--model.hidden-scale", 0.1)  # fmt: skip


def dose_networks(problem: str, log: Path, train_rows: ShareRows, features_UF: np.ndarray, seed: int) -> np.ndarray:
    """VCNet or DRNet for each category alone: the dose at which a user's own curve is highest, of what was seen."""
    found, input_UF = [], torch.from_numpy(features_UF).float()
    for share_R, name in zip(train_rows.shares_RK.T, train_rows.categories, strict=True):
        run = trained(problem, log, seed, "--dose", name, "--beyond", "leave-out", *DOSE_WORDS, *FINER[problem])
        assert isinstance(run.network, DoseModule)
        low, high = (run.problem.facts[end] for end in ("low", "high"))  # type: ignore[attr-defined]
        highest = (np.quantile(share_R, 0.995) - low) / (high - low)
        dose_D = torch.linspace(0, float(highest), GRID)
        with one_thread(), torch.inference_mode():
            pieces = [run.network.network.curve(piece, dose_D, False) for piece in input_UF.split(512)]
        found.append(low + (high - low) * dose_D[torch.cat(pieces).argmax(1)].double().numpy())
    return normalised(np.stack(found, axis=1))


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


def joint(log: Path, features_UF: np.ndarray, seed: int) -> np.ndarray:
    """A network of all shares at once, and the policy that is learnt on it and held to what the log has seen."""
    run = trained("joint_shares", log, seed, "--preset", "thorough")
    assert isinstance(run.problem, JointProblem)
    assert isinstance(run.network, JointModule)
    return run.problem.shares(run.network, features_UF)


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
