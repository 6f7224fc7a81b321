"""Kill things at random moments: do runs end with the bits of the unbroken one, what is lost, how soon do they go on?

    python -m benchmarks.faults.survive --rounds 20
    python -m benchmarks.faults.survive --rounds 5 --kinds worker node
    python -m benchmarks.faults.survive --rounds 3 --kinds node --untuned          # Ray's own settings, for comparison

Two workers train on a cluster of three nodes of one CPU on this machine (`worker`: one of their processes is killed;
`hang`: stopped by SIGSTOP; `node`: everything of a node is killed, another joins), or `jobs.train` is started again and
again (`driver`). Three actors evolve on the same cluster (`actor`, `actor_node`). Moments are drawn from --seed.
"""

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import tyro

from benchmarks import bench
from benchmarks.bench import markdown
from benchmarks.faults.machines import ACTOR, TRAIN_WORKER, TUNED, Machines, Trouble, events, last_step, processes, send
from benchmarks.settings import options, training
from data.generate import generate_log
from data.log import open_log
from data.world import GeneratedLog
from distributed.checkpoint.read import read_checkpoint
from distributed.checkpoint.store import CheckpointStore
from distributed.context import Context
from distributed.training.job import TrainJob
from distributed.training.launch import run_training
from distributed.training.loop import train
from distributed.training.recorder import CHECKPOINTS
from es import engine
from es.config import ESConfig
from es.objectives.toy import Sphere
from jobs.cluster.connect import RECOVERY

SETTINGS = {
    "epochs": 4,
    "batch_size": 200,
    "checkpoint_steps": 10,
    "log_steps": 5,
    "patience": 0,
    "stream.lanes": 4,
}
HANG_S = 10.0
KINDS = ("actor", "actor_node", "worker", "hang", "node", "driver")


@dataclasses.dataclass
class Arguments:
    rounds: int = 20
    """Strikes of each kind."""
    minutes: float = 8.0
    """No run of a kind begins later than this after the kind's first."""
    per_run: int = 5
    """Strikes that a run has to live through."""
    kinds: tuple[str, ...] = KINDS
    """Of actor, actor_node, worker, hang, node, driver."""
    seed: int = 0
    untuned: bool = False
    """Without our settings: Ray's defaults of health checks and time-outs."""
    add: bool = False
    """Keep the other kinds of today's result file."""
    folder: Path = Path("/tmp/counterpoint-survive")
    """Emptied first."""
    results: Path | None = None
    """Where the result goes; else to benchmarks/results."""


@dataclasses.dataclass
class Outcome:
    """Of one kind: a line of the table."""

    runs: int = 0
    same_bits: int = 0
    strikes: int = 0
    lost: list[int] = dataclasses.field(default_factory=list)
    """Steps made again after a strike (training), pairs given to another worker in a run (evolution)."""
    down_s: list[float] = dataclasses.field(default_factory=list)
    """From the last step (the strike) to the next step (generation)."""


class SlowSphere(Sphere):
    """25 ms a call, so that a generation of 24 calls takes three actors 0.2 s."""

    def evaluate_batch(self, theta_PD: np.ndarray, seeds_P: np.ndarray) -> np.ndarray:
        time.sleep(0.025)
        return super().evaluate_batch(theta_PD, seeds_P)


# ---- training


def job_for(run: Path, log: Path) -> TrainJob:
    run.mkdir(parents=True)
    return training(run, open_log(log), SETTINGS)


def tensors(run: Path) -> dict[str, torch.Tensor]:
    latest = CheckpointStore(run / CHECKPOINTS).latest()
    assert latest is not None
    checkpoint = read_checkpoint(latest)
    return checkpoint.model | checkpoint.optimizer


def same(run: Path, other: Path) -> bool:
    one, two = tensors(run), tensors(other)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def plain_worker(rank: int, rendezvous: str, job: TrainJob) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    train(job, Context(rank, 2))
    dist.destroy_process_group()


def train_unbroken(folder: Path, log: Path) -> Path:
    """Two plain processes, no Ray, nothing happens."""
    run = folder / "unbroken"
    mp.spawn(plain_worker, args=(str(folder / "rendezvous"), job_for(run, log)), nprocs=2)
    return run


def note(outcome: Outcome, run: Path, unbroken: Path, strikes: int) -> None:
    outcome.runs += 1
    outcome.same_bits += same(run, unbroken)
    outcome.strikes += strikes
    outcome.lost += [event["lost_steps"] for event in events(run) if event["event"] == "start"][1 : strikes + 1]
    outcome.down_s += [event["down_s"] for event in events(run) if event["event"] == "recovered"]


def strike_training(kind: str, machines: Machines, rng: np.random.Generator) -> float | None:
    """Do it, and say when; None if there is nothing to strike at this moment."""
    if kind == "node":
        nodes = machines.with_worker(TRAIN_WORKER)
        if not nodes:
            return None
        moment = time.time()
        machines.kill(nodes[rng.integers(len(nodes))])
        machines.add()
        return moment
    pids = processes(TRAIN_WORKER)
    if not pids:
        return None
    moment = time.time()
    send(signal.SIGSTOP if kind == "hang" else signal.SIGKILL, [pids[rng.integers(len(pids))]])
    return moment


def trainings(kind: str, arguments: Arguments, machines: Machines, log: Path, unbroken: Path) -> Outcome:
    outcome, rng = Outcome(), np.random.default_rng([arguments.seed, KINDS.index(kind)])
    until = time.time() + 60 * arguments.minutes
    while outcome.strikes < arguments.rounds and time.time() < until:
        run = arguments.folder / f"{kind}-{outcome.runs}"
        strikes = min(arguments.per_run, arguments.rounds - outcome.strikes)
        trouble = Trouble(run, lambda: strike_training(kind, machines, rng), strikes, rng, (3, 60))
        run_training(job_for(run, log), workers=2, signalled=trouble)
        if not trouble.moments:
            raise RuntimeError(f"{run}: over before anything could happen to it")
        note(outcome, run, unbroken, len(trouble.moments))
        print(f"{kind}: {outcome}", flush=True)
    return outcome


def drivers(arguments: Arguments, log: Path, unbroken: Path) -> Outcome:
    """jobs.train with a Ray of its own; its process is killed, and the same command given again at once."""
    outcome, rng = Outcome(), np.random.default_rng([arguments.seed, KINDS.index("driver")])
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    until = time.time() + 60 * arguments.minutes
    while outcome.strikes < arguments.rounds and time.time() < until:
        run, struck = arguments.folder / f"driver-{outcome.runs}", 0
        command = [sys.executable, "-m", "jobs.train", "--data", str(log), "--out", str(run), "--workers", "2"]
        command += options(SETTINGS)
        wanted = min(arguments.per_run, arguments.rounds - outcome.strikes)
        while True:
            first = last_step(run)
            target = first + int(rng.integers(3, 60))
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
            while process.poll() is None:
                if struck < wanted and last_step(run) >= target and len(events(run)):
                    time.sleep(rng.uniform(0, 0.1))
                    process.kill()
                    struck += process.wait() == -signal.SIGKILL
                time.sleep(0.02)
            if process.returncode != -signal.SIGKILL:
                break
        assert process.returncode == 0, f"{run}: exit code {process.returncode}"
        note(outcome, run, unbroken, struck)
        print(f"driver: {outcome}", flush=True)
    return outcome


# ---- evolution


def evolutions(kind: str, arguments: Arguments, machines: Machines, config: ESConfig, theta_D: np.ndarray) -> Outcome:
    outcome, rng = Outcome(), np.random.default_rng([arguments.seed, KINDS.index(kind)])
    chance = random.Random(arguments.seed)
    until = time.time() + 60 * arguments.minutes
    while outcome.strikes < arguments.rounds and time.time() < until:
        wanted = min(arguments.per_run, arguments.rounds - outcome.strikes)
        moments, ends = list[float](), list[float]()
        due = [time.time() + chance.uniform(0.5, 2.0)]

        def strike() -> bool:
            if len(moments) == wanted or len(ends) < 2 or time.time() < due[0]:  # noqa: B023
                return False
            pids = processes(ACTOR)
            if not pids or (moments and (not ends or ends[-1] < moments[-1])):  # noqa: B023
                return False
            moments.append(time.time())  # noqa: B023
            if kind == "actor":
                send(signal.SIGKILL, [chance.choice(pids)])
            else:
                nodes = machines.with_worker(ACTOR)
                machines.kill(nodes[rng.integers(len(nodes))])
                machines.add()
            due[0] = time.time() + chance.uniform(0.5, 2.0)  # noqa: B023
            return False

        result = engine.run(
            SlowSphere(6),
            dataclasses.replace(config, workers=3, min_workers=1, max_lost_workers=50),
            on_generation=lambda metrics: ends.append(time.time()),  # noqa: B023
            stopping=strike,
        )
        outcome.runs += 1
        outcome.same_bits += bool(np.array_equal(result.theta, theta_D))
        outcome.strikes += len(moments)
        outcome.lost.append(result.lost_pairs)
        outcome.down_s += [min(end for end in ends if end > moment) - moment for moment in moments]
        print(f"{kind}: {outcome}", flush=True)
    return outcome


# ---- the table


def table(outcomes: dict[str, Outcome]) -> str:
    rows = []
    for kind, one in outcomes.items():
        unit = "pairs a run" if kind.startswith("actor") else "steps"
        seconds, lost = sorted(one.down_s), sorted(one.lost)
        rows.append(
            [
                kind,
                one.strikes,
                f"{one.same_bits} of {one.runs}",
                f"{np.median(lost):g} ({lost[0]} to {lost[-1]}) {unit}",
                f"{np.median(seconds):.1f} s ({seconds[0]:.1f} to {seconds[-1]:.1f})",
            ]
        )
    header = ["struck", "times", "runs with the same bits", "made again: median (range)", "until it goes on: the same"]
    return markdown(header, rows)


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    unknown = set(arguments.kinds) - set(KINDS)
    if unknown:
        raise SystemExit(f"--kinds: want some of {', '.join(KINDS)}, not {', '.join(sorted(unknown))}")
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_TRAIN_METRICS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    os.environ |= {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
    if not arguments.untuned:
        os.environ |= RECOVERY
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(HANG_S)
    shutil.rmtree(arguments.folder, ignore_errors=True)
    log = arguments.folder / "log"
    shape = {"rows_per_file": 8000, "rows_per_group": 800, "users": 300, "items": 200}
    generate_log(GeneratedLog(world="aligned", rows=24_000, seed=3, click_rate=0.2, conversion_rate=0.3, **shape), log)
    unbroken = train_unbroken(arguments.folder, log)
    config = ESConfig(seed=5, pairs=48, generations=100, batch_pairs=2, checkpoint_every=10)
    theta_D = engine.run(Sphere(6), config).theta
    began, loads = time.time(), [os.getloadavg()[0]]
    outcomes: dict[str, Outcome] = {}
    earlier = bench.RESULTS / f"{time.strftime('%Y-%m-%d')}-survive.json"
    if arguments.add and earlier.exists():
        told = json.loads(earlier.read_text())
        outcomes = {kind: Outcome(**own) for kind, own in told["outcomes"].items() if kind not in arguments.kinds}
        loads = told["loads"] + loads
    machines = None
    if set(arguments.kinds) - {"driver"}:
        machines = Machines(3, {} if arguments.untuned else TUNED)
    for kind in arguments.kinds:
        if kind == "driver":
            if machines:
                machines.close()
                machines = None
            outcomes[kind] = drivers(arguments, log, unbroken)
        elif machines and kind.startswith("actor"):
            outcomes[kind] = evolutions(kind, arguments, machines, config, theta_D)
        elif machines:
            outcomes[kind] = trainings(kind, arguments, machines, log, unbroken)
        loads.append(os.getloadavg()[0])
        figures = {"outcomes": {name: dataclasses.asdict(one) for name, one in outcomes.items()}, "loads": loads}
        words = (
            f"\n{(time.time() - began) / 60:.0f} minutes (the last call); "
            f"load average {min(loads):.1f} to {max(loads):.1f}. "
            f"Checkpoints every 10 steps; steps are of 200 rows. A hang counts from the last step and is found after "
            f"{HANG_S:g} s here.\n"
        )
        if arguments.results:
            bench.RESULTS = arguments.results
        bench.write_result("survive" + ("-untuned" if arguments.untuned else ""), figures, table(outcomes) + words)
    if machines:
        machines.close()


if __name__ == "__main__":
    main()
