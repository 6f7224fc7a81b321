"""The engine's algorithms, the `cma` library and EvoTorch on the same functions: how close after equal evaluations.

    python -m benchmarks.es.functions
    python -m benchmarks.es.functions --peer /tmp/peer/bin/python       # peer.py says how to make it
    python -m benchmarks.es.functions --seeds 3 --evaluations 2000

Functions of es/objectives/toy.py in 10 dimensions, optimum 0. Each algorithm has one setting per function, written
below and tried by hand beforehand on other seeds; `cma` has the library's defaults, and the same population and first
sigma as the engine's. EvoTorch's PGPE (symmetric, centred ranks, Adam) has every setting of the engine's PGPE: they
mean the same there. The centre's own evaluations are not counted.
"""

import json
import os
import statistics
import subprocess
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cma
import numpy as np
import tyro

from benchmarks.bench import markdown, write_result
from es.algorithms.pgpe import SIGMA_LEARNING_RATE
from es.config import ESConfig
from es.engine import run
from es.objectives.base import Objective
from es.objectives.toy import Rastrigin, Rosenbrock, Sphere

FUNCTIONS: dict[str, tuple[Objective, float]] = {  # and the first sigma of cma
    "sphere": (Sphere(10), 0.3),
    "Rosenbrock": (Rosenbrock(10), 0.3),
    "Rastrigin": (Rastrigin(10, start=2.2), 2.0),
}
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "openai_es": {
        "sphere": {"pairs": 15, "sigma": 0.05, "learning_rate": 0.05},
        "Rosenbrock": {"pairs": 10, "sigma": 0.02, "learning_rate": 0.05},
        "Rastrigin": {"pairs": 50, "sigma": 0.5, "learning_rate": 0.1},
    },
    "pgpe": {
        "sphere": {"pairs": 15, "sigma": 0.2, "learning_rate": 0.05},
        "Rosenbrock": {"pairs": 10, "sigma": 0.05, "learning_rate": 0.05},
        "Rastrigin": {"pairs": 50, "sigma": 1.0, "learning_rate": 0.1, "sigma_learning_rate": 0.3},
    },
    "snes": {
        "sphere": {"pairs": 6, "sigma": 0.3},
        "Rosenbrock": {"pairs": 6, "sigma": 0.1},
        "Rastrigin": {"pairs": 30, "sigma": 1.0},
    },
    "xnes": {
        "sphere": {"pairs": 5, "sigma": 0.3},
        "Rosenbrock": {"pairs": 6, "sigma": 0.1},
        "Rastrigin": {"pairs": 75, "sigma": 2.0},
    },
    "ars": {
        "sphere": {"pairs": 10, "sigma": 0.05, "learning_rate": 0.02},
        "Rosenbrock": {"pairs": 10, "sigma": 0.03, "learning_rate": 0.03},
        "Rastrigin": {"pairs": 50, "sigma": 0.5, "learning_rate": 0.3},
    },
    "cma": {
        "sphere": {"pairs": 5, "sigma": 0.3},
        "Rosenbrock": {"pairs": 5, "sigma": 0.3},
        "Rastrigin": {"pairs": 25, "sigma": 2.0},
    },
}

LABELS = {
    "pgpe": "PGPE",
    "peer": "EvoTorch's PGPE, same settings",
    "cma": "CMA-ES, through the engine",
    "library": "`cma` itself",
    "openai_es": "OpenAI-ES",
    "snes": "SNES",
    "xnes": "xNES",
    "ars": "ARS",
}


@dataclass
class Arguments:
    peer: Path | None = None
    """Python of an environment with EvoTorch 0.6.1."""
    seeds: int = 10
    evaluations: int = 6000


def main(arguments: Arguments) -> None:
    costs: dict[str, dict[str, list[float]]] = {}
    seconds: dict[str, float] = {}
    for name in [*SETTINGS, "library"]:
        began = time.perf_counter()
        for function in FUNCTIONS:
            values = [cost(name, function, seed, arguments.evaluations) for seed in range(100, 100 + arguments.seeds)]
            costs.setdefault(name, {})[function] = values
            print(f"{name} {function}: {statistics.median(values):.3g}", flush=True)
        seconds[name] = time.perf_counter() - began
    if arguments.peer:
        began = time.perf_counter()
        costs["peer"] = peer(arguments)
        seconds["peer"] = time.perf_counter() - began
    order = [name for name in ("pgpe", "peer", "cma", "library", *SETTINGS) if name in costs]
    rows = [
        [LABELS.get(name, name), *(summary(values) for values in costs[name].values())] for name in dict.fromkeys(order)
    ]
    text = (
        f"Distance of the centre's return from the optimum after {arguments.evaluations} evaluations in 10 dimensions: "
        f"median of {arguments.seeds} seeds (lowest to highest).\n\n" + markdown(["algorithm", *FUNCTIONS], rows)
    )
    write_result("es-functions", {"costs": costs, "seconds": seconds, "settings": SETTINGS}, text)


def peer(arguments: Arguments) -> dict[str, list[float]]:
    """EvoTorch's PGPE with the settings of ours: the costs by function."""
    defaults = ESConfig()
    shared = {name: getattr(defaults, name) for name in ("betas", "epsilon", "sigma_max_change")}
    cases = list[dict[str, Any]]()
    for function, (objective, _) in FUNCTIONS.items():
        settings = {"sigma_learning_rate": SIGMA_LEARNING_RATE, **shared, **SETTINGS["pgpe"][function]}
        case = {"function": function, "start": float(objective.initial()[0]), "dimension": len(objective.initial())}
        generations = arguments.evaluations // (2 * settings["pairs"])
        for seed in range(100, 100 + arguments.seeds):
            cases.append({**case, "seed": seed, "settings": settings, "generations": generations})
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "RAY_ADDRESS")}
    answers = subprocess.run(
        [str(arguments.peer), str(Path(__file__).with_name("peer.py"))],
        input="".join(json.dumps(case) + "\n" for case in cases),
        capture_output=True,
        text=True,
        check=True,
        env=clean,
    ).stdout.splitlines()
    costs: dict[str, list[float]] = {}
    for case, answer in zip(cases, answers, strict=True):
        costs.setdefault(str(case["function"]), []).append(json.loads(answer)["cost"])
    return costs


def cost(name: str, function: str, seed: int, evaluations: int) -> float:
    objective, sigma = FUNCTIONS[function]
    if name == "library":
        return library(objective, sigma, 2 * SETTINGS["cma"][function]["pairs"], seed, evaluations)
    settings = SETTINGS[name][function]
    generations = evaluations // (2 * settings["pairs"])
    asked = {"algorithm": name, "seed": seed, "generations": generations, "centre_every": 0, **settings}
    result = run(objective, ESConfig(**asked))
    assert result.final_return is not None
    return -result.final_return


def library(objective: Objective, sigma: float, population: int, seed: int, evaluations: int) -> float:
    """cma's own loop, without restarts; stopping criteria other than the budget are not heeded."""
    options = {"popsize": population, "seed": seed + 1, "verbose": -9}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        strategy = cma.CMAEvolutionStrategy(objective.initial().astype(np.float64), sigma, options)
        while strategy.countevals + population <= evaluations:
            candidates = strategy.ask()
            strategy.tell(candidates, (-objective.evaluate_batch(np.asarray(candidates), np.zeros(0))).tolist())
    return -float(objective.evaluate_batch(np.asarray(strategy.mean)[None], np.zeros(0))[0])


def summary(values: list[float]) -> str:
    return f"{statistics.median(values):.1e} ({min(values):.1e} to {max(values):.1e})"


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
