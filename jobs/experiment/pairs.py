"""Pairs of worlds, here or as Ray tasks; it does not matter who runs which, or when one is finished."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from data.errors import Stopped, UserError

LOOK_S = 0.5
"""How soon a signal is seen while tasks run."""


def run_pairs(
    simulator: Any, pairs: Sequence[int], workers: int, stopped: Callable[[], bool]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(pair, its outcome) as they end. Raises Stopped once `stopped` says so; what runs then is given up."""
    if not pairs:
        return
    if workers:
        yield from on_ray(simulator, pairs, workers, stopped)
        return
    for done, pair in enumerate(pairs):
        if stopped():
            raise Stopped(f"stopped with {len(pairs) - done} pairs to run")
        yield pair, simulator.run(pair)


def on_ray(
    simulator: Any, pairs: Sequence[int], workers: int, stopped: Callable[[], bool]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """At most `workers` at a time, on the cluster that is there; the task of a worker that dies is run again by Ray."""
    import ray

    @ray.remote(num_cpus=1, max_retries=3)
    def run_pair(world: Any, pair: int) -> dict[str, Any]:
        outcome: dict[str, Any] = world.run(pair)
        return outcome

    shared, waiting, running = ray.put(simulator), list(pairs), dict[Any, int]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                pair = waiting.pop(0)
                running[run_pair.remote(shared, pair)] = pair
            if stopped():
                raise Stopped(f"stopped with {len(waiting) + len(running)} pairs to run")
            ready, _ = ray.wait(list(running), num_returns=1, timeout=LOOK_S)
            for reference in ready:
                pair = running.pop(reference)
                yield pair, result(reference)
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def result(reference: Any) -> dict[str, Any]:
    """What a task returned. A mistake of the user's comes out as one, whoever met it."""
    import ray

    try:
        outcome: dict[str, Any] = ray.get(reference)
        return outcome
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from None
        raise
