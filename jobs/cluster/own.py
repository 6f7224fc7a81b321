"""A Ray cluster of one's own: started for one run on this machine, with no more processes than it uses.

Beside control service and raylet Ray starts a dashboard server (even where no dashboard is wanted, and waits for it), a
monitor that would ask for more machines, and a reader of the workers' logs; it offers switches for none of them.
"""

import functools
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

from distributed.training.own_cluster import mark

CONFIG = {"worker_niceness": 0}
"""Ray lets its workers give way to every other process (nice 15), so a training on Ray would get less of a busy machine
than one without; here both get the same."""
PRELOADED = ("torch", "ray.train.torch")
"""What a worker of a training has imported before it is asked for: 2.6 of the 4 CPU seconds of its start."""


def start(cpus: int, level: str, object_store_mib: int = 512, trains: bool = False) -> None:
    """ray.init for `cpus` one-CPU workers. `level`: of Ray's own log; below ERROR the workers' output is shown too.

    `trains`: the workers are to train. Then they begin to import while Ray starts, and so does this process.
    """
    import ray

    shows = level != "ERROR"
    mark()
    config = CONFIG | ({"preload_python_modules": list(PRELOADED)} if trains else {})
    with few_processes(shows), one_thread() if trains else nothing(), importing(PRELOADED if trains else ()):
        ray.init(
            address="local",
            num_cpus=max(cpus, 1),
            include_dashboard=False,
            logging_level=level,
            log_to_driver=shows,
            object_store_memory=object_store_mib * 2**20,
            _system_config=config,
        )


@contextmanager
def few_processes(log_monitor: bool) -> Iterator[None]:
    """Ray that is started inside has neither dashboard server nor monitor, and a log monitor only if asked for."""
    from ray._private import parameter, services

    kept = parameter.RayParams, services.start_api_server
    parameter.RayParams = functools.partial(kept[0], include_log_monitor=log_monitor, no_monitor=True)
    services.start_api_server = lambda *_, **__: ("", None)
    try:
        yield
    finally:
        parameter.RayParams, services.start_api_server = kept


@contextmanager
def one_thread() -> Iterator[None]:
    """Processes that are started inside compute with one thread, unless the environment says otherwise. Ray says so to
    a worker when it gets its first task, which is too late for a torch that is loaded already."""
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]


@contextmanager
def nothing() -> Iterator[None]:
    yield


@contextmanager
def importing(modules: Sequence[str]) -> Iterator[None]:
    """The modules are imported while the block runs, which mostly waits for other processes."""
    thread = threading.Thread(target=lambda: [import_module(module) for module in modules], name="imports")
    thread.start()
    try:
        yield
    finally:
        thread.join()
