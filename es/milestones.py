"""A run with pauses, for a search over settings that judges its trials on their way (docs/evolve.md: Tune)."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from es.config import ESConfig
from es.engine import ESResult, run
from es.objectives.base import Objective


def milestones(objective: Objective, config: ESConfig, out: Path, every: int) -> Iterator[ESResult]:
    """Run with pauses: the result after every `every` generations and at the end, theta included.

    For trials that are judged on their way by what the objective does not see. Each part of the run goes on from the
    checkpoint of the part before it, so theta has the same bits as in a run without pauses. A run that is already in
    `out` continues, and yields the milestones that lie ahead of it.
    """
    ends = sorted({*range(every, config.generations, every), config.generations})
    done = -1
    for end in ends:
        if end > done or end == ends[-1]:
            result = run(objective, replace(config, generations=end), out)
            done = result.generations
            if done == end:
                yield result
