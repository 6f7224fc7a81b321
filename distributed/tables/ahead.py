"""What a thread beside the training does for the batches that are still to come, over connections of its own.

A batch's ids are known when it is read. The thread makes its plan (who holds which rows, what the others ask for) while
the batch before it is stepped on; with `prefetch` also fetches the rows that only this batch touches, and sends and
applies the gradients of rows that only the batch before touched (sharded.py says why the bits stay the same).

Workers do the same things in this thread in the same order because its tasks are handed over by the training loop,
which takes the same steps everywhere: whatever stops a training between two steps, all workers have handed over the
same tasks, and each is done to its end.
"""

import os
import queue
import socket
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from distributed.tables.collectives import TIMEOUT_S, communicating, connect
from distributed.tables.protocol import Placement, Sums
from distributed.tables.sharded import Sharded

NICER = 10
Task = tuple[Callable[..., Any], tuple[Any, ...], "Future[Any]"]


def work(tasks: "queue.SimpleQueue[Task | None]") -> None:
    """What the thread does, until it is handed None. It holds nothing of a training but the task at hand."""
    torch.set_grad_enabled(False)
    give_way()
    while (item := tasks.get()) is not None:
        task, arguments, result = item
        try:
            result.set_result(task(*arguments))
        except BaseException as error:
            result.set_exception(error)
        del item, task, arguments, result


def give_way() -> None:
    """Let this thread have a core while the training thread waits for the wire, rather than half of it before: what it
    does is not needed until the next step. Where there is a core for it, it does not matter."""
    if sys.platform == "linux":  # elsewhere priorities are those of processes
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + NICER)


class Ahead:
    """One worker's thread. All workers of the process group make one at the same time.

    network: has `asked(batch)`, the ids that each table is asked for; update(n, sums): apply the sums that the n-th
    placement has kept back from the last step.
    """

    def __init__(
        self, network: nn.Module, placements: Sequence[Placement], prefetch: bool, update: Callable[[int, Sums], None]
    ) -> None:
        self.network, self.placements, self.prefetch, self.update = network, placements, prefetch, update
        self.group = dist.new_group(backend="gloo", timeout=timedelta(seconds=TIMEOUT_S))
        connect(self.group)
        self.tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self.moving: Future[None] | None = None
        # A daemon: a process whose thread waits for a lost worker must be able to end.
        threading.Thread(target=work, args=(self.tasks,), name="tables-ahead", daemon=True).start()
        weakref.finalize(self, self.tasks.put, None)

    def batches(self, given: Iterator[Any], device: torch.device) -> Iterator[Any]:
        """The given batches on the device, each once its plan is there. They must be one unbroken run of steps.

        Raises here what went wrong in the thread.
        """
        coming: deque[tuple[Any, Future[list[Any]]]] = deque()
        before: Future[list[Any]] | None = None

        def take() -> None:
            nonlocal before
            for batch in given:
                before = self._hand_over(self._plan, batch, before)
                coming.append((batch, before))
                return

        for _ in range(2 if self.prefetch else 1):
            take()
        while coming:
            batch, plans = coming.popleft()
            if self.prefetch:
                self.finish()
                self.moving = self._hand_over(self._move, coming[0][1] if coming else None)
            take()
            with communicating():
                found = plans.result()
            for placement, plan in zip(self.placements, found, strict=True):
                placement.use(plan.to(device))
            yield batch.to(device)

    def finish(self) -> None:
        """Wait until rows that are under way have come, and are applied."""
        if self.moving is not None:
            with communicating():
                moving, self.moving = self.moving, None
                moving.result()

    def settle(self) -> None:
        """Send and apply what the last step has kept back: the tables are as if nothing had been. All workers call it,
        between two steps."""
        self.finish()
        self._apply_kept(None)

    def _hand_over(self, task: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        result: Future[Any] = Future()
        self.tasks.put((task, arguments, result))
        return result

    def _plan(self, batch: Any, before: "Future[list[Any]] | None") -> list[Any]:
        asked = self.network.asked(batch)  # type: ignore[operator]
        plans = [placement.plan(ids_R, self.group) for placement, ids_R in zip(self.placements, asked, strict=True)]
        if self.prefetch and before is not None:
            for placement, earlier, plan in zip(self.placements, before.result(), plans, strict=True):
                assert isinstance(placement, Sharded)
                placement.divide(earlier, plan, self.group)
        return plans

    def _move(self, plans: "Future[list[Any]] | None") -> None:
        """What lies beside a step: gradients kept back from the one before, vectors for the one after."""
        self._apply_kept(self.group)
        if plans is not None:
            for placement, plan in zip(self.placements, plans.result(), strict=True):
                assert isinstance(placement, Sharded)
                placement.prefetch(plan, self.group)

    def _apply_kept(self, group: dist.ProcessGroup | None) -> None:
        for number, placement in enumerate(self.placements):
            sums = placement.deferred(group) if isinstance(placement, Sharded) else None
            if sums is not None:
                self.update(number, sums)


def cores_to_spare() -> bool:
    """Whether every machine has at least two cores for each of its workers; the same on all of them. A collective."""
    own = (socket.gethostname(), len(os.sched_getaffinity(0)))
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, own)
    return all(cores >= 2 * sum(host == name for host, _ in everyone) for name, cores in everyone)
