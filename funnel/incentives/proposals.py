"""New strategies: proposed, pruned, tried in batches with the same random traffic, replaced where they are weak.

New strategies come from a grid or from evolution (candidates.py in the daily operation, tuning.py by jobs.evolve).
BanditNet below learns from a log which user should get which arm. roster.py has the strategies of an operation.
Shapes: N users, F features, A arms (strategies), S slices of a day, R rows.
"""

from dataclasses import dataclass

import numpy as np

from data.errors import UserError
from funnel.effects.nuisances import softmax
from funnel.incentives.strategies import bill, cheapest_first


@dataclass(frozen=True)
class PruneRules:
    """What a strategy must keep to be tried at all."""

    largest_bill: float = 10.0
    """The largest amount times number."""
    most_a_day: float = 8.0
    """The largest number of rewards a day."""
    shortest_interval: float = 0.0
    """The shortest time between two rewards, in hours."""
    distance: float = 0.05
    """Strategies that differ by less than this share of each number's range count as one: the cheaper is kept."""

    def __post_init__(self) -> None:
        for name in ("largest_bill", "most_a_day"):
            if not 0 < getattr(self, name) < np.inf:
                raise UserError(f"{name} is {getattr(self, name)}, must be a finite number above 0")
        for name in ("shortest_interval", "distance"):
            if not 0 <= getattr(self, name) < np.inf:
                raise UserError(f"{name} is {getattr(self, name)}, must be a finite number of at least 0")


def pruned(vectors_A3: np.ndarray, rules: PruneRules) -> np.ndarray:
    """The strategies that keep the rules, the cheapest first, none nearly another. Raises UserError if none is left."""
    ordered_A3 = cheapest_first(vectors_A3)
    amount_A, interval_A, number_A = ordered_A3.T
    active_A = (amount_A > 0) & (number_A > 0)
    fits_A = (bill(ordered_A3) <= rules.largest_bill) & (number_A <= rules.most_a_day)
    fits_A &= (interval_A >= rules.shortest_interval) | ~active_A
    ordered_A3 = ordered_A3[fits_A]
    if not len(ordered_A3):
        raise UserError("no strategy keeps the pruning rules")
    width_3 = np.ptp(ordered_A3, 0)
    width_3 = np.where(width_3 > 0, width_3, 1.0)
    kept: list[np.ndarray] = []
    for vector_3 in ordered_A3:
        if all((np.abs(vector_3 - other_3) / width_3).max() >= rules.distance for other_3 in kept):
            kept.append(vector_3)
    return np.array(kept)


def rotation(strategies: int, slices: int, day: int) -> np.ndarray:
    """Which strategy each slice of the day has on this day in each of so many lanes of equal traffic, (lanes, S).

    There is a lane a strategy. In a day's slice every strategy has one lane, so all have the same traffic of every
    slice; over `strategies` days each lane (the same users) has had every strategy in every slice. From day to day
    lanes move on by 0, 1, -1, 2, -2, ...: users tire of rewards, and so each strategy follows each other one equally
    often [the Latin square of Williams, 1949; of an odd number of strategies together with its mirror image].
    """
    lane, place = np.arange(strategies)[:, None], np.arange(slices)[None]
    cycle, turn = divmod(day, strategies)
    step = (turn + 1) // 2 * (1 if turn % 2 else -1)
    if strategies % 2 and cycle % 2:
        step = -step
    return np.asarray((lane + place + step) % strategies)


def lanes(order_N: np.ndarray, slice_N: np.ndarray, count: int) -> np.ndarray:
    """The lane of each user of a day: those who come in the same slice, in a shuffled order that stays, cut into so
    many stretches of the same length (or one user more). `order_N`: each user's place in that order, any numbers."""
    lane_N = np.zeros(len(order_N), np.int64)
    for part in np.unique(slice_N):
        own_N = np.flatnonzero(slice_N == part)
        own_N = own_N[np.argsort(order_N[own_N], kind="stable")]
        lane_N[own_N] = np.arange(len(own_N)) * count // len(own_N)
    return lane_N


def batches(strategies: int, size: int) -> list[np.ndarray]:
    """The strategies in batches of nearly the same size, at most `size` each; the first strategy (the baseline) is in
    every batch, so that batches of different days can be compared. Neighbours go to different batches: where strategies
    are ordered by cost each batch has cheap and dear ones."""
    others = np.arange(1, strategies)
    count = max(-(-len(others) // max(size - 1, 1)), 1)
    return [np.append(0, others[part::count]) for part in range(count)]


def weak(mean_A: np.ndarray, error_A: np.ndarray, cost_A: np.ndarray, level: float = 1.96) -> np.ndarray:
    """bool_A: strategies that another one beats for no more money: its lower end is above their upper end. The
    cheapest is never weak: it is what others are compared with.

    `error_A`: standard errors of means that were estimated apart; or (A, A), those of the differences of means that
    were not, which count as if two intervals of the same width parted."""
    if error_A.ndim == 2:
        ahead_AA = mean_A[None, :] - mean_A[:, None] > np.sqrt(2) * level * error_A
    else:
        ahead_AA = (mean_A - level * error_A)[None, :] > (mean_A + level * error_A)[:, None]
    found_A = np.asarray((ahead_AA & (cost_A[None, :] <= cost_A[:, None])).any(1))
    found_A[int(np.argmin(cost_A))] = False
    return np.asarray(found_A)


@dataclass(frozen=True)
class BanditNetSettings:
    translations: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Values of lambda that are tried, as quantiles between the lowest and the highest reward's quartiles."""
    steps: int = 200
    rate: float = 0.1
    penalty: float = 1e-3
    """Of squared weights."""


def banditnet(
    x_RF: np.ndarray,
    arm_R: np.ndarray,
    reward_R: np.ndarray,
    propensity_R: np.ndarray,
    arms: int,
    settings: BanditNetSettings | None = None,
) -> np.ndarray:
    """Weights (1 + F, A) of a softmax policy that maximises SNIPS [Joachims, Swaminathan and de Rijke, ICLR 2018]: for
    each translation lambda the sum of (r - lambda) pi / p by gradient steps (Adam), then the one with the best SNIPS on
    a third of the rows that was not learnt from."""
    settings = settings or BanditNetSettings()
    design_RG = np.column_stack([np.ones(len(x_RF)), x_RF])
    held_R = np.arange(len(arm_R)) % 3 == 0
    low, high = np.quantile(reward_R, (0.25, 0.75))
    best_GA, best = np.zeros((design_RG.shape[1], arms)), -np.inf
    for share in settings.translations:
        weights_GA = ascended(design_RG[~held_R], arm_R[~held_R], reward_R[~held_R] - (low + share * (high - low)),
                              propensity_R[~held_R], arms, settings)  # fmt: skip
        value = snips(softmax(design_RG[held_R] @ weights_GA), arm_R[held_R], reward_R[held_R], propensity_R[held_R])
        if value > best:
            best_GA, best = weights_GA, value
    return best_GA


def ascended(
    design_RG: np.ndarray, arm_R: np.ndarray, gain_R: np.ndarray, propensity_R: np.ndarray, arms: int,
    settings: BanditNetSettings,
) -> np.ndarray:  # fmt: skip
    weights_GA = np.zeros((design_RG.shape[1], arms))
    first_GA, second_GA = np.zeros_like(weights_GA), np.zeros_like(weights_GA)
    rows, own_RA = np.arange(len(arm_R)), np.eye(arms)[arm_R]
    for step in range(1, settings.steps + 1):
        share_RA = softmax(design_RG @ weights_GA)
        # d pi(a) / d logit_b = pi(a) (1[a = b] - pi(b))
        pull_R = gain_R / propensity_R * share_RA[rows, arm_R]
        slope_GA = design_RG.T @ (pull_R[:, None] * (own_RA - share_RA)) / len(rows)
        slope_GA -= 2 * settings.penalty * weights_GA
        first_GA = 0.9 * first_GA + 0.1 * slope_GA
        second_GA = 0.999 * second_GA + 0.001 * slope_GA**2
        moved_GA = first_GA / (1 - 0.9**step)
        weights_GA = weights_GA + settings.rate * moved_GA / (np.sqrt(second_GA / (1 - 0.999**step)) + 1e-8)
    return weights_GA


def snips(share_RA: np.ndarray, arm_R: np.ndarray, reward_R: np.ndarray, propensity_R: np.ndarray) -> float:
    weight_R = share_RA[np.arange(len(arm_R)), arm_R] / propensity_R
    total = float(weight_R.sum())
    return float((weight_R * reward_R).sum()) / total if total > 0 else -np.inf
