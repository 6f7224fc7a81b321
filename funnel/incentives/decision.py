"""Evolution straight on the value of the decision: who gets what under the budget, judged by randomised rows.

Two-stage fits effects and then allocates; what it minimises is the error of effects, not the loss of the decision. Here
theta corrects the estimated effects before the allocation,

    v_a(x) = effect_a(x) + spread * (theta_a . psi(x)),   psi = (1, standardised features)

and the return is the doubly robust value of the assignment that the budget then allows: the argmax makes it piecewise
constant, which evolution does not mind. theta = 0 is two-stage. A surrogate for gradients softens the argmax at the
two-stage price. Shapes: R rows, F features, G of psi, A arms.
"""

from typing import Any, ClassVar

import numpy as np

from funnel.effects.nuisances import softmax
from funnel.incentives.plan import per_user


class DecisionObjective:
    """es/objectives/base.py: on rows whose doubly robust outcome of each arm is known."""

    batch_pairs: ClassVar[int] = 4

    def __init__(
        self, psi_RG: np.ndarray, effect_RA: np.ndarray, cost_RA: np.ndarray, robust_RA: np.ndarray, budget: float
    ) -> None:
        self.psi_RG, self.effect_RA, self.cost_RA = psi_RG, effect_RA, cost_RA
        self.robust_RA, self.budget = robust_RA, budget
        self.spread = float(effect_RA[:, 1:].std()) or 1.0
        self.shape = (psi_RG.shape[1], effect_RA.shape[1] - 1)

    def initial(self) -> np.ndarray:
        return np.zeros(self.shape[0] * self.shape[1], np.float32)

    def describe(self) -> dict[str, Any]:
        return {"objective": "incentives.decision", "rows": len(self.psi_RG), "budget": self.budget,
                "shape": list(self.shape)}  # fmt: skip

    def corrected(self, theta_D: np.ndarray, psi_RG: np.ndarray, effect_RA: np.ndarray) -> np.ndarray:
        value_RA = effect_RA.copy()
        value_RA[:, 1:] += self.spread * (psi_RG @ theta_D.astype(np.float64).reshape(self.shape))
        return value_RA

    def arms(self, theta_D: np.ndarray) -> np.ndarray:
        """What theta gives to whom, (R,)."""
        return per_user(self.corrected(theta_D, self.psi_RG, self.effect_RA), self.cost_RA, self.budget).arm_R

    def evaluate_batch(self, theta_PD: np.ndarray, seeds_P: np.ndarray) -> np.ndarray:
        rows = np.arange(len(self.psi_RG))
        return np.array([float(self.robust_RA[rows, self.arms(theta_D)].mean()) for theta_D in theta_PD])


def softened(
    objective: DecisionObjective, steps: int = 200, rate: float = 0.02, temperature: float = 0.3
) -> np.ndarray:
    """theta by gradient ascent on a surrogate: the argmax at the two-stage price as a softmax, budget by that price."""
    price = float(per_user(objective.effect_RA, objective.cost_RA, objective.budget).allocation.price_M[0])
    width = temperature * objective.spread
    theta_GA = np.zeros(objective.shape)
    first_GA, second_GA = np.zeros_like(theta_GA), np.zeros_like(theta_GA)
    worth_RA = objective.robust_RA - objective.robust_RA[:, :1] - price * objective.cost_RA
    for step in range(1, steps + 1):
        value_RA = objective.corrected(theta_GA.ravel(), objective.psi_RG, objective.effect_RA)
        share_RA = softmax((value_RA - price * objective.cost_RA) / width)
        mean_R1 = (share_RA * worth_RA).sum(1, keepdims=True)
        slope_RA = share_RA * (worth_RA - mean_R1) / width * objective.spread
        slope_GA = objective.psi_RG.T @ slope_RA[:, 1:] / len(share_RA)
        first_GA = 0.9 * first_GA + 0.1 * slope_GA
        second_GA = 0.999 * second_GA + 0.001 * slope_GA**2
        moved_GA = first_GA / (1 - 0.9**step)
        theta_GA = theta_GA + rate * moved_GA / (np.sqrt(second_GA / (1 - 0.999**step)) + 1e-12)
    return theta_GA.ravel()
