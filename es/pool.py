"""Getting a generation scored: in this process, or by Ray actors that may die, hang or come late.

A generation is a fixed list of tasks (ranges of pairs). Each task's returns are a pure function of the proposal, so it
does not matter who answers, how often, or when: the first answer is kept and put in its place by pair id.
"""

import logging
import os
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from es.algorithms.base import Proposal
from es.config import ESConfig
from es.noise import Noise
from es.objectives.base import Objective
from es.worker import Evaluator, Reply, Task, Worker, batch_pairs

INLINE_BYTES = 2**16  # a proposal up to this size travels inside the call; Ray would put a larger one into its store
TASK_BYTES = 32  # generation, sigma and a range of pairs
TICK_S = 0.2  # how often deaths, stragglers and timeouts are looked for while nothing arrives


@dataclass
class Evaluation:
    """A scored generation. Bytes are payload: what a wire format without overhead would carry."""

    returns_n2: np.ndarray
    centre: float | None
    error: Exception | None = None
    lost_pairs: int = 0
    reissued_pairs: int = 0
    bytes_out: int = 0
    bytes_in: int = 0


class Pool(Protocol):
    def evaluate(self, proposal: Proposal, pairs: int, centre: bool) -> Evaluation:
        """Score pairs [0, pairs) and, if asked, the centre."""

    def close(self) -> None: ...


class LocalPool:
    """0 workers: no Ray."""

    def __init__(self, objective: Objective, config: ESConfig, noise: Noise) -> None:
        self.evaluator = Evaluator(objective, config, noise)

    def evaluate(self, proposal: Proposal, pairs: int, centre: bool) -> Evaluation:
        reply = self.evaluator.evaluate(proposal, Task(0, pairs, centre), proposal.rows(0, pairs))
        return Evaluation(reply.returns_k2, reply.centre, reply.error)

    def close(self) -> None:
        pass


@dataclass(eq=False)
class Member:
    """A worker as the driver sees it."""

    actor: Any
    ready: Any  # the reference that resolves, to its noise's fingerprint, once the actor is up
    since: float
    started: bool = False
    calls: dict[Any, "Call"] = field(default_factory=dict)


@dataclass(eq=False)
class Call:
    """A task on its way: to be answered under `reference` by `member`."""

    reference: Any
    member: Member
    task: int
    generation: int
    since: float


class RayPool:
    """N actors. Starts a quiet local Ray if none is up, and only then shuts it down again."""

    def __init__(self, objective: Objective, config: ESConfig, noise: Noise) -> None:
        self.config, self.noise = config, noise
        self.batch_pairs = batch_pairs(config, noise)
        self.lost_workers = 0
        self.started_ray = start_ray_if_needed(config)
        self.objective = ray.put(objective)
        self.members = [self._start_member() for _ in range(config.workers)]
        try:
            self._await_members()
        except BaseException:
            self.close()
            raise

    # ---- one generation

    def evaluate(self, proposal: Proposal, pairs: int, centre: bool) -> Evaluation:
        tasks = self._split(pairs, centre)
        waiting, replies = deque(range(len(tasks))), dict[int, Reply]()
        inline = proposal.nbytes <= INLINE_BYTES
        shared = proposal.shared() if inline else ray.put(proposal.shared())
        result = Evaluation(np.empty((pairs, 2)), None, bytes_out=0 if inline else proposal.nbytes)

        def submit(member: Member, task: int) -> None:
            rows = proposal.rows(tasks[task].start, tasks[task].stop)
            reference = member.actor.evaluate.remote(shared, tuple(tasks[task]), rows)
            member.calls[reference] = Call(reference, member, task, proposal.generation, time.monotonic())
            result.bytes_out += TASK_BYTES + (proposal.nbytes if inline else 0) + (0 if rows is None else rows.nbytes)

        while len(replies) < len(tasks):
            self._hand_out(waiting, submit)
            for call, reply in self._arrivals(proposal.generation, replies):
                if call.generation != proposal.generation:
                    continue  # the second answer to a task of an earlier generation
                if reply is None:
                    if call.task not in replies and not self._elsewhere(call):
                        waiting.appendleft(call.task)
                        result.lost_pairs += tasks[call.task].stop - tasks[call.task].start
                elif call.task not in replies:
                    replies[call.task] = reply
                    result.bytes_in += reply.returns_k2.nbytes
            if not waiting:
                result.reissued_pairs += self._reissue(tasks, replies, proposal.generation, submit)
            self._end_overdue()

        for index, task in enumerate(tasks):
            reply = replies[index]
            result.returns_n2[task.start : task.stop] = reply.returns_k2
            result.centre = reply.centre if task.centre else result.centre
            result.error = result.error or reply.error
        return result

    def _split(self, pairs: int, centre: bool) -> list[Task]:
        """A fixed list of tasks: whole batches, spread evenly, the centre with the first."""
        batches = -(-pairs // self.batch_pairs)
        wanted = max(1, min(batches, self.config.workers * self.config.calls_per_worker))
        borders = [min(index * batches // wanted * self.batch_pairs, pairs) for index in range(wanted + 1)]
        return [Task(borders[i], borders[i + 1], centre and i == 0) for i in range(wanted)]

    def _hand_out(self, waiting: deque[int], submit: Any) -> None:
        """Give waiting tasks to members, the least busy first, two deep where there are several tasks per worker."""
        depth = 2 if self.config.calls_per_worker > 1 else 1
        for load in range(depth):
            for member in self.members:
                if waiting and member.started and len(member.calls) == load:
                    submit(member, waiting.popleft())

    def _arrivals(self, generation: int, replies: dict[int, Reply]) -> list[tuple[Call, Reply | None]]:
        """Wait for answers, deaths and newly started members, at most a tick. None in place of a reply: lost."""
        calls = {reference: call for member in self.members for reference, call in member.calls.items()}
        starting = {member.ready: member for member in self.members if not member.started}
        wanted = {
            reference: call.task
            for reference, call in calls.items()
            if call.generation == generation and call.task not in replies
        }
        others = [reference for reference in calls if reference not in wanted]  # late answers nobody waits for
        # With one task each there is nothing to hand out before all have answered: one wait serves them all.
        number = 1 if self.config.calls_per_worker > 1 or starting or not wanted else len(set(wanted.values()))
        ready, _ = ray.wait([*wanted, *starting] or others, num_returns=number, timeout=TICK_S)
        if others:
            ready = {*ready, *ray.wait(others, num_returns=len(others), timeout=0)[0]}
        arrivals: list[tuple[Call, Reply | None]] = []
        for reference in ready:
            member = starting[reference] if reference in starting else calls[reference].member
            if member not in self.members:
                continue  # found dead through another of its calls
            try:
                value = ray.get(reference)
            except RayTaskError as error:
                raise _cause(error) from error
            except RayError as error:
                if reference in starting and not isinstance(error, RayActorError):
                    raise RuntimeError(f"a worker did not start: {error}") from error
                arrivals += [(call, None) for call in self._replace(member, error)]
                continue
            if reference in starting:
                self._admit(member, value)
            else:
                arrivals.append((member.calls.pop(reference), value))
        return arrivals

    def _elsewhere(self, lost: Call) -> bool:
        """Is another member still at work on the same task?"""
        calls = (call for member in self.members for call in member.calls.values())
        return any(call.task == lost.task and call.generation == lost.generation for call in calls)

    def _reissue(self, tasks: list[Task], replies: dict[int, Reply], generation: int, submit: Any) -> int:
        """Give the longest-unanswered tasks to idle members as well, once each; return the pairs given."""
        idle = [member for member in self.members if member.started and not member.calls]
        if not idle:
            return 0
        now = time.monotonic()
        calls = [call for member in self.members for call in member.calls.values()]
        open_calls = [call for call in calls if call.generation == generation and call.task not in replies]
        copies = {call.task: sum(other.task == call.task for other in open_calls) for call in open_calls}
        late = [
            call
            for call in sorted(open_calls, key=lambda call: call.since)
            if now - call.since > self.config.reissue_after_s and copies[call.task] == 1
        ]
        for member, call in zip(idle, late, strict=False):
            submit(member, call.task)
        return sum(tasks[call.task].stop - tasks[call.task].start for _, call in zip(idle, late, strict=False))

    def _end_overdue(self) -> None:
        """Kill members that left a call unanswered for timeout_s: it then comes back as lost. Give up without any."""
        now = time.monotonic()
        if all(not member.started and now - member.since > self.config.start_timeout_s for member in self.members):
            raise RuntimeError(f"no worker is left, and none started within {self.config.start_timeout_s:g} s")
        for member in self.members:
            since = min((call.since for call in member.calls.values()), default=now)
            if now - since > self.config.timeout_s:
                ray.kill(member.actor)
                for call in member.calls.values():
                    call.since = now  # once is enough

    # ---- members

    def _start_member(self) -> Member:
        options = {"num_cpus": self.config.cpus_per_worker, "max_restarts": 0, "max_task_retries": 0}
        actor = Worker.options(**options).remote()  # type: ignore[attr-defined]
        ready = actor.start.remote(self.objective, self.config, self.noise.dimension)
        return Member(actor, ready, time.monotonic())

    def _admit(self, member: Member, fingerprint: str) -> None:
        if fingerprint != self.noise.fingerprint:
            raise RuntimeError(
                f"a worker makes other noise ({fingerprint}) than the driver ({self.noise.fingerprint}): "
                "every node needs the same numpy and kind of processor"
            )
        member.started = True

    def _replace(self, member: Member, error: Exception) -> list[Call]:
        """Strike a dead member and start another; return the calls that died with it."""
        self.lost_workers += 1
        if self.lost_workers > self.config.max_lost_workers:
            raise RuntimeError(
                f"{self.lost_workers} workers were lost (max_lost_workers); the last: {error}"
            ) from error
        self.members[self.members.index(member)] = self._start_member()
        return list(member.calls.values())

    def _await_members(self) -> None:
        deadline = time.monotonic() + self.config.start_timeout_s
        while missing := sum(not member.started for member in self.members):
            if time.monotonic() > deadline:
                cpus, free = ray.cluster_resources().get("CPU", 0), ray.available_resources().get("CPU", 0)
                raise RuntimeError(
                    f"{missing} of {self.config.workers} workers did not start in {self.config.start_timeout_s:g} s: "
                    f"Ray has {cpus:g} CPUs, {free:g} of them free"
                )
            self._arrivals(-1, {})

    def close(self) -> None:
        """End the actors, letting go of their node's noise table first, and a Ray that was started here."""
        closing = [member.actor.close.remote() for member in self.members if member.started]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=2.0)
        for member in self.members:
            ray.kill(member.actor)
        self.members = []
        if self.started_ray:
            ray.shutdown()


def start_ray_if_needed(config: ESConfig) -> bool:
    """Use the Ray this process is connected to; else start a quiet local one. Return whether it was started."""
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    cpus = max(1, int(np.ceil(config.workers * config.cpus_per_worker)))
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    return True


def _cause(error: RayTaskError) -> Exception:
    """What the worker's code raised, without Ray's wrapping."""
    cause = error.cause
    return cause if isinstance(cause, Exception) else error


def open_pool(objective: Objective, config: ESConfig, noise: Noise) -> Pool:
    return RayPool(objective, config, noise) if config.workers else LocalPool(objective, config, noise)
