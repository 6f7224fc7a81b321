"""Row groups of a part in file order, and a reader thread that stays ahead of whoever uses what it reads."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import pyarrow as pa

from data.log import Log, Part


def ordered_tables(
    log: Log, part: Part, columns: list[str], rank: int = 0, world_size: int = 1, ahead: int = 2
) -> Iterator[pa.Table]:
    """The row groups of a part in file order, every world_size-th of them, read ahead in a thread."""
    mine = list(part.row_groups())[rank::world_size]
    return read_ahead(lambda: (log.read_row_group(file, index, columns) for file, index in mine), ahead)


Item = TypeVar("Item")


def read_ahead(produce: Callable[[], Iterator[Item]], depth: int) -> Iterator[Item]:
    """Iterate over produce() with a thread that stays up to `depth` items ahead; its exceptions surface here.

    Closing the iterator early stops the thread.
    """
    ready: queue.Queue[tuple[str, Item | BaseException | None]] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(kind: str, item: Item | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put((kind, item), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in produce():
                if not put("item", item):
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    thread = threading.Thread(target=work, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            kind, item = ready.get()
            if kind == "end":
                return
            if kind == "error":
                assert isinstance(item, BaseException)
                raise item
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join(timeout=5)
