"""A generation scored by Ray actors, any of which may die, hang, be slow, or join while the run is on.

The returns of a task follow from the proposal alone, so it does not matter which worker answers, how often, or when:
the first answer to each task is kept and put in its place by pair id.

How a task is sent: `evaluate` prepares what all calls of the generation share (`share`), Members.next_free says which
worker takes which task, `_send` makes the call. What comes back: `_arrivals`, `_collect`, `_combine`. A task whose
workers die is narrowed down until the candidate is found that kills them (es/deaths.py).
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from data.errors import Stopped
from es.algorithms.base import Proposal
from es.config import ESConfig
from es.contract import name_of
from es.deaths import CONVINCED, Lost, killer, narrowed
from es.members import TICK_S, Call, Member, Members, cause, start_ray_if_needed
from es.noise import Noise
from es.objectives.base import Objective
from es.tasks import Choice, Evaluation, Pace, split
from es.wire import pack_proposal, unpack_reply
from es.worker import Reply, Task, batch_pairs, join_statistics

INLINE_BYTES = 2**16  # up to this size a proposal travels inside each call; Ray's store costs 2 ms, but once a node
TASK_BYTES = 32  # generation, sigma and a range of pairs

Arrival = tuple[Call, Reply | Lost]


@dataclass
class Shared:
    """Something that every call of a generation carries: itself where it is small, else its place in Ray's store."""

    content: Any
    bytes_per_call: int


@dataclass
class Scoring:
    """A generation on its way through the workers."""

    proposal: Proposal
    tasks: dict[int, Task]
    """By a number that calls carry; a task that is taken apart gives way to its parts."""
    result: Evaluation
    shared: Shared  # the proposal as it is sent
    state: Shared  # what an observing objective knows; content None where it observes nothing
    waiting: deque[int]  # tasks that no worker has: not handed out yet, or lost with their worker
    replies: dict[int, Reply] = field(default_factory=dict)  # the first answer to each task
    deaths: dict[int, int] = field(default_factory=dict)  # of workers, each while it was at the task

    @property
    def done(self) -> bool:
        return len(self.replies) == len(self.tasks)

    def wants(self, call: Call) -> bool:
        """Is this call of this generation, and its task unanswered?"""
        here = call.generation == self.proposal.generation and call.task in self.tasks
        return here and call.task not in self.replies

    def take_apart(self, index: int, parts: list[Task]) -> None:
        """Put these in the place of a task, each with the deaths that it has seen; they are handed out next."""
        del self.tasks[index]
        first, deaths = self.numbered, self.deaths.pop(index)
        self.numbered += len(parts)
        numbers = range(first, self.numbered)
        self.tasks |= dict(zip(numbers, parts, strict=True))
        self.deaths |= dict.fromkeys(numbers, deaths)
        self.waiting.extendleft(reversed(numbers))

    def __post_init__(self) -> None:
        self.numbered = len(self.tasks)


class RayPool:
    """Up to `workers` actors. Starts a quiet local Ray if none is up, and only then shuts it down again."""

    choice: Choice | None = None

    def __init__(
        self, objective: Objective, config: ESConfig, noise: Noise, workers: int, stopping: Callable[[], bool]
    ) -> None:
        self.config, self.stopping, self.pace, self.name = config, stopping, Pace(), name_of(objective)
        self.batch_pairs = batch_pairs(config, noise)
        self.started_ray = start_ray_if_needed(workers, config.cpus_per_worker)
        self.members = Members(objective, config, noise, workers)
        try:
            self.members.await_minimum(min(config.min_workers or workers, workers), stopping)
        except BaseException:
            self.close()
            raise

    def evaluate(
        self, proposal: Proposal, pairs: int, centre: bool, state: dict[str, np.ndarray] | None = None
    ) -> Evaluation:
        members, began = self.members, time.monotonic()
        members.begin_generation()
        scoring = self._begin(proposal, self._tasks(pairs, centre), state, Evaluation(np.empty((pairs, 2)), None))
        # Two deep, a worker has its next task when it ends one; with a task each, the second would only make it wait.
        depth = 1 if len(scoring.tasks) <= len(members.started) else 2
        while not scoring.done:
            if self.stopping():
                raise Stopped
            for member, task in members.next_free(scoring.waiting, depth, scoring.deaths):
                self._send(scoring, member, task)
            for call, outcome in self._arrivals(scoring):
                self._take(scoring, call, outcome)
            if not scoring.waiting:  # while tasks wait, whoever is idle takes a new one, not a copy of a late one
                self._reissue(scoring)
            members.end_overdue()
            members.poll_newcomers()
        self._combine(scoring, time.monotonic() - began)
        return scoring.result

    # ---- what is sent

    def _tasks(self, pairs: int, centre: bool) -> list[Task]:
        """One or more for each worker that is not still at a task of an earlier generation."""
        free = max(1, sum(not member.calls for member in self.members.started))
        calls = self.config.calls_per_worker or self.pace.calls(pairs, free)
        return split(pairs, centre, self.batch_pairs, free * calls)

    def _begin(
        self, proposal: Proposal, tasks: list[Task], state: dict[str, np.ndarray] | None, result: Evaluation
    ) -> Scoring:
        """Prepare what all calls share. Packed, a small proposal costs Ray half of what the object would."""
        content = pack_proposal(proposal) if proposal.nbytes <= INLINE_BYTES else proposal.shared()
        shared = share(content, proposal.nbytes, result)
        known = share(state, sum(value.nbytes for value in state.values()) if state else 0, result)
        return Scoring(proposal, dict(enumerate(tasks)), result, shared, known, waiting=deque(range(len(tasks))))

    def _send(self, scoring: Scoring, member: Member, index: int) -> None:
        """Call a worker for a task: the proposal, the task's borders, and the rows where candidates are explicit."""
        task = scoring.tasks[index]
        rows_PD = scoring.proposal.rows(task.start, task.stop)
        # Each argument costs Ray 0.1 ms, None as well: those that are empty are left out.
        rest = () if rows_PD is None and scoring.state.content is None else (rows_PD, scoring.state.content)
        reference = member.actor.evaluate.remote(scoring.shared.content, tuple(task), *rest)
        self.members.submitted(Call(reference, member, index, scoring.proposal.generation, time.monotonic()))
        scoring.result.bytes_out += TASK_BYTES + scoring.shared.bytes_per_call + scoring.state.bytes_per_call
        scoring.result.bytes_out += 0 if rows_PD is None else rows_PD.nbytes

    # ---- what comes back

    def _take(self, scoring: Scoring, call: Call, outcome: Reply | Lost) -> None:
        """Keep the first answer to each task; a task whose last worker was lost waits to be handed out again."""
        if not scoring.wants(call):
            return  # a second answer, or one to a task of an earlier generation
        if isinstance(outcome, Reply):
            scoring.replies[call.task] = outcome
            scoring.result.bytes_in += payload(outcome)
            return
        if outcome.killed is not None:
            scoring.deaths[call.task] = scoring.deaths.get(call.task, 0) + 1
        if self._elsewhere(call):
            return
        task = scoring.tasks[call.task]
        scoring.result.lost_pairs += task.stop - task.start
        deaths = scoring.deaths.get(call.task, 0)
        parts = narrowed(task, self.batch_pairs, deaths) if outcome.killed is not None else None
        if parts is None:
            scoring.waiting.appendleft(call.task)
        elif parts:
            if deaths >= CONVINCED:  # known now: the limit is for deaths that nothing explains
                self.members.lost -= CONVINCED
            scoring.take_apart(call.task, parts)
        else:
            scoring.replies[call.task] = killer(self.name, task, scoring.proposal.generation, outcome.killed)

    def _arrivals(self, scoring: Scoring) -> list[Arrival]:
        """Wait for answers and deaths, at most a tick."""
        calls = {call.reference: call for call in self.members.calls()}
        wanted = [call for call in calls.values() if scoring.wants(call)]
        if not calls:
            self.members.poll_newcomers(wait_s=TICK_S)
            return []
        one_each = len(wanted) == len(calls) == len({call.member for call in calls.values()})
        if wanted and one_each and not scoring.waiting:
            # Each worker has one call and all are needed: one question to Ray serves them all, which a cheap
            # generation notices. While tasks wait, whoever is free first must get the next at once instead.
            try:
                found = [unpack_reply(reply) for reply in ray.get([c.reference for c in wanted], timeout=TICK_S)]
            except (GetTimeoutError, RayError):
                pass  # one is late or dead: those that are there are taken one by one below
            else:
                for call in wanted:
                    self.members.answered(call)
                return list(zip(wanted, found, strict=True))
            ready = ray.wait(list(calls), num_returns=len(calls), timeout=0)[0]
        else:
            ready = ray.wait([call.reference for call in wanted] or list(calls), timeout=TICK_S)[0]
            # Late answers that nobody waits for are taken too: their workers are free again.
            ready = {*ready, *ray.wait(list(calls), num_returns=len(calls), timeout=0)[0]}
        arrivals: list[Arrival] = []
        for reference in ready:
            arrivals += self._collect(calls[reference])
        return arrivals

    def _collect(self, call: Call) -> list[Arrival]:
        """The answer to a call that is over; where its worker died, every call that was lost with it."""
        if call.member not in self.members.all:
            return []  # found dead through another of its calls
        try:
            reply = unpack_reply(ray.get(call.reference))
        except RayTaskError as error:
            raise cause(error) from error
        except RayError as error:
            return self._lost(call.member, error)
        self.members.answered(call)
        return [(call, reply)]

    def _lost(self, member: Member, error: RayError) -> list[Arrival]:
        """What a dead worker has answered all the same, and what was lost with it.

        Which of two calls it died of cannot be told: the answer to the first may have been on its way.
        """
        arrivals: list[Arrival] = []
        for call in list(member.calls.values()):
            try:
                reply = unpack_reply(ray.get(call.reference, timeout=0))
            except RayError:
                continue
            self.members.answered(call)
            arrivals.append((call, reply))
        lost = Lost(error if self.members.died_by_itself(member) else None)
        return arrivals + [(call, lost) for call in self.members.replace(member, error)]

    def _combine(self, scoring: Scoring, wall_s: float) -> None:
        """Put every answer in its place, in pair order: sums made of them must not follow the order of arrival."""
        result = scoring.result
        busy_s = sum(reply.seconds for reply in scoring.replies.values())
        answered = sorted(((task, scoring.replies[index]) for index, task in scoring.tasks.items()), key=itemgetter(0))
        for task, reply in answered:
            part = slice(task.start, task.stop), slice(None) if task.member is None else task.member
            result.returns_n2[part] = reply.returns_k2[:, part[1]]
            result.centre = reply.centre if task.centre else result.centre
            result.error = result.error or reply.error
        result.statistics_n2S = join_statistics(answered, len(result.returns_n2))
        result.workers = len(self.members.started)
        result.idle_share = min(max(1 - busy_s / (max(result.workers, 1) * wall_s), 0.0), 1.0)
        if len(result.returns_n2):
            self.pace.add(len(result.returns_n2), busy_s)

    # ---- the late and the lost

    def _elsewhere(self, lost: Call) -> bool:
        """Is another worker still at the same task?"""
        calls = self.members.calls()
        return any(call.task == lost.task and call.generation == lost.generation for call in calls)

    def _reissue(self, scoring: Scoring) -> None:
        """Give the tasks that have been unanswered for longest to idle workers as well, at most one copy of each."""
        idle = [member for member in self.members.started if not member.calls]
        if not idle:
            return
        now = time.monotonic()
        open_calls = [call for call in self.members.calls() if scoring.wants(call)]
        copies = {call.task: sum(other.task == call.task for other in open_calls) for call in open_calls}
        late = [
            call
            for call in sorted(open_calls, key=lambda call: call.since)
            if now - call.since > self.config.reissue_after_s and copies[call.task] == 1
        ]
        for member, call in zip(idle, late, strict=False):
            self._send(scoring, member, call.task)
            scoring.result.reissued_pairs += scoring.tasks[call.task].stop - scoring.tasks[call.task].start

    def close(self) -> None:
        """End the actors, and a Ray that was started here."""
        self.members.close()
        if self.started_ray:
            ray.shutdown()


def share(content: Any, nbytes: int, result: Evaluation) -> Shared:
    """Small things inside each call, large ones put into Ray's store, from which a node fetches them once."""
    if nbytes <= INLINE_BYTES:
        return Shared(content, nbytes)
    result.bytes_out += nbytes
    return Shared(ray.put(content), 0)


def payload(reply: Reply) -> int:
    """Bytes of returns and of what was seen."""
    return reply.returns_k2.nbytes + (0 if reply.statistics_k2S is None else reply.statistics_k2S.nbytes)
