"""Who is on the platform: users, providers, and what the items are that they upload.

    centre_k        a direction for each category k, shares of categories by Zipf's law (exponent .9)
    provider        home category, quality b_p ~ N(0, 1), weight by Zipf's law: how much it uploads
    item            v = c x + sqrt(1 - c^2) r,  c = `content`: x = direction of (centre + .8 N) is seen, r is hidden;
                    quality q = `quality` (.6 b_p + .8 N), its early view: rating = q + `quality` N;
                    length exp(4.23 + 1.03 N) s in 3 .. 1000, log price .8 N
    user            taste = direction of (own * w_u + (1 - own) * mainstream), w_u = direction of (centre + .8 N), own =
                    core_taste or casual_taste; mainstream: the direction of the categories' mean; activity log-normal;
                    patience .6 N; budget .6 N

Every draw is addressed by (seed, kind, number of the user, provider or upload), so a part of a population is the same
people. Vectors lie on the grid of numbers.py. Shapes: U users, P providers, I items, K categories, D dimensions.
"""

from dataclasses import dataclass

import numpy as np

from data.errors import UserError
from funnel.platform.draws import key, keys, uniforms, words
from funnel.platform.numbers import normal_table, on_grid
from funnel.platform.settings import PlatformSettings

CENTRES, PROVIDERS, USERS, ITEMS, SPLIT = 1, 2, 3, 4, 5
"""First words of addresses under a seed; world.py has the others."""
ZIPF = 0.9
SPREAD = 0.8
LENGTH = (4.23, 1.03)
"""Mean and standard deviation of the log of a video's seconds in KuaiRand-Pure."""


@dataclass(frozen=True)
class Users:
    number_U: np.ndarray
    """int64: who they are under the seed; 0 .. users-1 unless they are a part."""
    core_U: np.ndarray
    taste_UD: np.ndarray
    known_taste_UD: np.ndarray
    """As the platform has learnt it."""
    visits_U: np.ndarray
    """float64: on an average day, on a grid of 2^-16."""
    patience_U: np.ndarray
    budget_U: np.ndarray
    intent_UK: np.ndarray
    """uint16: cumulative shares of the categories that the user comes for, in 65536ths."""

    def __len__(self) -> int:
        return len(self.core_U)


@dataclass(frozen=True)
class Providers:
    number_P: np.ndarray
    weight_P: np.ndarray
    """float64: share of all uploads, on a grid of 2^-30."""
    category_P: np.ndarray
    quality_P: np.ndarray
    small_P: np.ndarray
    """bool: of the smallest that upload half of all items together."""

    def __len__(self) -> int:
        return len(self.weight_P)


@dataclass(frozen=True)
class Items:
    """Uploads: what is seen of them and what is not."""

    provider_I: np.ndarray
    key_I: np.ndarray
    category_I: np.ndarray
    content_ID: np.ndarray
    hidden_ID: np.ndarray
    quality_I: np.ndarray
    rating_I: np.ndarray
    length_I: np.ndarray
    log_price_I: np.ndarray
    upload_I: np.ndarray

    def __len__(self) -> int:
        return len(self.key_I)


@dataclass(frozen=True)
class Population:
    """Users and providers of a world (or of an arm of it) and the law of uploads."""

    settings: PlatformSettings
    seed: int
    centre_KD: np.ndarray
    category_K: np.ndarray
    """float64: cumulative shares."""
    users: Users
    providers: Providers

    def uploads(self, provider_I: np.ndarray, number_I: np.ndarray, upload_I: np.ndarray) -> Items:
        """The items that these providers upload as their number-th at these times."""
        settings, providers, dimensions = self.settings, self.providers, self.settings.dimensions
        key_I = keys(key(self.seed, ITEMS), (providers.number_P[provider_I] << 32) + number_I)
        normal = _Normals(key_I, 2 * dimensions + 4)
        # Two uploads in three are of the provider's home category.
        stray_I = uniforms(key(self.seed, ITEMS, 1), key_I)
        other_I = np.searchsorted(self.category_K, stray_I * 3 % 1.0, side="right")
        home_I = providers.category_P[provider_I]
        category_I = np.where(stray_I < 1 / 3, np.minimum(other_I, settings.categories - 1), home_I)
        seen_ID = direction(self.centre_KD[category_I] + SPREAD / np.sqrt(dimensions) * normal.take(dimensions))
        hidden_ID = direction(normal.take(dimensions))
        quality_I = settings.quality * (0.6 * providers.quality_P[provider_I] + 0.8 * normal.take(1)[:, 0])
        rating_I = quality_I + settings.quality * normal.take(1)[:, 0]
        length_I = np.clip(np.exp(LENGTH[0] + LENGTH[1] * normal.take(1)[:, 0]), 3, 1000)
        return Items(
            provider_I=provider_I.astype(np.int32),
            key_I=key_I,
            category_I=category_I.astype(np.int32),
            content_ID=on_grid(settings.content * seen_ID),
            hidden_ID=on_grid(np.sqrt(1 - settings.content**2) * hidden_ID),
            quality_I=on_grid(quality_I),
            rating_I=on_grid(rating_I),
            length_I=on_grid(length_I, 0.25),
            log_price_I=on_grid(0.8 * normal.take(1)[:, 0]),
            upload_I=upload_I.astype(np.float32),
        )

    def part(self, arm: int, arms: int) -> "Population":
        """The users and providers that go to one of equal arms: who goes where is drawn from the seed."""
        users, providers = self.users, self.providers
        user = np.flatnonzero(arm_of(self.seed, users.number_U, arms) == arm)
        provider = np.flatnonzero(arm_of(self.seed + 1, providers.number_P, arms) == arm)
        if not len(user) or not len(provider):
            raise UserError(
                f"{len(users)} users and {len(providers)} providers leave one of {arms} arms without any; more of them"
            )
        return Population(
            self.settings,
            self.seed,
            self.centre_KD,
            self.category_K,
            Users(**{name: value[user] for name, value in vars(users).items()}),
            Providers(**{name: value[provider] for name, value in vars(providers).items()}),
        )


class _Normals:
    """Standard normal numbers of each row's key, handed out column by column."""

    def __init__(self, key_R: np.ndarray, count: int) -> None:
        self._drawn = normal_table().take(words(np.uint64(0), key_R.view(np.int64), count))
        self._next = 0

    def take(self, columns: int) -> np.ndarray:
        self._next += columns
        return self._drawn[:, self._next - columns : self._next].astype(np.float64)


def draw_population(settings: PlatformSettings, seed: int) -> Population:
    """The platform's people. About 150 bytes a user."""
    categories, dimensions = settings.categories, settings.dimensions
    share_K = zipf(categories)
    centre_KD = direction(_Normals(keys(key(seed, CENTRES), np.arange(categories)), dimensions).take(dimensions))
    category_K = np.cumsum(share_K)
    providers = draw_providers(settings, seed, category_K)
    users = draw_users(settings, seed, centre_KD, share_K)
    return Population(settings, seed, centre_KD, category_K, users, providers)


def draw_providers(settings: PlatformSettings, seed: int, category_K: np.ndarray) -> Providers:
    number_P = np.arange(settings.providers)
    under = key(seed, PROVIDERS)
    order_P = np.argsort(keys(under, number_P), kind="stable")
    weight_P = zipf(settings.providers)[np.argsort(order_P, kind="stable")]
    normal_P = normal_table().take(words(key(seed, PROVIDERS, 1), number_P, 1)[:, 0])
    home_P = np.searchsorted(category_K, uniforms(key(seed, PROVIDERS, 2), number_P), side="right")
    up_P = np.argsort(weight_P, kind="stable")
    small_P = np.zeros(settings.providers, bool)
    small_P[up_P[np.cumsum(weight_P[up_P]) <= 0.5]] = True
    return Providers(
        number_P=number_P,
        weight_P=np.rint(weight_P * 2**30) / 2**30,
        category_P=np.minimum(home_P, settings.categories - 1),
        quality_P=normal_P.astype(np.float64),
        small_P=small_P,
    )


def draw_users(settings: PlatformSettings, seed: int, centre_KD: np.ndarray, share_K: np.ndarray) -> Users:
    number_U, dimensions = np.arange(settings.users), settings.dimensions
    core_U = uniforms(key(seed, USERS), number_U) < settings.core
    normal = _Normals(keys(key(seed, USERS, 1), number_U), 2 * dimensions + 3)
    cumulative_K = np.cumsum(share_K)
    favourite_U = np.searchsorted(cumulative_K, uniforms(key(seed, USERS, 2), number_U), side="right")
    favourite_U = np.minimum(favourite_U, settings.categories - 1)
    own_UD = direction(centre_KD[favourite_U] + SPREAD / np.sqrt(dimensions) * normal.take(dimensions))
    mainstream_D = direction((share_K[:, None] * centre_KD).sum(0)[None])[0]
    weight_U = np.where(core_U, settings.core_taste, settings.casual_taste)[:, None]
    taste_UD = direction(weight_U * own_UD + (1 - weight_U) * mainstream_D)
    noise_UD = normal.take(dimensions) * np.where(core_U, 0.1, 0.2)[:, None] / np.sqrt(dimensions)
    # Core users come core_activity times as often; the mean over all is `visits`.
    often = np.where(core_U, settings.core_activity, 1.0)
    often *= np.exp(settings.visits_spread * normal.take(1)[:, 0] - settings.visits_spread**2 / 2)
    mean = settings.core * settings.core_activity + 1 - settings.core
    return Users(
        number_U=number_U,
        core_U=core_U,
        taste_UD=on_grid(taste_UD),
        known_taste_UD=on_grid(direction(taste_UD + noise_UD)),
        visits_U=np.rint(settings.visits * often / mean * 2**16) / 2**16,
        patience_U=on_grid(0.6 * normal.take(1)[:, 0]),
        budget_U=on_grid(0.6 * normal.take(1)[:, 0]),
        intent_UK=intents(on_grid(taste_UD), centre_KD, share_K),
    )


def intents(taste_UD: np.ndarray, centre_KD: np.ndarray, share_K: np.ndarray) -> np.ndarray:
    """Cumulative shares, in 65536ths, of what users come for: categories by share * exp(3 taste . centre)."""
    logit_UK = np.clip(np.rint(3 * 64 * (taste_UD @ on_grid(centre_KD).T)) / 64, -8, 8)
    odds_UK = np.exp(logit_UK.astype(np.float64)) * share_K
    total_UK = np.cumsum(odds_UK, axis=1)
    return np.minimum(np.rint(total_UK / total_UK[:, -1:] * 2**16), 2**16 - 1).astype(np.uint16)


def direction(x: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return x / np.sqrt((x * x).sum(-1, keepdims=True))


def zipf(count: int) -> np.ndarray:
    share = np.arange(1, count + 1) ** -ZIPF
    return share / share.sum()


def arm_of(seed: int, number_R: np.ndarray, arms: int) -> np.ndarray:
    """int64: the arm of each user or provider."""
    return (uniforms(key(seed, SPLIT), number_R) * arms).astype(np.int64)
