"""How fast a pre-ranker trains, beside the ranker, and how long its top k takes.

    python -m benchmarks.prerank.speed

Training: requests (of 60 learnt rows) and rows a second of one worker in this process, start-up left out, on a stage
log of the small cascade; the entire-space ranker on what was shown there, in rows a second. Top k: exact, one query and
64 at a time, over 100,000 and 1,000,000 items of 32 numbers, on one thread.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.prerank.ablation import MEMORY
from funnel.prerank.index import TopK
from jobs import make_data, train
from jobs.command.cli import parse

WIDTH, K = 32, 60


@dataclass
class Arguments:
    requests: int = 4_000
    """Of the stage log's train part."""
    epochs: int = 3
    items: tuple[int, ...] = (100_000, 1_000_000)
    repeats: int = 15


def main(arguments: Arguments) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        rates = training(Path(folder), arguments)
    found = [seconds(items, queries, arguments.repeats) for items in arguments.items for queries in (1, 64)]
    text = markdown(
        ["training, one worker", "requests/s", "rows/s"],
        [[name, f"{one['requests']:,.0f}" if one["requests"] else "-", f"{one['rows']:,.0f}"]
         for name, one in rates.items()],
    )  # fmt: skip
    text += "\n" + markdown(
        [f"exact top {K}, one thread", "queries at a time", "ms a query, median (least to most)"],
        [[f"{one['items']:,} items", one["queries"], f"{one['ms']:.2f} ({one['low']:.2f} to {one['high']:.2f})"]
         for one in found],
    )  # fmt: skip
    write_result("prerank-speed", {"training": rates, "top_k": found}, text)


def training(place: Path, arguments: Arguments) -> dict[str, dict[str, float]]:
    for kind in ("stages", "exposures"):
        words = ("--world", "cascade", "--log", kind, "--requests", str(arguments.requests), "--valid", "50", "--test",
                 "50", "--out", str(place / kind))  # fmt: skip
        make_data.run(parse(make_data.options_for, words))
    common = ("--workers", "0", "--threads", "1", "--epochs", str(arguments.epochs))
    towers = ("--problem", "prerank", "--batch-size", "128", "--model.hidden", "32", "--model.output", str(WIDTH))
    one = train.run(train.arguments_of("--data", f"{place}/stages", "--out", f"{place}/prerank", *common, *towers))
    ranker = ("--batch-size", "1024", "--objective.name", "escm2_ips")
    two = train.run(train.arguments_of("--data", f"{place}/exposures", "--out", f"{place}/ranker", *common, *ranker))
    requests = one["train.rows_per_s"]
    return {
        "pre-ranker, 60 rows a request": {"requests": requests, "rows": 60 * requests},
        "entire-space ranker (ESCM2-IPS, MMoE)": {"requests": 0.0, "rows": two["train.rows_per_s"]},
    }


def seconds(items: int, queries: int, repeats: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    vector_IO = rng.normal(size=(items, WIDTH)).astype(np.float32)
    vector_IO /= np.linalg.norm(vector_IO, axis=1, keepdims=True)
    index = TopK(pa.array(np.arange(items)), vector_IO)
    query_QO = rng.normal(size=(queries, WIDTH)).astype(np.float32)
    index.top(query_QO, K)
    taken = []
    for _ in range(repeats):
        begun = time.perf_counter()
        index.top(query_QO, K)
        taken.append(1000 * (time.perf_counter() - begun) / queries)
    return {"items": items, "queries": queries, "ms": float(np.median(taken)), "low": min(taken), "high": max(taken)}


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
