"""evosax's side of benchmarks/es/more_peers.py, run by the Python of an environment of its own.

Reads a case per line of standard input, {"dimension", "popsize", "generations"}, and answers each with a line of JSON:
milliseconds of each generation of Open_ES (Adam, centred ranks, antithetic), the first of which compiles. A generation
(ask, the sphere, tell) is one jitted function, its result waited for.

    python -m venv /tmp/evosax && /tmp/evosax/bin/pip install evosax==0.3.2 "jax[cpu]"
"""

import functools
import json
import sys
import time
from typing import Any

import jax  # type: ignore[import-not-found]
import jax.numpy as jnp  # type: ignore[import-not-found]
import optax  # type: ignore[import-not-found]
from evosax.algorithms.distribution_based.open_es import Open_ES  # type: ignore[import-not-found]


@functools.cache
def prepare(dimension: int, popsize: int) -> tuple[Any, Any]:
    """The compiled generation and the state it starts from: compiling takes seconds, once."""
    start = jnp.ones(dimension)
    schedule = optax.constant_schedule(0.1)
    algorithm = Open_ES(popsize, start, optimizer=optax.adam(0.05), std_schedule=schedule)
    params = algorithm.default_params
    state = algorithm.init(jax.random.key(0), start, params)

    @jax.jit
    def generation(state, key):  # type: ignore[no-untyped-def]
        population, state = algorithm.ask(key, state, params)
        return algorithm.tell(key, population, jnp.sum(population * population, axis=1), state, params)[0]

    return generation, state


def measure(case: dict) -> list[float]:
    generation, state = prepare(case["dimension"], case["popsize"])
    milliseconds = []
    for index in range(case["generations"]):
        before = time.perf_counter()
        state = jax.block_until_ready(generation(state, jax.random.key(index)))
        milliseconds.append((time.perf_counter() - before) * 1e3)
    assert float(jnp.sum(state.mean**2)) < case["dimension"], "it must have moved towards the optimum"
    return milliseconds


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(measure(json.loads(line))), flush=True)
