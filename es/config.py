"""What a run of the engine is: every setting, its default, and which of them decide the result."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from data.errors import UserError

# Settings that say how the work is done. They may change when a run is resumed: theta does not depend on them.
EXECUTION_SETTINGS = frozenset(
    {
        "generations",
        "workers",
        "min_workers",
        "cpus_per_worker",
        "calls_per_worker",
        "reissue_after_s",
        "timeout_s",
        "start_timeout_s",
        "max_failures",
        "max_lost_workers",
        "checkpoint_every",
        "centre_every",
    }
)


@dataclass(frozen=True)
class ESConfig:
    """Settings of one run; `check` refuses impossible ones with a one-line UserError."""

    groups: ClassVar[Mapping[str, str]] = {
        "seed": "the search",
        "learning_rate": "steps and shaping",
        "evaluation_seeds": "evaluations and noise",
        "batch_pairs": "workers, faults, checkpoints",
    }

    seed: int = 0
    """Decides the noise, the evaluation seeds, and with them the whole run."""
    algorithm: Literal["openai_es", "pgpe", "snes", "xnes", "cma", "ars"] = "openai_es"
    """How theta is moved (es/algorithms/)."""
    generations: int = 100
    """Steps of theta, at most; a finished run goes on with more."""
    pairs: int = 64
    """Pairs per generation (n): 2 n evaluations."""
    symmetric: bool = True
    """The two of a pair are mirror images around theta; False, for pgpe, snes and xnes, perturbs them independently."""
    sigma: float = 0.1
    """Standard deviation of the perturbations (pgpe, snes, xnes, cma: the one they start from)."""
    perturb: Literal["full", "subset"] = "full"
    """What a perturbation touches (es/perturbations.py): for very large theta, with openai_es and ars."""
    subset: float = 0.1
    """Share of the coordinates that a perturbation touches under perturb=subset."""
    learning_rate: float | None = None
    """Step size. None: 0.05 (openai_es, pgpe), 0.02 (ars), 1 (snes, xnes)."""
    sigma_learning_rate: float | None = None
    """Step size of sigma. None: 0.1 (pgpe), (3 + ln d)/(5 sqrt d) (snes), 3/5 (3 + ln d)/(d sqrt d) (xnes)."""
    sigma_max_change: float = 0.2
    """Largest relative change of a sigma in one generation (pgpe)."""
    baseline_decay: float = 0.9
    """Of the moving average of the returns that pgpe takes as its baseline."""
    normalise_returns: bool = False
    """Divide pgpe's steps by the distance to the best return so far; needs shaping raw."""
    top_pairs: int | None = None
    """Pairs that ars learns from: those with the best returns. None: half of them."""
    weight_decay: float = 0.0
    """L2 pull of theta towards 0, added to the gradient (openai_es, pgpe)."""
    optimizer: Literal["adam", "sgd", "clipup"] = "adam"
    """What turns an estimated gradient into a step, where the algorithm leaves that open."""
    momentum: float = 0.9
    """Of sgd and clipup."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of adam."""
    epsilon: float = 1e-8
    """Of adam."""
    shaping: Literal["centred_ranks", "nes", "standardised", "raw"] | None = None
    """What the algorithm is given in place of the returns. None: centred_ranks (openai_es, pgpe), nes (snes, xnes),
    raw (ars); cma ranks them itself."""
    evaluation_seeds: Literal["pair", "generation"] = "pair"
    """Which evaluations share a seed: the two members of a pair, or the whole generation."""
    centre_every: int = 1
    """Evaluate the unperturbed theta every so many generations: the learning curve. 0: only at the end."""
    noise: Literal["auto", "table", "fresh"] = "auto"
    """Slices of a shared table, or freshly drawn normals; auto draws them where a generation takes few."""
    table_floats: int | None = None
    """Size of the table. None: 32 generations' worth, between 4M and 64M floats."""
    batch_pairs: int | None = None
    """Pairs the objective sees in one call, a power of two up to 64. None: as many as leave four calls a generation and
    fit the cache, at most 64; one pair where the objective asks for that. The split is the same for any number of
    workers, so theta is too, even if the objective's last bits depend on the size of its batch."""
    workers: int | Literal["auto"] = 0
    """Ray actors at most; 0 evaluates in this process and starts nothing; "auto" measures which is faster."""
    min_workers: int | None = None
    """The run starts with so many workers and takes in others as the cluster has room for them. None: with all."""
    cpus_per_worker: float = 1.0
    """What each Ray actor asks of the cluster."""
    calls_per_worker: int | None = None
    """Tasks per worker and generation. None: one where evaluations are cheap, else up to 64, as measured; several are
    handed out, two deep, to whoever is free."""
    reissue_after_s: float = 30.0
    """A task unanswered for so long is given to an idle worker too; the first answer counts, both are equal."""
    timeout_s: float = 600.0
    """A worker that executes one task for so long is ended and replaced; the third such end of a task stops the run."""
    start_timeout_s: float = 120.0
    """The first worker must be there after so long."""
    max_failures: int = 100
    """Failed evaluations (an exception, or a return that is not finite) before the run stops with the first error."""
    max_lost_workers: int = 20
    """Workers replaced within one generation before the run gives up."""
    checkpoint_every: int | None = None
    """Generations between checkpoints (the last always has one). None: as often as 5% of the time allows."""

    def check(self) -> None:
        """Raise UserError, one line, naming the setting and what would be right."""
        for name in ("generations", "pairs", "min_workers", "calls_per_worker", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None or name in ("generations", "pairs"):
                self._require(name, _is_int(value) and value >= 1, "a whole number of at least 1")
        for name in ("seed", "workers", "centre_every", "max_failures", "max_lost_workers"):
            value = getattr(self, name)
            if (name, value) != ("workers", "auto"):
                self._require(name, _is_int(value) and value >= 0, "a whole number of at least 0")
        self._require("seed", self.seed < 2**63, "below 2**63")
        for name in (
            "sigma",
            "sigma_max_change",
            "epsilon",
            "cpus_per_worker",
            "reissue_after_s",
            "timeout_s",
            "start_timeout_s",
        ):
            self._require(name, math.isfinite(getattr(self, name)) and getattr(self, name) > 0, "above 0")
        self._require("weight_decay", math.isfinite(self.weight_decay) and self.weight_decay >= 0, "at least 0")
        for name in ("learning_rate", "sigma_learning_rate"):
            value = getattr(self, name)
            self._require(name, value is None or (math.isfinite(value) and value > 0), "above 0")
        self._require("subset", 0 < self.subset <= 1, "above 0 and at most 1")
        self._require("baseline_decay", 0 <= self.baseline_decay < 1, "in [0, 1)")
        self._require("momentum", 0 <= self.momentum < 1, "in [0, 1)")
        self._require(
            "betas", len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas), "two numbers in [0, 1)"
        )
        for name, choices in _CHOICES.items():
            self._require(name, getattr(self, name) in choices, "one of " + ", ".join(filter(None, choices)))
        if self.table_floats is not None:
            self._require("table_floats", _is_int(self.table_floats) and self.table_floats >= 1024, "at least 1024")
        if self.batch_pairs is not None:
            allowed = (1, 2, 4, 8, 16, 32, 64)
            self._require("batch_pairs", self.batch_pairs in allowed, "one of " + ", ".join(map(str, allowed)))
        self._check_algorithm()

    def _check_algorithm(self) -> None:
        """Refuse settings that the algorithm would ignore."""
        name = self.algorithm
        if name not in ("pgpe", "snes", "xnes"):
            self._require("symmetric", self.symmetric, f"true: {name} has no other form")
        if name not in ("openai_es", "ars"):
            self._require("perturb", self.perturb == "full", f"full: {name} adapts sigma to every coordinate")
        if name not in ("openai_es", "pgpe"):
            self._require("weight_decay", self.weight_decay == 0, f"0: {name} has none")
        if name not in ("pgpe", "snes", "xnes"):
            self._require("sigma_learning_rate", self.sigma_learning_rate is None, f"left out: {name} has none")
        self._require("normalise_returns", name == "pgpe" or not self.normalise_returns, "left out: it is pgpe's")
        if self.normalise_returns:
            self._require("shaping", self.shaping == "raw", "raw where returns are normalised")
        self._require("top_pairs", name == "ars" or self.top_pairs is None, "left out: it is of ars")
        if self.top_pairs is not None:
            fits = _is_int(self.top_pairs) and 1 <= self.top_pairs <= self.pairs
            self._require("top_pairs", fits, f"from 1 to pairs, {self.pairs}")
        if name == "xnes":
            self._require("shaping", self.shaping != "raw", "another: with xnes the size of a return would be a step's")
        if name == "cma":
            self._require("shaping", self.shaping is None, "left out: cma ranks the returns itself")
            self._require("learning_rate", self.learning_rate is None, "left out: cma sets its own")
            self._require("pairs", self.pairs >= 2, "at least 2 with cma")

    def _require(self, name: str, holds: bool, what: str) -> None:
        if not holds:
            raise UserError(f"{name} is {getattr(self, name)!r}: it must be {what}")

    @property
    def rows_per_pair(self) -> int:
        """Rows of noise behind a pair: one if its members are mirror images."""
        return 1 if self.symmetric and self.algorithm != "cma" else 2

    @property
    def step_size(self) -> float:
        """The learning rate, the algorithm's own where none was given."""
        return self.learning_rate or _STEP_SIZES[self.algorithm]

    @property
    def utilities(self) -> str:
        """The shaping, the algorithm's own where none was given."""
        return self.shaping or _SHAPINGS[self.algorithm]

    def deciding(self) -> dict[str, Any]:
        """The settings that decide theta, as plain JSON values."""
        settings = {key: value for key, value in dataclasses.asdict(self).items() if key not in EXECUTION_SETTINGS}
        settings |= {"learning_rate": self.step_size, "shaping": self.utilities}
        return dict(json.loads(json.dumps(settings)))


_STEP_SIZES = {"openai_es": 0.05, "pgpe": 0.05, "snes": 1.0, "xnes": 1.0, "ars": 0.02, "cma": 1.0}
_SHAPINGS = {
    "openai_es": "centred_ranks",
    "pgpe": "centred_ranks",
    "snes": "nes",
    "xnes": "nes",
    "ars": "raw",
    "cma": "raw",
}
_CHOICES: dict[str, tuple[str | None, ...]] = {
    "algorithm": ("openai_es", "pgpe", "snes", "xnes", "cma", "ars"),
    "perturb": ("full", "subset"),
    "optimizer": ("adam", "sgd", "clipup"),
    "shaping": (None, "centred_ranks", "nes", "standardised", "raw"),
    "evaluation_seeds": ("pair", "generation"),
    "noise": ("auto", "table", "fresh"),
}


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def fingerprint(facts: dict[str, Any]) -> str:
    """16 hex digits that change with any value of a JSON object."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
