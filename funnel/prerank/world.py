"""A small cascade whose truth is known: matching, pre-ranking and ranking over 500 candidates of a query.

For user u, query w, item i (vectors of 8 standard normal numbers; r, w unit vectors; . is the inner product):

    rel       = sqrt(8) w . r                          how well the item answers the query
    x         = 1.5 u.v/sqrt(8) + 1.5 min(rel, 1) + .5 g + .5 p.p'/sqrt(8)           the utility
    matching  : the 500 of 3,000 items of the largest rel + N(0, 1)
    pre-rank  : .6 u_o.v_o/sqrt(8) + 1.5 min(rel, 1) + .5 g_o + 1.5 pop + .6 N       the best 60 go on
    ranking   : x + .9 pop + .5 N                                                    the best 10 are shown
    click     ~ sigmoid(x + b + c1);  purchase, if clicked, ~ sigmoid(1.2 x + c2);   c1, c2: rates of .3 among the shown
    elsewhere : of 100 of the candidates, drawn with weight exp(.4 pop), the user buys the best Poisson(.6) by 2 x +
                Gumbel, a little after the request; and clicks those, as many again and Poisson(.6) more

u_o, v_o, g_o are u, v, g with noise: what is observed. p, p' (private taste) is known to the ranker alone. What decides
the outcome of the benchmarks: relevance saturates (the query alone does not order the candidates), the online
pre-ranker is badly aimed (popularity 1.5), and popularity buys exposure but not purchases.
Shapes: L requests, U users, I items, Q queries, C candidates, P shown, D dimensions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from data.errors import UserError
from funnel.platform.draws import bits, key, keys
from funnel.platform.numbers import normal_table, ranked, top
from funnel.prerank.binding import Events, bind

BLOCK = 200
"""Requests at a time: their scores of all items are in memory together."""
MOST_REQUESTS = 200_000
"""Of a part, whose requests are in memory together."""


@dataclass(frozen=True)
class CascadeSettings:
    """Sizes of the world and the weights of its equations."""

    users: int = 3_000
    """How many there are."""
    items: int = 3_000
    """How many there are."""
    queries: int = 60
    """How many different ones there are."""
    dimensions: int = 8
    """Of the vectors of users, queries and items."""
    candidates: int = 500
    """What matching finds."""
    kept: int = 60
    """What the online pre-ranker leaves for ranking."""
    page: int = 10
    """What is shown."""
    taste: float = 1.5
    """Weight of how well an item suits the user, in the utility."""
    relevance: float = 1.5
    """Weight of how well it answers the query, in the utility."""
    saturation: float = 1.0
    """Relevance beyond this brings nothing."""
    quality: float = 0.5
    """Weight of how good it is for anybody, in the utility."""
    private: float = 0.5
    """Weight of the taste that only the ranker knows."""
    activity: float = 0.7
    """Standard deviation of how readily users click."""
    matching_noise: float = 1.0
    """Standard deviation of what matching adds to the relevance."""
    prerank_taste: float = 0.4
    """Share of the taste's weight that the online pre-ranker gives it."""
    prerank_popularity: float = 1.5
    """Weight of popularity in the online pre-ranker."""
    prerank_noise: float = 0.6
    """Standard deviation of the noise in its score."""
    rank_popularity: float = 0.9
    """Weight of popularity in the ranker."""
    rank_noise: float = 0.5
    """Standard deviation of the noise in its score."""
    click_rate: float = 0.3
    """Of what is shown, on average."""
    conversion_rate: float = 0.3
    """Of what is clicked, on average."""
    looked_at: int = 100
    """Candidates that a user sees in other scenarios."""
    elsewhere_popularity: float = 0.4
    """Weight of popularity in what a user sees in other scenarios."""
    delay: float = 0.002
    """How long after a request a user buys elsewhere, at most, as a share of the time that the part covers."""
    relevant: float = 0.0
    """From which relevance on an item belongs to a query: a purchase elsewhere is bound to the user's latest request
    that it is relevant to."""
    observed_noise: float = 0.3
    """Of what is observed of u, v and g."""
    match_noise: float = 0.15
    """Of what the ranker knows of each pair of user and item."""

    def __post_init__(self) -> None:
        for name in ("users", "items", "queries", "dimensions", "candidates", "kept", "page", "looked_at"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least 1")
        if not self.page <= self.kept <= self.candidates <= self.items:
            raise UserError(
                f"page {self.page}, kept {self.kept}, candidates {self.candidates}, items {self.items}: each stage "
                "takes from what the one before it found"
            )
        if self.looked_at > self.candidates:
            raise UserError(f"looked_at is {self.looked_at}, but there are {self.candidates} candidates")
        for name in ("click_rate", "conversion_rate"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, must lie between 0 and 1")
        for name in ("activity", "matching_noise", "prerank_noise", "rank_noise", "observed_noise", "match_noise"):
            if not 0 <= getattr(self, name) < 100:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least 0")
        if not 0 <= self.delay <= 1:
            raise UserError(f"delay is {self.delay}, must lie in 0..1")


@dataclass(frozen=True)
class Requests:
    """What a part's requests came to."""

    user_L: np.ndarray
    query_L: np.ndarray
    time_L: np.ndarray
    """int64: milliseconds."""
    item_LC: np.ndarray
    """int32, rising: what matching found."""
    prerank_LC: np.ndarray
    """float32: the online pre-ranker's scores."""
    rank_LC: np.ndarray
    """float32: what the online ranker says of every candidate, also of those that it was not asked for."""
    kept_LC: np.ndarray
    """bool: went on to ranking."""
    shown_LP: np.ndarray
    """int64: columns of what was shown, best first."""
    click_LP: np.ndarray
    buy_LP: np.ndarray
    """bool: the purchase if it is clicked."""
    bought: tuple[np.ndarray, np.ndarray]
    """(request, item) of purchases elsewhere, as they are bound."""
    clicked: tuple[np.ndarray, np.ndarray]
    """The same of clicks elsewhere, purchases among them."""

    def __len__(self) -> int:
        return len(self.user_L)


class Cascade:
    """The world of a seed."""

    def __init__(self, settings: CascadeSettings, seed: int) -> None:
        self.settings, self.seed = settings, seed
        rng, d = np.random.default_rng([seed, 0]), settings.dimensions
        self.root = float(np.sqrt(d))

        def normal(*shape: int) -> np.ndarray:
            return rng.normal(size=shape).astype(np.float32)

        def unit(*shape: int) -> np.ndarray:
            drawn = normal(*shape)
            return drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)

        users, items = settings.users, settings.items
        self.taste_UD, self.taste_ID = normal(users, d), normal(items, d)
        self.private_UD, self.private_ID = normal(users, d), normal(items, d)
        self.topic_ID, self.query_QD = unit(items, d), unit(settings.queries, d)
        self.quality_I, self.popularity_I = normal(items), normal(items)
        self.activity_U = settings.activity * normal(users)
        noise = settings.observed_noise
        self.seen_taste_UD = self.taste_UD + noise * normal(users, d)
        self.seen_taste_ID = self.taste_ID + noise * normal(items, d)
        self.seen_quality_I = self.quality_I + noise * normal(items)
        self.click_bias, self.buy_bias = self.calibrated()

    def relevance(self, query_L: np.ndarray, item_LC: np.ndarray) -> np.ndarray:
        """float32_LC: rel."""
        return self.root * np.einsum("ld,lcd->lc", self.query_QD[query_L], self.topic_ID[item_LC])

    def parts_of(self, user_L: np.ndarray, query_L: np.ndarray, item_LC: np.ndarray) -> dict[str, np.ndarray]:
        """float32_LC: what the utility is the weighted sum of."""
        taste_LC = np.einsum("ld,lcd->lc", self.taste_UD[user_L], self.taste_ID[item_LC]) / self.root
        private_LC = np.einsum("ld,lcd->lc", self.private_UD[user_L], self.private_ID[item_LC]) / self.root
        return {
            "taste": taste_LC,
            "relevance": np.minimum(self.relevance(query_L, item_LC), np.float32(self.settings.saturation)),
            "quality": self.quality_I[item_LC],
            "private": private_LC,
        }

    def pair_noise(self, number: int, user_L: np.ndarray, query_L: np.ndarray, item_L: np.ndarray) -> np.ndarray:
        """float32_L: noise of what the ranker knows of each pair; the same whenever it is asked for."""
        base = key(self.seed, 4, number)
        address_L = bits(keys(base, user_L), keys(base, query_L)[:, None] + keys(base, item_L)[:, None])[:, 0]
        normal_L = normal_table().take((address_L >> np.uint64(48)).astype(np.int64))
        return np.float32(self.settings.match_noise) * normal_L

    def utility(self, user_L: np.ndarray, query_L: np.ndarray, item_LC: np.ndarray) -> np.ndarray:
        parts, settings = self.parts_of(user_L, query_L, item_LC), self.settings
        total_LC: np.ndarray = np.zeros(item_LC.shape, np.float32)
        for name, part_LC in parts.items():
            total_LC += np.float32(getattr(settings, name)) * part_LC
        return total_LC

    def click_chance(self, utility_LP: np.ndarray, user_L: np.ndarray) -> np.ndarray:
        return sigmoid(utility_LP + self.activity_U[user_L][:, None] + self.click_bias)

    def buy_chance(self, utility_LP: np.ndarray) -> np.ndarray:
        """Of the purchase if it is clicked."""
        return sigmoid(1.2 * utility_LP + self.buy_bias)

    def calibrated(self) -> tuple[float, float]:
        """(c1, c2) with which the rates of clicks, and of purchases after clicks, are as the settings say, over 1,000
        requests' pages."""
        self.click_bias = self.buy_bias = 0.0
        rng = np.random.default_rng([self.seed, 1])
        user_L = rng.integers(0, self.settings.users, 1000)
        query_L = rng.integers(0, self.settings.queries, 1000)
        x_LP = []
        for begin in range(0, 1000, BLOCK):
            user_l, query_l = user_L[begin : begin + BLOCK], query_L[begin : begin + BLOCK]
            item_LC, _, _, _, shown_LP = self.stages(user_l, query_l, rng)
            x_LP.append(self.utility(user_l, query_l, np.take_along_axis(item_LC, shown_LP, 1)))
        x_LP_, activity_L1 = np.concatenate(x_LP), self.activity_U[user_L][:, None]
        settings = self.settings
        click_bias = bisect(lambda c: float(sigmoid(x_LP_ + activity_L1 + c).mean()), settings.click_rate)
        clicks_LP = sigmoid(x_LP_ + activity_L1 + click_bias)
        buy_bias = bisect(
            lambda c: float((clicks_LP * sigmoid(1.2 * x_LP_ + c)).sum() / clicks_LP.sum()), settings.conversion_rate
        )
        return click_bias, buy_bias

    def stages(
        self, user_L: np.ndarray, query_L: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(item_LC, prerank_LC, rank_LC, kept_LC, shown_LP) of a block."""
        settings, rows = self.settings, len(user_L)

        def noise(size: float, *shape: int) -> np.ndarray:
            return np.float32(size) * rng.standard_normal(shape, np.float32)

        rel_LI = self.root * (self.query_QD[query_L] @ self.topic_ID.T)
        item_LC = top(rel_LI + noise(settings.matching_noise, rows, settings.items), settings.candidates)
        saturated_LC = np.minimum(np.take_along_axis(rel_LI, item_LC, 1), np.float32(settings.saturation))
        seen_LC = np.einsum("ld,lcd->lc", self.seen_taste_UD[user_L], self.seen_taste_ID[item_LC]) / self.root
        prerank_LC = settings.prerank_taste * settings.taste * seen_LC + settings.relevance * saturated_LC
        prerank_LC += settings.quality * self.seen_quality_I[item_LC]
        prerank_LC += settings.prerank_popularity * self.popularity_I[item_LC]
        prerank_LC += noise(settings.prerank_noise, *prerank_LC.shape)
        kept_Lk = top(prerank_LC, settings.kept)
        rank_LC = self.utility(user_L, query_L, item_LC) + settings.rank_popularity * self.popularity_I[item_LC]
        rank_LC += noise(settings.rank_noise, *rank_LC.shape)
        kept_LC = np.zeros(item_LC.shape, bool)
        np.put_along_axis(kept_LC, kept_Lk, True, 1)
        shown_LP = ranked(np.where(kept_LC, rank_LC, np.float32(-np.inf)), settings.page)
        return item_LC.astype(np.int32), prerank_LC.astype(np.float32), rank_LC.astype(np.float32), kept_LC, shown_LP

    def live(self, part: int, requests: int, elsewhere: float) -> Requests:
        """The requests of a part, with Poisson(`elsewhere`) purchases elsewhere after each."""
        settings, rng = self.settings, np.random.default_rng([self.seed, 2, part])
        user_L = rng.integers(0, settings.users, requests)
        query_L = rng.integers(0, settings.queries, requests)
        span = 60_000 * requests  # a request a minute
        time_L = np.sort(rng.integers(0, span, requests))
        found: list[tuple[np.ndarray, ...]] = []
        events: list[tuple[np.ndarray, ...]] = []
        for begin in range(0, requests, BLOCK):
            block = slice(begin, begin + BLOCK)
            stages = self.stages(user_L[block], query_L[block], rng)
            shown_LP = np.take_along_axis(stages[0], stages[-1], 1)
            x_LP = self.utility(user_L[block], query_L[block], shown_LP)
            click_LP = rng.random(x_LP.shape) < self.click_chance(x_LP, user_L[block])
            buy_LP = rng.random(x_LP.shape) < self.buy_chance(x_LP)
            found.append((*stages, click_LP, buy_LP))
            events.append(self.elsewhere(user_L[block], query_L[block], stages[0], begin, elsewhere, rng))
        request_E, item_E, bought_E = (np.concatenate(one) for one in zip(*events, strict=True))
        delay_E = rng.integers(0, max(int(settings.delay * span), 1), len(request_E))
        time_E, user_E = time_L[request_E] + delay_E, user_L[request_E]

        def relevant(request_B: np.ndarray, item_B: np.ndarray) -> np.ndarray:
            answer: np.ndarray = self.relevance(query_L[request_B], item_B[:, None])[:, 0] >= settings.relevant
            return answer

        bound = []
        for kind_E in (bought_E, np.ones(len(bought_E), bool)):
            some = Events(user_E[kind_E], item_E[kind_E], time_E[kind_E])
            event_B, request_B = bind(user_L, time_L, some, relevant)
            bound.append((request_B, some.item_E[event_B]))
        # A purchase is a click too, also where a later click of the same item is bound to a later request.
        both = np.unique(np.concatenate([np.stack(one, 1) for one in bound]), axis=0)
        bound[1] = (both[:, 0], both[:, 1])
        item_LC, prerank_LC, rank_LC, kept_LC, shown_LP, click_LP, buy_LP = (
            np.concatenate(one) for one in zip(*found, strict=True)
        )
        ours = (item_LC, prerank_LC, rank_LC, kept_LC, shown_LP, click_LP, buy_LP)
        return Requests(user_L, query_L, time_L, *ours, bought=bound[0], clicked=bound[1])

    def elsewhere(
        self, user_L: np.ndarray, query_L: np.ndarray, item_LC: np.ndarray, first: int, mean: float,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
        """(request, item, whether it is a purchase; else a click) of what a block's users do elsewhere."""
        settings, rows = self.settings, len(user_L)
        weight_LC = settings.elsewhere_popularity * self.popularity_I[item_LC] + gumbel(rng, item_LC.shape)
        looked_Ln = np.take_along_axis(item_LC, top(weight_LC.astype(np.float32), settings.looked_at), 1)
        worth_Ln = 2 * self.utility(user_L, query_L, looked_Ln) + gumbel(rng, looked_Ln.shape)
        bought_L = rng.poisson(mean, rows)
        clicked_L = np.minimum(2 * bought_L + rng.poisson(mean, rows), settings.looked_at)
        best_Ln = np.take_along_axis(looked_Ln, np.argsort(-worth_Ln, axis=1, kind="stable"), 1)
        place_n = np.arange(settings.looked_at)
        row_E, place_E = np.nonzero(place_n < clicked_L[:, None])
        return first + row_E, best_Ln[row_E, place_E].astype(np.int64), place_E < bought_L[row_E]


def sigmoid(x: np.ndarray) -> np.ndarray:
    found: np.ndarray = 1 / (1 + np.exp(-x))
    return found


def gumbel(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    drawn: np.ndarray = -np.log(-np.log(rng.random(shape) * (1 - 2e-16) + 1e-16))
    return drawn


def bisect(rate: Callable[[float], float], wanted: float) -> float:
    """Where a rising function of one number is as wanted."""
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rate(middle) < wanted else (low, middle)
    return (low + high) / 2
