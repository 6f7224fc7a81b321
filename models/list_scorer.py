"""A context-aware scorer of the next item of a list, small enough for a phone: effective view, like, and looking on.

    weight_j = sigmoid(ask(target, query) . key(token_j) / sqrt(O) + b),     seen = sum_j weight_j value(token_j)
    like_j = cosine(match target, match token item_j) of each of a few kernels
    alike = [sum_j like_j feedback_j, sum_j like_j watched_j, sum_j like_j, like of the last three]
    logits = heads(MMoE([target, query, seen, target * seen, alike, state]))

Context: the last N items before the target, those watched with what came of them, then those that stand before it on a
list that is planned and have no feedback yet [target attention over the session, real-time feedback features and MMoE
as in Real-time Short Video Recommendation on Mobile Devices, CIKM 2022, arXiv 2208.09577]. token_j = the item's vector,
its feedback and how many places back it stands. Weights are not normalised (as in DIN): three items of one category
weigh more than one. alike: what came of items like the target, by likenesses that both sides share; attention would
have to learn first that an item is like itself, and from rare outcomes it does not. state: means of the feedback, how
many items stand before, how many of them were watched.

Shapes: B rows, C contexts, M targets of each, N items before, O width of vectors, F feedback values, T = 3 heads,
H kernels.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from data.errors import UserError
from models.backbones.base import BackboneConfig
from models.backbones.mmoe import MMoE
from models.embedding import EmbeddingTable
from models.layers import MLP, Standardise
from models.rows import EVERY_ROW, Share
from models.two_tower import Side

HEADS = ("view", "like", "next")
NEAR = 3
"""Items just before the target whose likeness is told one by one."""
KERNEL = 8
"""Width of the vectors that a kernel compares."""


@dataclass(frozen=True)
class ListScorerConfig:
    width: int = 8
    """Width of an embedding vector."""
    hidden: tuple[int, ...] = (32,)
    """Layer widths of the towers that make vectors of an item and of a request."""
    output: int = 16
    """Width of those vectors, and of what attention gives."""
    before: int = 16
    """Items before the target that are looked at, the last ones; 0: none (a point-wise model)."""
    kernels: int = 4
    """Kinds of likeness between items by which feedback is carried over; 0: none."""
    embedding_scale: float = 0.05
    """Standard deviation of the embedding's initial values."""
    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(experts=4, expert_hidden=(32, 16)))
    """The mixture of experts (always mmoe)."""

    def __post_init__(self) -> None:
        for key, least in (("width", 1), ("output", 1), ("before", 0), ("kernels", 0)):
            if getattr(self, key) < least:
                raise UserError(f"model.{key} must be at least {least}, got {getattr(self, key)}")
        if any(width < 1 for width in self.hidden):
            raise UserError(f"model.hidden needs positive widths, got {self.hidden}")
        if not self.embedding_scale > 0:
            raise UserError(f"model.embedding_scale must be positive, got {self.embedding_scale}")
        if self.backbone.name != "mmoe":
            raise UserError(f"model.backbone.name must be mmoe here, got {self.backbone.name}")


class Before(NamedTuple):
    """What stands before a target, the latest first."""

    item_CNO: Tensor
    there_CN: Tensor
    """bool: there is one."""
    known_CN: Tensor
    """bool: it was watched, and its feedback is known."""
    feedback_CNF: Tensor
    """0 where it is not known."""


class ListScorer(nn.Module):
    """rows: of the fused table; numerics: how many numeric features; feedback: how many feedback values; seed: the
    whole initialisation; share: which rows of the table are held here."""

    def __init__(
        self,
        config: ListScorerConfig,
        rows: int,
        numerics: int,
        query: Side,
        item: Side,
        feedback: int,
        seed: int,
        share: Share = EVERY_ROW,
    ) -> None:
        super().__init__()
        self.config, self.sides, self.feedback = config, (query, item), feedback
        out = config.output
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.table = EmbeddingTable(rows, config.width, config.embedding_scale, share)
            self.standardise = Standardise(numerics)
            self.towers = nn.ModuleList(
                [
                    MLP(config.width * len(side.single) + len(side.numeric), config.hidden, config.output)
                    for side in self.sides
                ]
            )
            width = 2 * out + 2 * out * (config.before > 0)
            if config.before:
                self.place = nn.Parameter(torch.randn(config.before, out) * 0.1)
                self.told = nn.Linear(feedback + 1, out, bias=False)
                self.ask, self.key, self.value = nn.Linear(2 * out, out), nn.Linear(out, out), nn.Linear(out, out)
                # Few items matter: weights begin small, and grow where the gradient says so.
                self.offset = nn.Parameter(torch.tensor(-1.0))
                width += feedback + 2
                if config.kernels:
                    self.match = nn.Linear(out, config.kernels * KERNEL, bias=False)
                    width += config.kernels * (feedback + 2 + NEAR)
            self.mixture = MMoE(width, len(HEADS), config.backbone)
            self.heads = nn.ModuleList([nn.Linear(self.mixture.output_width, 1) for _ in HEADS])

    def vectors(self, ids_BK: Tensor, numeric_BN: Tensor) -> tuple[Tensor, Tensor]:
        """(query_BO, item_BO) of rows that have the features of both. One lookup of the table."""
        vector_BKE = self.table(ids_BK.reshape(-1)).view(*ids_BK.shape, self.config.width)
        numeric_BN = self.standardise(numeric_BN)
        query_BO, item_BO = (
            tower(torch.cat([*(vector_BKE[:, k] for k in side.single), numeric_BN[:, list(side.numeric)]], 1))
            for side, tower in zip(self.sides, self.towers, strict=True)
        )
        return query_BO, item_BO

    def logits(self, query_CO: Tensor, target_CMO: Tensor, before: Before) -> Tensor:
        """(C, M, T) of each target if it came next."""
        contexts, targets, _ = target_CMO.shape
        parts = [target_CMO, query_CO.unsqueeze(1).expand(-1, targets, -1)]
        if self.config.before:
            seen_CMO = self.seen(query_CO, target_CMO, before)
            state_CS = self.state(before)
            parts += [seen_CMO, target_CMO * seen_CMO, state_CS.unsqueeze(1).expand(-1, targets, -1)]
            if self.config.kernels:
                parts.append(self.alike(target_CMO, before))
        x_BI = torch.cat(parts, 2).flatten(0, 1)
        mixed = self.mixture(x_BI)
        logit_BT = torch.cat([head(mixed_BH) for head, mixed_BH in zip(self.heads, mixed, strict=True)], 1)
        return logit_BT.view(contexts, targets, len(HEADS))

    def seen(self, query_CO: Tensor, target_CMO: Tensor, before: Before) -> Tensor:
        """(C, M, O): what attention takes from the items before each target."""
        targets, length = target_CMO.shape[1], before.item_CNO.shape[1]
        known_CN1 = before.known_CN.unsqueeze(2).to(target_CMO.dtype)
        told_CNO = self.told(torch.cat([before.feedback_CNF * known_CN1, known_CN1], 2))
        token_CNO = before.item_CNO + told_CNO + self.place[:length]
        ask_CMO = self.ask(torch.cat([target_CMO, query_CO.unsqueeze(1).expand(-1, targets, -1)], 2))
        score_CMN = ask_CMO @ self.key(token_CNO).transpose(1, 2) / math.sqrt(self.config.output) + self.offset
        weight_CMN = score_CMN.sigmoid() * before.there_CN.unsqueeze(1)
        return torch.matmul(weight_CMN, self.value(token_CNO))

    def alike(self, target_CMO: Tensor, before: Before) -> Tensor:
        """(C, M, H (F + 2 + NEAR)): sums of what came of items like each target, and the likeness of the last ones."""
        contexts, targets, _ = target_CMO.shape
        length, kernels = before.item_CNO.shape[1], self.config.kernels
        own_CHMK = normalize(self.match(target_CMO).view(contexts, targets, kernels, KERNEL), dim=3).transpose(1, 2)
        old_CHNK = normalize(self.match(before.item_CNO).view(contexts, length, kernels, KERNEL), dim=3).transpose(1, 2)
        there_CN1 = before.there_CN.unsqueeze(2).to(target_CMO.dtype)
        known_CN1 = before.known_CN.unsqueeze(2).to(target_CMO.dtype)
        like_CHMN = (own_CHMK @ old_CHNK.transpose(2, 3)) * there_CN1.squeeze(2)[:, None, None]
        told_CNG = torch.cat([before.feedback_CNF * known_CN1, known_CN1, there_CN1], 2)
        sum_CHMG = torch.matmul(like_CHMN, told_CNG.unsqueeze(1)) / 4
        near_CHMN = pad(like_CHMN[..., :NEAR], (0, max(NEAR - length, 0)))
        return torch.cat([sum_CHMG, near_CHMN], 3).transpose(1, 2).flatten(2)

    def state(self, before: Before) -> Tensor:
        """(C, F + 2): means of the feedback over what was watched; logs of how many stand before and were watched."""
        known_CN1 = before.known_CN.unsqueeze(2).to(before.feedback_CNF.dtype)
        watched_C1 = known_CN1.sum(1)
        mean_CF = (before.feedback_CNF * known_CN1).sum(1) / watched_C1.clamp(min=1)
        there_C1 = before.there_CN.sum(1, keepdim=True).to(mean_CF.dtype)
        return torch.cat([mean_CF, torch.log1p(there_C1) / 3, torch.log1p(watched_C1) / 3], 1)
