"""SIGTERM and Ctrl-C in a job that can stop without loss: a request, one line, an exit code of its own."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn


def leave(stopped: Exception, number: int) -> NoReturn:
    """Say so in one line and exit with 143 (SIGTERM) or 130 (Ctrl-C), as a shell has it."""
    print(f"{stopped}; the same command goes on from here", file=sys.stderr)
    raise SystemExit(128 + number)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """The signals that asked to stop, as they come; a second one of a kind does what it would have done before."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: Any) -> None:
        received.append(number)
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, handle)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
