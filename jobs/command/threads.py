"""How many threads this process computes with. Ray's workers have as many as CPUs, one each, whatever is said here."""

import os
import sys

from data import cpus
from data.errors import UserError
from es import update


def use_threads(asked: int | None, alone: bool) -> None:
    """Bound torch, BLAS and the engine's update to `asked` threads; None: to what OMP_NUM_THREADS says, else to the
    CPUs that this process may use. Raises UserError for less than one.

    `alone`: no Ray will start, so libraries that are loaded later may be told through the environment, which Ray's
    workers would inherit.
    """
    if asked is not None and asked < 1:
        raise UserError(f"--threads is {asked}: it must be at least 1")
    if asked is None and (os.environ.get("OMP_NUM_THREADS") or cpus.usable_cpus() >= masked()):
        return  # what the libraries do by themselves
    number = asked or cpus.usable_cpus()
    from threadpoolctl import threadpool_limits

    threadpool_limits(limits=number)
    update.use_threads(number)
    if alone:
        os.environ["OMP_NUM_THREADS"] = str(number)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(number)


def masked() -> int:
    """CPUs by the affinity mask alone, which is what libraries count."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
