"""A world of rewarded users whose truth is known: what a reward does to whom, and what it costs.

A user has six tastes that the log shows, an activity, days since joining, sensitivity (a reward beyond what such a user
likes drives away), and two things that nobody sees: what a unit of reward is worth to him (perceived value v), and a
cause h of loyalty that a logging policy of `hidden` > 0 acts on. A day's rewards t = (amount, interval, number) have a
strength g(t), concave in amount and number; users tire of them (a stock f of past bills):

    g(t)        = amount^.8 number^.7 (.6 + .8 interval / (1 + interval))
    retention   = base(x) + .03 tanh h + A(x) u + backfire,   u = w / (w + s(x)),   w = v g / (1 + tire f)
    minutes     = m(x) + B(x) log(1 + w) + noise
    cost        = amount * number * claim(x): the active take most of what is offered
    f next day  = .8 f + .2 cost
    A(x) = .005 + .5 sig(4 x0 + 2 x1 x2 - 3),  s(x) = 3 exp(1.2 x3 - .5 [x4 > 0]),  B(x) = 8 sig(3 x1 - 2 x5 - 2)

Most users hardly respond: giving everybody the same leaves much to be gained. Who is retained is there the next day;
others come as often as they are active. At which hour a user comes changes nothing in what follows, but those who come
late respond more: a strategy that had the evenings alone would look too good. All draws are addressed by (seed, day,
user): two policies meet the same luck. Shapes: U users, A arms.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, ndtri

from data.errors import UserError
from funnel.incentives.strategies import bill
from funnel.platform.draws import key, uniforms

FEATURES = ("loyalty", "social", "variety", "thrift", "evening", "invites", "activity", "tenure", "sensitive", "tired")
TASTES, PERCEIVED, HIDDEN, ACTIVITY, JOINED, SENSITIVE, COME, RETAIN, MINUTES, SLICE, ARM, HOUR = range(12)
NEW_DAYS = 14
"""For so long a user is new."""
LIKES = 2.0
"""The bill beyond which a sensitive user is driven away."""


@dataclass(frozen=True)
class WorldSettings:
    """Who the users are and how they respond."""

    users: int = 20_000
    """How many there are; about half of them come on a day."""
    new_share: float = 0.15
    """Of the users, who join during the first 30 days."""
    sensitive_share: float = 0.1
    """Of the users, who are driven away by large rewards."""
    perceived: float = 0.4
    """Standard deviation of the log of what a reward is worth to a user, which no log shows."""
    tire: float = 0.15
    """How much a stock of past rewards weakens new ones."""
    noise: float = 12.0
    """Standard deviation of minutes."""
    response: float = 1.0
    """Size of all effects; 0: rewards do nothing."""

    def __post_init__(self) -> None:
        if self.users < 10:
            raise UserError(f"users is {self.users}, must be at least 10")
        for name in ("new_share", "sensitive_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}, must lie in [0, 1]")
        for name in ("perceived", "tire", "noise", "response"):
            if not 0 <= getattr(self, name) < np.inf:
                raise UserError(f"{name} is {getattr(self, name)}, must be a finite number of at least 0")


@dataclass(frozen=True)
class Truth:
    """What each arm would do to each of some users, on average."""

    retention_NA: np.ndarray
    minutes_NA: np.ndarray
    cost_NA: np.ndarray

    def value(self, minute: float) -> np.ndarray:
        """Retention plus `minute` times the minutes, (N, A)."""
        return self.retention_NA + minute * self.minutes_NA


@dataclass(frozen=True)
class Outcome:
    """What came of a day, of users who were there."""

    user_N: np.ndarray
    retained_N: np.ndarray
    minutes_N: np.ndarray
    cost_N: np.ndarray


class World:
    """Users and the state that rewards change. A day: `present`, `features`, (who gets what), `play`."""

    def __init__(self, settings: WorldSettings, seed: int = 0) -> None:
        self.settings, self.seed, self.day = settings, seed, 0
        users = np.arange(settings.users)
        self.users = users

        def normal(what: int, column: int = 0) -> np.ndarray:
            return np.asarray(ndtri(np.clip(uniforms(key(seed, what, column), users), 1e-12, 1 - 1e-12)))

        self.taste_U6 = np.stack([normal(TASTES, column) for column in range(6)], 1)
        self.perceived_U = np.exp(settings.perceived * normal(PERCEIVED) - settings.perceived**2 / 2)
        self.hidden_U = normal(HIDDEN)
        self.activity_U = expit(0.3 + 1.2 * normal(ACTIVITY))
        joins_U = uniforms(key(seed, JOINED), users)
        early_U = np.floor(-400 * uniforms(key(seed, JOINED, 1), users)).astype(int)
        self.joined_U = np.where(joins_U < settings.new_share, np.floor(30 * joins_U / max(settings.new_share, 1e-9)),
                                 early_U - NEW_DAYS).astype(int)  # fmt: skip
        self.sensitive_U = uniforms(key(seed, SENSITIVE), users) < settings.sensitive_share
        self.tired_U = np.zeros(len(users))
        self.was_there_U = np.zeros(len(users), bool)
        self.retained_U = np.zeros(len(users), bool)

    def present(self) -> np.ndarray:
        """The users who are there today, (N,)."""
        luck_U = uniforms(key(self.seed, COME, self.day), self.users)
        comes_U = np.where(self.was_there_U, self.retained_U, luck_U < self.activity_U)
        comes_U = np.where(self.joined_U == self.day, True, comes_U)
        return np.flatnonzero(comes_U & (self.joined_U <= self.day))

    def hours(self, user_N: np.ndarray) -> np.ndarray:
        """The hour, [0, 24), at which each of these users comes for the first time today: in the evening on average,
        who is so inclined later."""
        normal_N = ndtri(np.clip(uniforms(key(self.seed, HOUR, self.day), user_N), 1e-12, 1 - 1e-12))
        return np.asarray((17 + 3 * self.taste_U6[user_N, 4] + 4 * normal_N) % 24)

    def tenure(self, user_N: np.ndarray) -> np.ndarray:
        """Days since joining."""
        return self.day - self.joined_U[user_N]

    def features(self, user_N: np.ndarray) -> np.ndarray:
        """What is known of these users this morning, (N, F) float32, in the order of FEATURES."""
        return np.column_stack(
            [
                self.taste_U6[user_N],
                self.activity_U[user_N],
                np.log1p(np.maximum(self.tenure(user_N), 0)),
                self.sensitive_U[user_N],
                self.tired_U[user_N],
            ]
        ).astype(np.float32)

    def truth(self, user_N: np.ndarray, vectors_A3: np.ndarray) -> Truth:
        """Expected outcomes of each arm for these users today."""
        x_N6 = self.taste_U6[user_N]
        size = self.settings.response
        activity_N = self.activity_U[user_N]
        tired_N = 1 + self.settings.tire * self.tired_U[user_N]
        felt_NA = (self.perceived_U[user_N] / tired_N)[:, None] * strength(vectors_A3)[None]
        most_N = 0.005 + 0.5 * expit(4 * x_N6[:, 0] + 2 * x_N6[:, 1] * x_N6[:, 2] - 3)
        half_N = 3 * np.exp(1.2 * x_N6[:, 3] - 0.5 * (x_N6[:, 4] > 0))
        cost_NA = bill(vectors_A3)[None] * claims(activity_N)[:, None]
        base_N = 0.18 + 0.3 * activity_N + 0.04 * np.tanh(x_N6[:, 5]) + 0.03 * np.tanh(self.hidden_U[user_N])
        gain_NA = most_N[:, None] * felt_NA / (felt_NA + half_N[:, None])
        over_NA = np.maximum(bill(vectors_A3) - LIKES, 0)[None] * self.sensitive_U[user_N][:, None]
        gain_NA = size * (gain_NA - 0.04 * over_NA)
        minutes_N = 25 + 8 * x_N6[:, 2] + 4 * x_N6[:, 0] + 2 * self.hidden_U[user_N]
        more_NA = size * (8 * expit(3 * x_N6[:, 1] - 2 * x_N6[:, 5] - 2))[:, None] * np.log1p(felt_NA)
        return Truth(np.clip(base_N[:, None] + gain_NA, 0, 1), minutes_N[:, None] + more_NA, cost_NA)

    def play(self, user_N: np.ndarray, arm_N: np.ndarray, vectors_A3: np.ndarray) -> Outcome:
        """Give each user an arm, draw what comes of it, and go on to the next day."""
        rows = np.arange(len(user_N))
        truth = self.truth(user_N, vectors_A3)
        luck_N = uniforms(key(self.seed, RETAIN, self.day), user_N)
        retained_N = luck_N < truth.retention_NA[rows, arm_N]
        noise_N = ndtri(np.clip(uniforms(key(self.seed, MINUTES, self.day), user_N), 1e-12, 1 - 1e-12))
        minutes_N = np.maximum(truth.minutes_NA[rows, arm_N] + self.settings.noise * noise_N, 0.0)
        cost_N = truth.cost_NA[rows, arm_N]
        self.tired_U *= 0.8
        self.tired_U[user_N] += 0.2 * cost_N
        self.was_there_U[:] = False
        self.was_there_U[user_N] = True
        self.retained_U[:] = False
        self.retained_U[user_N] = retained_N
        self.day += 1
        return Outcome(user_N, retained_N, minutes_N, cost_N)


def strength(vectors_A3: np.ndarray) -> np.ndarray:
    """g(t), (A,)."""
    amount_A, interval_A, number_A = vectors_A3.T
    return np.asarray(amount_A**0.8 * number_A**0.7 * (0.6 + 0.8 * interval_A / (1 + interval_A)))


def claims(activity_N: np.ndarray) -> np.ndarray:
    """Which share of the rewards offered a user takes."""
    return 0.3 + 0.6 * activity_N


@dataclass(frozen=True)
class LoggingPolicy:
    """Who logged: a softmax of levels (0 the cheapest arm, 1 the dearest) that gives more to whom it likes."""

    confounding: float = 1.5
    """How much more the loyal and active got; 0: arms were drawn evenly."""
    hidden: float = 0.0
    """Weight of a cause that the log does not show and the propensities do not know of."""
    randomised: float = 0.2
    """Share of user-days on which the arm is drawn evenly, whoever it is."""
    floor: float = 0.02
    """Share of even draws outside of that slice: what keeps every propensity above 0."""

    def __post_init__(self) -> None:
        for name in ("randomised", "floor"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}, must lie in [0, 1]")
        for name in ("confounding", "hidden"):
            if not np.isfinite(getattr(self, name)):
                raise UserError(f"{name} is {getattr(self, name)}, must be finite")

    def probabilities(self, x_NF: np.ndarray, arms: int, hidden_N: np.ndarray | None = None) -> np.ndarray:
        """Of each arm outside of the randomised slice, (N, A); without `hidden_N` as the log tells them."""
        level_A = np.linspace(-1, 1, arms)
        pull_N = self.confounding * (0.8 * x_NF[:, 0] + 1.2 * (x_NF[:, 6] - 0.55))
        if hidden_N is not None:
            pull_N = pull_N + self.hidden * hidden_N
        logit_NA = pull_N[:, None] * level_A[None]
        share_NA = np.exp(logit_NA - logit_NA.max(1, keepdims=True))
        share_NA /= share_NA.sum(1, keepdims=True)
        return np.asarray((1 - self.floor) * share_NA + self.floor / arms)

    def draw(self, world: World, user_N: np.ndarray, arms: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(arm_N, propensity of it as the log tells it, bool_N of the randomised slice) of today."""
        x_NF, rows = world.features(user_N), np.arange(len(user_N))
        slice_N = uniforms(key(world.seed, SLICE, world.day), user_N) < self.randomised
        true_NA = self.probabilities(x_NF, arms, world.hidden_U[user_N])
        told_NA = self.probabilities(x_NF, arms)
        for share_NA in (true_NA, told_NA):
            share_NA[slice_N] = 1 / arms
        luck_N = uniforms(key(world.seed, ARM, world.day), user_N)
        arm_N = np.minimum((luck_N[:, None] >= true_NA.cumsum(1)).sum(1), arms - 1)
        return arm_N, told_NA[rows, arm_N], slice_N
