"""Score fusion: weights for a funnel's scores, tuned on some users and judged on others.

    python -m jobs.evolve --scored runs/scored.parquet --out runs/fusion

Half of the users, drawn by the seed, are tuned on, or all of them where --judge names another file to judge on.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa

from data.errors import UserError
from data.kinds import one_chunk
from data.labels import label_values
from data.log import Log
from funnel.figures.slices import check_type, plain
from funnel.fusion.evaluation import best_single, compare, split_users
from funnel.fusion.fixed_policy import judge_policy
from funnel.fusion.forms import Fusion, ScoredLog
from funnel.fusion.grid import Grid, grid_search
from funnel.fusion.objective import Constraint, ScoreFusion
from funnel.fusion.presets import PRESETS, SPACES
from funnel.fusion.results import results
from funnel.fusion.scored_log import (
    LABELS,
    REQUEST,
    REWARD,
    SCORES,
    USER,
    VALUE,
    WEIGHT,
    Scored,
    largest_reward,
    read_scored,
    scored_table,
)
from funnel.lists.request_blocks import Requests
from funnel.panels import Panel, Record, Table
from funnel.spaces import Presets, Spaces
from funnel.tunable import HeldOut

MAX_CONVERSION_WEIGHT = 1e6
PLACES = 10
"""Places of a list that count where nothing is said."""
FEW = 0.1
"""Share of the lists with a reward that must be longer than that: in the others any order shows the same."""
AIMS = ("value", "ndcg", *LABELS)
"""Figures of `measure`: all of the first k."""
FORMULAS = {
    "product": "prod_i (p_i + bias_i)^exponent_i",
    "sum": "sum_i weight_i * p_i / constant_i",
    "rank": "sum_i weight_i / (rank_i + offset), rank 1 = highest p_i of the request, ties averaged",
}


@dataclass(frozen=True)
class FusionSettings:
    scored: Path | None = None
    """Parquet file with pctr, pcvr, pctcvr, click, conversion, user and/or request (jobs.score)."""
    judge: Path | None = None
    """Another scored file, to judge on; all users of --scored are tuned on then, not half of them."""
    fusion: Literal["product", "sum", "rank"] = "product"
    """prod (p_i + b_i)^a_i, sum w_i p_i, or sum w_i / (rank_i + offset)."""
    metric: Literal["value", "ndcg"] = "value"
    """What is maximised: the reward among the first k of each request, or reward-NDCG@k."""
    k: int | None = None
    """Places of a list that count. Left out: 10, or half of a list's length where few lists are longer than 10."""
    by: tuple[str, ...] = ()
    """Columns of the scored file that are the same in a whole request, such as a segment of the user or the hour
    (jobs.score --keep writes them): the weights then follow them."""
    constrain: tuple[str, ...] = ()
    """outcome=tolerance: click=0.005 lets clicks among the first k fall by 0.5% of the untuned policy's, no more."""
    conversion_weight: float = 10.0
    """Reward of a candidate = click + this * conversion (* reward, or else value, where the file has that column)."""

    def __post_init__(self) -> None:
        if self.k is not None and self.k < 1:
            raise UserError(f"k is {self.k}: it must be at least 1")
        if not 0 <= self.conversion_weight <= MAX_CONVERSION_WEIGHT:
            raise UserError(f"conversion_weight is {self.conversion_weight}: it must be between 0 and 1e6")
        for text in self.constrain:
            read_constraint(text)


class FusionTuning:
    """funnel/tunable.py: ScoreTunable."""

    name: ClassVar[str] = "fusion"
    settings_type: ClassVar[type] = FusionSettings
    presets: ClassVar[Presets] = PRESETS
    spaces: ClassVar[Spaces] = SPACES
    goal: ClassVar[str] = "value"

    def __init__(self, settings: FusionSettings, about: dict[str, Any], parts: dict[str, ScoredLog]) -> None:
        """`about`: what run.json keeps of the data; `parts`: "fit", which is tuned on, "test"; in a search "valid"."""
        self.settings, self.about, self.parts = settings, about, parts
        fit = parts["fit"]
        self.fusion = Fusion.fit(settings.fusion, fit, settings.by)
        constraints = tuple(read_constraint(text) for text in settings.constrain)
        self.k = settings.k or default_places(fit, settings.metric)
        self.objective = ScoreFusion(fit, self.fusion, settings.metric, self.k, constraints)
        self.single = best_single(fit, settings.metric, self.k)
        for name, part in parts.items():
            if not part.reward_C.any():
                raise UserError(f"{settings.judge or settings.scored}: no click among the {part.users} users of the "
                                 f"{name} part: nothing to compare there")  # fmt: skip

    @classmethod
    def open(cls, settings: FusionSettings, seed: int, searching: bool = False) -> Self:
        if settings.scored is None:
            raise UserError("--scored FILE is needed for score fusion: the Parquet file that jobs.score wrote")
        scored = read_scored(settings.scored, settings.conversion_weight, settings.by)
        judged = None
        if settings.judge is not None:
            judged = read_scored(settings.judge, settings.conversion_weight, settings.by, "--judge").log
            if judged.names != scored.log.names:
                have, want = ", ".join(judged.names), ", ".join(scored.log.names)
                raise UserError(f"--judge {settings.judge}: has the scores {have}, --scored has {want}")
        about, parts = facts(settings, scored), split(scored, judged, seed, searching)
        del scored  # the parts hold its rows: what follows need not lie beside both
        return cls(settings, about, parts)

    @cached_property
    def grid(self) -> Grid:
        """The best of a grid of weights on what is tuned on (funnel/fusion/grid.py)."""
        return grid_search(self.objective)

    def facts(self) -> dict[str, Any]:
        return {"data": self.about}

    def describe(self) -> str:
        about, settings = self.about, self.settings
        return (
            f"{settings.fusion} fusion of {', '.join(self.fusion.names)} for {settings.metric}@{self.k}{self.lowered}: "
            f"{about['rows']:,} exposures in {about['requests']:,} requests (by {about['grouping']}), "
            f"{self.parts['fit'].users:,} of {about['users']:,} users to tune on"
        )

    @property
    def lowered(self) -> str:
        """Why k is less than people expect, if nobody has asked for it."""
        few = self.settings.k is None and self.k < PLACES
        return f" (few lists are longer than {PLACES}, so k is {self.k}; --k sets it)" if few else ""

    def policy(self, theta_D: np.ndarray) -> dict[str, Any]:
        fusion, policy, settings = self.fusion, self.fusion.policy, self.settings
        follows = "; weights and exponents times exp(sum_s slope_is z_s), z standardised `by`" if fusion.by else ""
        moments = zip(fusion.by, fusion.moments, strict=True)
        return {
            "fusion": fusion.kind,
            "formula": FORMULAS[fusion.kind] + follows,
            "names": list(policy.names),
            "before": list(policy.values(policy.initial()).values()),
            "after": list(policy.values(theta_D).values()),
            "constants": list(fusion.constants) if fusion.kind == "sum" else [],
            "scores": list(fusion.names),
            "by": {name: {"mean": mean, "std": std} for name, (mean, std) in moments},
            "metric": settings.metric,
            "k": self.k,
            "conversion_weight": settings.conversion_weight,
        }

    def measure(self, theta_D: np.ndarray) -> dict[str, float]:
        """Value and NDCG of the reward, clicks and conversions among the first k."""
        valid, values_1D = self.parts["valid"], self.fusion.policy.decode(theta_D[None])
        features_MC = self.fusion.features(valid)
        figures = {}
        for name in AIMS:
            outcome_C = valid.outcome(name) if name in LABELS else valid.reward_C
            requests = Requests.build(valid.request_C, features_MC, outcome_C, self.k)
            metric = "ndcg" if name == "ndcg" else "value"
            figures[name] = float(requests.mean(lambda part: self.fusion.score(values_1D[part]), 1, metric)[0])
        return figures

    @classmethod
    def smaller_is_better(cls, figure: str) -> bool:
        if figure not in AIMS:
            raise UserError(f"no figure {figure!r} of score fusion: want one of {', '.join(AIMS)}")
        return False

    def judge(self, theta_D: np.ndarray, resamples: int, seed: int, part: HeldOut = "test") -> dict[str, Any]:
        settings, test = self.settings, self.parts[part]
        figures = compare(
            test,
            self.fusion,
            theta_D,
            self.single,
            settings.metric,
            self.k,
            self.objective.constraints,
            self.grid,
            max(largest_reward(each, settings.conversion_weight) for each in self.parts.values()),
        )
        return {**figures, "fusion.tune_users": self.parts["fit"].users}

    @classmethod
    def results(cls, summary: Mapping[str, Any]) -> Table | None:
        return results(summary)

    @classmethod
    def panels(cls, record: Record) -> list[Panel]:
        from funnel.fusion.panels import panels

        return panels(record)

    @classmethod
    def on_scores(cls, settings: FusionSettings, scored: Path, judge: Path | None = None) -> FusionSettings:
        return dataclasses.replace(settings, scored=scored, judge=judge)

    @classmethod
    def check_log(cls, settings: FusionSettings, log: Log, part: str, judge: str | None, seed: int) -> None:
        """Clicks stand in for the scores: what can go wrong is about users, requests and rewards."""
        where = f"{log.location}, part {part}"
        if not (log.schema.user or log.schema.request):
            raise UserError(f"{log.location}: its schema names neither user nor request: there are no lists to order")
        tables = {name: stand_in(log, name, settings.by) for name in (part, judge) if name}
        scored = {
            name: scored_table(table, Path(f"{log.location}/{name}"), settings.conversion_weight, settings.by)
            for name, table in tables.items()
        }
        judged = scored[judge].log if judge else None
        try:
            cls(dataclasses.replace(settings, scored=Path(part), judge=Path(judge) if judge else None),
                facts(settings, scored[part]), split(scored[part], judged, seed, False))  # fmt: skip
        except UserError as error:
            raise UserError(f"{where}: its fusion cannot be tuned: {error}") from None

    @classmethod
    def judge_policy(cls, policy: Path, scored: Path, resamples: int, seed: int) -> dict[str, float]:
        return judge_policy(scored, policy)

    @classmethod
    def not_served(cls, settings: FusionSettings) -> str:
        if settings.by:
            return f"its weights follow {', '.join(settings.by)}, which the graph has no input for"
        return "it is by rank, which no graph of single exposures can hold" if settings.fusion == "rank" else ""

    @classmethod
    def kept(cls, settings: FusionSettings) -> Sequence[str]:
        return settings.by


def facts(settings: FusionSettings, scored: Scored) -> dict[str, Any]:
    """What run.json keeps of the scored file."""
    log = scored.log
    return {
        "scored": str(settings.scored),
        "rows": len(log.request_C),
        "users": log.users,
        "requests": int(log.request_C.max()) + 1,
        "grouping": scored.grouping,
        "mean_reward": float(log.reward_C.astype(np.float64).mean()),
    }


def split(scored: Scored, judged: ScoredLog | None, seed: int, searching: bool) -> dict[str, ScoredLog]:
    """The users that are tuned on, that are held out and, in a search, that tell trials apart: by seeded hashes."""
    log, keys_U = scored.log, scored.user_keys_U
    tune_U = np.ones(len(keys_U), bool) if judged is not None else split_users(keys_U, seed)
    fit_U = tune_U.copy()
    if searching:
        fit_U[tune_U] = split_users(keys_U[tune_U], seed + 1)
    parts = {"fit": log.part(fit_U[log.user_C]), "test": judged or log.part(~tune_U[log.user_C])}
    return parts | ({"valid": log.part((tune_U & ~fit_U)[log.user_C])} if searching else {})


def stand_in(log: Log, part: str, by: Sequence[str] = ()) -> pa.Table:
    """A part as jobs.score would write it with these columns kept, with clicks in place of scores."""
    schema = log.schema
    if absent := [name for name in LABELS if name not in schema.labels]:
        raise UserError(f"{log.location}/schema.json: no label {absent[0]!r}, which the fusion's reward is made of")
    sources = {name: source for name, source in ((USER, schema.user), (REQUEST, schema.request)) if source}
    sources |= {name: schema.labels[name] for name in LABELS}
    sources |= {
        name: source
        for name, source in ((VALUE, schema.value), (REWARD, schema.reward), (WEIGHT, schema.weight))
        if source
    }
    opened = log.part(part)
    known = [name for name in by if name not in schema.unmeasured]  # buckets of quantiles are cut later
    for name in by:
        check_type(log, opened, name, "--by")
    pieces = []
    for table in log.read(opened, list(dict.fromkeys([*sources.values(), *known]))):
        piece = {name: table.column(source) for name, source in sources.items()}
        pieces.append(pa.table({**piece, **{name: plain(one_chunk(table, name)) for name in known}}))
    read = pa.concat_tables(pieces)
    columns = {name: read.column(name) for name in read.column_names}
    columns |= {name: pa.array(np.zeros(len(read))) for name in by if name not in known}
    click = pa.array((label_values(columns[LABELS[0]]) == 1).astype(np.float32))
    return pa.table(columns | dict.fromkeys(SCORES, click))


def default_places(log: ScoredLog, metric: str) -> int:
    """PLACES; half of the middle length of a list that can be ordered, where few lists are longer. What comes of the
    first k candidates is the same in any order of a list that has no more than k; NDCG tells orders of k apart."""
    rewarded_R = np.bincount(log.request_C, weights=log.reward_C) > 0
    lengths = np.bincount(log.request_C)[rewarded_R]
    several = lengths[lengths > 1]
    if metric != "value" or not len(several) or (lengths > PLACES).mean() >= FEW:
        return PLACES
    return max(1, min(PLACES, int(np.median(several)) // 2))


def read_constraint(text: str) -> Constraint:
    """click=0.005 as a constraint; UserError for what is none."""
    outcome, _, tolerance = text.partition("=")
    if outcome not in LABELS:
        raise UserError(f"--constrain {text}: the outcome must be one of {', '.join(LABELS)}")
    try:
        constraint = Constraint(outcome, float(tolerance))
    except ValueError:
        raise UserError(f"--constrain {text}: want {outcome}=0.005, the share that may be lost") from None
    constraint.check()
    return constraint
