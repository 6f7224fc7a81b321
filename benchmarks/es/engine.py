"""How fast the engine is: a generation by size, beside EvoTorch in the same run; start-up, driver cost, scaling.

    python -m benchmarks.es.engine
    python -m benchmarks.es.engine --peer /tmp/peer/bin/python          # peer.py says how to make it
    python -m benchmarks.es.engine --parts scaling --actors 1 2 8 16 32

Vectorised sphere, OpenAI-ES with Adam and centred ranks; the peer's PGPE with fixed sigma does the same. A generation
is timed from asking to told. Best and median are given: the best is what the code costs, the median what a shared
machine made of it. Cases alternate between the two, so that both see the same neighbours; Ray's workers run at the
priority of the driver in both (Ray would make them wait for every other process of the machine).
"""

import json
import os
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import ray
import tyro

from benchmarks.bench import markdown, write_result
from es import engine
from es.config import ESConfig
from es.objectives.toy import Nothing, Sleep, Sphere

GENERATIONS = {8: 300, 1_000: 120, 100_000: 16, 1_000_000: 6}  # ours, by dimension
PEER_GENERATIONS = {8: 60, 1_000: 15, 100_000: 4, 1_000_000: 3}
PEER_LARGEST = 256_000_000  # dimension x population: beyond, the peer's memory does not suffice
WARM_UP = 2


@dataclass
class Arguments:
    peer: Path | None = None
    """Python of an environment with EvoTorch 0.6.1; without it only the engine is timed."""
    parts: tuple[Literal["sizes", "driver", "memory", "scaling"], ...] = ("sizes", "driver", "memory", "scaling")
    """A result of some parts only is written under their names."""
    dimensions: tuple[int, ...] = (8, 1_000, 100_000, 1_000_000)
    populations: tuple[int, ...] = (256, 1_000)
    batch_pairs: int | None = None
    """Pairs in a call of the objective; the peer passes the whole population."""
    actors: tuple[int, ...] = (1, 2, 8, 16)
    """Of the scaling part."""
    sleeps_ms: tuple[float, ...] = (1.0, 5.0, 20.0, 100.0)


def main(arguments: Arguments) -> None:
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_worker_niceness="0")
    began = time.perf_counter()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray_s = time.perf_counter() - began
    figures: dict[str, Any] = {"load_average_at_start": os.getloadavg()[0], "ray_start_s": ray_s}
    tables = ""
    if "sizes" in arguments.parts:
        figures["sizes"] = sizes(arguments)
        tables += describe_sizes(figures["sizes"])
    if "driver" in arguments.parts:
        figures["driver"] = driver()
        tables += describe_driver(figures["driver"], ray_s)
    if "memory" in arguments.parts:
        figures["memory"] = memory()
        tables += describe_memory(figures["memory"])
    if "scaling" in arguments.parts:
        figures["scaling"] = scaling(arguments)
        tables += describe_scaling(figures["scaling"])
    tables += (
        f"Load average {figures['load_average_at_start']:.1f} at the start, {os.getloadavg()[0]:.1f} at the end.\n"
    )
    whole = arguments.parts == Arguments.parts
    write_result("es-engine" if whole else "es-engine-" + "-".join(arguments.parts), figures, tables)


# ---- a generation by size


def sizes(arguments: Arguments) -> list[dict[str, Any]]:
    peer = Peer(arguments.peer) if arguments.peer else None
    rows = []
    for dimension in arguments.dimensions:
        for population in arguments.populations:
            row: dict[str, Any] = {"dimension": dimension, "population": population}
            for workers in (0, 2):
                row[f"ours_{workers}"] = ours(dimension, population, workers, arguments.batch_pairs)
                if peer and dimension * population <= PEER_LARGEST:
                    modes = (False, True) if workers else (False,)
                    found = {mode: peer.measure(dimension, population, workers, mode) for mode in modes}
                    # with actors the peer has two ways of working: the faster counts
                    mode = min(modes, key=lambda mode: found[mode]["best"])
                    row[f"peer_{workers}"] = {**found[mode], "distributed": mode}
            rows.append(row)
            print(json.dumps(row), flush=True)
    if peer:
        peer.close()
    return rows


def ours(dimension: int, population: int, workers: int, batch_pairs: int | None) -> dict[str, Any]:
    config = ESConfig(
        pairs=population // 2,
        generations=GENERATIONS[dimension],
        workers=workers,
        centre_every=0,
        batch_pairs=batch_pairs,
    )
    first = []
    began = time.perf_counter()
    result = engine.run(Sphere(dimension), config, on_generation=lambda metrics: first.append(time.perf_counter()))
    milliseconds = [metrics["seconds"] * 1e3 for metrics in result.history[WARM_UP:]]
    sent = {name: result.history[-1][name] for name in ("bytes_out", "bytes_in")}
    return {**summary(milliseconds), "start_s": first[0] - began, **sent}


class Peer:
    """The process of benchmarks/es/peer.py."""

    def __init__(self, python: Path) -> None:
        clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "RAY_ADDRESS")}
        self.process = subprocess.Popen(
            [str(python), str(Path(__file__).with_name("peer.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=clean,
        )  # fmt: skip

    def measure(self, dimension: int, population: int, actors: int, distributed: bool) -> dict[str, Any]:
        case = {"dimension": dimension, "popsize": population, "actors": actors, "distributed": distributed}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({**case, "generations": PEER_GENERATIONS[dimension]}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return {**summary(answer["milliseconds"][1:]), "start_s": answer["start_s"]}

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


def summary(milliseconds: list[float]) -> dict[str, Any]:
    return {"best": min(milliseconds), "median": statistics.median(milliseconds), "repeats": len(milliseconds)}


def describe_sizes(rows: list[dict[str, Any]]) -> str:
    def cell(row: dict[str, Any], name: str) -> str:
        return f"{row[name]['best']:.3g} / {row[name]['median']:.3g}" if name in row else "-"

    def ratio(row: dict[str, Any], workers: int) -> str:
        if f"peer_{workers}" not in row:
            return "-"
        here, there = row[f"ours_{workers}"], row[f"peer_{workers}"]
        return f"{there['best'] / here['best']:.1f} / {there['median'] / here['median']:.1f}"

    header = [
        "parameters x candidates",
        "here",
        "EvoTorch",
        "ratio",
        "2 actors, here",
        "EvoTorch",
        "ratio",
        "bytes out, in",
    ]
    table = [
        [
            f"{row['dimension']:,} x {row['population']:,}",
            *(cell(row, name) for name in ("ours_0", "peer_0")),
            ratio(row, 0),
            *(cell(row, name) for name in ("ours_2", "peer_2")),
            ratio(row, 2),
            f"{row['ours_2']['bytes_out']:,}, {row['ours_2']['bytes_in']:,}",
        ]
        for row in rows
    ]
    starts = "; ".join(
        f"{label} {statistics.median(row[name]['start_s'] for row in rows if name in row):.2g} s"
        for name, label in (
            ("ours_0", "here"),
            ("ours_2", "2 actors"),
            ("peer_0", "EvoTorch"),
            ("peer_2", "with 2 actors"),
        )
        if any(name in row for row in rows)
    )
    head = "Milliseconds per generation, best / median, in this process and with 2 Ray actors:\n\n"
    return head + markdown(header, table) + f"\nFrom the call to the end of the first generation, Ray up: {starts}.\n\n"


# ---- the driver's own cost, and memory


def driver() -> dict[str, float]:
    """The driver's CPU seconds for a generation without calls, for a call and its answer, and for a pair."""
    few, many_pairs, many_calls = (driver_cpu_s(*case) for case in ((64, 2), (4096, 2), (64, 8)))
    pair_s, call_s = (many_pairs - few) / (4096 - 64), (many_calls - few) / (8 - 2)
    return {"generation_s": few - 64 * pair_s - 2 * call_s, "call_s": call_s, "pair_s": pair_s}


def driver_cpu_s(pairs: int, workers: int) -> float:
    """CPU seconds of this process per generation; nothing is evaluated."""
    config = ESConfig(
        pairs=pairs, generations=150, workers=workers, cpus_per_worker=0.1, batch_pairs=8, centre_every=0, noise="table"
    )
    marks: list[float] = []
    engine.run(Nothing(8), config, on_generation=lambda metrics: marks.append(time.process_time()))
    return (marks[-1] - marks[20]) / (len(marks) - 21)


def private_mib() -> float:
    """Memory of this process that it shares with nobody."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


@dataclass(frozen=True)
class Weighed(Sphere):
    """The sphere; every worker leaves its private memory in a file."""

    folder: str = ""

    def evaluate_batch(self, theta_PD: np.ndarray, seeds_P: np.ndarray) -> np.ndarray:
        (Path(self.folder) / str(os.getpid())).write_text(str(private_mib()))
        return super().evaluate_batch(theta_PD, seeds_P)


def memory() -> dict[str, float]:
    """MiB: private memory of a Ray actor that does nothing, of a worker with 100,000 parameters, and of the table."""
    bare = ray.remote(num_cpus=0.1)(Bare).remote()
    bare_mib = ray.get(bare.private_mib.remote())
    ray.kill(bare)
    with tempfile.TemporaryDirectory() as folder:
        config = ESConfig(pairs=64, generations=3, workers=2, batch_pairs=1)
        engine.run(Weighed(100_000, folder=folder), config)
        worker_mib = statistics.mean(float(path.read_text()) for path in Path(folder).iterdir())
    return {"bare_actor_mib": bare_mib, "worker_mib": worker_mib, "table_mib": 4 * 2**26 / 2**20}


class Bare:
    def private_mib(self) -> float:
        import numpy as np

        assert np
        return private_mib()


def describe_memory(found: dict[str, float]) -> str:
    return (
        f"Private memory: a Ray actor with numpy {found['bare_actor_mib']:.0f} MiB, a worker on 100,000 parameters "
        f"{found['worker_mib']:.0f} MiB; the table, {found['table_mib']:.0f} MiB, is there once per node.\n\n"
    )


def describe_driver(found: dict[str, float], ray_s: float) -> str:
    return (
        f"CPU of the driver: {found['generation_s'] * 1e3:.2g} ms a generation, {found['call_s'] * 1e3:.2g} ms a call "
        f"and its answer, {found['pair_s'] * 1e6:.2g} µs a pair. A local Ray starts in {ray_s:.2g} s.\n\n"
    )


# ---- scaling


def scaling(arguments: Arguments) -> list[dict[str, Any]]:
    """Efficiency = ideal/actual, each actor having 8 evaluations a generation that sleep and do nothing."""
    rows = []
    for actors in arguments.actors:
        for sleep_ms in arguments.sleeps_ms:
            generations = int(np.clip(2000 / (8 * sleep_ms), 6, 60)) + WARM_UP
            config = ESConfig(
                pairs=4 * actors, generations=generations, workers=actors, cpus_per_worker=0.01, centre_every=0
            )
            result = engine.run(Sleep(8, seconds=sleep_ms / 1e3), config)
            milliseconds = [metrics["seconds"] * 1e3 for metrics in result.history[WARM_UP:]]
            rows.append({"actors": actors, "sleep_ms": sleep_ms, "ideal_ms": 8 * sleep_ms, **summary(milliseconds)})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def describe_scaling(rows: list[dict[str, Any]]) -> str:
    sleeps = sorted({row["sleep_ms"] for row in rows})
    table = []
    for actors in sorted({row["actors"] for row in rows}):
        cells = []
        for sleep in sleeps:
            row = next(row for row in rows if (row["actors"], row["sleep_ms"]) == (actors, sleep))
            cells.append(f"{row['ideal_ms'] / row['best']:.2f} / {row['ideal_ms'] / row['median']:.2f}")
        table.append([actors, *cells])
    head = "Efficiency (ideal / actual time of a generation), best / median, 8 evaluations an actor and generation:\n\n"
    return head + markdown(["actors", *(f"{sleep:g} ms" for sleep in sleeps)], table) + "\n"


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
