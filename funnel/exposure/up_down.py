"""More or less of a category: the effect of a share above its usual one, by T-, X- or DR-learner for one category at a
time, or of all categories at once by DML over a vector of 0 and 1 [Weishi].

    python -m jobs.fit --system up_down --data runs/shares --out runs/up                  # DML, zeros as control
    python -m jobs.fit --system up_down --data runs/shares --out runs/x --learner x

"Up" is a share above the category's median in the train part. With one category at a time all others move as the log
moved them with it, so an effect is that of this category's share and of what it displaced; with the vector each is held
at what the others are. Learners are those of funnel/effects. Shapes: R rows, U users, F features, K categories.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np

from data.log import Log
from funnel.effects.dml import DMLSettings, VectorEffects, fit_dml
from funnel.effects.learners import ArmEffects, LearnerSettings, fit_learner
from funnel.effects.nuisances import NuisanceSettings
from funnel.effects.overlap import check_arms
from funnel.effects.rows import TreatedRows
from funnel.exposure.fitted import checked, read_arrays
from funnel.exposure.panels import spread
from funnel.exposure.shares import ShareRows
from funnel.exposure.value import ends
from funnel.fitted import Arrays, Map, here
from funnel.panels import Interval, Intervals, Panel, Record, Sentence, Table

SECTION = "More or less of a category"
FEWEST = 30
"""Rows on either side of the median, at least."""


@dataclass(frozen=True)
class UpDownSettings:
    learner: Literal["dml", "t", "x", "dr"] = "dml"
    """dml: all categories at once, a vector of 0 and 1; t, x, dr: one category at a time."""
    outcomes: tuple[str, ...] = ()
    """What is to be raised, NAME=WEIGHT; left out, the log's only outcome."""
    dml: DMLSettings = field(default_factory=lambda: DMLSettings(degree=1))
    arms: LearnerSettings = field(default_factory=LearnerSettings)
    nuisances: NuisanceSettings = field(default_factory=NuisanceSettings)


class UpDown:
    """Fitted effects of a share above its median, by category."""

    name: ClassVar[str] = "up_down"
    settings_type: ClassVar[type] = UpDownSettings

    def __init__(
        self, settings: UpDownSettings, models: list[VectorEffects | ArmEffects], facts: Mapping[str, Any]
    ) -> None:
        self.settings, self.models, self.facts = settings, models, facts

    @classmethod
    def read(cls, settings: UpDownSettings, log: Log, part: str) -> dict[str, np.ndarray]:
        return read_arrays(settings.outcomes, log, part)

    @classmethod
    def fit(cls, settings: UpDownSettings, arrays: Arrays, seed: int, map: Map = here) -> Self:
        rows = checked(settings, arrays)
        median_K = np.median(rows.shares_RK, axis=0)
        up_RK = ups(rows.shares_RK, median_K)
        models: list[VectorEffects | ArmEffects]
        for up_R in up_RK.T:
            check_arms(one_category(rows, up_R), FEWEST)
        if settings.learner == "dml":
            treated = TreatedRows(x_RF=rows.features_RF, outcome_R=rows.outcome_R, treatment_RT=up_RK)
            models = [fit_dml(treated, settings.dml, settings.nuisances, seed, map)]
        else:
            own = replace(settings.arms, learner=settings.learner)
            models = [fit_learner(one_category(rows, up_R), own, settings.nuisances, seed, map) for up_R in up_RK.T]
        facts = {"rows": len(rows), "categories": list(rows.categories), "median": median_K.tolist()}
        return cls(settings, models, facts)

    def effects(self, features_UF: np.ndarray) -> np.ndarray:
        """(U, K): what a share above the median brings each user against one below it."""
        categories = len(self.facts["categories"])
        if self.settings.learner == "dml":
            (model,) = self.models
            assert isinstance(model, VectorEffects)
            return model.effects(features_UF, np.eye(categories), np.zeros(categories))
        return np.stack([model.effects(features_UF)[:, 1] for model in self.models], axis=1)  # type: ignore[call-arg]

    def describe(self) -> str:
        how = "DML on all at once" if self.settings.learner == "dml" else f"{self.settings.learner}-learners"
        return f"up or down of {len(self.facts['categories'])} categories by {how} on {self.facts['rows']:,} rows"

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays = {f"{k}.{key}": value for k, model in enumerate(self.models) for key, value in model.arrays().items()}
        return arrays, {**self.facts, "models": [dict(model.facts) for model in self.models]}

    @classmethod
    def restore(cls, settings: UpDownSettings, arrays: Arrays, facts: Mapping[str, Any]) -> Self:
        kind: Any = VectorEffects if settings.learner == "dml" else ArmEffects
        models = []
        for k, own in enumerate(facts["models"]):
            front = f"{k}."
            parts = {key.removeprefix(front): value for key, value in arrays.items() if key.startswith(front)}
            models.append(kind.restore(parts, own))
        return cls(settings, models, facts)

    def judge(self, arrays: Arrays, resamples: int, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """By category: the mean effect, who should get more, and what rows that were on the advised side had more than
        those on the other one, with intervals. Nothing is resampled."""
        rows = checked(self.settings, arrays)
        effect_UK = self.effects(rows.features_RF)
        up_UK = ups(rows.shares_RK, np.array(self.facts["median"]))
        figures: dict[str, Any] = {"users": len(rows)}
        for k, name in enumerate(rows.categories):
            figures |= ends(f"{name}.effect", effect_UK[:, k])
            figures[f"{name}.up"] = float((effect_UK[:, k] > 0).mean())
            advised = (effect_UK[:, k] > 0) == (up_UK[:, k] > 0)
            figures |= gap(f"{name}.advised", rows.outcome_R, advised)
        first = max(rows.categories, key=lambda name: figures[f"{name}.effect"])
        message = (
            f"Over {len(rows):,} users more {first} brings most on average ({figures[f'{first}.effect']:+.4f}); it is "
            f"right for {figures[f'{first}.up']:.0%} of them."
        )
        return {f"up_down.{key}": value for key, value in figures.items()} | {"message": message}, {}

    @classmethod
    def results(cls, summary: Mapping[str, Any]) -> Table | None:
        names = [key.split(".")[1] for key in summary if key.startswith("up_down.") and key.endswith(".up")]
        if not names:
            return None
        rows = []
        for name in names:
            cells = [spread(summary, f"up_down.{name}.{key}") for key in ("effect", "advised")]
            rows.append((name, cells[0], f"{summary[f'up_down.{name}.up']:.0%}", cells[1]))
        title = f"{summary['up_down.users']:,} users that judge (95% intervals)"
        return Table(title, ("category", "more of it", "right for", "rows as advised, more than others"), tuple(rows))

    @classmethod
    def panels(cls, record: Record) -> list[Panel]:
        found: list[Panel] = []
        if message := record.summary.get("message"):
            found.append(Sentence(str(message), headline=True))
        if table := cls.results(record.summary):
            found.append(table)
            lines: list[Interval | None] = [
                record.interval(f"up_down.{row[0]}.effect", str(row[0])) for row in table.rows
            ]
            known = tuple(line for line in lines if line)
            found.append(Intervals("What more of a category brings", "outcome", known, 0.0, "", SECTION))
        return found


def ups(shares_RK: np.ndarray, median_K: np.ndarray) -> np.ndarray:
    """1.0 where a share is above the median."""
    return (shares_RK > median_K).astype(np.float64)


def one_category(rows: ShareRows, up_R: np.ndarray) -> TreatedRows:
    return TreatedRows(
        x_RF=rows.features_RF, outcome_R=rows.outcome_R, arm_R=up_R.astype(np.int64), arms_AT=np.array([[0.0], [1.0]])
    )


def gap(key: str, outcome_R: np.ndarray, inside_R: np.ndarray) -> dict[str, float]:
    """The mean inside less the mean outside, with a normal interval; nothing where a side is empty."""
    inside, outside = outcome_R[inside_R], outcome_R[~inside_R]
    if min(len(inside), len(outside)) < 2:
        return {}
    value = float(inside.mean() - outside.mean())
    error = float(np.sqrt(inside.var(ddof=1) / len(inside) + outside.var(ddof=1) / len(outside)))
    return {key: value, f"{key}.low": value - 1.96 * error, f"{key}.high": value + 1.96 * error}
