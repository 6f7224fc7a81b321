"""Ten million users on Ray: the same assignment, bit by bit, for any number of workers; seconds, memory, what travels.

    OMP_NUM_THREADS=1 python -m benchmarks.incentives.sharded --users 10000000 --workers 0 1 2

Six options a user in float32 and a budget of .8 a user, drawn block by block, so that every worker makes its own part.
0 is one shard in this process. `travelled`: what the shards answered, pickled, without the assignment itself (a byte a
user). Peak memory: of the largest shard's process; the parts themselves (48 bytes a user) lie in Ray's store.
"""

import hashlib
import pickle
import resource
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.incentives.allocation import table
from funnel.incentives.allocation import Allocation, LocalShards, Shards, allocate
from funnel.incentives.shard import BLOCK, Shard


@dataclass
class Arguments:
    users: int = 10_000_000
    workers: tuple[int, ...] = (0, 1, 2)
    name: str = "allocation-sharded"


class Measured(Shard):
    """A shard that knows the memory of its process."""

    def peak_mib(self) -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def part(users: int, begin: int, end: int) -> Measured:
    """The users of these blocks, as they are drawn for any dealing."""
    value_AU, cost_AU = (np.empty((6, min(end * BLOCK, users) - begin * BLOCK), np.float32) for _ in range(2))
    for block in range(begin, end):
        own = slice((block - begin) * BLOCK, (block - begin + 1) * BLOCK)
        size = min(BLOCK, users - block * BLOCK)
        value_UA, cost_UA = table(size, block)
        value_AU[:, own], cost_AU[:, own] = value_UA.T, cost_UA.T
    return Measured(value_AU, cost_AU[None], begin * BLOCK)


def ends(users: int, shards: int) -> list[tuple[int, int]]:
    blocks = -(-users // BLOCK)
    return list(pairwise(blocks * s // shards for s in range(shards + 1)))


@dataclass
class Counted:
    """Shards whose answers are weighed."""

    shards: Shards
    travelled: int = 0
    calls: int = field(default=0)

    def call(self, method: str, *arguments: Any) -> list[Any]:
        found = self.shards.call(method, *arguments)
        self.calls += 1
        if method not in ("options", "choose"):
            self.travelled += sum(len(pickle.dumps(one)) for one in found)
        return found


def on_ray(users: int, workers: int) -> Any:
    import ray

    from jobs.cluster.shards import RayShards

    make = ray.remote(part)
    return RayShards([make.remote(users, *each) for each in ends(users, workers)])


def measured(users: int, workers: int) -> tuple[dict[str, Any], Allocation]:
    shards: Any = on_ray(users, workers) if workers else LocalShards([part(users, *ends(users, 1)[0])])
    shards.call("peak_mib")  # the parts are there
    counted = Counted(shards)
    began = time.perf_counter()
    found = allocate(counted, 0.8 * users)
    seconds = time.perf_counter() - began
    figures = {
        "users": users,
        "workers": workers,
        "seconds": seconds,
        "gap": found.gap,
        "peak_mib": max(shards.call("peak_mib")),
        "travelled_mib": counted.travelled / 2**20,
        "calls": counted.calls,
        "options_sha256": hashlib.sha256(found.option_U.tobytes()).hexdigest(),
        "value": found.value,
        "bound": found.bound,
    }
    if workers:
        shards.close()
    return figures, found


def main(arguments: Arguments) -> None:
    if any(arguments.workers):
        from jobs.cluster import own
        from jobs.cluster.connect import no_dashboard

        with no_dashboard():
            store = 100 + 2 * 48 * arguments.users // 2**20
            own.start(max(arguments.workers), "ERROR", object_store_mib=store)
    found = [measured(arguments.users, workers)[0] for workers in arguments.workers]
    answers = {(one["options_sha256"], one["value"], one["bound"]) for one in found}
    assert len(answers) == 1, "the answers differ"
    rows = [[f"{one['users']:,}", one["workers"] or "none (one process)", f"{one['seconds']:.1f}", f"{one['gap']:.1e}",
             f"{one['peak_mib']:,.0f}", f"{one['travelled_mib']:.2f}", one["calls"], one["options_sha256"][:12]]
            for one in found]  # fmt: skip
    head = ["users", "Ray workers", "s", "gap", "peak MiB", "travelled MiB", "calls", "assignment"]
    write_result(arguments.name, {"cases": found}, markdown(head, rows))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
