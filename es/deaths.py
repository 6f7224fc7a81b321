"""Which candidate kills its worker: a task whose workers die is narrowed down to it, and its evaluation has failed.

A segmentation fault, os._exit or the system's memory killer leaves no error to return. So the deaths of workers are
counted for the tasks that were lost with them: after the first a task is cut into its batches, each of which then has
a worker for itself; after the third a batch is cut into its candidates, and a candidate at which a worker dies once
more has failed (NaN). That is what happens to a batch that raises, so theta has the bits that it would have had, had
the candidate raised an error.
"""

import re
from dataclasses import dataclass

import numpy as np
from ray.exceptions import OutOfMemoryError, RayError

from es.contract import ObjectiveError
from es.worker import Reply, Task

CONVINCED = 3  # deaths at one batch: two may be chance (workers that are killed from outside)


@dataclass(frozen=True)
class Lost:
    """A call whose worker is gone. `killed`: what Ray says of it, if the worker died by itself, not with its node."""

    killed: RayError | None


def narrowed(task: Task, batch_pairs: int, deaths: int) -> list[Task] | None:
    """What a task at which so many workers have died gives way to; None: tried again as it is; []: it has failed."""
    batches = [
        Task(start, min(start + batch_pairs, task.stop), False) for start in range(task.start, task.stop, batch_pairs)
    ]
    if len(batches) > 1 or (batches and task.centre):
        return batches + ([Task(0, 0, True)] if task.centre else [])
    if deaths < CONVINCED:
        return None
    if task.centre or task.member is not None:
        return []
    return [Task(pair, pair + 1, False, member) for member in (0, 1) for pair in range(task.start, task.stop)]


def killer(name: str, task: Task, generation: int, error: RayError) -> Reply:
    """The answer to a task that kills its worker: a failed evaluation."""
    what = "theta" if task.centre else f"candidate {task.member} of pair {task.start}"
    message = f"{name}: evaluating {what} of generation {generation} ends the worker's process ({reason(error)})"
    return Reply(np.full((task.stop - task.start, 2), np.nan), np.nan, ObjectiveError(message))


def reason(error: Exception) -> str:
    """Why a worker died, of the many lines in which Ray says it."""
    if isinstance(error, OutOfMemoryError):
        return "Ray ended it: the node was running out of memory"
    text = " ".join(str(error).split())
    found = re.search(r"Worker exit type: (\w+) Worker exit detail: (.*?)\.(?: |$)", text)
    return f"{found[2]}; {found[1]}" if found else text[:160]
