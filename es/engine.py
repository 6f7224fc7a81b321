"""The engine: in each generation ask the algorithm, have the pairs scored, tell it the returns, record.

    result = run(Sphere(dimension=100), ESConfig(pairs=64, generations=200, workers=2))

theta is the same bits for any number of workers, after the loss of any of them, and after stop and resume.
"""

import functools
import math
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import Stopped, UserError
from es.algorithms.base import Algorithm, Proposal, Step
from es.algorithms.registry import make_algorithm
from es.checkpoint import Checkpoint
from es.config import ESConfig
from es.contract import ObjectiveError, call, checked_figures, facts_of, initial_theta
from es.noise import Noise, open_noise
from es.objectives.base import Objective, Observing
from es.pool import Pool, open_pool
from es.record import RunRecord
from es.tasks import Choice, Evaluation

OBJECTIVE_PREFIX = "objective."
LARGEST_SQUARED = 1e150  # the square of a larger number may be none
UNRANKED = ("raw", "standardised")  # shapings that keep the size of the returns


@dataclass
class ESResult:
    """theta after the last generation, the return of it unperturbed, and what it took.

    `history` holds the metrics of the generations run by this call (a resumed run's earlier ones are in metrics.jsonl),
    `choice` where `workers="auto"` ran and why, None if the run was too short to tell (then: in this process).
    """

    theta: np.ndarray
    final_return: float | None
    generations: int
    evaluations: int
    failed_evaluations: int
    lost_pairs: int
    reissued_pairs: int
    lost_generations: int
    seconds: float
    steps: float
    resumed_at: int
    workers: int = 0
    choice: Choice | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Counters:
    """Totals over the whole run, stops and resumes included."""

    evaluations: int = 0
    failed_evaluations: int = 0
    lost_pairs: int = 0
    reissued_pairs: int = 0
    lost_generations: int = 0
    seconds: float = 0.0
    steps: float = 0.0


def run(
    objective: Objective,
    config: ESConfig,
    out: Path | None = None,
    on_generation: Callable[[dict[str, Any]], None] | None = None,
    stopping: Callable[[], bool] = lambda: False,
    start_D: np.ndarray | None = None,
) -> ESResult:
    """Maximise an objective. With `out`, checkpoints go there and a run already in it continues.

    `start_D` is theta before the first generation, in place of the objective's own.

    `on_generation` is called after each generation with its metrics (the keys are those of metrics.jsonl). `stopping`
    is called several times a second: once it returns True the last whole generation is saved and data.errors.Stopped
    raised. Raises UserError for impossible settings, a checkpoint of another run or a theta that is no longer finite;
    and es.contract.ObjectiveError, which holds the objective's own error, for an objective that does not give what it
    must, or once more than config.max_failures evaluations have failed. With workers, a Ray that this process is
    connected to is used, else a local one is started and stopped again.
    """
    config = settle(config, objective)
    out = out.absolute() if out else None  # an objective may change the working directory
    theta_D = initial_theta(objective) if start_D is None else np.array(start_D, np.float32)
    noise = open_noise(config, len(theta_D))
    try:
        algorithm, counters, whose = (
            make_algorithm(config, theta_D, noise),
            Counters(),
            identity(objective, config, noise),
        )
        record = None
        if out:
            record = RunRecord(out, whose, config.pairs, config.checkpoint_every)
            counters = resume(record, algorithm, objective)
        resumed_at, history = algorithm.generation, list[dict[str, Any]]()
        # Opened last: workers take seconds to start, and mistakes in the settings or the checkpoint are found above.
        pool = open_pool(objective, config, noise, stopping)
        try:
            while algorithm.generation < config.generations:
                saved = record.saved if record and record.saved > 0 else None
                metrics, returns_n2 = one_generation(algorithm, pool, objective, config, counters, saved)
                history.append(metrics)
                if record:
                    # Before the checkpoint: lines beyond the latest one are cut off at a resume, missing ones are lost.
                    record.generation(metrics, returns_n2)
                    last = algorithm.generation == config.generations
                    if last or record.checkpoint_is_due(algorithm.generation):
                        record.checkpoint(snapshot(algorithm, objective, counters))
                if on_generation:
                    on_generation(metrics)  # last: whatever it raises, the generation is recorded
            # No pairs, the centre alone: theta after the last step has not been evaluated in any generation.
            final = pool.evaluate(algorithm.ask(), 0, True, state_of(objective)).centre
        except Stopped:
            # The generation at hand is given up; its pairs are scored again, with the same returns, after a resume.
            if record and record.saved < algorithm.generation:
                record.checkpoint(snapshot(algorithm, objective, counters))
            raise Stopped(f"stopped after generation {algorithm.generation} of {config.generations}") from None
        finally:
            pool.close()
    finally:
        noise.close()
    return ESResult(
        algorithm.theta_D,
        finite(final),
        algorithm.generation,
        resumed_at=resumed_at,
        workers=history[-1]["workers"] if history else 0,
        choice=pool.choice,
        history=history,
        **vars(counters),
    )


def settle(config: ESConfig, objective: Objective) -> ESConfig:
    """The settings, checked; an objective may say by an attribute `batch_pairs` how many pairs it wants in a call."""
    config.check()
    wanted = getattr(objective, "batch_pairs", None)
    if config.batch_pairs is None and wanted is not None:
        config = replace(config, batch_pairs=wanted)
        config.check()
    return config


def one_generation(
    algorithm: Algorithm,
    pool: Pool,
    objective: Objective,
    config: ESConfig,
    counters: Counters,
    saved: int | None = None,
) -> tuple[dict[str, Any], np.ndarray]:
    """Ask, evaluate, tell; return the metrics and the returns (n, 2). `saved`: generations in the checkpoint."""
    began = time.perf_counter()
    proposal = algorithm.ask()
    centre = config.centre_every > 0 and proposal.generation % config.centre_every == 0
    evaluation = pool.evaluate(proposal, config.pairs, centre, state_of(objective))
    check_failures(evaluation, proposal, config, counters)  # before the step, which a broken objective must not make
    step = take_step(algorithm, evaluation.returns_n2, config, saved)
    observed = dict[str, float]()
    if evaluation.statistics_n2S is not None:
        # After the step: all pairs of a generation were scored under one state of the objective, whoever scored them.
        observed = checked_figures(objective, call(objective, "observe", evaluation.statistics_n2S))
    seconds = time.perf_counter() - began
    counters.evaluations += evaluation.returns_n2.size + centre
    counters.lost_pairs += evaluation.lost_pairs
    counters.reissued_pairs += evaluation.reissued_pairs
    counters.seconds += seconds
    counters.steps += observed.get("steps", 0.0)
    metrics = generation_metrics(proposal, evaluation, step, seconds)
    # With it, a replay can say in which generation theta first differed (es/replay.py).
    metrics["theta_crc32"] = zlib.crc32(np.ascontiguousarray(algorithm.theta_D).data)
    if "steps" in observed:
        observed["steps_per_s"] = observed["steps"] / seconds
    return observed | metrics, evaluation.returns_n2  # the engine's own keys win


def state_of(objective: Objective) -> dict[str, np.ndarray] | None:
    """What an objective has learnt from its evaluations, None for one that learns nothing."""
    return call(objective, "state") if observes(type(objective)) else None


@functools.cache
def observes(kind: type) -> bool:
    """Asking a protocol takes 20 µs, which a cheap generation would notice."""
    return issubclass(kind, Observing)


def snapshot(algorithm: Algorithm, objective: Objective, counters: Counters) -> Checkpoint:
    """Everything a resumed run continues from: the algorithm's state, the objective's, and the totals."""
    learned = {OBJECTIVE_PREFIX + name: value for name, value in (state_of(objective) or {}).items()}
    return Checkpoint(algorithm.state() | learned, vars(counters))


def resume(record: RunRecord, algorithm: Algorithm, objective: Objective) -> Counters:
    """Take over the checkpoint in the run's directory, if there is one, else note where the run starts."""
    checkpoint = record.resume(snapshot(algorithm, objective, Counters()).tensors)
    if checkpoint is None:
        record.start(algorithm.theta_D)
        return Counters(lost_generations=record.lost)
    algorithm.load({key: value for key, value in checkpoint.tensors.items() if not key.startswith(OBJECTIVE_PREFIX)})
    if isinstance(objective, Observing):
        length = len(OBJECTIVE_PREFIX)
        objective.load({k[length:]: v for k, v in checkpoint.tensors.items() if k.startswith(OBJECTIVE_PREFIX)})
    counters = Counters(**checkpoint.counters)
    counters.lost_generations += record.lost
    return counters


def check_failures(evaluation: Evaluation, proposal: Proposal, config: ESConfig, counters: Counters) -> None:
    """Count failures; beyond the bound, or when a whole generation failed, raise the objective's own error."""
    failed = int(np.count_nonzero(~np.isfinite(evaluation.returns_n2)))
    counters.failed_evaluations += failed
    if failed < evaluation.returns_n2.size and counters.failed_evaluations <= config.max_failures:
        return
    where = f"generation {proposal.generation}: {counters.failed_evaluations} evaluations have failed so far"
    if evaluation.error is None:
        pair, member = np.argwhere(~np.isfinite(evaluation.returns_n2))[0]
        value = evaluation.returns_n2[pair, member]
        raise ObjectiveError(f"the objective returned {value} (first for pair {pair}); {where}")
    trace = getattr(evaluation.error, "trace", "")
    raise ObjectiveError(f"{evaluation.error}; {where}", trace) from evaluation.error.__cause__


def take_step(algorithm: Algorithm, returns_n2: np.ndarray, config: ESConfig, saved: int | None) -> Step:
    """Tell the returns. Raises UserError if the step leads out of the numbers: nothing of its generation is kept."""
    generation, failed = algorithm.generation, ""
    try:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # what comes of it is checked
            step = algorithm.tell(returns_n2)
    except np.linalg.LinAlgError as error:
        failed = f"no step can be made ({error})"
    else:
        for name, value in (("theta", step.theta_norm), ("sigma", step.sigma), ("the step", step.grad_norm)):
            if not failed and not math.isfinite(value):
                failed = f"{name} is no longer finite"
        if not failed:
            return step
    lower = f"--learning-rate (it is {config.step_size:g}) or --sigma (it is {config.sigma:g})"
    if config.utilities in UNRANKED and config.algorithm in ("openai_es", "pgpe", "snes"):
        lower += ", or have the returns ranked (--shaping centred_ranks)"
    kept = "nothing is saved yet" if saved is None else f"the checkpoint after {saved} generations is whole"
    raise UserError(f"{failed} after generation {generation}: lower {lower}; {kept}")


def generation_metrics(proposal: Proposal, evaluation: Evaluation, step: Step, seconds: float) -> dict[str, Any]:
    """One line of metrics.jsonl: plain finite numbers, or null."""
    valid_n2 = np.isfinite(evaluation.returns_n2)
    returns = evaluation.returns_n2.ravel() if valid_n2.all() else evaluation.returns_n2[valid_n2]
    mean, deviation = mean_and_deviation(returns)
    evaluations = evaluation.returns_n2.size + (evaluation.centre is not None)
    return {
        "event": "generation",
        "generation": proposal.generation,
        "return.centre": finite(evaluation.centre),
        "return.mean": mean,
        "return.std": deviation,
        "return.best": float(np.maximum.reduce(returns)),
        "return.min": float(np.minimum.reduce(returns)),
        "grad_norm": step.grad_norm,
        "theta_norm": step.theta_norm,
        "update_ratio": step.update_ratio,
        "sigma": step.sigma,
        "seconds": seconds,
        "evaluations_per_s": evaluations / seconds,
        "workers": evaluation.workers,
        "idle_share": evaluation.idle_share,
        "lost_pairs": evaluation.lost_pairs,
        "reissued_pairs": evaluation.reissued_pairs,
        "failed_evaluations": evaluation.returns_n2.size - len(returns),
        "bytes_out": evaluation.bytes_out,
        "bytes_in": evaluation.bytes_in,
    }


def mean_and_deviation(returns: np.ndarray) -> tuple[float, float]:
    """By hand: numpy's methods cost a cheap generation 5% of its time. Of finite numbers, however large."""
    scale = 1.0
    if max(np.maximum.reduce(returns), -np.minimum.reduce(returns)) > LARGEST_SQUARED / len(returns):
        scale = float(np.abs(returns).max())
        returns = returns / scale
    mean = np.add.reduce(returns) / len(returns)
    off_mean = returns - mean
    return float(mean) * scale, float(np.sqrt(np.add.reduce(off_mean * off_mean) / len(returns))) * scale


def identity(objective: Objective, config: ESConfig, noise: Noise) -> dict[str, Any]:
    """What a checkpoint must share with the run that continues it."""
    return {"settings": config.deciding(), "objective": facts_of(objective), "noise": noise.fingerprint}


def finite(value: float | None) -> float | None:
    """The value, None in place of NaN and infinities, which JSON does not have."""
    return value if value is not None and np.isfinite(value) else None
