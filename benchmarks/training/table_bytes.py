"""Formulas: bytes that embedding tables take and send (distributed/tables/placement.py); W workers, E width."""

from collections.abc import Iterable

from distributed.tables.sharded import COUNTS

ID = 4  # bytes of a row's number, in tables of less than 2^31 rows


def bytes_per_step(distinct: int, own: int, asked: int, width: int, workers: int) -> int:
    """Bytes that one worker sends for one sharded table in one training step.

    distinct: rows of its batch, `own` of them lying with itself; asked: rows that the others ask it for. Ids and
    gradients go out, vectors are handed back; with ids dealt out evenly asked = distinct - own = distinct (1 - 1/W).
    """
    away = distinct - own
    return COUNTS * (workers - 1) + ID * away + 4 * width * (away + asked)


def bytes_of_counts(machines: Iterable[int], members: int) -> int:
    """What one worker sends to tell the others how many rows of each it asks for, where workers share machines, of as
    many workers as `machines` says: a block to each other of its group, one a machine where all have as many."""
    return 8 * (max(machines) + 1) * (members - 1)


def bytes_to_all(most: int, width: int, workers: int) -> int:
    """The same for a replicated table; most: distinct rows of the batch of the worker that has most of them."""
    return (workers - 1) * most * (ID + 4 * width)


def bytes_of_rows(rows: int, width: int, optimizer: str) -> int:
    """Bytes that rows of a table take with their optimizer's state: adagrad one number a row, adam two a weight."""
    return 4 * rows * (width + 1 if optimizer == "adagrad" else 3 * width)
