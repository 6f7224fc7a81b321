"""Independent pieces of a fit as Ray tasks, a CPU each: funnel/fitted.py's Map on a cluster."""

from collections.abc import Callable, Sequence
from typing import Any

import ray

from data.errors import UserError


class RayMap:
    """[function(shared, item) for item in items] as tasks, at most `workers` at a time; `shared` lies in the object
    store once a node. The pieces of a machine that dies are run again by Ray; a mistake of the user's that a piece
    meets comes out as one."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def __call__(self, function: Callable[[Any, Any], Any], shared: Any, items: Sequence[Any]) -> list[Any]:
        task = ray.remote(num_cpus=1, max_retries=3)(function)
        stored, waiting = ray.put(shared), list(enumerate(items))
        running: dict[Any, int] = {}
        found: dict[int, Any] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.workers:
                    place, item = waiting.pop(0)
                    running[task.remote(stored, item)] = place
                ready, _ = ray.wait(list(running), num_returns=1)
                for reference in ready:
                    found[running.pop(reference)] = answer(reference)
        finally:
            for reference in running:
                ray.cancel(reference, force=True)
        return [found[place] for place in range(len(found))]


def answer(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from None
        raise
