"""From a log and a config to a trained run: checks first, then Ray Train around the loop of loop.py."""

import dataclasses
import math
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from data.columns import feature_kinds
from data.errors import UserError
from data.log import Log
from distributed.config import TrainConfig
from distributed.context import Context
from distributed.reporting.reporter import Diverged
from distributed.training.job import TrainJob
from distributed.training.loop import OnEpoch, train
from distributed.training.own_cluster import is_own
from distributed.training.recorder import CHECKPOINTS
from distributed.training.stopping import GRACE_S, PREEMPTED, SIGNALS, Stop, Stopped, ended, write_code
from funnel.problem import Problem
from funnel.registry import DEFAULT_PROBLEM, find_problem

MAX_FAILURES = 1000  # of a long run on machines that come and go; worker_group.Failures ends one that gets no further
COLLECTIVE_TIMEOUT_S = 300
"""A worker waits so long for another. More than one may rightly need: to read a cold file, to write its shard."""
RESIZE_EVERY_S = 15.0
"""How often a group of changing size looks for new nodes. A change costs a start of the group, but no step."""
DIVERGED, STOPPED = "diverged", "stopped"


def prepare(
    run: Path,
    log: Log,
    config: TrainConfig,
    settings: Any,
    started: float,
    problem: str = DEFAULT_PROBLEM,
    given: Mapping[str, str] | None = None,
) -> TrainJob:
    """Read footers, labels and feature statistics; refuse what cannot be trained. Starts nothing, writes nothing.

    `settings`: the problem's own; `given`: run directories of finished trainings by role. Raises UserError: a part is
    missing or broken, labels are wrong, a part lacks the outcomes its figures need.
    """
    kind = find_problem(problem)
    given = given or {}
    for role in given:
        if role not in kind.roles:
            raise UserError(f"--given {role}=...: problem {problem} takes {', '.join(kind.roles) or 'none'}")
    parts = {name: log.part(name) for name in ("train", "valid")}
    if "test" in log.part_names():
        parts["test"] = log.part("test")
    # What the ids are belongs to the model: whoever uses it is held to it (data/columns.py).
    schema = dataclasses.replace(log.schema, kinds=feature_kinds(log.schema, (part.kinds for part in parts.values())))
    log = dataclasses.replace(log, schema=schema)
    facts = kind.prepare(settings, log, parts, tuple(given))
    plain: Problem = kind(settings, log.schema, facts, {})
    plain.smaller_is_better(config.stop_metric or plain.goal)
    return TrainJob(
        run=str(run),
        location=absolute(log),
        problem=problem,
        config=config,
        settings=settings,
        schema=log.schema,
        parts={name: dataclasses.replace(part, kinds={}, types={}) for name, part in parts.items()},  # plain values
        sizes={name: plain.sizes(log, part) for name, part in parts.items()},
        facts=facts,
        started=started,
        given=given,
    )


def trainer_kind() -> Any:
    """Ray Train's TorchTrainer; on a cluster of our own without what Ray Train starts beside the workers."""
    from ray.train.torch import TorchTrainer

    if not is_own():
        return TorchTrainer
    try:
        from distributed.training.ray_local import LocalTrainer
    except (ImportError, AttributeError):  # a Ray whose insides have moved: slower to start, otherwise the same
        return TorchTrainer
    return LocalTrainer


def run_training(
    job: TrainJob,
    workers: int,
    on_epoch: OnEpoch | None = None,
    min_workers: int | None = None,
    signalled: Callable[[], int] = lambda: 0,
    meanwhile: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Train with `workers` Ray Train workers (0: in this process, without Ray) and return the summary figures.

    A worker that dies is replaced and the group goes on from the last checkpoint. With `min_workers` it has as many
    workers as the cluster has room for, from so many up to `workers`, and changes as nodes come and go. `signalled`
    gives the signal that this process has received (0: none): then the state is saved and stopping.Stopped raised.
    `on_epoch`: see loop.train; every worker calls its own copy. `meanwhile` is called here again and again while
    Ray Train workers train, and once when they are done. Raises UserError for what the user can mend,
    whichever worker found it.
    """
    if workers == 0:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return train(job, Context(device=device, stop=Stop(signalled=signalled)), on_epoch)

    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig

    from distributed.training.ray_group import Failures, NoticedTorchConfig, free_room

    free_room(Path(job.run))
    elastic = min_workers is not None and min_workers < workers
    trainer = trainer_kind()(
        train_worker,
        train_loop_config={"job": job, "on_epoch": on_epoch},
        scaling_config=ScalingConfig(
            num_workers=(min_workers, workers) if elastic else workers,
            use_gpu=gpus(min_workers or workers),
            elastic_resize_monitor_interval_s=RESIZE_EVERY_S,
        ),
        torch_config=NoticedTorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S),
        run_config=RunConfig(
            name="ray_train",
            storage_path=job.run,
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            callbacks=[Failures(job.run, str(Path(job.run) / CHECKPOINTS))],
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        result = wait_for(trainer.fit, Path(job.run), signalled, meanwhile)
    except (Stopped, KeyboardInterrupt):
        raise
    except Exception as error:
        mistake = user_error(error)
        if mistake is not None:
            raise UserError(mistake) from error
        raise
    figures = result.return_value
    assert isinstance(figures, dict)
    if DIVERGED in figures:
        raise UserError(figures[DIVERGED])
    if STOPPED in figures:
        raise Stopped(*figures[STOPPED])
    return figures


def wait_for(
    fit: Callable[[], Any], run: Path, signalled: Callable[[], int], meanwhile: Callable[[], None] = lambda: None
) -> Any:
    """The result of fit(), in a thread of its own; a signal is passed on to the workers, which then have GRACE_S."""
    box: list[tuple[Any, BaseException | None]] = []

    def work() -> None:
        try:
            box.append((fit(), None))
        except BaseException as error:
            box.append((None, error))

    thread = threading.Thread(target=work, name="fit", daemon=True)
    thread.start()
    deadline = math.inf
    while thread.is_alive():
        thread.join(0.2)
        meanwhile()
        if number := signalled():
            deadline = min(deadline, time.monotonic() + GRACE_S)
            write_code(run, SIGNALS + number)  # again and again: a group that is only starting clears the file
            if time.monotonic() > deadline:
                raise Stopped(SIGNALS + number, 0, saved=False)
    result, error = box[0]
    if error is not None:
        raise error
    return result


def train_worker(config: dict[str, Any]) -> dict[str, Any]:
    """What Ray Train runs on every worker: find out who we are, then the loop.

    A divergence is handed back instead of raised: all workers meet it, and another try would only meet it again. So is
    a stop that the driver has asked for.
    """
    import ray.train
    from ray.train.torch import get_device

    from distributed.training.ray_group import Preempted, note_room

    mine, job = ray.train.get_context(), config["job"]
    device, stop = torch.device(get_device()), Stop(Path(job.run))
    context = Context(mine.get_world_rank(), mine.get_world_size(), device, stop)
    if context.leads:
        note_room(Path(job.run))
    try:
        return train(job, context, config["on_epoch"])
    except Diverged as error:
        return {DIVERGED: str(error)}
    except Stopped as stopped:
        if stopped.code == PREEMPTED:
            raise Preempted(f"stopped at step {stopped.step}; another group goes on") from None
        return {STOPPED: (stopped.code, stopped.step)}
    finally:
        ended()


def gpus(workers: int) -> bool:
    """NCCL and GPUs if the cluster has one for every worker, else gloo and CPUs."""
    import ray

    return ray.cluster_resources().get("GPU", 0) >= workers


def user_error(error: BaseException) -> str | None:
    """The message of the UserError behind a failed fit, if that is what ended it."""
    failures = list(getattr(error, "worker_failures", {}).values())
    failures += [failure] if (failure := getattr(error, "controller_failure", None)) else []
    for failure in failures:
        cause = getattr(failure, "cause", failure)
        if isinstance(cause, UserError):
            return str(cause)
    return None


def absolute(log: Log) -> str:
    """Workers run elsewhere: a relative path means nothing to them."""
    return log.location if "://" in log.location else log.root
