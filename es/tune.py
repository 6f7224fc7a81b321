"""The engine as a Ray Tune trainable: each trial is a run, each generation a report.

    def make(trial):                                   # what Tune drew, {"sigma": 0.05, ...}
        return Sphere(dimension=100), ESConfig(sigma=trial["sigma"], generations=200)

    tuner = tune.Tuner(
        trainable(make),
        param_space={"sigma": tune.loguniform(0.01, 0.5)},
        tune_config=tune.TuneConfig(metric="return.centre", mode="max", num_samples=8),
    )
    best = tuner.fit().get_best_result().config

A trial evaluates in its own process (`workers=0`): Tune runs the trials side by side. With workers it needs room for
them beside itself: `tune.with_resources(trainable(make), tune.PlacementGroupFactory([{"CPU": 1}] * (1 + workers)))`.
Tune kills a trial whose scheduler has seen enough; nothing has to be tidied up. A trial that is tried again on its node
continues where it was, from the checkpoint in its own directory.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import tune

from es.config import ESConfig
from es.engine import ESResult, run
from es.objectives.base import Objective

Make = Callable[[dict[str, Any]], tuple[Objective, ESConfig]]


def trainable(make: Make, every: int = 1) -> Callable[[dict[str, Any]], None]:
    """A function for tune.Tuner: reports the metrics of every so many generations (and the last), as metrics.jsonl has
    them. A metric without a value (return.centre between centres) is left out of the report."""

    def trial(drawn: dict[str, Any]) -> None:
        objective, config = make(drawn)
        out = Path(tune.get_context().get_trial_dir()) / "es"

        def report(metrics: dict[str, Any]) -> None:
            generation = metrics["generation"] + 1
            if generation % every == 0 or generation == config.generations:
                tune.report({key: value for key, value in metrics.items() if value is not None})

        run(objective, config, out, report)

    return trial


def milestones(objective: Objective, config: ESConfig, out: Path, every: int) -> Iterator[ESResult]:
    """Run with pauses: the result after every so many generations and at the end, theta included.

    For trials that are judged on their way by what the objective does not see. The run is the same to the bit as one
    without pauses; one that is already in `out` goes on, and yields what lies ahead of it.
    """
    ends = sorted({*range(every, config.generations, every), config.generations})
    done = -1
    for end in ends:
        if end > done or end == ends[-1]:
            result = run(objective, replace(config, generations=end), out)
            done = result.generations
            if done == end:
                yield result
