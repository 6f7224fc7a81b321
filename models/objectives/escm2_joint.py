"""Click and conversion with a hidden cause in common: a selection model in the entire space (models/hidden_cause.py).

L     = lambda_ctr L_CTR + lambda_c L_CVR
L_CTR = -mean_D log P(o | x, z)
L_CVR = -mean_O log P(r | o = 1, x, z),     log P(r | o = 1, x, z) = log P(o = 1, r | x, z) - log P(o = 1 | x, z)

With lambda_c = |O|/|D| and lambda_ctr = 1 that is the negative log-likelihood of what the log shows, a mean over D; any
other weights keep its optimum, as each term is a likelihood of its own. The product of unweighted likelihoods gives
conversions the say that their rows have, so that the CVR tower learns slowly: lambda_c = 1 is naive's balance.

With theta = 0 the loss is that of the naive objective. What tells a hidden cause from a click that depends on the same
features are the instruments z: they move clicks and not conversions, so that where z made a click likely less of v was
needed for it. Without instruments the form of the link alone would decide, and evaluation claims nothing.
"""

from torch import Tensor

from models.hidden_cause import CAUSE, log_clicked, log_clicked_and
from models.objectives.base import CLICKS, EXPOSURES, TINY, Labels, Objective


class Escm2Joint(Objective):
    hidden_cause = True
    takes_balance = False

    def __call__(self, logits: dict[str, Tensor], labels: Labels, totals: Tensor) -> dict[str, Tensor]:
        a_B, b_B, theta_B = logits["ctr"], self.own(logits, "cvr"), logits[CAUSE]
        clicked_B, other_B = log_clicked(a_B, theta_B)
        both_B = log_clicked_and(a_B, b_B, theta_B, labels.conversion_B)
        click_B = labels.click_B
        ctr = -labels.weigh(click_B * clicked_B + (1 - click_B) * other_B).sum() / totals[EXPOSURES]
        cvr = -labels.weigh(click_B * (both_B - clicked_B)).sum() / totals[CLICKS].clamp(min=TINY)
        return {"loss": self.weight("ctr") * ctr + self.weight("c") * cvr, "ctr": ctr, "cvr": cvr}
