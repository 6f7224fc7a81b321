"""Deep clusters of users: a representation is bent so that users fall into groups, and alike users stay together.

Two losses on a linear map h of what an effect network sees in a user (models/dragonnet.py: `representation`), as SCCL
[Zhang et al., NAACL 2021] has them for texts:

    cluster      KL(P || Q), Q_rg ~ 1 / (1 + |h_r - c_g|^2), P_rg ~ Q_rg^2 / sum_r Q_rg   [DEC, Xie et al. 2016]
    contrastive  -log exp(h_r . h'_r / tau) / sum over the other rows of the batch, h' of the same user with noise

Centres begin at k-means'. Shapes: R rows, Z of the representation, H of the map, G clusters, B rows of a batch.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from data.errors import UserError
from funnel.incentives.clusters import Clusters


@dataclass(frozen=True)
class DeepSettings:
    width: int = 16
    """H."""
    steps: int = 300
    batch: int = 512
    rate: float = 1e-3
    noise: float = 0.2
    """Of the second view, in standard deviations."""
    temperature: float = 0.5
    contrastive: float = 0.3
    """Weight of the contrastive loss."""

    def __post_init__(self) -> None:
        if self.batch < 2 or self.width < 1 or self.steps < 0:
            raise UserError(f"width {self.width}, batch {self.batch}, steps {self.steps}: want 1, 2 and 0 at least")


@dataclass(frozen=True)
class DeepClusters:
    """The map, and centres where it leads."""

    mean_Z: np.ndarray
    std_Z: np.ndarray
    map_ZH: np.ndarray
    centre_GH: np.ndarray

    def of(self, z_RZ: np.ndarray) -> np.ndarray:
        """The cluster of each row, (R,)."""
        h_RH = (z_RZ - self.mean_Z) / self.std_Z @ self.map_ZH
        return np.asarray(((self.centre_GH**2).sum(1) - 2 * h_RH @ self.centre_GH.T).argmin(1))


def deep_clusters(z_RZ: np.ndarray, count: int, seed: int = 0, settings: DeepSettings | None = None) -> DeepClusters:
    """Fitted on representations; at most as many clusters as rows."""
    settings = settings or DeepSettings()
    draws = np.random.default_rng([seed, 0x5CC1])
    # One scale for all: what varies little in a representation says little.
    mean_Z = z_RZ.mean(0)
    std_Z = np.full(z_RZ.shape[1], max(float((z_RZ - mean_Z).std()), 1e-9))
    scaled_RZ = ((z_RZ - mean_Z) / std_Z).astype(np.float32)
    # Begin with the directions in which users differ most.
    _, _, axes_ZZ = np.linalg.svd(scaled_RZ[draws.permutation(len(scaled_RZ))[:20_000]], full_matrices=False)
    width = min(settings.width, axes_ZZ.shape[0])
    start_ZH = axes_ZZ[:width].T.astype(np.float32)
    begun = Clusters.fit(scaled_RZ @ start_ZH, count, seed, standardise=False)
    map_ZH = nn.Parameter(torch.from_numpy(start_ZH.copy()))
    centre_GH = nn.Parameter(torch.from_numpy((begun.centre_GF + begun.mean_F).astype(np.float32)))
    optimizer = torch.optim.Adam([map_ZH, centre_GH], settings.rate)
    for _ in range(settings.steps):
        rows_B = draws.integers(0, len(scaled_RZ), min(settings.batch, len(scaled_RZ)))
        one_BZ = torch.from_numpy(scaled_RZ[rows_B])
        other_BZ = one_BZ + settings.noise * torch.from_numpy(draws.standard_normal(one_BZ.shape, np.float32))
        loss = cluster_loss(one_BZ @ map_ZH, centre_GH)
        loss = loss + settings.contrastive * contrastive_loss(one_BZ @ map_ZH, other_BZ @ map_ZH, settings.temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return DeepClusters(mean_Z, std_Z, map_ZH.detach().numpy(), centre_GH.detach().numpy())


def cluster_loss(h_BH: torch.Tensor, centre_GH: torch.Tensor) -> torch.Tensor:
    """KL(P || Q) a row."""
    near_BG = 1 / (1 + torch.cdist(h_BH, centre_GH).square())
    q_BG = near_BG / near_BG.sum(1, keepdim=True)
    with torch.no_grad():
        sharp_BG = q_BG.square() / q_BG.sum(0).clamp(min=1e-9)
        p_BG = sharp_BG / sharp_BG.sum(1, keepdim=True)
    return (p_BG * (p_BG.clamp(min=1e-9).log() - q_BG.clamp(min=1e-9).log())).sum(1).mean()


def contrastive_loss(one_BH: torch.Tensor, other_BH: torch.Tensor, temperature: float) -> torch.Tensor:
    """Each row's second view among those of the batch."""
    logit_BB = normalize(one_BH, dim=1) @ normalize(other_BH, dim=1).T / temperature
    return cross_entropy(logit_BB, torch.arange(len(logit_BB)))
