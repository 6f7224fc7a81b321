"""A generation scored by Ray actors, any of which may die, hang, be slow, or join while the run is on.

The returns of a task follow from the proposal alone, so it does not matter which worker answers, how often, or when:
the first answer to each task is kept and put in its place by pair id.

How a task is sent: `evaluate` prepares what all calls of the generation share (`share`), Members.next_free says which
worker takes which task, `_send` makes the call. What comes back: `_arrivals`, `_collect`, `_combine`.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from es.algorithms.base import Proposal
from es.config import ESConfig
from es.members import TICK_S, Call, Member, Members, cause, start_ray_if_needed
from es.noise import Noise
from es.objectives.base import Objective
from es.tasks import Choice, Evaluation, Interrupted, Pace, split
from es.wire import pack_proposal, unpack_reply
from es.worker import Reply, Task, batch_pairs

INLINE_BYTES = 2**16  # up to this size a proposal travels inside each call; Ray's store costs 2 ms, but once a node
TASK_BYTES = 32  # generation, sigma and a range of pairs

Arrival = tuple[Call, Reply | None]  # None: lost


@dataclass
class Shared:
    """Something that every call of a generation carries: itself where it is small, else its place in Ray's store."""

    content: Any
    bytes_per_call: int


@dataclass
class Scoring:
    """A generation on its way through the workers."""

    proposal: Proposal
    tasks: list[Task]
    result: Evaluation
    shared: Shared  # the proposal as it is sent
    state: Shared  # what an observing objective knows; content None where it observes nothing
    waiting: deque[int]  # tasks that no worker has: not handed out yet, or lost with their worker
    replies: dict[int, Reply] = field(default_factory=dict)  # the first answer to each task

    @property
    def done(self) -> bool:
        return len(self.replies) == len(self.tasks)

    def wants(self, call: Call) -> bool:
        """Is this call of this generation, and its task unanswered?"""
        return call.generation == self.proposal.generation and call.task not in self.replies


class RayPool:
    """Up to `workers` actors. Starts a quiet local Ray if none is up, and only then shuts it down again."""

    choice: Choice | None = None

    def __init__(
        self, objective: Objective, config: ESConfig, noise: Noise, workers: int, stopping: Callable[[], bool]
    ) -> None:
        self.config, self.stopping, self.pace = config, stopping, Pace()
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
                raise Interrupted
            for member, task in members.next_free(scoring.waiting, depth):
                self._send(scoring, member, task)
            for call, reply in self._arrivals(scoring):
                self._take(scoring, call, reply)
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
        return Scoring(proposal, tasks, result, shared, known, waiting=deque(range(len(tasks))))

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

    def _take(self, scoring: Scoring, call: Call, reply: Reply | None) -> None:
        """Keep the first answer to each task; a task whose last worker was lost waits to be handed out again."""
        if not scoring.wants(call):
            return  # a second answer, or one to a task of an earlier generation
        if reply is not None:
            scoring.replies[call.task] = reply
            scoring.result.bytes_in += payload(reply)
        elif not self._elsewhere(call):
            scoring.waiting.appendleft(call.task)
            scoring.result.lost_pairs += scoring.tasks[call.task].stop - scoring.tasks[call.task].start

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
            return [(lost, None) for lost in self.members.replace(call.member, error)]
        self.members.answered(call)
        return [(call, reply)]

    def _combine(self, scoring: Scoring, wall_s: float) -> None:
        """Put every answer in its place, in pair order: sums made of them must not follow the order of arrival."""
        result = scoring.result
        busy_s = sum(reply.seconds for reply in scoring.replies.values())
        for index, task in enumerate(scoring.tasks):
            reply = scoring.replies[index]
            result.returns_n2[task.start : task.stop] = reply.returns_k2
            result.centre = reply.centre if task.centre else result.centre
            result.error = result.error or reply.error
        result.statistics_n2S = join_statistics(scoring.tasks, scoring.replies)
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


def join_statistics(tasks: list[Task], replies: dict[int, Reply]) -> np.ndarray | None:
    """Rows of all pairs in their order; zeros for a task in which every evaluation raised."""
    known = [reply.statistics_k2S for reply in replies.values() if reply.statistics_k2S is not None]
    if not known:
        return None
    rows_n2S = np.zeros((tasks[-1].stop, 2, known[0].shape[2]))
    for index, task in enumerate(tasks):
        statistics_k2S = replies[index].statistics_k2S
        if statistics_k2S is not None:
            rows_n2S[task.start : task.stop] = statistics_k2S
    return rows_n2S
