"""A generation scored by Ray actors that may die, hang, come late or come new.

Each task's returns are a pure function of the proposal, so it does not matter who answers, how often, or when: the
first answer is kept and put in its place by pair id.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from es.algorithms.base import Algorithm, Proposal
from es.config import ESConfig
from es.members import TICK_S, Call, Member, Members, cause, start_ray_if_needed
from es.noise import Noise
from es.objectives.base import Objective
from es.tasks import Choice, Evaluation, Pace, Stopped, split
from es.wire import checksum, pack_proposal, unpack_reply
from es.worker import Reply, Task, batch_pairs

INLINE_BYTES = 2**16  # a proposal up to this size travels inside the call; Ray would put larger ones into its store
TASK_BYTES = 32  # generation, sigma and a range of pairs
MOST_MISSED = 8  # generations whose returns are sent to a follower that was away; beyond, the whole state

Arrival = tuple[Call, Reply | None]  # None: lost


class RayPool:
    """Up to `workers` actors. Starts a quiet local Ray if none is up, and only then shuts it down again."""

    choice: Choice | None = None

    def __init__(
        self,
        objective: Objective,
        config: ESConfig,
        noise: Noise,
        workers: int,
        stopping: Callable[[], bool],
        algorithm: Algorithm,
    ) -> None:
        self.config, self.stopping, self.algorithm, self.pace = config, stopping, algorithm, Pace()
        self.returns: dict[int, bytes] = {}  # of the last generations, for followers
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
        tasks = self._tasks(pairs, centre)
        depth = 1 if len(tasks) <= len(members.started) else 2
        waiting, replies = deque(range(len(tasks))), dict[int, Reply]()
        result = Evaluation(np.empty((pairs, 2)), None)
        submit = self._submitter(proposal, state, tasks, result)
        while len(replies) < len(tasks):
            if self.stopping():
                raise Stopped
            members.hand_out(waiting, depth, submit)
            for call, reply in self._arrivals(proposal.generation, replies, bool(waiting)):
                if call.generation != proposal.generation:
                    continue  # the second answer to a task of an earlier generation
                if reply is None:
                    if call.task not in replies and not self._elsewhere(call):
                        waiting.appendleft(call.task)
                        result.lost_pairs += tasks[call.task].stop - tasks[call.task].start
                elif call.task not in replies:
                    replies[call.task] = reply
                    result.bytes_in += payload(reply)
            if not waiting:
                result.reissued_pairs += self._reissue(tasks, replies, proposal.generation, submit)
            members.end_overdue()
            members.poll_newcomers()
        self._combine(result, tasks, replies, time.monotonic() - began)
        if self.config.broadcast == "returns" and pairs:
            check_followers(proposal, replies)
            self.returns[proposal.generation] = result.returns_n2.tobytes()
            self.returns.pop(proposal.generation - MOST_MISSED, None)
        return result

    def _tasks(self, pairs: int, centre: bool) -> list[Task]:
        """One or more for each worker that is not still at a task of an earlier generation."""
        free = max(1, sum(not member.calls for member in self.members.started))
        calls = self.config.calls_per_worker or self.pace.calls(pairs, free)
        return split(pairs, centre, self.batch_pairs, free * calls)

    def _submitter(
        self, proposal: Proposal, state: dict[str, np.ndarray] | None, tasks: list[Task], result: Evaluation
    ) -> Callable[[Member, int], None]:
        """What sends a task to a member and counts the bytes: small things inside the call, large ones put once."""
        known = Parcel(state, sum(value.nbytes for value in state.values()) if state else 0, result)
        send = self._sends_returns if self.config.broadcast == "returns" else self._sends_theta
        sender = send(proposal, tasks, known, result)

        def submit(member: Member, task: int) -> None:
            reference = sender(member, task)
            self.members.submitted(Call(reference, member, task, proposal.generation, time.monotonic()))
            result.bytes_out += TASK_BYTES

        return submit

    def _sends_theta(
        self, proposal: Proposal, tasks: list[Task], known: "Parcel", result: Evaluation
    ) -> Callable[[Member, int], Any]:
        """Theta, or whatever the proposal shares, with every task."""
        small = proposal.nbytes <= INLINE_BYTES
        shared = Parcel(pack_proposal(proposal) if small else proposal.shared(), proposal.nbytes, result)

        def send(member: Member, task: int) -> Any:
            rows_PD = proposal.rows(tasks[task].start, tasks[task].stop)
            result.bytes_out += 0 if rows_PD is None else rows_PD.nbytes
            # An argument costs Ray 0.1 ms to send, None as well.
            rest = () if rows_PD is None and known.empty else (rows_PD, known.load())
            return member.actor.evaluate.remote(shared.load(), tuple(tasks[task]), *rest)

        return send

    def _sends_returns(
        self, proposal: Proposal, tasks: list[Task], known: "Parcel", result: Evaluation
    ) -> Callable[[Member, int], Any]:
        """The returns of the generations that the member has not seen; the whole state to one too far behind."""
        generation = proposal.generation
        whole_state = self.algorithm.state()
        whole = Parcel(whole_state, sum(value.nbytes for value in whole_state.values()), result)

        def send(member: Member, task: int) -> Any:
            missed = [self.returns.get(past) for past in range(member.at, generation)] if member.at >= 0 else [None]
            behind = any(returns is None for returns in missed)
            told = () if behind else tuple(missed)
            result.bytes_out += sum(len(returns) for returns in told if returns is not None)
            member.at = generation
            start = whole.load() if behind else None
            return member.actor.follow.remote(start, told, generation, tuple(tasks[task]), known.load())

        return send

    # ---- what comes back

    def _arrivals(self, generation: int, replies: dict[int, Reply], more: bool) -> list[Arrival]:
        """Wait for answers and deaths, at most a tick. `more`: tasks wait for whoever is free first."""
        calls = {call.reference: call for call in self.members.calls()}
        wanted = [call for call in calls.values() if call.generation == generation and call.task not in replies]
        if not calls:
            self.members.poll_newcomers(wait_s=TICK_S)
            return []
        if wanted and len(wanted) == len(calls) == len({call.member for call in calls.values()}) and not more:
            # Each member has one call and all are needed: one question serves them all.
            try:
                found = [unpack_reply(reply) for reply in ray.get([c.reference for c in wanted], timeout=TICK_S)]
            except (GetTimeoutError, RayError):
                pass  # one by one below
            else:
                for call in wanted:
                    self.members.answered(call)
                return list(zip(wanted, found, strict=True))
            ready = ray.wait(list(calls), num_returns=len(calls), timeout=0)[0]
        else:
            ready = ray.wait([call.reference for call in wanted] or list(calls), timeout=TICK_S)[0]
            # and whatever else is there, late answers that nobody waits for among it
            ready = {*ready, *ray.wait(list(calls), num_returns=len(calls), timeout=0)[0]}
        arrivals: list[Arrival] = []
        for reference in ready:
            arrivals += self._collect(calls[reference])
        return arrivals

    def _collect(self, call: Call) -> list[Arrival]:
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

    def _combine(self, result: Evaluation, tasks: list[Task], replies: dict[int, Reply], wall_s: float) -> None:
        """Put every answer in its place, in pair order."""
        busy_s = sum(reply.seconds for reply in replies.values())
        for index, task in enumerate(tasks):
            reply = replies[index]
            result.returns_n2[task.start : task.stop] = reply.returns_k2
            result.centre = reply.centre if task.centre else result.centre
            result.error = result.error or reply.error
        result.statistics_n2S = join_statistics(tasks, replies)
        result.workers = len(self.members.started)
        result.idle_share = min(max(1 - busy_s / (max(result.workers, 1) * wall_s), 0.0), 1.0)
        if len(result.returns_n2):
            self.pace.add(len(result.returns_n2), busy_s)

    # ---- the late and the lost

    def _elsewhere(self, lost: Call) -> bool:
        """Is another member still at work on the same task?"""
        calls = self.members.calls()
        return any(call.task == lost.task and call.generation == lost.generation for call in calls)

    def _reissue(
        self, tasks: list[Task], replies: dict[int, Reply], generation: int, submit: Callable[[Member, int], None]
    ) -> int:
        """Give the longest-unanswered tasks to idle members as well, once each; return the pairs given."""
        idle = [member for member in self.members.started if not member.calls]
        if not idle:
            return 0
        now = time.monotonic()
        calls = self.members.calls()
        open_calls = [call for call in calls if call.generation == generation and call.task not in replies]
        copies = {call.task: sum(other.task == call.task for other in open_calls) for call in open_calls}
        late = [
            call
            for call in sorted(open_calls, key=lambda call: call.since)
            if now - call.since > self.config.reissue_after_s and copies[call.task] == 1
        ]
        given = list(zip(idle, late, strict=False))
        for member, call in given:
            submit(member, call.task)
        return sum(tasks[call.task].stop - tasks[call.task].start for _, call in given)

    def close(self) -> None:
        """End the actors, and a Ray that was started here."""
        self.members.close()
        if self.started_ray:
            ray.shutdown()


class Parcel:
    """Something every call of a generation carries: inside each call if it is small, else put into Ray's store once."""

    def __init__(self, content: Any, nbytes: int, result: Evaluation) -> None:
        self.content, self.nbytes, self.result = content, nbytes, result
        self.empty, self._stored = content is None, False

    def load(self) -> Any:
        """What to pass to a call; its bytes are counted."""
        if self.nbytes <= INLINE_BYTES:
            self.result.bytes_out += self.nbytes
        elif not self._stored:
            self.content, self._stored = ray.put(self.content), True
            self.result.bytes_out += self.nbytes
        return self.content


def check_followers(proposal: Proposal, replies: dict[int, Reply]) -> None:
    """RuntimeError if a worker that makes the steps itself has come to another theta than the driver."""
    for crc32 in {reply.theta_crc32 for reply in replies.values()} - {None}:
        if crc32 != checksum(proposal.theta_D):
            raise RuntimeError(f"a worker's own theta is not the driver's in generation {proposal.generation}")


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
