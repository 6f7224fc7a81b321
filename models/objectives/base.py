"""What an objective is: logits and labels of some rows in, named loss terms out.

An objective only ever sums over its rows and divides by totals it is handed. The totals belong to the GLOBAL batch, so
gradients of ranks add up to the gradient of one process that saw all rows, however the rows were dealt.
Shapes: B rows.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from data.errors import UserError
from models.objectives.propensity import inverse_propensity, resolve_clip
from models.objectives.terms import binary_cross_entropy, product_cross_entropy

EXPOSURES, CLICKS = 0, 1
"""Where Labels.totals() has what."""
TINY = 1e-12
"""What a total that may be 0 is raised to; the sum above it is 0 then."""


@dataclass(frozen=True)
class ObjectiveConfig:
    name: str = "escm2_ips"
    """A name of models/registry.py, or module.path:Class of your own."""
    lambda_ctr: float = 1.0
    """Weight of the CTR term."""
    lambda_c: float = 0.1
    """Weight of the CVR term (all but naive, mtl_imp, esmm); the ESCM2 paper uses 0.1 to 1."""
    lambda_g: float = 1.0
    """Weight of the CTCVR term (all but naive, mtl_imp, esmm)."""
    ctcvr_space: str = "entire"
    """Rows the CTCVR term is the mean over (all but esmm): entire (exposures, as in the paper) or click."""
    clip: float | str = "auto"
    """Propensities below this are raised to it: a probability, or auto = a quarter of the training click rate."""
    imputation: str = "error"
    """What the imputation tower of escm2_dr predicts: error (the loss itself, as in the paper) or label (the potential
    conversion, so that unclicked rows teach the CVR tower too)."""
    alternate_every: int = 0
    """With a number n, escm2_dr trains its imputation for n steps, then its CVR tower for n, in turn; 0 = both."""

    def __post_init__(self) -> None:
        for key in ("lambda_ctr", "lambda_c", "lambda_g", "alternate_every"):
            if not getattr(self, key) >= 0:
                raise UserError(f"objective.{key} must be at least 0, got {getattr(self, key)}")
        if self.imputation not in ("error", "label"):
            raise UserError(f"objective.imputation must be 'error' or 'label', got {self.imputation!r}")
        if self.ctcvr_space not in ("entire", "click"):
            raise UserError(f"objective.ctcvr_space must be 'entire' or 'click', got {self.ctcvr_space!r}")
        resolve_clip(self.clip, click_rate=0.5)


@dataclass(frozen=True)
class Labels:
    """click_B and conversion_B in {0, 1}; weight_B counts a row more or less than once (None: all once)."""

    click_B: Tensor
    conversion_B: Tensor
    weight_B: Tensor | None = None
    click_logit_B: Tensor | None = None
    """Click logits of a model trained before, to take propensities from; None: the CTR tower gives them."""

    def weigh(self, term_B: Tensor) -> Tensor:
        return term_B if self.weight_B is None else term_B * self.weight_B

    def totals(self) -> Tensor:
        """(2,) float64: weighted exposures and clicks of these rows. Summed over ranks they normalise every term."""
        ones_B = torch.ones_like(self.click_B)
        return torch.stack(
            [self.weigh(ones_B).sum(dtype=torch.float64), self.weigh(self.click_B).sum(dtype=torch.float64)]
        )


class Objective:
    """Logits and labels of some rows -> loss terms. A new one is a subclass in one file (docs/objectives.md)."""

    tasks: tuple[str, ...] = ("ctr", "cvr")
    """The towers it needs; ctr and cvr are what a funnel is scored with."""
    uses_propensities: ClassVar[bool] = False
    """Whether it weighs clicks by `inverse_propensity`: then a click model trained before may give the propensities."""
    step: int = 0
    """Which update this is, set by the trainer: for what alternates."""

    def __init__(self, config: ObjectiveConfig, click_rate: float) -> None:
        self.config = config
        self.clip = resolve_clip(config.clip, click_rate)
        """The resolved clip; also what propensity health is reported with."""

    def totals(self, logits: dict[str, Tensor], labels: Labels) -> Tensor:
        """float64 sums over these rows; the trainer adds them up over workers. What a loss divides by belongs here."""
        return labels.totals()

    def __call__(self, logits: dict[str, Tensor], labels: Labels, totals: Tensor) -> dict[str, Tensor]:
        """Terms by name, and under "loss" what to differentiate: these rows' share of the global batch's loss."""
        raise NotImplementedError

    def ctr(self, logits: dict[str, Tensor], labels: Labels, totals: Tensor) -> Tensor:
        """L_CTR = mean_D delta(o, q)."""
        return labels.weigh(binary_cross_entropy(logits["ctr"], labels.click_B)).sum() / totals[EXPOSURES]

    def ctcvr(self, logits: dict[str, Tensor], labels: Labels, totals: Tensor) -> Tensor:
        """L_CTCVR = mean_D delta(c, q p), or mean_O with `ctcvr_space: click`."""
        term_B = labels.weigh(product_cross_entropy(logits["ctr"], logits["cvr"], labels.conversion_B))
        if self.config.ctcvr_space == "entire":
            return term_B.sum() / totals[EXPOSURES]
        return (labels.click_B * term_B).sum() / totals[CLICKS].clamp(min=TINY)

    def inverse_propensity(self, logits: dict[str, Tensor], labels: Labels) -> Tensor:
        """1 / max(q, clip), held constant."""
        given_B = labels.click_logit_B
        return inverse_propensity(logits["ctr"] if given_B is None else given_B, self.clip)

    def combine(self, ctr: Tensor, cvr: Tensor, ctcvr: Tensor) -> Tensor:
        """lambda_ctr L_CTR + lambda_c L_CVR + lambda_g L_CTCVR."""
        config = self.config
        return config.lambda_ctr * ctr + config.lambda_c * cvr + config.lambda_g * ctcvr
