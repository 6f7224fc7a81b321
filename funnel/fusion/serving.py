"""A tuned fusion as part of an exported graph: one number from the scores of a single exposure (jobs.export --policy).

Shapes: B rows, M scores, R rows of a table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from data.errors import UserError
from es.policies import Policy
from funnel.fusion.forms import Fusion, ScoredLog

SERVED = ("product", "sum")
FORMULAS = {
    "product": "sum_i exponent_i * log(p_i + bias_i): the logarithm of prod_i (p_i + bias_i)^exponent_i",
    "sum": "sum_i weight_i * p_i / constant_i",
}


class Fuse(nn.Module):
    """(B, M) scores -> fused_B float32, each score with its own numbers.

    product   fused = sum_i weight_i log(p_i + shift_i)    the logarithm of prod_i (p_i + bias_i)^exponent_i
    sum       fused = sum_i weight_i p_i / scale_i
    The product stays a logarithm: the order is the same, and no power of small probabilities underflows.
    """

    weight: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(
        self, kind: str, weight: tuple[float, ...], shift: tuple[float, ...] = (), scale: tuple[float, ...] = ()
    ) -> None:
        super().__init__()
        self.logarithm = kind == "product"
        neutral = {"shift": shift or (0.0,) * len(weight), "scale": scale or (1.0,) * len(weight)}
        for name, values in {"weight": weight, **neutral}.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))

    def forward(self, scores_BM: Tensor) -> Tensor:
        terms_BM = (scores_BM + self.shift) / self.scale
        return ((terms_BM.log() if self.logarithm else terms_BM) * self.weight).sum(1)


@dataclass(frozen=True)
class ServedFusion:
    """What policy.json adds to a graph (funnel/tools.py: Served)."""

    policy: Mapping[str, Any]

    @property
    def scores(self) -> tuple[str, ...]:
        return tuple(self.policy["scores"])

    def module(self) -> Fuse:
        policy = self.policy
        values = dict(zip(policy["names"], policy["after"], strict=True))
        if policy["fusion"] == "product":
            weight, shift = (tuple(values[f"{of}.{name}"] for name in self.scores) for of in ("exponent", "bias"))
            return Fuse("product", weight, shift)
        return Fuse("sum", tuple(values[f"weight.{name}"] for name in self.scores), scale=tuple(policy["constants"]))

    def expected(self, scored: pa.Table) -> np.ndarray:
        """The fused score as the ES engine computes it, float32_R."""
        policy, names = self.policy, self.scores
        none_R = np.zeros(scored.num_rows, np.int64)
        scores_MR = np.stack([scored.column(name).to_numpy() for name in names]).astype(np.float32)
        log = ScoredLog(names, scores_MR, none_R.astype(np.float32), none_R, none_R)
        fusion = Fusion(policy["fusion"], names, tuple(policy.get("constants", ())), Policy(()))
        features_M11R = fusion.features(log)[:, None, None, :]
        return np.asarray(fusion.score(np.asarray([policy["after"]], np.float64))(features_M11R)[0, 0])

    def describe(self) -> dict[str, Any]:
        policy = self.policy
        return {
            "is": f"{FORMULAS[policy['fusion']]}; order a request's candidates by it, highest first",
            "scores": list(self.scores),
            "parameters": dict(zip(policy["names"], policy["after"], strict=True)),
            "constants": policy.get("constants", []),
        }


def serve(policy: Mapping[str, Any], where: Path) -> ServedFusion:
    """Check that a graph of single exposures can hold the policy that stands in this file.

    Raises UserError: no policy of score fusion, a fusion by rank, weights that follow the user.
    """
    missing = [key for key in ("fusion", "names", "after", "scores") if key not in policy]
    if missing:
        raise UserError(f"{where}: key {missing[0]!r} is missing; is this a policy of jobs.evolve's score fusion?")
    if policy["fusion"] not in SERVED:
        raise UserError(
            f"{where}: {policy['fusion']!r} fusion needs the request's ranks, which a graph of single exposures lacks; "
            f"export {' or '.join(SERVED)}, or no policy, and fuse where the request is known"
        )
    if policy.get("by"):
        raise UserError(f"{where}: its weights depend on user features ({', '.join(policy['by'])}), "
                         "which the graph has no input for; tune without --by to export the fusion")  # fmt: skip
    return ServedFusion(policy)
