"""The platform's world beside public figures of KuaiRand: click rates, concentration, length, groups of users.

    python -m benchmarks.platform.calibration --data ../shared/data

--data: a folder with kuairand_features/, the feature files of KuaiRand-Pure [Gao et al., CIKM 2022]. Figures of its
logs are public analyses' (github.com/Aylayan/KuaiRand_Pure; concentration, 27K log: github.com/limings02/kuairand).
Every figure of the world is a mean over seeds, with the smallest and the largest.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import tyro
from scipy.special import ndtr

from benchmarks.bench import markdown, write_result
from funnel.platform.behaviour import DWELL, DWELL_NOISE, DWELL_SLOPE, Potential
from funnel.platform.designs import metrics
from funnel.platform.draws import keys
from funnel.platform.figures import DAILY
from funnel.platform.numbers import LEVELS, chance
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policies
from funnel.platform.view import Requests
from funnel.platform.world import World, new_world

WARMUP, DAYS = 5, 9
PUBLIC = {
    "click rate, recommended": ("0.451", "KuaiRand-Pure, standard log"),
    "click rate, shown at random": ("0.176", "KuaiRand-Pure, random log"),
    "long view given click, recommended": ("0.703", "KuaiRand-Pure; there 18 s or complete, here 10 s"),
    "long view given click, at random": ("0.481", "the same"),
    "likes an exposure, recommended": ("0.0214", "KuaiRand-Pure: like, follow, comment or share"),
    "exposures of the top 1% of items shown": ("0.441", "KuaiRand-27K: 32.0 million videos shown in a month"),
    "Gini of exposures over items shown": ("0.531", "the same"),
    "the same, of 10 exposures an item shown": ("0.531", "the same: its users are a sample, 10.06 exposures an item"),
    "top 1% of items shown, of 10 exposures an item": ("0.441", "the same"),
}
SAMPLED = 10.06
"""Exposures of an item shown in KuaiRand-27K: 322 million of 32.0 million videos, by the same analysis."""


OPEN = {"matching": {"popularity": 0.1}, "preranking": {"popularity": 0.05}, "fusion": {"popularity": 0.1}}
"""A main system that minds popularity less."""


def world_facts(settings: PlatformSettings, seed: int, tree: Mapping[str, Any] | None = None) -> dict[str, float]:
    world = new_world(settings, seed, [Policies.of(tree or {}, settings, seed)])
    world.run(WARMUP)
    before = world.corpus.live[0].copy()
    world.run(DAYS)
    table = world.ledger.table()[WARMUP:, :, 0]
    total = dict(zip(DAILY, table.sum(0), strict=True))
    found = metrics(table)
    exposed = world.corpus.live[0].copy()
    exposed[: len(before)] -= before
    exposed = np.sort(exposed)[::-1]
    random, shown = at_random(settings, world), exposed[exposed > 0]
    few = thinned(shown)
    users = world.population.users
    return {
        "click rate, recommended": total["clicks"] / total["exposures"],
        "click rate, shown at random": random["click"],
        "long view given click, recommended": total["positives"] / total["clicks"],
        "long view given click, at random": random["good"],
        "likes an exposure, recommended": total["likes"] / total["exposures"],
        "exposures of the top 1% of items": exposed[: len(exposed) // 100].sum() / exposed.sum(),
        "exposures of the top 10% of items": exposed[: len(exposed) // 10].sum() / exposed.sum(),
        "share of items shown": len(shown) / len(exposed),
        "exposures of the top 1% of items shown": shown[: len(shown) // 100].sum() / shown.sum(),
        "Gini of exposures over items shown": gini(shown),
        "the same, of 10 exposures an item shown": gini(few),
        "top 1% of items shown, of 10 exposures an item": few[: len(few) // 100].sum() / few.sum(),
        "share of core users": float(users.core_U.mean()),
        "share of exposures that core users see": total["core_exposures"] / total["exposures"],
        "good clicks an exposure, core": found["good_ctr.core"],
        "good clicks an exposure, casual": found["good_ctr.casual"],
        "visits of a user and day": total["visits"] / DAYS / settings.users,
        "exposures of a visit": total["exposures"] / total["visits"],
        "purchases a click": total["purchases"] / total["clicks"],
        "share of exposures that are fresh": total["fresh_exposures"] / total["exposures"],
        "log of the length, mean": float(np.log(world.corpus.items.length_I).mean()),
        "log of the length, standard deviation": float(np.log(world.corpus.items.length_I).std()),
        "share of the largest category": float(np.bincount(world.corpus.items.category_I).max())
        / len(world.corpus.items),
    }


def at_random(settings: PlatformSettings, world: World) -> dict[str, float]:
    """Chances of a click, and of 10 s given it, of items drawn at random for the visits of a moment."""
    visits, items = world.visits(0), world.corpus.items
    item_RM = np.random.default_rng(0).integers(0, len(items), (len(visits), 60))
    key_R = keys(np.uint64(1), visits.user_R)
    shown_RN = world.corpus.shown_UN[visits.user_R]
    requests = Requests(0, 0, 0, 0.0, visits.user_R, visits.intent_R, visits.visit_R, key_R, shown_RN)
    logit_RM = Potential.of(settings, requests, item_RM, world.corpus).logit_RM.astype(np.float64)
    click_RM = chance(logit_RM.astype(np.float32)) / LEVELS
    good_RM = ndtr((DWELL + DWELL_SLOPE * logit_RM) / DWELL_NOISE) * (2 * items.length_I[item_RM] >= 10)
    return {"click": float(click_RM.mean()), "good": float((click_RM * good_RM).sum() / click_RM.sum())}


def gini(descending: np.ndarray) -> float:
    share = np.cumsum(descending[::-1]) / descending.sum()
    return float(1 + 1 / len(descending) - 2 * share.mean())


def thinned(exposed_I: np.ndarray) -> np.ndarray:
    """Exposures of a sample, largest first, of which an item shown has SAMPLED on average, as in the public log: a few
    users of a platform see most of its items once or never, and that alone makes shares more equal."""
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        found = np.random.default_rng(0).binomial(exposed_I, middle)
        low, high = (low, middle) if found[found > 0].mean() > SAMPLED else (middle, high)
    return np.sort(found[found > 0])[::-1]


def feature_facts(folder: Path) -> dict[str, tuple[str, str]]:
    """The same facts of KuaiRand-Pure's feature files."""
    users = pq.read_table(folder / "user_features_pure.parquet", columns=["user_active_degree"])
    active = np.array(users.column(0).to_pylist())
    videos = pq.read_table(folder / "video_features_basic_pure.parquet", columns=["video_duration", "tag"])
    milliseconds = videos.column("video_duration").drop_null().to_numpy().astype(float)
    log_s = np.log(milliseconds[milliseconds > 0] / 1000)
    tags = Counter(tag for tags in videos.column("tag").drop_null().to_pylist() for tag in str(tags).split(","))
    largest = tags.most_common(1)[0][1] / videos.num_rows
    where = f"KuaiRand-Pure, {len(active):,} users"
    return {
        "share of core users": (f"{(active == 'full_active').mean():.3f}", f"{where}: full_active, chosen as active"),
        "log of the length, mean": (f"{log_s.mean():.2f}", f"KuaiRand-Pure, {len(log_s):,} videos"),
        "log of the length, standard deviation": (f"{log_s.std():.2f}", "the same"),
        "share of the largest category": (f"{largest:.3f}", f"the same: {len(tags)} tags"),
    }


@dataclass
class Arguments:
    data: Path = Path("../shared/data")
    """Folder with kuairand_features/."""
    seeds: int = 5
    """Worlds."""


def main(arguments: Arguments) -> None:
    """Measure and write the table."""
    settings = PlatformSettings()
    found = [world_facts(settings, seed) for seed in range(arguments.seeds)]
    large = world_facts(PlatformSettings(users=16_000, items=7_200, providers=1_200, uploads=640.0), 0)
    open_ = [world_facts(settings, seed, OPEN) for seed in range(arguments.seeds)]
    public = PUBLIC | feature_facts(arguments.data / "kuairand_features")
    rows: list[list[Any]] = []
    for name in found[0]:
        values = np.array([one[name] for one in found])
        span = f"{values.mean():.3f} ({values.min():.3f} to {values.max():.3f})"
        less = f"{np.mean([one[name] for one in open_]):.3f}"
        rows.append([name, span, less, f"{large[name]:.3f}", *public.get(name, ("", "no public figure"))])
    header = [
        "figure",
        f"world, {arguments.seeds} seeds",
        "less popularity, mean",
        "8 times as large, one seed",
        "public",
        "of",
    ]
    figures = {"worlds": found, "less_popularity": open_, "policy": OPEN, "large": large, "public": public}
    write_result("platform-calibration", figures, markdown(header, rows))


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
