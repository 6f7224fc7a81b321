"""Where a search looks next and when it gives a trial up: Ray Tune with Optuna, ASHA, population-based training.

OUT/ledger.jsonl holds the settings of every trial in the order they were suggested. A search that goes on is a new one
to Tune: it is suggested the ledger's settings first, trials that have ended repeat what they reported, the others go
on from their own checkpoints. So nothing is read back that Tune or Optuna pickled.
"""

import logging
import os
import random
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import BasicVariantGenerator, Searcher
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.sample import Domain, Float

from data.errors import UserError
from funnel.spaces import Choice, LogUniform, Space, Uniform
from jobs.run.directory import read_json
from jobs.tune.files import SETTINGS_FILE, STOP_FILE, Ledger, name_of
from jobs.tune.subject import Settings
from jobs.tune.trial import INDEX, Plan, index_of, trainable

STATE = ".tune"
"""Tune's own files, of no use once the search has ended or its driver is gone."""
REDUCTION = 3
"""ASHA: of so many trials one goes on at each rung."""
DEATHS = 2
"""How often the process of a trial may die."""
KEPT_CHECKPOINTS = 4
WAITING = {"CPU": 0, "memory": 2**20}
"""What a trial of several workers asks for besides them: no CPU, as they have them. Tune does not take nothing."""

SchedulerName = Literal["asha", "pbt", "none"]
SearchName = Literal["optuna", "random"]


Domains = dict[str, Domain]


def domains(space: Space) -> Domains:
    """The space as Ray Tune has it."""
    return {key: domain_of(domain) for key, domain in space.items()}


def domain_of(domain: Choice | Uniform | LogUniform) -> Domain:
    if isinstance(domain, Choice):
        return tune.choice(list(domain.values))
    return (tune.loguniform if isinstance(domain, LogUniform) else tune.uniform)(domain.low, domain.high)


class Recorded(OptunaSearch):
    """Optuna's suggestions, numbered and kept in the ledger; those of an earlier start come first."""

    def __init__(self, space: Domains, points: Sequence[Settings], ledger: Ledger, **options: Any) -> None:
        super().__init__(space=space, points_to_evaluate=[dict(point) for point in points], **options)
        self.ledger, self.count = ledger, 0

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        settings = super().suggest(trial_id)
        if settings is None:
            return None
        index = self.count
        if index == len(self.ledger.settings):
            self.ledger.add(settings)
        self.count += 1
        return {INDEX: index, **settings}

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()  # the ledger is what is kept


class StopsInTheLoop(ASHAScheduler):
    """ASHA whose verdict the trial carries out: it ends its loop, keeps its best epoch and leaves a finished run.

    Tune hands out the next turn only after the verdict, so that the file is there when the trial looks.
    """

    def __init__(self, trials: Path, **options: Any) -> None:
        super().__init__(**options)
        self.trials = trials

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        verdict = super().on_trial_result(tune_controller, trial, result)
        index = index_of(trial.config, trial.trial_id)
        # The first trial is the default configuration, which the others are measured by: it ends by itself.
        if verdict == TrialScheduler.STOP and index and result[self._time_attr] < self._max_t:
            (self.trials / name_of(index) / STOP_FILE).touch()
        return str(TrialScheduler.CONTINUE)


def draw(space: Domains, first: Settings, count: int, seed: int) -> list[Settings]:
    """`first`, then points of the space drawn independently."""
    generator = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed)))
    points = [first]
    while len(points) < count:
        points.append({key: plain(domain.sample(random_state=generator)) for key, domain in space.items()})
    return points[:count]


def plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def continuous(space: Domains) -> Domains:
    """What can be changed while a training runs: the rates and weights of a space, no widths and no choices."""
    return {key: domain for key, domain in space.items() if isinstance(domain, Float)}


@dataclass(frozen=True)
class How:
    """The way of searching."""

    samples: int
    scheduler: SchedulerName
    algorithm: SearchName
    concurrent: int
    seed: int


def search(plan: Plan, space: Domains, default: Settings, ledger: Ledger, how: How, callback: tune.Callback) -> None:
    """Run the trials; what they found is in their directories."""
    quiet()
    keys = plan.aim.keys
    single = len(keys) == 1
    metric, mode = (keys[0], "max") if single else (None, None)
    trials = Path(plan.trials)
    searcher: Searcher | BasicVariantGenerator
    given: Domains | None = None  # else the searcher knows it
    if how.algorithm == "optuna" and how.scheduler != "pbt":
        # After a stop the suggestions to come must not be those of the beginning again.
        entropy = np.random.SeedSequence((how.seed, len(ledger.settings))).generate_state(1)
        sampler = optuna.samplers.TPESampler(seed=int(entropy[0]))
        points = ledger.settings or [default]
        target = {"metric": metric, "mode": mode} if single else {"metric": keys, "mode": ["max", "max"]}
        distributions = OptunaSearch.convert_search_space(space)
        searcher = Recorded(distributions, points, ledger, sampler=sampler, **target)
    else:
        if not ledger.settings:
            for point in draw(space, default, how.samples, how.seed):
                ledger.add(point)
        points = [current(trials, index, point) for index, point in enumerate(ledger.settings)]
        searcher = BasicVariantGenerator(points_to_evaluate=points)
        given = space
    state = trials.parent / STATE
    shutil.rmtree(state, ignore_errors=True)
    tuner = tune.Tuner(
        tune.with_resources(trainable(plan), WAITING if plan.subject.workers else {"CPU": 1}),
        param_space=given,
        tune_config=tune.TuneConfig(
            metric=metric,
            mode=mode,
            search_alg=searcher,
            scheduler=make_scheduler(how, trials, plan.subject.unit, plan.subject.last, space),
            num_samples=how.samples,
            max_concurrent_trials=how.concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=state.name,
            storage_path=str(state.parent),
            verbose=0,
            callbacks=[callback],
            failure_config=tune.FailureConfig(max_failures=DEATHS),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS if plan.subject.checkpoints else None),
        ),
    )
    tuner.fit()
    shutil.rmtree(state, ignore_errors=True)


def current(trials: Path, index: int, settings: Settings) -> Settings:
    """What a trial was trying when it was interrupted: population-based training changes it on the way."""
    path = trials / name_of(index) / SETTINGS_FILE
    return read_json(path) if path.exists() else settings


def make_scheduler(how: How, trials: Path, time_attr: str, last: int, space: Domains) -> TrialScheduler:
    if how.scheduler == "asha":
        grace = max(1, last // REDUCTION**2)
        return StopsInTheLoop(trials, time_attr=time_attr, max_t=last, grace_period=grace, reduction_factor=REDUCTION)
    if how.scheduler == "pbt":
        random.seed(how.seed)  # what PopulationBasedTraining draws from
        np.random.seed(how.seed)  # noqa: NPY002 (and the domains it resamples)
        return PopulationBasedTraining(
            time_attr=time_attr,
            perturbation_interval=1,
            synch=True,  # who takes over whose weights must not depend on which trial was faster
            hyperparam_mutations=dict(space),
            custom_explore_fn=within(space),
        )
    return FIFOScheduler()


def within(space: Domains) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Perturbed settings put back into the space they were drawn from."""
    bounds = {key: (domain.lower, domain.upper) for key, domain in space.items()}

    def clamp(config: dict[str, Any]) -> dict[str, Any]:
        return config | {key: min(max(config[key], low), high) for key, (low, high) in bounds.items()}

    return clamp


def default_of(space: Domains, defaults: Settings) -> Settings:
    """The default of each key, as the space writes it; UserError if the space does not hold it."""
    point = {}
    for key, domain in space.items():
        assert isinstance(domain, Domain)
        value = defaults[key]
        text = ",".join(map(str, value)) if isinstance(value, tuple | list) else value
        if not domain.is_valid(text):
            raise UserError(f"--space: the default of {key}, {text}, is no point of it")
        point[key] = text
    return point


def quiet() -> None:
    """Tune's files and lines that we have our own for."""
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C is ours: the same command goes on
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if os.environ.get("COUNTERPOINT_LOG", "ERROR") == "ERROR":
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial that died is tried again, not a traceback
        warnings.filterwarnings("ignore", message="The reported value is ignored")  # of a trial that repeats itself
