"""Each row of an embedding table lies on one worker, and batches ask for theirs.

Shapes: W workers, R looked-up ids, U distinct rows of this worker's batch, A rows that all workers ask this one for, V
distinct ones among them, E width.

Row r lies on worker r % W, as row r // W of its weight. A field's common values have low numbers, so blocks would put
them on one worker; modulo deals them out evenly, and who holds a row, and where, follows from its number.

A step sends out the ids (U), gets vectors back (U x E) and returns gradients (U x E): this worker's batch, whatever the
table's size. The owner adds the gradients of a row in the order of ranks, so that no sum depends on who came first. The
distinct rows of a batch are kept by owner, and then by number: so they lie in the order in which they travel.

**Plans.** Ids, and all that follows from them, are exchanged by `plan`, which needs no vectors and no gradients:
ahead.py makes the plan of a batch while earlier ones are stepped on.

**Prefetch.** Two plans that follow each other may be divided (`divide`) by the rows that both batches touch, on any
worker. What batch k + 1 alone touches does not change in step k: it may be fetched (`prefetch`) while step k computes.
What batch k alone touches is not read in step k + 1: its gradients may come, and be applied, while step k + 1 computes
(`deferred`), before what batch k + 2 alone touches is fetched. Only rows in both are waited for. So every vector that a
step reads, and every update, is what it would be without: the same bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from distributed.tables.collectives import Group, count_sent, exchange, swap, world_size
from distributed.tables.protocol import Sums, add_by_rank, wire_ids
from models.embedding import EmbeddingTable, TouchedRows
from models.row_kernels import INT32_ROWS, Distinct, distinct_ids, take_rows

COUNTS = 16  # bytes of a lookup's head to each other worker: how many ids come, whether it will ask again


@dataclass
class Route:
    """Rows that travel together. Vectors of rows_A go to who asked for them (back[w] to worker w), and this worker gets
    those of index_U (None: all of its distinct rows), out[w] of them from worker w; gradients go the other way.

    asked: the distinct ones of rows_A, and where they are among them (None: no gradients go this way); lies_A, relay:
    see node_shards.py.
    """

    out: list[int]
    back: list[int]
    rows_A: Tensor
    asked: Distinct | None
    index_U: Tensor | None = None
    lies_A: Tensor | None = None
    relay: "Relay | None" = None

    def own(self, values_UE: Tensor) -> Tensor:
        """This worker's, of what there is of all its distinct rows."""
        return values_UE if self.index_U is None else values_UE.index_select(0, self.index_U)

    def put(self, values_UE: Tensor, own: Tensor) -> None:
        assert self.index_U is not None
        values_UE.index_copy_(0, self.index_U, own)

    def fetching(self, some: "Marked") -> "Route":
        """Only these rows, for vectors alone."""
        index_U, index_A = (mask.nonzero().flatten() for mask in (some.of_U, some.of_A))
        out, back = within(index_U, self.out), within(index_A, self.back)
        relay = None if self.relay is None else self.relay.only(some.of_C)
        return Route(out, back, self.rows_A.index_select(0, index_A), None, index_U, relay=relay)

    def sending(self, some: "Marked") -> "Route":
        """Only these rows, for gradients alone, on a CPU."""
        assert self.asked is not None
        ids_V, none, order_A, begin_V = self.asked
        index_U, index_A, index_V = (mask.nonzero().flatten() for mask in (some.of_U, some.of_A, some.of_V))
        number_A = some.of_A.cumsum(0).sub_(1)
        kept_A = order_A.index_select(0, some.of_A.index_select(0, order_A).nonzero().flatten())
        size_V = torch.cat([begin_V[1:], begin_V.new_tensor([len(order_A)])[: len(begin_V)]]).sub_(begin_V)
        size_V = size_V.index_select(0, index_V)
        asked = Distinct(
            ids_V.index_select(0, index_V), none[:0], number_A.index_select(0, kept_A), size_V.cumsum(0).sub_(size_V)
        )
        lies_A = None if self.lies_A is None else self.lies_A.index_select(0, index_A)
        out, back = within(index_U, self.out), within(index_A, self.back)
        relay = None if self.relay is None else self.relay.only(some.of_C)
        return Route(out, back, self.rows_A[:0], asked, index_U, lies_A, relay)


class Relay(NamedTuple):
    """Rows (C) that a worker hands on for those that send to it, sizes[c] of the c-th: where each lies in the shards of
    this machine, and where among all of the plan, if these are not all."""

    sizes: list[int]
    key_C: Tensor
    at_C: Tensor | None = None

    def only(self, mask_C: Tensor) -> "Relay":
        at_C = mask_C.nonzero().flatten()
        return Relay(within(at_C, self.sizes), self.key_C.index_select(0, at_C), at_C)


class Marked(NamedTuple):
    """Some of the rows of a plan: of this worker's own, of what it is asked for, of the distinct ones of these, and of
    what it hands on."""

    of_U: Tensor
    of_A: Tensor
    of_V: Tensor
    of_C: Tensor

    def others(self) -> "Marked":
        return Marked(*(~mask for mask in self))


@dataclass
class Plan:
    """Of one lookup: `own` are its distinct ids. Once it is divided, its rows are fetched by two routes, early_UE being
    what has come by the early one; and once the batch after it is known, gradients are sent by two."""

    own: Distinct
    whole: Route
    more: bool
    """Whether any worker said that it will ask again."""
    early: Route | None = None
    late: Route | None = None
    early_UE: Tensor | None = None
    urgent: Route | None = None
    deferred: Route | None = None

    def to(self, device: torch.device) -> "Plan":
        """The plan of an undivided lookup; on the device where it is, the plan itself."""
        if device == self.own.ids_U.device:
            return self
        route = self.whole
        assert route.asked is not None
        whole = Route(route.out, route.back, route.rows_A.to(device), route.asked.to(device))
        return Plan(self.own.to(device), whole, self.more)


class Asked(NamedTuple):
    """What the workers ask this one for: back[w] rows worker w, rows_A in all; whether any will ask again."""

    back: list[int]
    rows_A: Tensor
    more: bool
    lies_A: Tensor | None = None
    relay: Relay | None = None


class Sharded:
    """This worker's part of a sharded table; the table's lookups go through it.

    Every worker must look up the same number of times: in training each takes every step, if need be with an empty
    batch; where numbers differ, `answering` (placement.py) makes up for it.
    """

    def __init__(self, table: EmbeddingTable, wire: torch.dtype = torch.float32) -> None:
        self.table, self.wire, self.rank, self.workers = table, wire, dist.get_rank(), world_size()
        self.most = -(-table.rows // self.workers)
        """Rows of the worker that holds most."""
        self.ready: Plan | None = None
        self.current: Plan | None = None
        self.kept: tuple[Route, Any] | None = None
        """Gradients of the last step that are still to be sent."""
        self.order: Tensor | None = None
        """The workers in the order in which a batch's rows are kept by owner, if that is not the one of ranks."""
        self.slots: Tensor | None = None
        """Where each is in it."""
        table.distinct_ids, table.fetch = self.distinct_ids, self.fetch

    # ---- plans

    def keys(self, ids_R: Tensor) -> Tensor:
        """Where the rows lie, if the shards of all workers, equally long, are laid one after the other."""
        if self.workers * self.most < INT32_ROWS:
            ids_R = ids_R.int()  # divides in a third of the time
        row_R = ids_R // self.workers
        owner_R = ids_R - row_R * self.workers
        if self.slots is not None:
            owner_R = self.slots.to(owner_R.dtype)[owner_R]
        return owner_R.mul_(self.most).add_(row_R)

    def plan(self, ids_R: Tensor, group: Group = None, more: bool = True) -> Plan:
        found = distinct_ids(self.keys(ids_R), self.workers * self.most)
        key_U = found.ids_U.long()
        workers = torch.arange(self.workers, device=key_U.device)
        size_W = torch.searchsorted(key_U, (workers + 1) * self.most)
        size_W[1:] -= size_W[:-1].clone()
        owner_U = workers.repeat_interleave(size_W)
        row_U = key_U - owner_U * self.most
        asked = self.ask(key_U, row_U, size_W, more, group)
        among = distinct_ids(asked.rows_A, self.most)
        route = Route(size_W.tolist(), asked.back, asked.rows_A, among, None, asked.lies_A, asked.relay)
        if self.order is not None:
            owner_U = self.order[owner_U]
        return Plan(found._replace(ids_U=row_U * self.workers + owner_U), route, asked.more)

    def ask(self, key_U: Tensor, row_U: Tensor, size_W: Tensor, more: bool, group: Group) -> Asked:
        """Tell the owners which of their rows this worker wants."""
        back, asks = self.counts(size_W, more, group)
        rows_A = exchange(row_U.to(wire_ids(self.table.rows)), size_W.tolist(), back, "ids", group).long()
        return Asked(back, rows_A, asks)

    def counts(self, out_W: Tensor, more: bool, group: Group) -> tuple[list[int], bool]:
        """How many rows each worker asks for, whether any will ask again."""
        found = swap(torch.stack([out_W, torch.full_like(out_W, int(more))], 1), group).tolist()
        count_sent("counts", COUNTS * (self.workers - 1))
        return [count for count, _ in found], any(asks for _, asks in found)

    def use(self, plan: Plan) -> None:
        self.ready = plan

    def divide(self, before: Plan, plan: Plan, group: Group = None) -> None:
        """Find what two batches that follow each other share, for both; owners tell who asked."""
        one, two = before.whole, plan.whole
        assert one.asked is not None
        assert two.asked is not None
        urgent_V, late_V = common(one.asked.ids_U, two.asked.ids_U)
        urgent_A, late_A = urgent_V[one.asked.position_R], late_V[two.asked.position_R]
        (urgent_U, urgent_C), (late_U, late_C) = self.tell(one, two, urgent_A, late_A, group)
        urgent, late = Marked(urgent_U, urgent_A, urgent_V, urgent_C), Marked(late_U, late_A, late_V, late_C)
        before.urgent, before.deferred = one.sending(urgent), one.sending(urgent.others())
        plan.late, plan.early = two.fetching(late), two.fetching(late.others())

    def tell(self, one: Route, two: Route, one_A: Tensor, two_A: Tensor, group: Group) -> Any:
        """Marks of what this worker is asked for on two routes go to who asked; its own come back, and of each route
        those of what it hands on."""
        both = zip(one_A.split(one.back), two_A.split(two.back), strict=True)
        marks = torch.cat([mark for pair in both for mark in pair]).to(torch.uint8)
        back = [size for pair in zip(one.out, two.out, strict=True) for size in pair]
        away, come = (
            [a + b for a, b in zip(*sizes, strict=True)] for sizes in ((one.back, two.back), (one.out, two.out))
        )
        pieces = exchange(marks, away, come, "marks", group).bool().split(back)
        return (torch.cat(pieces[::2]), marks[:0].bool()), (torch.cat(pieces[1::2]), marks[:0].bool())

    # ---- vectors

    def distinct_ids(self, ids_R: Tensor) -> Distinct:
        """The table's hook: the distinct ids of a training lookup."""
        self.current, self.ready = self.ready or self.plan(ids_R), None
        return self.current.own

    def fetch(self, ids_R: Tensor) -> Tensor:
        """The vectors (R, E) of any rows of the whole table. In training they are those of `distinct_ids`."""
        if not (self.table.training and torch.is_grad_enabled()):
            asked = self.plan(ids_R)
            return self.travel(asked.whole).index_select(0, asked.own.position_R)
        plan = self.current
        assert plan is not None
        if plan.early is None or plan.late is None:
            return self.travel(plan.whole)
        assert plan.early_UE is not None
        vectors_UE = plan.early_UE.new_empty(len(plan.own.ids_U), plan.early_UE.shape[1])
        plan.early.put(vectors_UE, plan.early_UE)
        plan.late.put(vectors_UE, self.travel(plan.late))
        return vectors_UE

    def prefetch(self, plan: Plan, group: Group = None) -> None:
        """Get what a divided plan's batch alone touches; once what was kept back two steps before has come."""
        if plan.early is not None:
            plan.early_UE = self.travel(plan.early, group)

    def travel(self, route: Route, group: Group = None) -> Tensor:
        """Vectors from their owners to who asked."""
        vectors_AE = take_rows(self.table.weight, route.rows_A)
        return exchange(vectors_AE.to(self.wire), route.back, route.out, "rows", group).float()

    def answer(self) -> bool:
        """Take part in a lookup without asking anything; whether any worker did."""
        none = torch.empty(0, dtype=torch.int64, device=self.table.weight.device)
        plan = self.plan(none, more=False)
        self.travel(plan.whole)
        return plan.more

    # ---- gradients

    def collect(self, touched: TouchedRows) -> Sums:
        plan = self.current
        assert plan is not None
        if plan.urgent is None or plan.deferred is None:
            return self.sum(plan.whole, self.outgoing(plan.whole, touched))
        self.kept = plan.deferred, self.outgoing(plan.deferred, touched)
        return self.sum(plan.urgent, self.outgoing(plan.urgent, touched))

    def deferred(self, group: Group = None) -> Sums | None:
        """What the last step has kept back, on all workers or on none."""
        if self.kept is None:
            return None
        (route, outgoing), self.kept = self.kept, None
        return self.sum(route, outgoing, group)

    def outgoing(self, route: Route, touched: TouchedRows) -> Any:
        """What `sum` is to send to the owners of this route's rows, as it must be held until then."""
        return route.own(touched.gradient())

    def sum(self, route: Route, outgoing: Any, group: Group = None) -> Sums:
        assert route.asked is not None
        gradient_AE = exchange(outgoing.to(self.wire), route.out, route.back, "rows", group).float()
        return Sums(route.asked.ids_U, add_by_rank(route.asked, gradient_AE, route.back))


def within(index_N: Tensor, sizes: Sequence[int]) -> list[int]:
    """How many of the sorted places lie in each of consecutive pieces of these sizes."""
    ends = torch.searchsorted(index_N, torch.tensor(list(accumulate(sizes))))
    return ends.diff(prepend=ends.new_zeros(1)).tolist()


def common(one_V: Tensor, two_V: Tensor) -> tuple[Tensor, Tensor]:
    """Of two sorted lists of distinct numbers: which of each are in the other."""
    in_two, in_one = torch.zeros_like(one_V, dtype=torch.bool), torch.zeros_like(two_V, dtype=torch.bool)
    if len(one_V) and len(two_V):
        place = torch.searchsorted(two_V, one_V).clamp_(max=len(two_V) - 1)
        in_two = two_V[place] == one_V
        in_one[place[in_two]] = True
    return in_two, in_one
