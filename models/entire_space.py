"""The model: fused embedding -> backbone -> one tower per task -> named logits.

Shapes: B rows, K categorical fields, N numeric features, E embedding width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from data.errors import UserError
from models.backbones.base import BackboneConfig
from models.crossing import CROSSINGS, CrossNetwork, FactorisationMachine
from models.embedding import FieldOptions, FusedEmbedding
from models.hidden_cause import CAUSE, LIFT, HiddenCause
from models.instrument import SHIFT, Instruments, ShallowTower
from models.layers import MLP, Standardise
from models.objectives.base import TOWER
from models.pooling import BagTensors
from models.registry import build_backbone
from models.rows import EVERY_ROW, Share


@dataclass(frozen=True)
class ModelConfig:
    embedding_width: int = 16
    """Width of a field's embedding vector, where the schema gives it none of its own."""
    embedding_scale: float = 0.01
    """Standard deviation of the embedding's initial values."""
    tower_hidden: tuple[int, ...] = (32,)
    """Layer widths of each task's tower."""
    ctr_tower_hidden: tuple[int, ...] | None = None
    """Layer widths of the CTR tower, which has by far the most labels; none = as tower_hidden."""
    crossing: str = "none"
    """Products of features: none, fm (a factorisation machine beside the towers, over the fields' vectors) or dcn_v2
    (cross layers below the backbone)."""
    cross_layers: int = 2
    """Cross layers of dcn_v2."""
    cross_rank: int = 0
    """Rank of the cross layers' matrices; 0 = full."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)

    def __post_init__(self) -> None:
        if self.embedding_width < 1:
            raise UserError(f"model.embedding_width must be at least 1, got {self.embedding_width}")
        if self.embedding_scale <= 0:
            raise UserError(f"model.embedding_scale must be positive, got {self.embedding_scale}")
        if self.crossing not in CROSSINGS:
            raise UserError(f"model.crossing must be one of {', '.join(CROSSINGS)}, got {self.crossing!r}")
        for key, least in (("cross_layers", 1), ("cross_rank", 0)):
            if getattr(self, key) < least:
                raise UserError(f"model.{key} must be at least {least}, got {getattr(self, key)}")
        for key in ("tower_hidden", "ctr_tower_hidden"):
            if any(width < 1 for width in getattr(self, key) or ()):
                raise UserError(f"model.{key} needs positive widths, got {getattr(self, key)}")

    def hidden_of(self, task: str) -> tuple[int, ...]:
        """Layer widths of a task's tower."""
        return self.tower_hidden if task != "ctr" or self.ctr_tower_hidden is None else self.ctr_tower_hidden


class EntireSpaceModel(nn.Module):
    """Logits of every task for every exposure, clicked or not.

    field_rows: rows of the fused table that each categorical field owns; numerics: how many numeric features;
    tasks: names such as ("ctr", "cvr"), decided by the objective; seed: the whole initialisation; share: which rows of
    the tables are held here, where others hold the rest; options: of each categorical field, if any is not plain;
    instruments: features that the click tower alone reads; cause: theta of one that click and conversion share, if they
    do, or "learnt".

    With a hidden cause training mode gives the towers' logits a and b, and theta under CAUSE; evaluation mode gives
    what they come to, logits of pCTR and pCVR, and LIFT (models/hidden_cause.py).
    """

    def __init__(
        self,
        config: ModelConfig,
        field_rows: tuple[int, ...],
        numerics: int,
        tasks: tuple[str, ...],
        seed: int,
        share: Share = EVERY_ROW,
        options: tuple[FieldOptions, ...] | None = None,
        instruments: Instruments = Instruments(),  # noqa: B008 - it is frozen
        cause: float | str | None = None,
    ) -> None:
        super().__init__()
        if not field_rows and not numerics:
            raise UserError("the schema lists no features: name at least one categorical or numeric column")
        self.tasks = tasks
        self.ending: tuple[str, ...] = ()
        """Tasks that in training also give their logit under "TASK.tower", with a gradient that ends in the tower; set
        by whoever trains."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embedding = FusedEmbedding(field_rows, config.embedding_width, config.embedding_scale, share, options)
            self.standardise = Standardise(numerics)
            inputs, widths = self.embedding.output_width + numerics, self.embedding.output_widths
            hidden = config.hidden_of("ctr")
            self.shallow = ShallowTower(instruments, self.embedding, numerics, hidden) if instruments else None
            if self.shallow is not None:
                inputs, widths = len(self.shallow.rest), self.shallow.rest_widths
            self.backbone = build_backbone(config.backbone, inputs, len(tasks))
            width: int = self.backbone.output_width
            dropout = config.backbone.dropout
            self.towers = nn.ModuleDict({task: MLP(width, config.hidden_of(task), 1, dropout) for task in tasks})
            # Last, so that the other parts begin with the same weights under every crossing.
            crossing, layers, rank = config.crossing, config.cross_layers, config.cross_rank
            self.cross = CrossNetwork(inputs, layers, rank) if crossing == "dcn_v2" else None
            self.pairs = FactorisationMachine(inputs, widths, len(tasks)) if crossing == "fm" else None
        self.cause = None if cause is None else HiddenCause(None if isinstance(cause, str) else cause)
        extra = (() if cause is None else (LIFT,)) + ((SHIFT,) if instruments else ())
        self.says: tuple[str, ...] = tasks + extra
        """Names of what it gives in evaluation mode."""

    def forward(self, ids_BK: Tensor, numeric_BN: Tensor, bags: Sequence[BagTensors] = ()) -> dict[str, Tensor]:
        """The same as `logits`: networks of funnel/ take a batch in place of its tensors."""
        return self.logits(ids_BK, numeric_BN, bags)

    def logits(self, ids_BK: Tensor, numeric_BN: Tensor, bags: Sequence[BagTensors] = ()) -> dict[str, Tensor]:
        """ids with field offsets added, raw numerics (NaN = missing), multi-valued fields -> {task: logit_B}."""
        x_BI = self.embedding(ids_BK, bags)
        if numeric_BN.shape[1]:
            x_BI = torch.cat([x_BI, self.standardise(numeric_BN)], dim=1)
        shift_B = None
        if self.shallow is not None:
            x_BI, shift_B = self.shallow(x_BI)
        crossed_BI = x_BI if self.cross is None else self.cross(x_BI)
        h_of = dict(zip(self.tasks, self.backbone(crossed_BI), strict=True))
        found = {task: self.towers[task](h_BH).squeeze(1) for task, h_BH in h_of.items()}
        if self.training:
            found |= {task + TOWER: self.towers[task](h_of[task].detach()).squeeze(1) for task in self.ending}
        if self.pairs is not None:
            pairs_of = dict(zip(self.tasks, self.pairs(x_BI).unbind(0), strict=True))
            if self.training and self.ending:  # what ends in the tower reads the shared embedding as it is
                ends_of = dict(zip(self.tasks, self.pairs(x_BI.detach()).unbind(0), strict=True))
                pairs_of |= {task + TOWER: ends_of[task] for task in self.ending}
            found = {task: logit_B + pairs_of[task] for task, logit_B in found.items()}
        if shift_B is not None:
            found["ctr"] = found["ctr"] + shift_B
        if self.training:
            return found if self.cause is None else {**found, CAUSE: self.cause.theta.expand(len(x_BI))}
        if self.cause is not None:
            found |= self.cause.marginal(found["ctr"], found["cvr"])
        return found if shift_B is None else {**found, SHIFT: shift_B}

    @torch.no_grad()
    def start_at(self, rates: dict[str, float]) -> None:
        """Let the named tasks start at their base rates: the last bias becomes logit(rate).

        From 0.5 a model would spend its first hundreds of steps on finding out that clicks are rare.
        """
        for task, rate in rates.items():
            bounded = min(max(rate, 1e-6), 1 - 1e-6)
            last = list(self.towers[task].children())[-1]
            assert isinstance(last, nn.Linear)
            last.bias.fill_(math.log(bounded / (1 - bounded)))
