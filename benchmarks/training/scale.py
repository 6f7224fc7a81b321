"""What training would do on more workers than this machine holds: measured parts, formulas, stated assumptions.

    python -m benchmarks.training.cost_growth && python -m benchmarks.training.one_of_many
    python -m benchmarks.training.beside_the_wire
    python -m benchmarks.training.scale
    python -m benchmarks.training.scale --gigabit 25 --table-rows 1000000000

A worker is one core. With sharded tables its step on b rows takes

    s(b, W) + messages + wire + max(0, p(b, W) - h wire) + jitter t(b),  wire = bytes / bandwidth + latency

s, the step, and p, the plan of the batch to come, are the CPU seconds of one worker of W that one_of_many.py measured;
t(b) is the same for a worker alone. Messages are all-to-alls: between all workers for row numbers, vectors and
gradients; between the rows and the columns of their grid (tables/grid.py) for counts, totals and dense gradients, these
to be added up and back; few workers have no grid, and dense gradients go twice round a ring. Each costs the core what
one_of_many.py measured a call, a message and a byte. The wire adds its bytes and one latency for each: gloo sends the
messages of an all-to-all at once. The plan, and its messages, are made while a worker waits for the wire: during the
share h of that time, which beside_the_wire.py measured.

With two cores a worker, plans are made on the second one: p, and the messages of counts and row numbers, are hidden
behind the step. Ahead of "rows" too, what two batches do not share travels there as well, and only the rest of the
vectors and gradients is waited for. Of NEAR workers on each machine one sends a message to every other machine, to its
counterpart there, and has barriers with the near ones: those of the step and the plan (one_of_many.py measured them
with the counterpart's work; what a worker waits in them for others is not in it). With replicated tables every worker
takes in everybody's rows: cost_growth.py's two workers lost w a distinct row, and W lose w W D / 2. Bytes are those of
distributed/tables/, which table_size.py met to the byte.
"""

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tyro

from benchmarks.bench import RESULTS, markdown, write_result
from benchmarks.training import table_size
from benchmarks.training.cost_growth import BASE
from benchmarks.training.table_bytes import bytes_of_counts, bytes_of_rows, bytes_per_step, bytes_to_all
from distributed.context import CPU
from distributed.tables.grid import MANY, sides
from distributed.tables.sharded import COUNTS
from models.rows import EVERY_ROW


@dataclass
class Arguments:
    workers: tuple[int, ...] = (1, 2, 8, 64)
    batch: tuple[int, ...] = (512, 4096)
    """Rows of a worker's share of the global batch."""
    gigabit: float = 10.0
    """Of a worker's network link a second."""
    latency_us: float = 50.0
    """Of a message."""
    jitter: float = 0.05
    """How much longer the slowest worker's step takes than the middle one's."""
    table_rows: int = 100_000_000
    """Of the table whose memory is given."""
    rows_a_day: float = 1e9


def main(arguments: Arguments) -> None:
    growth, many = (sorted(RESULTS.glob(f"*-{name}.json"))[-1] for name in ("cost-growth", "one-of-many"))
    beside = sorted(RESULTS.glob("*-beside-the-wire.json"))[-1:]  # if it was not measured, nothing is hidden
    costs = Costs(*(json.loads(path.read_text()) for path in (growth, many, *beside)))
    rows, found = [], []
    for batch in arguments.batch:
        for case in costs.cases(arguments.workers):
            step = predict(costs, arguments, batch, case)
            found.append({"batch": batch, **vars(case), **step})
            rows.append([
                f"{batch:,}", f"{case.rows:,}", case.label, case.cores, f"{case.workers:,}",
                f"{step['seconds'] * 1e3:.0f}", f"{step['rows_per_s']:,.0f}", f"{step['efficiency']:.0%}",
                *(f"{step[part] * 1e3:.1f}" for part in PARTS), f"{step['bytes'] / 1e6:.1f}",
                f"{step['memory'] / 2**30:.2f}", duration(arguments.rows_a_day / step["rows_per_s"]),
            ])  # fmt: skip
    header = ["rows a worker", "table rows", "table", "cores a worker", "workers", "ms a step", "rows/s", "efficiency"]
    header += [*PARTS, "MB sent a worker and step", "GiB of table a worker", f"{arguments.rows_a_day:.0e} rows take"]
    about = f"""Parts from {", ".join(path.name for path in (many, *beside))}, replicated tables from {growth.name}:
{BASE.fields} fields, {BASE.width} wide, MMoE of 4 experts 128-64, {costs.dense:,} dense weights.
Columns {", ".join(PARTS)}: milliseconds of the step. Assumed:

1. {arguments.gigabit:g} Gbit/s a worker; {arguments.latency_us:g} us latency, once an all-to-all.
2. A message costs a core what the loopback costs here ({costs.call * 1e6:.0f} us an all-to-all,
   {costs.message * 1e6:.0f} more for each other worker or, several workers a machine, other machine,
   {costs.byte * 1e9:.2f} ns a byte sent and taken in), and a barrier of a machine {costs.barrier * 1e6:.0f} us.
3. The slowest worker of a step takes {arguments.jitter:.0%} longer than the middle one. Nobody is lost.
4. The step of one worker of many was measured with the others' messages made up, all workers' batches being alike.
5. Reading keeps up, on a thread that is not counted (alone neither); two cores a worker are compared with one worker
   alone, which has no use for its second.
6. A global batch of so many rows learns as well a row as a smaller one.
7. With one core the plan is made during {costs.hidden:.0%} of the time on the wire.

Memory is for {arguments.table_rows:,} table rows.

"""
    write_result("train-scale", {"arguments": vars(arguments), "steps": found}, about + markdown(header, rows))


NEAR = 8
"""Workers a machine, where several share one; each has a link of its own all the same."""
PARTS = ("own work", "plan", "messages", "wire", "jitter")


@dataclass(frozen=True)
class Case:
    """So many workers of a table of so many rows. cores: of a worker; ahead: what is exchanged beside the step; number:
    bytes of a weight on the wire; near: workers on one machine."""

    rows: int
    tables: str
    workers: int
    cores: int = 1
    ahead: str = "plans"
    number: int = 4
    near: int = 1

    @property
    def label(self) -> str:
        ahead = f", {self.ahead} ahead" if self.cores > 1 else ""
        rest = f"{', bfloat16' if self.number == 2 else ''}{f', {self.near} a machine' if self.near > 1 else ''}"
        return f"{self.tables}{ahead}{rest}" if self.workers > 1 else ""


class Costs:
    """What cost_growth.py and one_of_many.py measured, in seconds and counts."""

    def __init__(self, growth: dict[str, Any], many: dict[str, Any], beside: dict[str, Any] | None = None) -> None:
        growth = growth["runs"]

        def middle(knob: str, label: str, key: str) -> float:
            return float(np.median([run[key] for run in growth[knob][label]]))

        labels = list(growth["batch"])
        batches = [int(label.replace(",", "")) for label in labels]
        half = np.interp(BASE.batch // 2, batches, [middle("batch", label, "ms") for label in labels])
        extra = (middle("workers", "2 replicated", "ms") - half) / 1e3
        self.handing = extra / middle("workers", "2 replicated", "distinct")
        self.one = {(run["rows"], run["workers"], run["near"], run["batch"]): run for run in many["runs"]}
        self.hidden = 0.0
        if beside is not None:
            more = [np.median(own["wire"]) - np.median(own["no wire"]) for own in beside["seconds"].values()]
            self.hidden = max(0.0, float(1 - more[-1] / more[0]))
        self.call, self.message, self.byte = many["call_s"], many["message_s"], many["byte_s"]
        self.barrier = many["barrier_s"]
        network = table_size.make_job("", BASE).open_problem(CPU).network(EVERY_ROW, seed=0)
        self.dense = sum(parameter.numel() for parameter in network.parameters())

    def cases(self, workers: tuple[int, ...]) -> list[Case]:
        found = []
        for rows in sorted({rows for rows, *_ in self.one}):
            found.append(Case(rows, "replicated", 1))
            more = [count for count in workers if count > 1]
            found += [Case(rows, "replicated", count) for count in more]
            for way in ((1, "plans", 4), (2, "plans", 4), (2, "rows", 4), (2, "plans", 2)):
                found += [Case(rows, "sharded", count, *way) for count in more]
            for cores, ahead in ((1, "plans"), (2, "rows")):
                found += [Case(rows, "sharded", count, cores, ahead, near=NEAR) for count in more if count > NEAR]
        return found


def predict(costs: Costs, arguments: Arguments, batch: int, case: Case) -> dict[str, float]:
    """Seconds a step and its parts, rows/s over all workers, bytes a worker sends, bytes of table it holds."""
    alone = costs.one[case.rows, 1, 1, batch]
    workers, bandwidth, latency = case.workers, arguments.gigabit * 1e9 / 8, arguments.latency_us * 1e-6
    parts = dict.fromkeys(PARTS, 0.0) | {"own work": alone["step"]}
    sent = 0.0
    if workers > 1:
        parts["jitter"] = arguments.jitter * alone["step"]
        shared = dense_and_totals(costs, case)
        if case.tables == "replicated":
            distinct = round(alone["distinct"])
            rows = bytes_to_all(distinct, BASE.width, workers)
            sent = rows + shared.bytes
            parts["own work"] += costs.handing * distinct * workers / 2
            parts["wire"] = sent / bandwidth + (2 * (workers - 1) + shared.turns) * latency
        else:
            run = costs.one[case.rows, workers, case.near, batch]
            distinct, asked = round(run["distinct"]), round(run["asked"])
            away, others = (round(number * (1 - case.near / workers)) for number in (distinct, asked))
            machines = workers // case.near
            ahead = bytes_per_step(distinct, distinct - away, others, 0, workers)
            direct, meeting = costs.call + (machines - 1) * costs.message, 0.0
            if case.near > 1:
                ahead += bytes_of_counts([case.near], machines) - COUNTS * (workers - 1)
                meeting = costs.barrier
            rows = case.number * BASE.width * (away + others)
            sent = ahead + rows + shared.bytes
            beside = run["plan"] + direct + shared.call + costs.byte * ahead
            waited = shared.bytes + rows
            parts["own work"] = run["step"]
            if case.ahead == "rows":
                waited = shared.bytes + rows * run["late"]
                beside += run["divide"] + run["move"] + 3 * (direct + meeting)
                beside += costs.byte * (rows + shared.bytes - waited)
                parts["own work"] = run["step_after_move"]
            # vectors and gradients; barriers once gradients lie there, and once rows are written
            parts["messages"] = 2 * (direct + meeting) + shared.seconds + costs.byte * waited
            parts["wire"] = waited / bandwidth + (2 + shared.turns) * latency
            if case.cores == 1:
                parts["plan"] = max(0.0, beside - costs.hidden * parts["wire"])
            else:  # hidden, unless it takes longer than the step
                parts["plan"] = max(0.0, beside + (sent - waited) / bandwidth - sum(parts.values()))
    seconds = sum(parts.values())
    held = -(-arguments.table_rows // (workers if case.tables == "sharded" else 1))
    return {
        "seconds": seconds,
        "rows_per_s": workers * batch / seconds,
        "efficiency": alone["step"] / seconds,
        "bytes": sent,
        "memory": bytes_of_rows(held, BASE.width, "adagrad"),
        **parts,
    }


class Shared(NamedTuple):
    """Of dense gradients and totals: seconds of messages, without their bytes; bytes; all-to-alls, or turns of a ring,
    one after the other; and seconds of what tells all workers small numbers."""

    seconds: float
    bytes: float
    turns: int
    call: float


def dense_and_totals(costs: Costs, case: Case) -> Shared:
    workers, weights = case.workers, 4 * costs.dense
    if case.near > 1:  # all pieces there, one piece back, as one message a machine; totals likewise
        machines = workers // case.near
        direct = costs.call + (machines - 1) * costs.message + costs.barrier
        return Shared(3 * direct, weights * (1 - 1 / machines) + weights / workers * (machines - 1), 3, direct)
    hops = [side - 1 for side in sides(workers)] if workers >= MANY else [workers - 1]
    by_grid = sum(costs.call + count * costs.message for count in hops)
    there_and_back = 2 * len(hops) * weights  # at each hop nearly all of it
    if workers >= MANY:
        return Shared(3 * by_grid, there_and_back, 3 * len(hops), by_grid)
    ring = 2 * (workers - 1)
    return Shared(by_grid + costs.call + ring * costs.message, there_and_back, 1 + ring, by_grid)


def duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
