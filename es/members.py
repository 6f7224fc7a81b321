"""The workers as the driver sees them: started, admitted to the run, replaced when they die, ended when they hang.

As many actors are asked of Ray as the run may use (`workers`). Those the cluster has room for start; the others wait in
Ray's queue, where an autoscaler sees them, and join the run when nodes do. A node that leaves takes its actors with it:
they are replaced in the same way.
"""

import logging
import os
import secrets
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

from data.errors import UserError
from es.actor import Worker
from es.config import ESConfig
from es.contract import ObjectiveError
from es.deaths import reason
from es.noise import Noise
from es.objectives.base import Objective
from es.wire import stored

TICK_S = 0.2  # how often deaths, stragglers, timeouts and newcomers are looked for while nothing else happens
LONGEST_HANGS = 3  # of one and the same task, each in another worker: then it is the objective that hangs


@dataclass(eq=False)
class Member:
    """A worker. `calls` in the order in which it executes them; the first began at `head_since`."""

    actor: Any
    ready: Any  # the reference that resolves, to its noise's fingerprint and its node, once the actor is up
    since: float
    started: bool = False
    node: str = ""
    ended: bool = False  # by us: it had hung
    head_since: float = 0.0
    calls: dict[Any, "Call"] = field(default_factory=dict)


@dataclass(eq=False)
class Call:
    """A task on its way: to be answered under `reference` by `member`."""

    reference: Any
    member: Member
    task: int
    generation: int
    since: float


class Members:
    def __init__(self, objective: Objective, config: ESConfig, noise: Noise, workers: int) -> None:
        self.config, self.noise, self.workers = config, noise, workers
        self.objective = stored(objective)
        self.lost = 0  # in this generation
        self._polled = 0.0
        self._hangs: dict[tuple[int, int], int] = {}
        self.all = [self._start() for _ in range(workers)]

    @property
    def started(self) -> list[Member]:
        return [member for member in self.all if member.started]

    def calls(self) -> list[Call]:
        return [call for member in self.all for call in member.calls.values()]

    def begin_generation(self) -> None:
        self.lost, self._hangs = 0, {}
        self.poll_newcomers()

    # ---- calls

    def submitted(self, call: Call) -> None:
        if not call.member.calls:
            call.member.head_since = call.since
        call.member.calls[call.reference] = call

    def answered(self, call: Call) -> None:
        """The member goes on to its next call, if it has one, from now."""
        del call.member.calls[call.reference]
        call.member.head_since = time.monotonic()

    def next_free(self, waiting: deque[int], depth: int, suspects: Container[int]) -> Iterator[tuple[Member, int]]:
        """Take tasks off `waiting` and say which worker each is for: the least busy first, at most `depth` calls each.

        A task of `suspects` has a worker for itself: whether it kills it could not be told from a call beside it. The
        caller makes each call before it asks for the next, so that a worker's load is known.
        """
        for load in range(depth):
            for member in self.all:
                if not member.started or len(member.calls) != load:
                    continue
                if any(call.task in suspects for call in member.calls.values()):
                    continue
                task = next((task for task in waiting if load == 0 or task not in suspects), None)
                if task is not None:
                    waiting.remove(task)
                    yield member, task

    def end_overdue(self) -> None:
        """Kill members whose call has been executing for more than timeout_s: it then comes back as lost.

        A task that hung one worker after the other would hang all: ObjectiveError. Without any worker left: UserError.
        """
        now = time.monotonic()
        if all(not member.started and now - member.since > self.config.start_timeout_s for member in self.all):
            raise UserError(f"no worker is left, and none started within {self.config.start_timeout_s:g} s")
        for member in self.all:
            if not member.calls or now - member.head_since <= self.config.timeout_s:
                continue
            head = next(iter(member.calls.values()))
            key = (head.generation, head.task)
            self._hangs[key] = self._hangs.get(key, 0) + 1
            if self._hangs[key] == LONGEST_HANGS:
                raise ObjectiveError(
                    f"the objective hangs: a task of generation {head.generation} was evaluated for more than "
                    f"{self.config.timeout_s:g} s (timeout_s) by {LONGEST_HANGS} workers, one after the other"
                )
            # Not replaced here: its calls come back as lost, on the same path as those of a worker that died by itself.
            ray.kill(member.actor)
            member.ended = True
            member.head_since = now  # else it would count as overdue again until then

    # ---- coming and going

    def _start(self) -> Member:
        options = {"num_cpus": self.config.cpus_per_worker, "max_restarts": 0, "max_task_retries": 0}
        actor = Worker.options(**options).remote()  # type: ignore[attr-defined]
        ready = actor.start.remote([self.objective], self.config, self.noise.dimension)
        return Member(actor, ready, time.monotonic())

    def poll_newcomers(self, wait_s: float = 0.0) -> None:
        """Admit those that have started; looks at most once a tick, unless `wait_s` says to wait."""
        starting = {member.ready: member for member in self.all if not member.started}
        now = time.monotonic()
        if not starting or (not wait_s and now - self._polled < TICK_S):
            return
        self._polled = now
        for reference in ray.wait(list(starting), num_returns=1 if wait_s else len(starting), timeout=wait_s)[0]:
            try:
                self._admit(starting[reference], ray.get(reference))
            except RayTaskError as error:
                raise cause(error) from error
            except (RayActorError, OutOfMemoryError) as error:
                self.replace(starting[reference], error)
            except RayError as error:
                raise RuntimeError(f"a worker did not start: {error}") from error

    def _admit(self, member: Member, answer: tuple[str, str] | UserError) -> None:
        if isinstance(answer, UserError):
            raise answer
        fingerprint, node = answer
        if fingerprint != self.noise.fingerprint:
            raise UserError(
                f"a worker makes other noise ({fingerprint}) than the driver ({self.noise.fingerprint}): "
                "every node needs the same numpy and kind of processor"
            )
        member.started, member.node = True, node

    def died_by_itself(self, member: Member) -> bool:
        """Not with its node, and not ended by us."""
        return not member.ended and any(node["NodeID"] == member.node and node["Alive"] for node in ray.nodes())

    def replace(self, member: Member, error: Exception) -> list[Call]:
        """Start a worker in place of a dead one; return the calls that died with it (none if already replaced)."""
        if member not in self.all:
            return []
        self.lost += 1
        if self.lost > self.config.max_lost_workers:
            raise UserError(
                f"{self.lost} workers were lost in one generation (max_lost_workers): the objective may end its "
                f"process; the last: {reason(error)}"
            ) from error
        ray.kill(member.actor)  # it may only have been out of reach: it must not go on computing, nor hold its CPUs
        self.all[self.all.index(member)] = self._start()
        return list(member.calls.values())

    def await_minimum(self, minimum: int, stopping: Callable[[], bool]) -> None:
        """Return once `minimum` members have started or the run is to stop; UserError after start_timeout_s."""
        deadline = time.monotonic() + self.config.start_timeout_s
        while (missing := minimum - len(self.started)) > 0 and not stopping():
            if time.monotonic() > deadline:
                cpus, free = ray.cluster_resources().get("CPU", 0), ray.available_resources().get("CPU", 0)
                raise UserError(
                    f"{missing} of {minimum} workers did not start in {self.config.start_timeout_s:g} s: "
                    f"Ray has {cpus:g} CPUs, {free:g} of them free"
                )
            self.poll_newcomers(wait_s=TICK_S)

    def close(self) -> None:
        """End the actors, letting go of their node's noise table first."""
        closing = [member.actor.close.remote() for member in self.all if member.started]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=2.0)
        for member in self.all:
            ray.kill(member.actor)
        self.all = []


def start_ray_if_needed(workers: int, cpus_per_worker: float) -> bool:
    """Use the Ray this process is connected to; else start a quiet local one. Return whether it was started.

    Ray puts a SIGTERM handler of its own in place of the caller's: the caller's is put back.
    """
    if ray.is_initialized():
        return False
    main_thread = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    if not os.environ.get("RAY_AUTH_MODE"):  # Ray then asks for a token: one that only this process and its own know
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    cpus = max(1, int(np.ceil(workers * cpus_per_worker)))
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    if main_thread and callable(before):
        signal.signal(signal.SIGTERM, before)
    return True


def cause(error: RayTaskError) -> Exception:
    """What the worker's code raised, without Ray's wrapping."""
    inner = error.cause
    return inner if isinstance(inner, Exception) else error
