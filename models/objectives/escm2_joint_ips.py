"""The joint model of a hidden cause (escm2_joint), with clicks weighed so that they stand for all exposures.

L     = lambda_ctr L_CTR + lambda_c L_CVR
L_CVR = -(1/|D|) sum_D o log P(r | o = 1, x, z) / q~,      q~ = stop_gradient(max(P(o = 1 | x, z), clip))

Given x, z and a click, r has the law P(r | o = 1, x, z) whatever weighs the rows, as long as the weights depend on x
and z alone. So where the model is right the weights change nothing; where its b(x) is too simple they ask that it be
best over all exposures in place of the clicked ones, which is where it is used: the cause is modelled, and what the
features say of the selection is weighed.
"""

from torch import Tensor

from models.hidden_cause import CAUSE, log_clicked, log_clicked_and
from models.objectives.base import EXPOSURES, Labels
from models.objectives.escm2_joint import Escm2Joint
from models.objectives.propensity import inverse_propensity


class Escm2JointIps(Escm2Joint):
    uses_propensities = True

    def __call__(self, logits: dict[str, Tensor], labels: Labels, totals: Tensor) -> dict[str, Tensor]:
        a_B, b_B, theta_B, click_B = logits["ctr"], self.own(logits, "cvr"), logits[CAUSE], labels.click_B
        clicked_B, other_B = log_clicked(a_B, theta_B)
        both_B = log_clicked_and(a_B, b_B, theta_B, labels.conversion_B)
        ctr = -labels.weigh(click_B * clicked_B + (1 - click_B) * other_B).sum() / totals[EXPOSURES]
        marginal_B = clicked_B - other_B if labels.click_logit_B is None else labels.click_logit_B
        weight_B = click_B * inverse_propensity(marginal_B, self.clip)
        cvr = -labels.weigh(weight_B * (both_B - clicked_B)).sum() / totals[EXPOSURES]
        return {"loss": self.weight("ctr") * ctr + self.weight("c") * cvr, "ctr": ctr, "cvr": cvr}
