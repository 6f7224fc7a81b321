"""One door to Ray: attach to the cluster the environment names, else start a quiet local one."""

import os

from jobs.run_directory import usable_cpus

# A report of a worker is polled at this interval; Ray's default of 2 s would hold up every checkpoint.
HEALTH_CHECK_INTERVAL_S = "0.2"


def check_cpus(workers: int) -> None:
    """Raise ValueError if a local cluster could not give every worker a CPU. Starts nothing."""
    if workers < 0:
        raise ValueError(f"--workers must be at least 0, got {workers}")
    if not names_cluster() and workers > usable_cpus():
        raise ValueError(f"--workers {workers}: this machine has {usable_cpus()} CPUs; ask for at most that many")


def names_cluster() -> bool:
    return bool(os.environ.get("RAY_ADDRESS"))


def connect(cpus: int) -> None:
    """Make Ray ready for `cpus` one-CPU workers; a second call does nothing.

    With RAY_ADDRESS set (inside a Ray job it always is) the process joins that cluster, and a cluster of too few CPUs
    is a ValueError. Without it a local cluster is started: no dashboard, no authentication to trip over, and no log
    lines of workers on the terminal unless COUNTERPOINT_LOG asks for them.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", HEALTH_CHECK_INTERVAL_S)
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        return
    level = os.environ.get("COUNTERPOINT_LOG", "ERROR")
    if names_cluster():
        ray.init(logging_level=level, log_to_driver=level != "ERROR")
        available = int(ray.cluster_resources().get("CPU", 0))
        if cpus > available:
            raise ValueError(f"--workers {cpus}: the cluster at {os.environ['RAY_ADDRESS']} has {available} CPUs")
        return
    check_cpus(cpus)
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    ray.init(
        address="local",
        num_cpus=max(cpus, 1),
        include_dashboard=False,
        logging_level=level,
        log_to_driver=level != "ERROR",
        object_store_memory=512 * 2**20,
    )
