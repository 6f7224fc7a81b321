"""What a command is waiting for, on stderr, where nothing else would be said for seconds or a minute."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

FIRST_S, EVERY_S = 3.0, 20.0


class Waiting:
    """`now` says what for, `done` that the wait is over."""

    def __init__(self, what: str) -> None:
        self.what, self.began, self._over = what, time.monotonic(), threading.Event()
        threading.Thread(target=self._tell, name="waiting", daemon=True).start()

    def now(self, what: str) -> None:
        self.what = what

    def done(self) -> None:
        self._over.set()

    def _tell(self) -> None:
        pause = FIRST_S
        while not self._over.wait(pause):
            print(f"waiting for {self.what} ({time.monotonic() - self.began:.0f} s)", file=sys.stderr, flush=True)
            pause = EVERY_S


@contextmanager
def waiting(what: str) -> Iterator[Waiting]:
    """A line on stderr if the block, or the time until `done`, is longer than 3 s; another every 20 s."""
    wait = Waiting(what)
    try:
        yield wait
    finally:
        wait.done()
