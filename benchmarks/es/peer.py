"""EvoTorch's side of benchmarks/es/engine.py, memory.py and functions.py, run by an environment of its own.

Reads a case per line of standard input and answers each with a line of JSON:
    {"dimension", "popsize", "actors", "distributed", "generations"}    milliseconds of each generation, seconds from
                                                                        nothing to the end of the first, and when
                                                                        that was
    {"function", "start", "dimension", "seed", "settings", "generations"}    the centre's distance from the optimum

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
    start_s = first_at = 0.0
    for _ in range(case["generations"]):
        before = time.perf_counter()
        searcher.step()
        milliseconds.append((time.perf_counter() - before) * 1e3)
        start_s = start_s or time.perf_counter() - began
        first_at = first_at or time.time()
    if case["actors"]:
        problem.kill_actors()
    return {"milliseconds": milliseconds, "start_s": start_s, "first_at": first_at}


@vectorized
def rosenbrock(x: torch.Tensor) -> torch.Tensor:
    here, there = x[:, :-1].double(), x[:, 1:].double()
    return -torch.sum(100 * (there - here**2) ** 2 + (1 - here) ** 2, dim=-1)


@vectorized
def rastrigin(x: torch.Tensor) -> torch.Tensor:
    wide = x.double()
    return -torch.sum(wide * wide + 10 * (1 - torch.cos(2 * torch.pi * wide)), dim=-1)


FUNCTIONS = {"sphere": sphere, "Rosenbrock": rosenbrock, "Rastrigin": rastrigin}


def optimise(case: dict) -> dict:
    """PGPE on a function, in this process; the settings are those of the engine's PGPE, by the names they have here."""
    function, given = FUNCTIONS[case["function"]], case["settings"]
    options = {"initial_bounds": (-1, 1), "dtype": torch.float32, "eval_dtype": torch.float64, "seed": case["seed"]}
    problem = Problem("max", function, solution_length=case["dimension"], **options)
    searcher = PGPE(
        problem,
        popsize=2 * given["pairs"],
        center_learning_rate=given["learning_rate"],
        stdev_learning_rate=given["sigma_learning_rate"],
        stdev_init=given["sigma"],
        stdev_max_change=given["sigma_max_change"],
        optimizer="adam",
        optimizer_config={"beta1": given["betas"][0], "beta2": given["betas"][1], "epsilon": given["epsilon"]},
        ranking_method="centered",
        center_init=torch.full((case["dimension"],), case["start"]),
    )
    for _ in range(case["generations"]):
        searcher.step()
    centre = torch.as_tensor(searcher.status["center"]).reshape(1, -1)
    return {"cost": -float(function(centre)[0])}


def main() -> None:
    logging.disable(logging.WARNING)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print does not belong among the answers
    for line in sys.stdin:
        case = json.loads(line)
        if case.get("actors") and not ray.is_initialized():
            quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
            ray.init(address="local", num_cpus=2, **quiet)
        answer = optimise(case) if "function" in case else measure(case)
        print(json.dumps(answer), file=answers, flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
