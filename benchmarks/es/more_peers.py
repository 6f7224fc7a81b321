"""A generation of the engine in this process beside evosax (jitted JAX) and `cma`: milliseconds, vectorised sphere.

    python -m benchmarks.es.more_peers --evosax /tmp/evosax/bin/python   # see evosax_peer.py
    python -m benchmarks.es.more_peers                                   # without evosax

evosax's Open_ES does what the engine's OpenAI-ES does (antithetic, centred ranks, Adam, fixed sigma). `cma` is set
beside the engine's CMA-ES, which is the same library behind ask and tell, and its xNES. Each is given `seconds` of
generations, by turns, best and median told: the best is what the code costs, the median what a shared machine made of
it. evosax's compilation, seconds a case, is not counted, and it runs in one process only.
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
from es import engine
from es.config import ESConfig
from es.objectives.toy import Sphere

WARM_UP = 2
FEWEST = 5  # generations of a turn


@dataclass
class Arguments:
    evosax: Path | None = None
    """Python of an environment with evosax 0.3.2."""
    cases: tuple[str, ...] = ("8x256", "8x1000", "1000x256", "1000x1000")
    """Parameters x candidates, for evosax."""
    cma_cases: tuple[str, ...] = ("8x256", "8x20", "100x256", "100x20")
    """For `cma`; 20 is near its own choice."""
    turns: int = 3
    seconds: float = 1.0
    """Of each turn."""


def main(arguments: Arguments) -> None:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "2")
    rows: list[dict[str, Any]] = []
    peer = start_evosax(arguments.evosax) if arguments.evosax else None
    for case in arguments.cases:
        dimension, popsize = map(int, case.split("x"))
        row: dict[str, Any] = {"case": case, "ours": [], "evosax": []}
        for _ in range(arguments.turns):
            row["ours"] += ours("openai_es", dimension, popsize, arguments.seconds)
            if peer:
                row["evosax"] += ask_evosax(peer, dimension, popsize, arguments.seconds)
        rows.append(summarised(row))
    for case in arguments.cma_cases:
        dimension, popsize = map(int, case.split("x"))
        row = {"case": case, "ours, cma": [], "ours, xnes": [], "cma": []}
        for _ in range(arguments.turns):
            row["ours, cma"] += ours("cma", dimension, popsize, arguments.seconds)
            row["ours, xnes"] += ours("xnes", dimension, popsize, arguments.seconds)
            row["cma"] += library(dimension, popsize, arguments.seconds)
        rows.append(summarised(row))
    if peer:
        assert peer.stdin is not None
        peer.stdin.close()
        peer.wait(60)
    write_result("es-more-peers", {"rows": rows}, describe(rows))


def ours(algorithm: str, dimension: int, popsize: int, seconds: float) -> list[float]:
    """Milliseconds of each generation of the engine, in this process; as many as fit."""
    shared: dict[str, Any] = {"algorithm": algorithm, "pairs": popsize // 2, "centre_every": 0}
    probe = engine.run(Sphere(dimension), ESConfig(generations=WARM_UP + 1, **shared)).history[-1]["seconds"]
    generations = WARM_UP + max(FEWEST, min(1000, int(seconds / probe)))
    history = engine.run(Sphere(dimension), ESConfig(generations=generations, **shared)).history
    return [metrics["seconds"] * 1e3 for metrics in history[WARM_UP:]]


def library(dimension: int, popsize: int, seconds: float) -> list[float]:
    """The same of cma's own loop, the sphere evaluated as one matrix."""
    milliseconds: list[float] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        strategy = cma.CMAEvolutionStrategy(np.ones(dimension), 0.1, {"popsize": popsize, "seed": 1, "verbose": -9})
        began = time.perf_counter()
        while len(milliseconds) < WARM_UP + FEWEST or time.perf_counter() - began < seconds:
            before = time.perf_counter()
            candidates = strategy.ask()
            matrix = np.asarray(candidates)
            strategy.tell(candidates, np.add.reduce(matrix * matrix, axis=1).tolist())
            milliseconds.append((time.perf_counter() - before) * 1e3)
    return milliseconds[WARM_UP:]


def start_evosax(python: Path) -> subprocess.Popen[str]:
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    script = Path(__file__).with_name("evosax_peer.py")
    return subprocess.Popen(
        [str(python), str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean
    )


def ask_evosax(peer: subprocess.Popen[str], dimension: int, popsize: int, seconds: float) -> list[float]:
    def answer(generations: int) -> list[float]:
        assert peer.stdin is not None
        assert peer.stdout is not None
        case = {"dimension": dimension, "popsize": popsize, "generations": WARM_UP + generations}
        peer.stdin.write(json.dumps(case) + "\n")
        peer.stdin.flush()
        return list(json.loads(peer.stdout.readline())[WARM_UP:])

    return answer(max(FEWEST, min(1000, int(seconds * 1e3 / min(answer(FEWEST))))))


def summarised(row: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"case": row.pop("case")}
    for name, times in row.items():
        if times:
            found[name] = {"best": min(times), "median": statistics.median(times), "repeats": len(times)}
    print(json.dumps(found), flush=True)
    return found


def describe(rows: list[dict[str, Any]]) -> str:
    def cell(row: dict[str, Any], name: str) -> str:
        return f"{row[name]['best']:.3g} / {row[name]['median']:.3g}" if name in row else "-"

    def ratio(row: dict[str, Any], ours: str, theirs: str) -> str:
        if theirs not in row:
            return "-"
        return " / ".join(f"{row[theirs][key] / row[ours][key]:.2g}" for key in ("best", "median"))

    first = [row for row in rows if "ours" in row]
    second = [row for row in rows if "cma" in row]
    title = "Milliseconds a generation in one process, best / median; ratio: theirs over ours, above 1 ours is faster."
    names = ["parameters x candidates", "OpenAI-ES here", "evosax 0.3.2 Open_ES, jitted", "ratio"]
    table = markdown(
        names, [[row["case"], cell(row, "ours"), cell(row, "evosax"), ratio(row, "ours", "evosax")] for row in first]
    )
    more = ["parameters x candidates", "CMA-ES here", "`cma` itself", "ratio", "xNES here"]
    others = markdown(
        more,
        [
            [
                row["case"],
                *(cell(row, name) for name in ("ours, cma", "cma")),
                ratio(row, "ours, cma", "cma"),
                cell(row, "ours, xnes"),
            ]
            for row in second
        ],
    )
    return f"{title}\n\n{table}\n{others}"


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
