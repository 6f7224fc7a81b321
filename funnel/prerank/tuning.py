"""Task weights and the rows drawn of each stage, tuned by evolution strategies under a limit of what training costs.

    python -m jobs.evolve --objective prerank --data runs/stages --out runs/weights --generations 15 --pairs 6

A candidate is four numbers: the weights of the exposure and of the click loss (the purchase loss weighs 1), and how
many ranked and cut rows of a request are learnt from. It is worth what a pre-ranker trained with them finds:

    100 ASPH@k on the valid part - penalty * max(0, rows a request - limit)

Every evaluation trains a small pre-ranker from the weights of the evaluation's seed; the two of an antithetic pair
begin with the same. OUT/policy.json holds settings for jobs.train --problem prerank. Held out: the test part, with new
seeds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from data.errors import UserError
from data.log import open_log
from es.policies import Box, Policy, Positive
from funnel.panels import Glossary, Intervals, Panel, Record, Table
from funnel.platform.numbered_worlds import VALID, mean, numbers, told
from funnel.prerank.quick import Quick
from funnel.prerank.settings import PreRankSettings
from funnel.progress import evolution, evolution_cost
from funnel.settings import plain
from funnel.spaces import LogUniform, Presets, Space, Spaces, named
from funnel.tunable import HeldOut
from models.two_tower import TowerConfig

NUMBERS = ("exposure_weight", "click_weight", "ranked", "cut")
AIMS = ("return", "asph", "rows")
SECTION = "Tuning"


def small() -> PreRankSettings:
    return PreRankSettings(model=TowerConfig(hidden=(16,), output=8))


@dataclass(frozen=True)
class PreRankTuningSettings:
    data: Path = Path()
    """Stage log; its train part is learnt from, its valid part tuned on, its test part judges."""
    start: PreRankSettings = field(default_factory=small)
    """The pre-ranker that tuning begins with and is compared to; four of its numbers are moved."""
    requests: int = 1_000
    """Of the train part, for each training."""
    judged: int = 300
    """Requests of valid and of test, at most."""
    steps: int = 60
    """Of each training."""
    batch: int = 64
    """Requests of a step."""
    rate: float = 0.01
    """Learning rate, falling to 0."""
    limit: float = 60.0
    """Rows of a request that a training may learn from, on average."""
    penalty: float = 1.0
    """Points of ASPH that a row beyond the limit costs."""
    trainings: int = 8
    """Trainings of each side that judge."""

    def __post_init__(self) -> None:
        for name, least in (("requests", 10), ("judged", 2), ("steps", 1), ("batch", 1), ("trainings", 2)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least {least}")
        for name in ("rate", "limit"):
            if not 0 < getattr(self, name) < np.inf:
                raise UserError(f"{name} is {getattr(self, name)}, must be a finite number above 0")
        if not 0 <= self.penalty < np.inf:
            raise UserError(f"penalty is {self.penalty}, must be a finite number of at least 0")
        if self.start.loss == "pointwise":
            raise UserError("start.loss pointwise has neither task weights nor stages to draw from")
        if self.start.distill != "none":
            # No teacher is asked: a training is a second long.
            object.__setattr__(self, "start", _untaught(self.start))


def _untaught(start: PreRankSettings) -> PreRankSettings:
    from dataclasses import replace

    return replace(start, distill="none")


def knobs(start: PreRankSettings, most: Mapping[str, int]) -> Policy:
    """theta = 0 is the start. `most`: ranked and cut rows that a request has."""

    def quota(name: str) -> Box:
        high = most[name] + 0.49
        return Box((name,), -0.49, high, min(max(float(getattr(start, name)), 0.1), high - 0.1))

    return Policy(
        (
            Positive(("exposure_weight",), max(start.exposure_weight, 1e-3)),
            Positive(("click_weight",), max(start.click_weight, 1e-3)),
            quota("ranked"),
            quota("cut"),
        )
    )


@dataclass
class PreRankObjective:
    """es/objectives/base.py: the return of theta, trained from the seed."""

    settings: PreRankTuningSettings
    seed: int
    searching: bool = False
    batch_pairs: ClassVar[int] = 1

    def __post_init__(self) -> None:
        settings = self.settings
        if settings.data.absolute() == Path().absolute() and not (settings.data / "schema.json").exists():
            raise UserError("--data is needed: a stage log (docs/prerank.md)")
        self.quick = Quick.open(
            open_log(settings.data), settings.start, settings.requests, settings.judged, self.seed, self.searching
        )
        self.knobs = knobs(settings.start, self.quick.most)

    def __getstate__(self) -> dict[str, Any]:
        return {"settings": self.settings, "seed": self.seed, "searching": self.searching}  # the log is read again

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()

    def initial(self) -> np.ndarray:
        return self.knobs.initial()

    def describe(self) -> dict[str, Any]:
        return {"objective": "prerank", **plain(self.settings)}

    def chosen(self, theta_D: np.ndarray) -> dict[str, Any]:
        """The settings that theta stands for; whole numbers of rows."""
        values = self.knobs.values(theta_D)
        weights = {name: float(values[name]) for name in NUMBERS[:2]}
        return {**weights, **{name: max(round(values[name]), 0) for name in NUMBERS[2:]}}

    def figures(self, chosen: Mapping[str, Any], seed: int, part: str) -> dict[str, float]:
        """{"asph" in percent, "rows", "return"} of one training."""
        settings = self.settings
        asph, rows = self.quick.train(chosen, settings.steps, settings.batch, settings.rate, seed, part)
        return {
            "asph": 100 * asph,
            "rows": rows,
            "return": 100 * asph - settings.penalty * max(0.0, rows - settings.limit),
        }

    def evaluate_batch(self, theta_PD: np.ndarray, seeds_P: np.ndarray) -> np.ndarray:
        pairs = zip(theta_PD, seeds_P.tolist(), strict=True)
        return np.array([self.figures(self.chosen(theta_D), seed % VALID, "tune")["return"] for theta_D, seed in pairs])


class PreRankTuning:
    """funnel/tunable.py: Tunable."""

    name: ClassVar[str] = "prerank"
    settings_type: ClassVar[type] = PreRankTuningSettings
    goal: ClassVar[str] = "return"
    presets: ClassVar[Presets]
    spaces: ClassVar[Spaces]

    def __init__(self, settings: PreRankTuningSettings, seed: int, searching: bool) -> None:
        self.settings, self.seed = settings, seed
        self.objective = PreRankObjective(settings, seed, searching)

    @classmethod
    def open(cls, settings: PreRankTuningSettings, seed: int, searching: bool = False) -> Self:
        """Raises UserError in one line for a log that no pre-ranker could learn from."""
        return cls(settings, seed, searching)

    def facts(self) -> dict[str, Any]:
        return {"requests": self.objective.quick.counts(), "most": dict(self.objective.quick.most)}

    def describe(self) -> str:
        counts = self.objective.quick.counts()
        return (
            f"task weights and stage quotas of a pre-ranker: trainings of {self.settings.steps} steps on "
            f"{counts['train']:,} requests, judged on {counts['tune']:,}"
        )

    def policy(self, theta_D: np.ndarray) -> dict[str, Any]:
        return {"problem": "prerank", "settings": self.objective.chosen(theta_D)}

    def runs(self, chosen: Mapping[str, Any], part: HeldOut) -> list[dict[str, float]]:
        seeds = numbers(self.seed, part, self.settings.trainings)
        return [self.objective.figures(chosen, seed, part) for seed in seeds]

    def measure(self, theta_D: np.ndarray) -> dict[str, float]:
        return mean(self.runs(self.objective.chosen(theta_D), "valid"))

    @classmethod
    def smaller_is_better(cls, figure: str) -> bool:
        if figure not in AIMS:
            raise UserError(f"no figure {figure!r} of prerank: want one of {', '.join(AIMS)}")
        return figure == "rows"

    def judge(self, theta_D: np.ndarray, resamples: int, seed: int, part: HeldOut = "test") -> dict[str, Any]:
        """Tuned and start, trained from the same seeds; intervals of their difference over the seeds (Student's t)."""
        start = {name: getattr(self.settings.start, name) for name in NUMBERS}
        sides = {
            "tuned": self.runs(self.objective.chosen(theta_D), part),
            "start": self.runs(start, part),
        }
        found: dict[str, Any] = {"prerank.trainings": self.settings.trainings}
        for name in AIMS:
            for side, runs in sides.items():
                found[f"prerank.{side}.{name}"] = float(np.mean([run[name] for run in runs]))
            gain = [a[name] - b[name] for a, b in zip(sides["tuned"], sides["start"], strict=True)]
            found |= told(f"prerank.gain.{name}", gain)
        found |= {f"prerank.{name}": value for name, value in self.objective.chosen(theta_D).items()}
        return found | {"prerank.significant": found["prerank.gain.return.low"] > 0, "message": sentence(found)}

    @classmethod
    def results(cls, summary: Mapping[str, Any]) -> Table | None:
        if "prerank.tuned.asph" not in summary:
            return None
        rows = tuple(
            (label, *(summary[f"prerank.{side}.{name}"] for side in ("start", "tuned")))
            for name, label in (("asph", "ASPH@k, %"), ("rows", "rows a request"), ("return", "return"))
        )
        chosen = tuple((name.replace("_", " "), "", summary[f"prerank.{name}"]) for name in NUMBERS)
        return Table("test part, trainings from new seeds", ("figure", "start", "tuned"), (*rows, *chosen))

    @classmethod
    def panels(cls, record: Record) -> list[Panel]:
        shown: list[Panel] = []
        if table := cls.results(record.summary):
            shown.append(table)
        gains = [record.interval(f"prerank.gain.{name}", label) for name, label in
                 (("return", "return"), ("asph", "ASPH@k"))]  # fmt: skip
        if known := tuple(gain for gain in gains if gain):
            note = "On the test part, from seeds never tuned on, with 95% intervals over them."
            shown.append(Intervals("Tuned against the start", "points", known, 0.0, note, SECTION))
        course = evolution(record, SECTION, "return on the part tuned on")
        return [*shown, *course, evolution_cost(record, "prerank"), Glossary(TERMS)]


TERMS = (("rows a request", "what a training learns from: exposed rows, and those drawn of each stage"),)


def sentence(found: Mapping[str, Any]) -> str:
    gain, low, high = (found[f"prerank.gain.return{end}"] for end in ("", ".low", ".high"))
    better = "beat" if low > 0 else "fall behind" if high < 0 else "are not told from"
    return (
        f"Trained from {found['prerank.trainings']} new seeds, the tuned weights and quotas {better} the start by "
        f"{gain:+.2f} ({low:+.2f} to {high:+.2f}); ASPH {found['prerank.tuned.asph']:.1f}% against "
        f"{found['prerank.start.asph']:.1f}%, {found['prerank.tuned.rows']:.0f} rows a request against "
        f"{found['prerank.start.rows']:.0f}."
    )


def default() -> dict[str, Any]:
    """The defaults of every setting."""
    return {}


def coarse() -> dict[str, Any]:
    """Large steps, for a search of a few hundred evaluations."""
    return {"sigma": 0.5, "learning_rate": 0.25, "pairs": 6, "generations": 15}


def cost() -> Space:
    """How dear rows beyond the limit are."""
    return {"penalty": LogUniform(0.1, 10.0)}


PreRankTuning.presets, PreRankTuning.spaces = named(default, coarse), named(cost)
