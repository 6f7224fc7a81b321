"""How a generation is cut into tasks and where it is run. Both follow measured time, and theta depends on neither.

A task is a range of pairs. The returns of a pair do not depend on the task it is in, so any cut gives the same returns.
"""

from dataclasses import dataclass

import numpy as np

from es.worker import Task

CALL_S = 0.001  # of the driver, for one call of an actor and its answer (benchmarks/es/engine.py measures it)
ROUND_TRIP_S = 0.0025  # of Ray, for one call to each of two actors and both answers (measured there too)
RAY_START_S = 8.0  # to start a local Ray and its workers
ACTORS_START_S = 2.0  # to start workers on a Ray that is up
CALLS_SHARE = 0.3  # of a generation's time, what its calls may cost the driver
MOST_CALLS = 64  # per worker and generation
SMALLEST_CALL_S = 0.02
SMOOTHING = 0.5  # weight of the generation at hand in the measured seconds per pair


@dataclass
class Evaluation:
    """A scored generation. Bytes are payload: what a wire format without overhead would carry.

    statistics_n2S: what an observing objective saw, None where it saw nothing. idle_share: of the workers' time until
    the last answer, the part in which they evaluated nothing; None without workers.
    """

    returns_n2: np.ndarray
    centre: float | None
    error: Exception | None = None
    statistics_n2S: np.ndarray | None = None
    workers: int = 0
    idle_share: float | None = None
    lost_pairs: int = 0
    reissued_pairs: int = 0
    bytes_out: int = 0
    bytes_in: int = 0


def split(pairs: int, centre: bool, batch_pairs: int, tasks: int) -> list[Task]:
    """At most so many tasks of whole batches, spread evenly; the centre goes with the first."""
    batches = -(-pairs // batch_pairs)
    tasks = max(1, min(batches, tasks))
    borders = [min(index * batches // tasks * batch_pairs, pairs) for index in range(tasks + 1)]
    return [Task(borders[i], borders[i + 1], centre and i == 0) for i in range(tasks)]


def calls_per_worker(generation_s: float, workers: int) -> int:
    """How many calls to make of a worker's part of a generation that costs `generation_s` of evaluation in all.

    One where it is cheap. Else up to 64, so that whoever is free takes more, as long as a call is 20 ms or more and all
    calls together keep the driver busy for at most 30% of the time.
    """
    share_s = generation_s / workers
    affordable = CALLS_SHARE * share_s / (CALL_S * workers)
    return int(max(1, min(affordable, share_s / SMALLEST_CALL_S, MOST_CALLS)))


class Pace:
    """Seconds of evaluation per pair, as the last generations had it."""

    def __init__(self) -> None:
        self.pair_s: float | None = None

    def add(self, pairs: int, seconds: float) -> None:
        now = seconds / pairs
        self.pair_s = now if self.pair_s is None else self.pair_s + SMOOTHING * (now - self.pair_s)

    def calls(self, pairs: int, workers: int) -> int:
        """Calls per worker for the next generation; two until something is known."""
        return 2 if self.pair_s is None else calls_per_worker(self.pair_s * pairs, workers)


@dataclass(frozen=True)
class Choice:
    """Where `workers="auto"` runs, and the figures behind it."""

    workers: int
    generation_s: float
    reason: str


def choose(generation_s: float, generations: int, workers: int, ray_is_up: bool) -> Choice:
    """Workers only if a generation costs more than Ray's round trip and the rest of the run more than their start.

    generation_s: one generation's evaluation in this process, measured. generations: those still to come.
    """
    start_s = ACTORS_START_S if ray_is_up else RAY_START_S
    here_s, there_s = generation_s, generation_s / max(workers, 1) + ROUND_TRIP_S
    cost = f"a generation is evaluated in {generation_s * 1e3:.3g} ms in this process"
    if workers < 2:
        return Choice(0, generation_s, f"{cost}, and there is one CPU")
    if here_s <= ROUND_TRIP_S:
        return Choice(0, generation_s, f"{cost}: less than Ray's round trip of {ROUND_TRIP_S * 1e3:.3g} ms")
    if generations * (here_s - there_s) <= start_s:
        saved = max(generations * (here_s - there_s), 0.0)
        return Choice(0, generation_s, f"{cost}: {workers} workers would save {saved:.2g} s and take {start_s:g} s")
    return Choice(workers, generation_s, f"{cost}: {workers} workers save {generations * (here_s - there_s):.3g} s")
