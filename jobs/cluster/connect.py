"""One door to Ray: attach to the cluster the environment names, else start a quiet local one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from data.errors import UserError
from distributed.training.own_cluster import unmark
from jobs.cluster import own
from jobs.cluster.answers import check_answers
from jobs.cluster.authentication import after_local_cluster, before_local_cluster, before_named_cluster
from jobs.cluster.waiting import waiting
from jobs.run.directory import usable_cpus

RECOVERY = {
    # Ray Train looks at its workers so often: what a death costs at least. Ray's default is 2 s.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # A worker that does not answer for so long has hung. Answering takes it milliseconds; Ray waits ten minutes.
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",
    # Ray counts on a lost node for up to 20 s; the wait for it ends after this, and fewer workers are tried. Ray: 60 s.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
    # Workers that leave a group whose other members are gone. Ray: 30 s.
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",
}
"""How soon a run goes on after a fault: docs/survive.md has the times. What the environment says wins."""


SERVER = "RAY_API_SERVER_ADDRESS"
SOCKET = "/ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
"""The longest that Ray makes, under its directory for temporary files."""
LONGEST_SOCKET = 107
"""Bytes in the name of a socket, on Linux."""


def check_cpus(workers: int) -> None:
    """Raise UserError if a local cluster could not give every worker a CPU, or the named one is not there. Starts
    nothing."""
    if workers < 0:
        raise UserError(f"--workers must be at least 0, got {workers}")
    if workers and names_cluster():
        check_answers(os.environ["RAY_ADDRESS"])
    if names_cluster() or not workers:
        return
    if workers > usable_cpus():
        raise UserError(f"--workers {workers}: this machine has {usable_cpus()} CPUs; ask for at most that many")
    check_sockets()


def check_sockets() -> None:
    """Raise UserError if the sockets of a local cluster would have longer names than the system takes."""
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), "")
    place = os.environ.get(name, "")
    if len(os.fsencode(place + SOCKET)) > LONGEST_SOCKET:
        most = LONGEST_SOCKET - len(SOCKET)
        raise UserError(
            f"{name}={place}: too long for Ray's sockets, which lie under it ({len(os.fsencode(place))} bytes, at most "
            f"{most}); set RAY_TMPDIR to a shorter directory"
        )


def names_cluster() -> bool:
    """Whether RAY_ADDRESS names a cluster; "local" is Ray's word for a new one on this machine."""
    return os.environ.get("RAY_ADDRESS", "") not in ("", "local")


def connect(cpus: int, asked: str = "", trains: bool = False) -> None:
    """Make Ray ready for `cpus` one-CPU workers, which are to train if `trains`; a second call does nothing.

    With RAY_ADDRESS set (inside a Ray job it always is) the process joins that cluster, and a cluster of too few CPUs
    is a UserError, which names the options that `asked` for so many. Without it a local cluster is started: no
    dashboard, a token of its own, and no log lines of workers on the terminal unless COUNTERPOINT_LOG asks for them.
    """
    for name, value in RECOVERY.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        return
    level = os.environ.get("COUNTERPOINT_LOG", "ERROR")
    if names_cluster():
        address = os.environ["RAY_ADDRESS"]
        unmark()
        before_named_cluster()
        check_answers(address)
        with waiting(f"the Ray cluster at {address} to answer"):
            try:
                ray.init(logging_level=level, log_to_driver=level != "ERROR")
            except ConnectionError:
                raise UserError(
                    f"RAY_ADDRESS={address}: no Ray cluster answers there, or it refuses the token "
                    f"(RAY_AUTH_MODE is {os.environ.get('RAY_AUTH_MODE', 'not set')})"
                ) from None
            except RuntimeError as error:
                if "ersion mismatch" not in str(error):
                    raise
                raise UserError(f"RAY_ADDRESS={address}: {error}") from None
        available = int(ray.cluster_resources().get("CPU", 0))
        if cpus > available:
            asked = asked or f"--workers {cpus}"
            raise UserError(f"{asked}: the cluster at {address} has {available} CPUs")
        return
    check_cpus(cpus)
    before_local_cluster()
    with no_dashboard(), waiting("Ray to start"):
        own.start(cpus, level, trains=trains)
    after_local_cluster()


@contextmanager
def no_dashboard() -> Iterator[None]:
    """What is started inside looks for Ray's dashboard where it is refused at once.

    A helper of Ray Train asks it all the time whether the controller lives. Where there is none it waits up to 40 s for
    the address, and every training waits for the helper at its end, 12 s.
    """
    if SERVER in os.environ:
        yield
        return
    os.environ[SERVER] = "http://127.0.0.1:9"
    try:
        yield
    finally:
        del os.environ[SERVER]  # this process may submit jobs elsewhere
