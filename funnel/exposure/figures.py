"""How far a policy's shares are from the best ones, where a simulation knows them [MDP2 Forest, KDD 2022, s.4.1].

    MR    main regret: mean over users of the value at the best shares less the value at the given ones
    MTSE  mean squared error of the treatment: mean of |t - best|^2, summed over categories

and, of one dose, AMSE [VCNet, Nie et al., ICLR 2021]: the mean squared error of the average response curve over the
doses of a sample. Shapes: U users, K categories, D doses.
"""

import numpy as np


def main_regret(best_U: np.ndarray, given_U: np.ndarray) -> float:
    """MR, from the values at the best shares and at the given ones."""
    return float(np.mean(best_U - given_U))


def treatment_error(best_UK: np.ndarray, shares_UK: np.ndarray) -> float:
    """MTSE."""
    return float(np.mean(((shares_UK - best_UK) ** 2).sum(axis=1)))


def curve_error(true_D: np.ndarray, found_D: np.ndarray) -> float:
    """AMSE."""
    return float(np.mean((true_D - found_D) ** 2))
