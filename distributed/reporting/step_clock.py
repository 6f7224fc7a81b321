"""Where the time of training steps goes, by the clock of this process alone: nothing is synchronised for it.

    input           waiting for the next batch
    communication   inside collectives, waiting for the other workers included
    compute         the rest: forward, backward, optimizers, and what is logged between steps

On a GPU work is queued: what a step waits for counts where the process waits for it.
"""

import time

from distributed.tables.collectives import spent

PARTS = ("input", "compute", "communication")


class StepClock:
    """Call begin() where the wait for a batch begins, arrived() when it is there, stepped() after the step."""

    def __init__(self) -> None:
        self.parts = dict.fromkeys(PARTS, 0.0)
        """Seconds by part since the last take()."""
        self._step = self._wait = time.perf_counter()
        self._spent = spent["seconds"]
        self._input = 0.0

    def begin(self, afresh: bool = False) -> None:
        """`afresh`: leave out the time since the last step: a validation or a checkpoint was made in it."""
        self._wait = time.perf_counter()
        if afresh:
            self._step, self._spent = self._wait, spent["seconds"]

    def arrived(self) -> None:
        self._input = time.perf_counter() - self._wait

    def stepped(self) -> float:
        """Seconds of the step, from the end of the one before; it is added to the parts."""
        now, communication = time.perf_counter(), spent["seconds"]
        seconds, waited = now - self._step, communication - self._spent
        self.parts["input"] += self._input
        self.parts["communication"] += waited
        self.parts["compute"] += seconds - self._input - waited
        self._step, self._spent, self._input = now, communication, 0.0
        return seconds

    def take(self) -> dict[str, float]:
        """Seconds by part since the last call."""
        taken, self.parts = self.parts, dict.fromkeys(PARTS, 0.0)
        return taken
