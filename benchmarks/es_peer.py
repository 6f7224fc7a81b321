"""EvoTorch's side of benchmarks/es_engine.py, run by the Python of an environment of its own.

Reads a case per line of standard input, {"dimension", "popsize", "actors", "distributed", "generations"}, and answers
each with a line of JSON: milliseconds of each generation, and seconds from nothing to the end of the first.

    python -m venv /tmp/peer && /tmp/peer/bin/pip install evotorch==0.6.1 torch==2.13.0
"""

import json
import logging
import os
import sys
import time

os.environ.update(RAY_AUTH_MODE="disabled", RAY_worker_niceness="0")

import ray
import torch
from evotorch import Problem  # type: ignore[import-not-found]
from evotorch.algorithms import PGPE  # type: ignore[import-not-found]
from evotorch.decorators import vectorized  # type: ignore[import-not-found]


@vectorized
def sphere(x: torch.Tensor) -> torch.Tensor:
    return -torch.sum(x * x, dim=-1)


def measure(case: dict) -> dict:
    """PGPE as OpenAI-ES: symmetric, sigma fixed, Adam, centred ranks."""
    began = time.perf_counter()
    options = {"num_actors": case["actors"]} if case["actors"] else {}
    dimension = case["dimension"]
    problem = Problem("max", sphere, solution_length=dimension, initial_bounds=(-1, 1), dtype=torch.float32, **options)
    searcher = PGPE(
        problem,
        popsize=case["popsize"],
        center_learning_rate=0.05,
        stdev_learning_rate=0.0,
        stdev_init=0.1,
        optimizer="adam",
        ranking_method="centered",
        center_init=torch.ones(dimension),
        distributed=case["distributed"],
    )
    milliseconds = []
    start_s = 0.0
    for _ in range(case["generations"]):
        before = time.perf_counter()
        searcher.step()
        milliseconds.append((time.perf_counter() - before) * 1e3)
        start_s = start_s or time.perf_counter() - began
    if case["actors"]:
        problem.kill_actors()
    return {"milliseconds": milliseconds, "start_s": start_s}


def main() -> None:
    logging.disable(logging.WARNING)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print does not belong among the answers
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    for line in sys.stdin:
        print(json.dumps(measure(json.loads(line))), file=answers, flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
