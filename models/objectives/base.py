"""What an objective is: logits and labels of some rows in, named loss terms out.

Terms are weighed by lambda_k gamma_k^t in epoch t [PLE, Tang et al., RecSys 2020, eq. 9]; by default all gamma_k are 1.

An objective only ever sums over its rows and divides by totals it is handed. The totals belong to the GLOBAL batch, so
gradients of ranks add up to the gradient of one process that saw all rows, however the rows were dealt.
Shapes: B rows.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from data.errors import UserError
from models.objectives.balance import TAILORED, BalanceConfig, imbalances, penalty, sums, tailored
from models.objectives.delays import (
    DELAYS,
    RATE,
    elapsed_time,
    exponential,
    fake_negative,
    known_product,
    log_known,
    measured,
    negative_weight,
    weighed_product,
)
from models.objectives.propensity import inverse_propensity, resolve_clip
from models.objectives.terms import binary_cross_entropy, product_cross_entropy

EXPOSURES, CLICKS = 0, 1
"""Where Labels.totals() has what."""
TINY = 1e-12
"""What a total that may be 0 is raised to; the sum above it is 0 then."""
TOWER = ".tower"
"""Behind a task's name: the same logit once more, with a gradient that ends in the task's tower."""
MOST_THETA = 9.0
LEARNT, ESTIMATED, SHRUNK = "learnt", "estimated", "shrunk"
"""What theta may be beside a number."""
TOLD = (ESTIMATED, SHRUNK)
"""Those that a training before this one tells."""
TERMS = ("ctr", "c", "g", "imp")
"""What lambda_ and gamma_ are followed by: the terms CTR, CVR, CTCVR and imputation."""


CHOICES = {
    "delay": tuple(DELAYS),
    "imputation": ("error", "label"),
    "cvr_gradient": ("shared", "tower"),
    "imputation_gradient": ("shared", "tower"),
    "ctcvr_space": ("entire", "click", "click_ips"),
    "ctcvr_gradient": ("entire", "click"),
}


@dataclass(frozen=True)
class ObjectiveConfig:
    name: str = "escm2_snips"
    """A name of models/registry.py, or module.path:Class of your own."""
    lambda_ctr: float = 1.0
    """Weight of the CTR term."""
    lambda_c: float = 1.0
    """Weight of the CVR term (all but naive, mtl_imp, esmm); the ESCM2 paper uses 0.1 to 1, and with few clicks 0.1 is
    too little (docs/measured.md)."""
    lambda_g: float = 1.0
    """Weight of the CTCVR term (all but naive, mtl_imp, esmm)."""
    lambda_imp: float = 1.0
    """Weight of the imputation term (escm2_dr, escm2_mrdr)."""
    gamma_ctr: float = 1.0
    """In epoch t = 0, 1, ... the CTR term counts gamma_ctr^t times its weight; likewise below."""
    gamma_c: float = 1.0
    """The same of the CVR term, in all objectives that have one."""
    gamma_g: float = 1.0
    """The same of the CTCVR term, in all objectives that have one."""
    gamma_imp: float = 1.0
    """The same of the imputation term."""
    cvr_gradient: str = "shared"
    """How far the CVR term's gradient reaches: shared (tower, experts and embedding) or tower (the CVR tower alone, so
    that few and heavy clicks cannot spoil what CTR learns from all exposures)."""
    imputation_gradient: str = "tower"
    """The same of the imputation term (escm2_dr, escm2_mrdr)."""
    ctcvr_space: str = "entire"
    """Rows the CTCVR term is the mean over (all but esmm): entire (exposures, as in the paper), click (clicked ones) or
    click_ips (clicked ones, weighed so that their expectation is that of all exposures)."""
    ctcvr_gradient: str = "entire"
    """Rows on which the CTCVR term's gradient reaches the CVR tower: entire (all it is taken over) or click (clicked
    ones; the CTR tower learns from all)."""
    clip: float | str = "auto"
    """Propensities below this are raised to it: a probability, or auto = a quarter of the training click rate."""
    imputation: str = "error"
    """What the imputation tower of escm2_dr predicts: error (the loss itself, as in the paper) or label (the potential
    conversion, so that unclicked rows teach the CVR tower too)."""
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    delay: str = "none"
    """What an unconverted click says where conversions come late (with as_of; docs/propensities.md): none (it has not
    converted), exponential (it may still: delays are exponential, at a rate that is learnt), measured (it may still, by
    the delays of the log), fake_negative (every converted click was a negative before) or elapsed (those that convert
    after delay_window were)."""
    delay_window: float = 1.0
    """Days that a click waits for its conversion (delay: elapsed)."""
    delay_mature: float = 4.0
    """Age in days from which on clicks teach how many conversions come after the window (delay: elapsed)."""
    theta: float | str = LEARNT
    """Covariance that a hidden cause gives the logits of click and conversion (escm2_joint, escm2_joint_ips): estimated
    (jobs.train trains a click model first, in OUT/first, and takes what instruments tell by it, with an interval; 0
    where that claims nothing), shrunk (the same estimate drawn towards 0 by its error, in place of all or nothing; 0
    where the instruments fail their test or the error is large), a number that is held, or learnt with the weights,
    which takes thousands of steps and falls short."""
    alternate_every: int = 0
    """With a number n, escm2_dr trains its imputation for n steps, then its CVR tower for n, in turn; 0 = both."""

    def __post_init__(self) -> None:
        for key in (*(f"lambda_{term}" for term in TERMS), "alternate_every"):
            if not 0 <= getattr(self, key) < math.inf:
                raise UserError(f"objective.{key} must be a number of at least 0, got {getattr(self, key)}")
        for key in (f"gamma_{term}" for term in TERMS):
            if not 0 < getattr(self, key) < math.inf:
                raise UserError(f"objective.{key} must be a number above 0, got {getattr(self, key)}")
        for key, choices in CHOICES.items():
            if getattr(self, key) not in choices:
                words = " or ".join([", ".join(map(repr, choices[:-1])), repr(choices[-1])])
                raise UserError(f"objective.{key} must be {words}, got {getattr(self, key)!r}")
        if not 0 < self.delay_window <= self.delay_mature < math.inf:
            raise UserError(
                f"objective.delay_window must be above 0 and at most delay_mature, got {self.delay_window} and "
                f"{self.delay_mature}"
            )
        named = self.theta in (LEARNT, *TOLD)
        if not named and (isinstance(self.theta, str) or not abs(self.theta) <= MOST_THETA):
            raise UserError(
                f"objective.theta must be estimated, shrunk, learnt or a number in -9..9, got {self.theta!r}"
            )
        resolve_clip(self.clip, click_rate=0.5)

    def ending(self, tasks: Iterable[str]) -> tuple[str, ...]:
        """Those of the tasks whose own term's gradient ends in their tower."""
        own = {"cvr": self.cvr_gradient, "imputation": self.imputation_gradient}
        return tuple(task for task in tasks if own.get(task) == "tower")


@dataclass(frozen=True)
class Labels:
    """click_B and conversion_B in {0, 1}; weight_B counts a row more or less than once (None: all once)."""

    click_B: Tensor
    conversion_B: Tensor
    weight_B: Tensor | None = None
    elapsed_B: Tensor | None = None
    """Days from the exposure to the moment at which conversions were known; None: they are final."""
    delay_B: Tensor | None = None
    """Days to the conversion, where it is known."""
    known_B: Tensor | None = None
    """Share of conversions that are known so many days after, as measured of the log (delay: measured)."""
    click_logit_B: Tensor | None = None
    """Click logits of a model trained before, to take propensities from; None: the CTR tower gives them."""
    slice_BS: Tensor | None = None
    """int64: numbers of the slices that a row lies in, where balance is asked for by slice."""
    slices: int = 0
    """How many slices there are."""

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
    takes_delays: ClassVar[bool] = False
    """Whether `delay` means anything to it."""
    uses_propensities: ClassVar[bool] = False
    """Whether it weighs clicks by `inverse_propensity`: then a click model trained before may give the propensities."""
    hidden_cause: ClassVar[bool] = False
    """Whether its network has a hidden cause of click and conversion (models/hidden_cause.py)."""
    takes_balance: ClassVar[bool] = True
    """Whether `balance` means anything to it: whether its CTR term is that of `ctr`."""
    step: int = 0
    """Which update this is, set by the trainer: for what alternates."""
    epoch: int = 0
    """Which pass over the data this is, set by the trainer: for weights that change."""

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
        """L_CTR = mean_D delta(o, q), and what `balance` asks for."""
        ctr_B, click_B = logits["ctr"], labels.click_B
        ctr = labels.weigh(binary_cross_entropy(ctr_B, click_B)).sum() / totals[EXPOSURES]
        if not self.config.balance.weight:
            return ctr
        if self.config.balance.kind == TAILORED:
            term = labels.weigh(tailored(ctr_B, click_B, self.clip)).sum() / totals[EXPOSURES]
        else:
            own_N = self.balance_totals(logits, labels)
            term = penalty(own_N, totals[-len(own_N) :])
        return ctr + self.config.balance.weight * term

    def balance_totals(self, logits: dict[str, Tensor], labels: Labels) -> Tensor:
        """float64 sums behind those of `totals`: of balance by slice, where that is asked for; else none."""
        if not self.config.balance.by_slice:
            return logits["ctr"].new_zeros(0, dtype=torch.float64)
        assert labels.slice_BS is not None
        found = imbalances(logits["ctr"], logits["cvr"], labels.click_B, labels.weight_B, self.clip)
        return sums(found, labels.slice_BS, labels.slices)

    def ctcvr(self, logits: dict[str, Tensor], labels: Labels, totals: Tensor) -> Tensor:
        """L_CTCVR = mean_D delta(c, q p).

        `ctcvr_space: click`: mean_O instead. `click_ips`: (1/|D|) sum_D o [delta(c, q p) + (1/q~ - 1) delta(0, q p)],
        from clicked rows alone and with the same expectation: a clicked row stands for itself and for the 1/q~ - 1
        rows like it that were not clicked and so did not convert. (o delta(c, q p)/q~ would not do: its expectation is
        delta(r, q p), which is smallest at q = 1.)
        """
        term_B = self.ctcvr_terms(logits, labels)
        if self.config.ctcvr_space == "entire":
            return labels.weigh(term_B).sum() / totals[EXPOSURES]
        if self.config.ctcvr_space == "click":
            return (labels.click_B * labels.weigh(term_B)).sum() / totals[CLICKS].clamp(min=TINY)
        others_B = self.inverse_propensity(logits, labels) - 1
        none_B = torch.zeros_like(labels.conversion_B)
        unclicked_B = self.ctcvr_terms(logits, replace(labels, conversion_B=none_B), none_B)
        return labels.weigh(labels.click_B * (term_B + others_B * unclicked_B)).sum() / totals[EXPOSURES]

    def ctcvr_terms(self, logits: dict[str, Tensor], labels: Labels, click_B: Tensor | None = None) -> Tensor:
        """delta(c, q p) of every row, or what `delay` makes of it; with `ctcvr_gradient: click` the CVR tower learns
        from clicked rows alone. `click_B`: taken for clicked, if others than those that are."""
        ctr_B, cvr_B, label_B = logits["ctr"], logits["cvr"], labels.conversion_B
        if self.config.ctcvr_gradient == "click":
            cvr_B = torch.where(labels.click_B > 0.5, cvr_B, cvr_B.detach())
        delay, elapsed_B, click_B = self.config.delay, labels.elapsed_B, labels.click_B if click_B is None else click_B
        if delay == "none" or elapsed_B is None or labels.delay_B is None:
            return product_cross_entropy(ctr_B, cvr_B, label_B)
        if delay == "exponential":
            return known_product(ctr_B, cvr_B, log_known(logits[RATE], elapsed_B), label_B)
        if delay == "measured":
            assert labels.known_B is not None
            return known_product(ctr_B, cvr_B, labels.known_B.clamp(min=1e-6).log(), label_B)
        if delay == "fake_negative":
            return weighed_product(ctr_B, cvr_B, click_B, label_B, 1 - cvr_B.detach().sigmoid())
        window = self.config.delay_window
        early_B = ((label_B > 0.5) & (labels.delay_B <= window)).to(cvr_B)
        term_B = weighed_product(ctr_B, cvr_B, click_B, label_B, negative_weight(logits, early_B))
        return (elapsed_B >= window) * term_B

    def conversion_loss(self, logits: dict[str, Tensor], labels: Labels) -> Tensor:
        """The loss of each row's conversion, as if it was clicked: delta(r, p), or what `delay` makes of it."""
        logit_B = self.own(logits, "cvr")
        if self.config.delay == "none" or labels.elapsed_B is None or labels.delay_B is None:
            return binary_cross_entropy(logit_B, labels.conversion_B)
        if self.config.delay == "fake_negative":
            return fake_negative(logit_B, labels.conversion_B)
        if self.config.delay == "measured":
            assert labels.known_B is not None
            return measured(logit_B, labels.conversion_B, labels.known_B)
        if self.config.delay == "elapsed":
            window, mature = self.config.delay_window, self.config.delay_mature
            known = (labels.conversion_B, labels.elapsed_B, labels.delay_B)
            return elapsed_time(logits, logit_B, *known, window, mature)
        return exponential(logit_B, logits[RATE], labels.conversion_B, labels.elapsed_B, labels.delay_B)

    def own(self, logits: dict[str, Tensor], task: str) -> Tensor:
        """The task's logit for the task's own term; its gradient ends in the tower, if the network gives such a one."""
        return logits.get(task + TOWER, logits[task])

    def inverse_propensity(self, logits: dict[str, Tensor], labels: Labels) -> Tensor:
        """1 / max(q, clip), held constant."""
        given_B = labels.click_logit_B
        return inverse_propensity(logits["ctr"] if given_B is None else given_B, self.clip)

    def decay(self, term: str) -> float:
        """gamma^epoch of one of TERMS."""
        gamma: float = getattr(self.config, f"gamma_{term}")
        return gamma**self.epoch

    def weight(self, term: str) -> float:
        """lambda gamma^epoch of one of TERMS."""
        weight: float = getattr(self.config, f"lambda_{term}")
        return weight * self.decay(term)

    def combine(self, ctr: Tensor, cvr: Tensor, ctcvr: Tensor) -> Tensor:
        """lambda_ctr L_CTR + lambda_c L_CVR + lambda_g L_CTCVR, in the weights of this epoch."""
        return self.weight("ctr") * ctr + self.weight("c") * cvr + self.weight("g") * ctcvr
