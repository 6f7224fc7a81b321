"""From a log and a config to a trained run: checks first, then Ray Train around the loop of train_loop.py."""

from pathlib import Path
from typing import Any

import torch

from data.encode import numeric_moments
from data.log import LabelFacts, Log, check_labels
from distributed.config import TrainConfig
from distributed.reporter import Diverged
from distributed.train_loop import OnEpoch, TrainJob, train
from models.registry import BACKBONES, find_objective, lookup

MAX_FAILURES = 3
COLLECTIVE_TIMEOUT_S = 600
DIVERGED = "diverged"


def prepare(run: Path, log: Log, config: TrainConfig, started: float) -> tuple[TrainJob, dict[str, LabelFacts]]:
    """Read footers, labels and feature statistics; refuse what cannot be trained. Starts nothing, writes nothing.

    Raises ValueError: a part is missing or broken, labels are wrong, a part lacks the outcomes its figures need.
    """
    lookup(BACKBONES, config.model.backbone.name, "backbone")
    find_objective(config.objective.name)
    parts = {name: log.part(name) for name in ("train", "valid")}
    if "test" in log.part_names():
        parts["test"] = log.part("test")
    facts = {name: check_labels(log, part) for name, part in parts.items()}
    for name in ("train", "valid"):
        if facts[name].clicks == 0 or facts[name].conversions == 0:
            what = "clicks" if facts[name].clicks == 0 else "conversions"
            raise ValueError(f"{log.location}/{name}: no {what} in {facts[name].rows} rows; there is nothing to learn")
    mean_N, std_N = numeric_moments(log, parts["train"])
    job = TrainJob(
        run=str(run),
        location=absolute(log),
        config=config,
        schema=log.schema,
        parts=parts,
        click_rate=facts["train"].clicks / facts["train"].rows,
        conversion_rate=facts["train"].conversions / facts["train"].clicks,
        numeric_mean=tuple(mean_N.tolist()),
        numeric_std=tuple(std_N.tolist()),
        started=started,
    )
    return job, facts


def run_training(job: TrainJob, workers: int, on_epoch: OnEpoch | None = None) -> dict[str, Any]:
    """Train with `workers` Ray Train workers (0: in this process, without Ray) and return the summary figures.

    `on_epoch`: see train_loop.train; every worker calls its own copy.

    A worker that dies is replaced and the group goes on from the last checkpoint. Raises ValueError for what the
    user can mend, whichever worker found it.
    """
    if workers == 0:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return train(job, rank=0, world_size=1, device=device, on_epoch=on_epoch)

    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job, "on_epoch": on_epoch},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus(workers)),
        torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S),
        run_config=RunConfig(
            name="ray_train",
            storage_path=job.run,
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        result = trainer.fit()
    except Exception as error:
        mistake = user_error(error)
        if mistake is not None:
            raise ValueError(mistake) from error
        raise
    figures = result.return_value
    assert isinstance(figures, dict)
    if DIVERGED in figures:
        raise ValueError(figures[DIVERGED])
    return figures


def train_worker(config: dict[str, Any]) -> dict[str, Any]:
    """What Ray Train runs on every worker: find out who we are, then the loop.

    A divergence is handed back instead of raised: all workers meet it, and another try would only meet it again.
    """
    import ray.train
    from ray.train.torch import get_device

    context = ray.train.get_context()
    try:
        rank, world_size = context.get_world_rank(), context.get_world_size()
        return train(config["job"], rank, world_size, torch.device(get_device()), config["on_epoch"])
    except Diverged as error:
        return {DIVERGED: str(error)}


def gpus(workers: int) -> bool:
    """NCCL and GPUs if the cluster has one for every worker, else gloo and CPUs."""
    import ray

    return ray.cluster_resources().get("GPU", 0) >= workers


def user_error(error: BaseException) -> str | None:
    """The message of the ValueError behind a failed fit, if that is what ended it."""
    failures = list(getattr(error, "worker_failures", {}).values())
    for failure in failures:
        cause = getattr(failure, "cause", failure)
        if isinstance(cause, ValueError):
            return str(cause)
    return None


def absolute(log: Log) -> str:
    """Workers run elsewhere: a relative path means nothing to them."""
    return log.location if "://" in log.location else log.root
