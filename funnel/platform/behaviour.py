"""A user looks down a page: click, dwell, like, purchase, and on to the next item or away.

For user u and item i of request r, c the categories of the last 3 items seen in this visit:

    x         = LOOK + affinity taste_u . v_i + quality_i + intent fit(r, i) + mood fit'(r, i)
                - fatigue share of c that is i's category;  fit': of the visit's mood, 0 unless the world has moods
    click     ~ sigmoid(x)
    dwell     = exp(log 10 + DWELL + DWELL_SLOPE x + DWELL_NOISE N(0, 1)) s, at most twice the length;
                a click of 10 s or more is a good click, a "positive interaction"
    like      ~ sigmoid(LIKE + .8 x'), if clicked; x' = x without fatigue
    purchase  ~ sigmoid(BUY + .7 (x' - LOOK) - .35 (log price_i - budget_u)^2), if clicked
    next      ~ sigmoid(NEXT + patience_u + .6 good click - .3 no click); after the last item: to the next page

Draws are addressed by (request, item), so that two worlds that show one user the same item in the same request see the
same. The categories of items seen before (c) carry on over the pages of a visit. Shapes: R requests, S slots of the
page, M items that re-ranking chooses from.
"""

import math
from dataclasses import dataclass

import numpy as np

from data.errors import UserError
from funnel.platform.corpus import Corpus
from funnel.platform.draws import bits, key, keys, sixteen, words
from funnel.platform.numbers import chance, exponential, inner, normal_table
from funnel.platform.ranking import intent_fit
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Step
from funnel.platform.view import NOBODY, Feedback, Requests, View

LOOK = -2.4
DWELL, DWELL_SLOPE, DWELL_NOISE = 0.6, 0.55, 1.1
LIKE, BUY, NEXT = -3.2, -4.0, 1.9
GOOD_SECONDS = 10.0
LOG_DWELL = round(math.log(GOOD_SECONDS) + DWELL, 6)
RECENT = 3
"""Items back that fatigue looks."""
BEHAVIOUR = 16
"""First word of the addresses of what users do."""
MOODS = 17
"""First word of the addresses of visits' moods."""
SECOND = np.uint64(0xD1B54A32D192ED03)
"""Added to an item's key for a second word of draws."""


@dataclass(frozen=True)
class Page:
    """What re-ranking chooses a page from, in the order of the main system."""

    item_RM: np.ndarray
    score_RM: np.ndarray
    slot_RM: np.ndarray
    """bool: the fresh slot's item."""
    good_RM: np.ndarray
    """float32: the ranker's logit of a good click."""


@dataclass(frozen=True)
class Potential:
    """What would come of each item of a page if the user looked at it: logits without fatigue, and draws."""

    logit_RM: np.ndarray
    like_chance_RM: np.ndarray
    buy_chance_RM: np.ndarray
    draw_RM8: np.ndarray
    """int32 draws below 65536: click, dwell, like, purchase, next, three spare ones."""
    category_RM: np.ndarray
    most_RM: np.ndarray
    """Seconds that an item can be watched."""

    @classmethod
    def of(cls, settings: PlatformSettings, requests: Requests, item_RM: np.ndarray, corpus: Corpus) -> "Potential":
        items, users = corpus.items, corpus.population.users
        user_R, known_RM = requests.user_R, np.maximum(item_RM, 0)
        taste_RD = users.taste_UD[user_R]
        affinity_RM = inner(items.content_ID, known_RM, taste_RD)
        affinity_RM += inner(items.hidden_ID, known_RM, taste_RD)
        logit_RM = np.float32(settings.affinity) * affinity_RM + items.quality_I.take(known_RM)
        fit_RM = intent_fit(items.content_ID, known_RM, corpus.centre_KD[requests.intent_R])
        logit_RM += np.float32(settings.intent) * fit_RM
        if settings.mood:
            mood_RM = intent_fit(items.content_ID, known_RM, corpus.centre_KD[moods(settings, requests, corpus)])
            logit_RM += np.float32(settings.mood) * mood_RM
        off_RM = items.log_price_I.take(known_RM) - users.budget_U[user_R, None]
        key_RM = items.key_I.take(known_RM)
        # A key of their own: what policies draw from the request's key must tell nothing of what users do.
        own_R = keys(key(0, BEHAVIOUR), requests.key_R)
        first, second = bits(own_R, key_RM), bits(own_R, key_RM + SECOND)
        buy_RM = np.float32(0.7) * logit_RM - np.float32(0.35) * (off_RM * off_RM) + np.float32(BUY)
        logit_RM += np.float32(LOOK)
        return cls(
            logit_RM=logit_RM,
            like_chance_RM=chance(np.float32(0.8) * logit_RM + np.float32(LIKE)),
            buy_chance_RM=chance(buy_RM),
            draw_RM8=np.concatenate([sixteen(first), sixteen(second)], axis=-1).astype(np.int32),
            category_RM=items.category_I.take(known_RM),
            most_RM=2 * items.length_I.take(known_RM),
        )


def moods(settings: PlatformSettings, requests: Requests, corpus: Corpus) -> np.ndarray:
    """int_R: the category that each user is in the mood for in this visit, drawn as intents are."""
    population = corpus.population
    drawn_R1 = words(key(population.seed, MOODS), requests.visit_R, 1)
    mood_R = (population.users.intent_UK[requests.user_R] <= drawn_R1).sum(1)
    return np.minimum(mood_R, settings.categories - 1)


@dataclass(frozen=True)
class Walked:
    """What a page came to, with the truth behind it: chances in 65536ths."""

    feedback: Feedback
    recent_RN: np.ndarray
    """Categories of the last items seen in the visit, latest first."""
    on_R: np.ndarray
    """bool: the user wants the next page."""
    click_chance_RS: np.ndarray
    purchase_chance_RS: np.ndarray
    would_buy_RS: np.ndarray
    """bool: the purchase if the item is clicked, whether it was or not."""
    same_RS: np.ndarray
    """int8: of the RECENT items seen before it, how many were of its category."""


def walk(
    settings: PlatformSettings,
    requests: Requests,
    page: Page,
    recent_RN: np.ndarray,
    reranking: object,
    corpus: Corpus,
    view: View,
) -> Walked:
    """Each user's way down the page. `recent_RN`: as Walked has it, NOBODY at a visit's first page.

    Raises UserError if re-ranking chooses an item again while others are left.
    """
    rows, slots = len(requests), settings.slots
    item_RM = page.item_RM
    ahead = Potential.of(settings, requests, item_RM, corpus)
    first_R = np.arange(rows) * item_RM.shape[1]
    patience_R = corpus.population.users.patience_U[requests.user_R] + np.float32(NEXT)
    # A page that could not be filled has NOBODY in its last columns: the user leaves before them.
    left_RM = item_RM != NOBODY
    left_X, draw_X8 = left_RM.reshape(-1), ahead.draw_RM8.reshape(-1, 8)
    active_R = np.ones(rows, bool)
    chosen_RS = np.zeros((rows, slots), np.int64)
    out = {name: np.zeros((rows, slots), bool) for name in ("seen", "click", "good", "like", "purchase", "next")}
    dwell_RS = np.zeros((rows, slots), np.float32)
    click_chance_RS, same_RS = np.zeros((rows, slots), np.uint32), np.zeros((rows, slots), np.int8)
    for place in range(slots):
        watched = {name: out[name][:, :place] for name in ("click", "good", "like", "purchase")}
        watched["dwell"] = dwell_RS[:, :place]
        step = Step(place, item_RM, page.score_RM, left_RM, active_R, chosen_RS[:, :place], watched, page.good_RM)
        column_R = reranking.choose(requests, step, view)  # type: ignore[attr-defined]
        # NOBODY: nothing that is left may be shown, and the page ends there.
        shown_R = np.asarray(column_R) != NOBODY
        at_R = first_R + np.where(shown_R, column_R, 0)
        there_R = left_X.take(at_R) & shown_R
        if (gone_R := active_R & ~there_R).any():
            if left_RM[gone_R & shown_R].any():
                raise UserError("re-ranking chose an item that was shown already")
            active_R = active_R & there_R
        left_X[at_R[shown_R]] = False
        chosen_RS[:, place] = at_R - first_R
        draw_8R = draw_X8.take(at_R, axis=0).T
        category_R = ahead.category_RM.take(at_R)
        same_R = (recent_RN == category_R[:, None]).sum(1, dtype=np.int8)
        logit_R = ahead.logit_RM.take(at_R) - np.float32(settings.fatigue / RECENT) * same_R
        chance_R = chance(logit_R)
        click_R = active_R & (draw_8R[0] < chance_R)
        log_dwell_R = np.float32(DWELL_NOISE) * normal_table().take(draw_8R[1])
        log_dwell_R += np.float32(LOG_DWELL) + np.float32(DWELL_SLOPE) * logit_R
        dwell_R = np.minimum(exponential(log_dwell_R), ahead.most_RM.take(at_R)) * click_R
        good_R = dwell_R >= GOOD_SECONDS
        stay_R = chance(patience_R + np.float32(0.6) * good_R - np.float32(0.3) * ~click_R)
        out["seen"][:, place] = active_R
        out["click"][:, place], out["good"][:, place], dwell_RS[:, place] = click_R, good_R, dwell_R
        out["like"][:, place] = click_R & (draw_8R[2] < ahead.like_chance_RM.take(at_R))
        out["purchase"][:, place] = click_R & (draw_8R[3] < ahead.buy_chance_RM.take(at_R))
        click_chance_RS[:, place], same_RS[:, place] = chance_R, same_R
        later_RN = np.concatenate([category_R[:, None], recent_RN[:, :-1]], axis=1)
        recent_RN = np.where(active_R[:, None], later_RN, recent_RN)
        active_R = active_R & (draw_8R[4] < stay_R)
        out["next"][:, place] = active_R
    at_RS = first_R[:, None] + chosen_RS
    buy_RS = ahead.buy_chance_RM.take(at_RS)
    feedback = Feedback(
        requests, item_RM.take(at_RS), out["seen"], page.slot_RM.take(at_RS) & out["seen"], out["click"],
        out["good"], dwell_RS, out["like"], out["purchase"], out["next"],
    )  # fmt: skip
    would_buy_RS = draw_X8[:, 3].take(at_RS) < buy_RS
    return Walked(feedback, recent_RN, active_R, click_chance_RS, buy_RS, would_buy_RS, same_RS)
