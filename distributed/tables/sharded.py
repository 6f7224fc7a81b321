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

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from distributed.tables.collectives import Group, count_sent, exchange, swap, world_size
from distributed.tables.protocol import Sums, add_by_rank, wire_ids
from models.embedding import EmbeddingTable, TouchedRows

COUNTS = 16  # bytes of a lookup's head to each other worker: how many ids come, whether it will ask again


@dataclass
class Route:
    """Rows that travel together. Vectors of rows_A go to who asked for them (back[w] to worker w), and this worker gets
    those of index_U (None: all of its distinct rows), out[w] of them from worker w; gradients go the other way.

    rows_A = ids_V[position_A]: what the owner adds up, and where.
    """

    out: list[int]
    back: list[int]
    rows_A: Tensor
    ids_V: Tensor
    position_A: Tensor
    index_U: Tensor | None = None

    def own(self, values_UE: Tensor) -> Tensor:
        """This worker's, of what there is of all its distinct rows."""
        return values_UE if self.index_U is None else values_UE.index_select(0, self.index_U)

    def put(self, values_UE: Tensor, own: Tensor) -> None:
        assert self.index_U is not None
        values_UE.index_copy_(0, self.index_U, own)

    def part(self, mask_U: Tensor, mask_A: Tensor, mask_V: Tensor) -> "Route":
        """Only these rows; mask_V of the distinct rows agrees with mask_A."""
        number_V = mask_V.cumsum(0) - 1
        return Route(
            [int(mask.sum()) for mask in mask_U.split(self.out)],
            [int(mask.sum()) for mask in mask_A.split(self.back)],
            self.rows_A[mask_A],
            self.ids_V[mask_V],
            number_V[self.position_A[mask_A]],
            mask_U.nonzero().flatten(),
        )


@dataclass
class Plan:
    """Of one lookup: ids_U[position_R] are its ids. Once it is divided, its rows are fetched by two routes, early_UE
    being what has come by the early one; and once the batch after it is known, gradients are sent by two."""

    ids_U: Tensor
    position_R: Tensor
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
        if device == self.ids_U.device:
            return self
        route = self.whole
        tensors = (tensor.to(device) for tensor in (route.rows_A, route.ids_V, route.position_A))
        whole = Route(route.out, route.back, *tensors)
        return Plan(self.ids_U.to(device), self.position_R.to(device), whole, self.more)


class Sharded:
    """This worker's part of a sharded table; the table's lookups go through it.

    Every worker must look up the same number of times: in training each takes every step, if need be with an empty
    batch; where numbers differ, `answering` (placement.py) makes up for it.
    """

    def __init__(self, table: EmbeddingTable, wire: torch.dtype = torch.float32) -> None:
        self.table, self.wire, self.rank, self.workers = table, wire, dist.get_rank(), world_size()
        self.ready: Plan | None = None
        self.current: Plan | None = None
        self.read_VE: Tensor | None = None
        self.kept: tuple[Route, Tensor] | None = None
        """Gradients of the last step that are still to be sent."""
        table.distinct_ids, table.fetch = self.distinct_ids, self.fetch

    # ---- plans

    def plan(self, ids_R: Tensor, group: Group = None, more: bool = True) -> Plan:
        most = -(-self.table.rows // self.workers)  # rows of a worker
        key_R = ids_R % self.workers * most + ids_R // self.workers
        key_U, position_R = torch.unique(key_R, return_inverse=True)
        owner_U = key_U // most
        row_U = key_U - owner_U * most
        out = torch.bincount(owner_U, minlength=self.workers)
        counts_W2 = torch.stack([out, torch.full_like(out, int(more))], 1)
        found = swap(counts_W2, group).tolist()
        count_sent("counts", COUNTS * (self.workers - 1))
        sizes, back = out.tolist(), [count for count, _ in found]
        rows_A = exchange(row_U.to(wire_ids(self.table.rows)), sizes, back, "ids", group).long()
        ids_V, position_A = torch.unique(rows_A, return_inverse=True)
        route = Route(sizes, back, rows_A, ids_V, position_A)
        return Plan(row_U * self.workers + owner_U, position_R, route, any(asks for _, asks in found))

    def use(self, plan: Plan) -> None:
        self.ready = plan

    def divide(self, before: Plan, plan: Plan, group: Group = None) -> None:
        """Find what two batches that follow each other share, for both; owners tell who asked."""
        one, two = before.whole, plan.whole
        urgent_V, late_V = common(one.ids_V, two.ids_V)
        urgent_A, late_A = urgent_V[one.position_A], late_V[two.position_A]
        both = zip(urgent_A.split(one.back), late_A.split(two.back), strict=True)
        marks = torch.cat([mark for pair in both for mark in pair]).to(torch.uint8)
        out = [a + b for a, b in zip(one.back, two.back, strict=True)]
        back = [size for pair in zip(one.out, two.out, strict=True) for size in pair]
        come = exchange(marks, out, [a + b for a, b in zip(one.out, two.out, strict=True)], "marks", group).bool()
        pieces = come.split(back)
        urgent_U, late_U = torch.cat(pieces[::2]), torch.cat(pieces[1::2])
        before.urgent = one.part(urgent_U, urgent_A, urgent_V)
        before.deferred = one.part(~urgent_U, ~urgent_A, ~urgent_V)
        plan.late = two.part(late_U, late_A, late_V)
        plan.early = two.part(~late_U, ~late_A, ~late_V)

    # ---- vectors

    def distinct_ids(self, ids_R: Tensor) -> tuple[Tensor, Tensor]:
        """The table's hook: of a training lookup, its distinct ids and where each id is among them."""
        self.current, self.ready = self.ready or self.plan(ids_R), None
        return self.current.ids_U, self.current.position_R

    def fetch(self, ids_R: Tensor) -> Tensor:
        """The vectors (R, E) of any rows of the whole table. In training they are those of `distinct_ids`."""
        if not (self.table.training and torch.is_grad_enabled()):
            asked = self.plan(ids_R)
            return self.travel(asked.whole).index_select(0, asked.position_R)
        plan = self.current
        assert plan is not None
        if plan.early is None or plan.late is None:
            self.read_VE = self.table.weight.index_select(0, plan.whole.ids_V)
            return self.travel(plan.whole, self.read_VE)
        assert plan.early_UE is not None
        self.read_VE = None
        vectors_UE = plan.early_UE.new_empty(len(plan.ids_U), plan.early_UE.shape[1])
        plan.early.put(vectors_UE, plan.early_UE)
        plan.late.put(vectors_UE, self.travel(plan.late))
        return vectors_UE

    def prefetch(self, plan: Plan, group: Group = None) -> None:
        """Get what a divided plan's batch alone touches; once what was kept back two steps before has come."""
        if plan.early is not None:
            plan.early_UE = self.travel(plan.early, group=group)

    def travel(self, route: Route, vectors_VE: Tensor | None = None, group: Group = None) -> Tensor:
        """Vectors from their owners to who asked. vectors_VE: what the owner's rows hold, if it has read them."""
        if vectors_VE is None:
            vectors_AE = self.table.weight.index_select(0, route.rows_A)
        else:
            vectors_AE = vectors_VE.index_select(0, route.position_A)
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
        gradient_UE = touched.gradient()
        if plan.urgent is None or plan.deferred is None:
            return self.sum(plan.whole, gradient_UE)._replace(vectors_VE=self.read_VE)
        self.kept = plan.deferred, plan.deferred.own(gradient_UE)
        return self.sum(plan.urgent, plan.urgent.own(gradient_UE))

    def deferred(self, group: Group = None) -> Sums | None:
        """What the last step has kept back, on all workers or on none."""
        if self.kept is None:
            return None
        (route, gradient), self.kept = self.kept, None
        return self.sum(route, gradient, group)

    def sum(self, route: Route, gradient_UE: Tensor, group: Group = None) -> Sums:
        gradient_AE = exchange(gradient_UE.to(self.wire), route.out, route.back, "rows", group).float()
        return Sums(route.ids_V, add_by_rank(route.position_A, gradient_AE, route.back, len(route.ids_V)))


def common(one_V: Tensor, two_V: Tensor) -> tuple[Tensor, Tensor]:
    """Of two sorted lists of distinct numbers: which of each are in the other."""
    in_two, in_one = torch.zeros_like(one_V, dtype=torch.bool), torch.zeros_like(two_V, dtype=torch.bool)
    if len(one_V) and len(two_V):
        place = torch.searchsorted(two_V, one_V).clamp_(max=len(two_V) - 1)
        in_two = two_V[place] == one_V
        in_one[place[in_two]] = True
    return in_two, in_one
