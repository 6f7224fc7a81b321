"""The response to all shares of exposure, and the policy on the simplex that is learnt on it and held to what was seen
[Schweisthal et al., NeurIPS 2023, arXiv 2305.19742].

    mu(x, t)    the outcome of shares t (joint_dose.py)
    f(t | x)    log density of logged shares among users that are alike: Gaussian kernels around logged rows of the
                user's group, the nearest of G centres (funnel/exposure/overlap.py fits them); e_g its floor
    pi(x)       softmax(log start + g(x)), g linear or of tanh units; g begins at 0

The policy is given mu(x, pi(x)) to raise, through weights of mu that it cannot move, and its lack of density
max(0, e_g - f(pi(x) | x)) to lower. In evaluation, shares below the floor are drawn in towards the start, the log's
mean shares. Shapes: B rows, N features, K categories, G groups, M kernels of a group, H units.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call

from data.errors import UserError
from models.joint_dose import JointDose, JointDoseConfig
from models.layers import Standardise

NONE = -1e9
"""The floor of a group that has none."""


@dataclass(frozen=True)
class PolicyConfig:
    hidden: int = 24
    """Units of the policy's network; 0: linear."""
    rate: float = 5.0
    """Its steps as a multiple of the others'."""

    def __post_init__(self) -> None:
        if self.hidden < 0:
            raise UserError(f"policy.hidden is {self.hidden}, must be at least 0")
        if not 0 < self.rate < 1000:
            raise UserError(f"policy.rate is {self.rate}, must lie between 0 and 1000")


class SimplexPolicy(nn.Module):
    """(B, N) standardised features -> (B, K) shares."""

    log_start_K: Tensor

    def __init__(self, features: int, start_K: Tensor, config: PolicyConfig) -> None:
        super().__init__()
        self.register_buffer("log_start_K", start_K.log())
        widths = (features, config.hidden, len(start_K)) if config.hidden else (features, len(start_K))
        self.rate = config.rate
        # a weight that is multiplied by a rate moves so many times as far in a step of Adam
        self.weights = nn.ParameterList(torch.randn(a, b) / a**0.5 / self.rate for a, b in pairwise(widths))
        self.biases = nn.ParameterList(torch.zeros(b) for b in widths[1:])
        nn.init.zeros_(self.weights[-1])

    def forward(self, x_BN: Tensor) -> Tensor:
        value = x_BN
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            value = torch.addmm(self.rate * bias, value, self.rate * weight)
            if layer < len(self.weights) - 1:
                value = value.tanh()
        return (value + self.log_start_K).softmax(1)


class Seen(nn.Module):
    """Which shares were seen for whom. Kernels are in units of their width; where a group has fewer than M, the place
    of one that is not there counts nothing."""

    centre_GN: Tensor
    kernel_GMK: Tensor
    there_GM: Tensor
    floor_G: Tensor
    width: Tensor

    def __init__(self, groups: int, kernels: int, features: int, categories: int) -> None:
        super().__init__()
        self.register_buffer("centre_GN", torch.zeros(groups, features))
        self.register_buffer("kernel_GMK", torch.zeros(groups, kernels, categories))
        self.register_buffer("there_GM", torch.ones(groups, kernels, dtype=torch.bool))
        self.register_buffer("floor_G", torch.full((groups,), NONE))
        self.register_buffer("width", torch.ones(()))

    def group(self, x_BN: Tensor) -> Tensor:
        """(B,) the nearest centre."""
        return (self.centre_GN.square().sum(1) - 2 * (x_BN @ self.centre_GN.T)).argmin(1)

    def log_density(self, group_B: Tensor, share_BK: Tensor) -> Tensor:
        """(B,) up to a constant; gradients pass to the shares."""
        scaled_BK = share_BK / self.width
        groups, kernels, _ = self.kernel_GMK.shape
        half_GM = (0.5 * self.kernel_GMK.square().sum(2)).masked_fill(~self.there_GM, torch.inf)
        all_BGM = torch.addmm(-half_GM.flatten(), scaled_BK, self.kernel_GMK.flatten(0, 1).T).view(-1, groups, kernels)
        own_BM = all_BGM[torch.arange(len(group_B), device=group_B.device), group_B]
        count_G = self.there_GM.sum(1).float()
        return own_BM.logsumexp(1) - 0.5 * scaled_BK.square().sum(1) - count_G.log()[group_B]

    def lack(self, group_B: Tensor, share_BK: Tensor) -> Tensor:
        """(B,) how far the density lies below the floor; 0 where it does not."""
        return (self.floor_G[group_B] - self.log_density(group_B, share_BK)).clamp(min=0)

    def drawn_in(self, group_B: Tensor, share_BK: Tensor, start_K: Tensor) -> Tensor:
        """(B, K): of the way from the start to each user's shares, in tenths, as much as the floor lets."""
        given_BK = share_BK
        for tenths in range(9, -1, -1):
            far_B1 = (self.lack(group_B, given_BK) > 0).unsqueeze(1)
            given_BK = torch.where(far_B1, start_K + tenths / 10 * (share_BK - start_K), given_BK)
        return given_BK


class JointShares(nn.Module):
    """{"mu", "promised", "lack"}, each (B,): the outcome of the shown shares, of the policy's own, and how far these
    lie below the floor. In evaluation "promised" is of the shares that are given, and there are "given" (B, K),
    "drawn_in" (B,) 1 where that is not what the policy wants, "plain" (B,) the outcome of the start's shares and
    "density" (B,) of the shown ones."""

    centre_K: Tensor
    scale_K: Tensor

    def __init__(
        self, features: int, start_K: Tensor, knot_KN: Tensor, config: JointDoseConfig, policy: PolicyConfig,
        sizes: tuple[int, int], seed: int,
    ) -> None:  # fmt: skip
        """sizes: groups, and kernels of one."""
        super().__init__()
        self.standardise = Standardise(features)
        self.register_buffer("centre_K", torch.zeros_like(start_K))
        self.register_buffer("scale_K", torch.ones_like(start_K))
        self.outcome = JointDose(features, knot_KN, config, seed)
        self.seen = Seen(*sizes, features, len(start_K))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.policy = SimplexPolicy(features, start_K, policy)

    def forward(self, numeric_BN: Tensor, share_BK: Tensor) -> dict[str, Tensor]:
        x_BN = self.standardise(numeric_BN)
        wanted_BK, group_B = self.policy(x_BN), self.seen.group(x_BN)
        mu_B = self.outcome(x_BN, self.scaled(share_BK))
        if self.training:
            fixed = {name: parameter.detach() for name, parameter in self.outcome.named_parameters()}
            promised_B = functional_call(self.outcome, fixed, (x_BN, self.scaled(wanted_BK)))
            return {"mu": mu_B, "promised": promised_B, "lack": self.seen.lack(group_B, wanted_BK)}
        start_K = self.policy.log_start_K.exp()
        given_BK = self.seen.drawn_in(group_B, wanted_BK, start_K)
        return {
            "mu": mu_B,
            "promised": self.outcome(x_BN, self.scaled(given_BK)),
            "lack": self.seen.lack(group_B, wanted_BK),
            "given": given_BK,
            "drawn_in": ((given_BK - wanted_BK).abs().amax(1) > 0).float(),
            "plain": self.outcome(x_BN, self.scaled(start_K.expand_as(given_BK))),
            "density": self.seen.log_density(group_B, share_BK),
        }

    def shares(self, numeric_BN: Tensor) -> Tensor:
        """(B, K): what each user is given."""
        x_BN = self.standardise(numeric_BN)
        return self.seen.drawn_in(self.seen.group(x_BN), self.policy(x_BN), self.policy.log_start_K.exp())

    def scaled(self, share_BK: Tensor) -> Tensor:
        return (share_BK - self.centre_K) / self.scale_K
