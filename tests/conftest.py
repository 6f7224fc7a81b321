"""Fixtures that several rooms share. Tests that need Ray share one cluster in each process of pytest-xdist, which is
started once, on demand.

So do processes that tests start (`forking`): they are forked from one that has imported everything.
"""

import gc
import json
import multiprocessing
import os
import pickle
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Before anything imports Ray or torch: quick polling, no authentication, no thread pools fighting for two cores.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
os.environ.setdefault("TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S", "2")  # of a group one of which is dead
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_metrics_report_interval_ms", "1000")  # a test waits for them
os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads that wait for a busy core cost more than they bring

# Tests kill processes and machines of containers, never the power: what is written need not reach the disk. Those that
# look at what is synced, and in which order, put their own in its place.
os.fsync = lambda descriptor: None

SHARED_DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


def pytest_collection_finish() -> None:
    """What is imported by now lives to the end: the collector need not look through it again and again."""
    if "jobs.report.page" in sys.modules:
        draw_each_picture_once()
    gc.collect()
    gc.freeze()


def draw_each_picture_once() -> None:
    """A picture takes 40 ms, and the pages of many tests show the same: a panel is drawn once in a process."""
    import jobs.report.page as page

    drawn, stand_in, known = page.drawn, "name-of-a-picture", dict[bytes, str]()

    def remembered(panel: Any, name: str) -> str:
        key = pickle.dumps(panel)
        if key not in known:
            known[key] = drawn(panel, stand_in)
        return known[key].replace(stand_in, name)

    page.drawn = remembered


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray cluster with 4 logical CPUs, more than the machine may have: tests wait more than they compute."""
    import ray

    from jobs.cluster import own
    from jobs.cluster.connect import no_dashboard

    with no_dashboard():
        own.start(4, "ERROR", object_store_mib=200)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside the checkout; a test that needs it is skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real data at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def small_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated log of 6,000 rows with truth, in many small row groups and with enough conversions to learn from."""
    from data.generate import generate_log
    from data.world import GeneratedLog

    directory = tmp_path_factory.mktemp("logs") / "small"
    shape = {"rows_per_file": 2000, "rows_per_group": 400, "users": 200, "items": 100}
    generate_log(
        GeneratedLog(world="aligned", rows=6000, seed=3, click_rate=0.2, conversion_rate=0.3, **shape), directory
    )
    return directory


@pytest.fixture(scope="session")
def listed_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated log with users' histories, pooled by attention to an item of another width, so in two tables."""
    from data.generate import generate_log
    from data.world import GeneratedLog

    directory = tmp_path_factory.mktemp("logs") / "listed"
    shape = {"rows_per_file": 2000, "rows_per_group": 400, "users": 200, "items": 100, "history": 5}
    generate_log(
        GeneratedLog(world="aligned", rows=6000, seed=3, click_rate=0.2, conversion_rate=0.3, **shape), directory
    )
    schema = json.loads((directory / "schema.json").read_text())
    for entry in schema["categorical"]:
        if entry["name"] == "item_id":
            entry["width"] = 6
        if entry["name"] == "history":
            entry["many"]["query"] = "item_brand"
    (directory / "schema.json").write_text(json.dumps(schema))
    return directory


@pytest.fixture(scope="session")
def trained(small_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the small log with a finished run of one epoch beside it: `log`, `run`. Many files read them; who
    changes something takes a copy (`place`)."""
    from support import arguments

    from jobs import train

    place = tmp_path_factory.mktemp("trained")
    shutil.copytree(small_log, place / "log")
    train.run(arguments(place / "log", place / "run"))
    return place


@pytest.fixture(scope="session")
def trained_run(trained: Path) -> Path:
    return trained / "run"


@pytest.fixture
def place(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained log and run, which a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "place"))


def forking() -> Any:
    """What to start processes with: a server forks them that has imported all of this once, which takes seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["jobs.pipeline.driver", "jobs.tune.driver", "ray.train.torch", "pytest", "sklearn.metrics"]
    )
    return context


def gang(work: Callable[..., None], args: tuple[Any, ...], workers: int) -> None:
    """work(rank, *args) in so many processes, to the end of all; what one raises is raised here."""
    from torch.multiprocessing import start_processes

    forking()
    start_processes(work, args=args, nprocs=workers, start_method="forkserver")


def begin(module: str, *words: object, errors: Path, **environment: str) -> Any:
    """`python -m module words` in a forked process that is started; what it says goes to a file."""
    given = (module, [str(word) for word in words], errors, environment)
    process = forking().Process(target=as_command, args=given)
    process.start()
    return process


def as_command(
    module: str, words: list[str], errors: Path, environment: dict[str, str], printed: str = os.devnull
) -> None:
    """This process is the command from now on; what it prints and says goes to files."""
    os.environ |= environment
    os.dup2(os.open(printed, os.O_WRONLY | os.O_CREAT), 1)
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    sys.argv = [module, *words]
    sys.modules.pop(module, None)  # it is to be run, though the server has imported it
    runpy.run_module(module, run_name="__main__")


REFUSED = object()


def fuzz(examples: int) -> Any:
    """Hypothesis settings of a fuzz test: the same bounded examples on every run. COUNTERPOINT_FUZZ=N makes N times as
    many, other ones each time."""
    import hypothesis

    times = int(os.environ.get("COUNTERPOINT_FUZZ") or "0")
    return hypothesis.settings(
        max_examples=examples * max(times, 1),
        derandomize=not times,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],  # a failure is to be quick, not small
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


def attempt(call: Callable[[], Any]) -> Any:
    """What the call returns, or REFUSED if it raised what an entry point turns into one line and exit code 2.

    Other packages' subclasses of ValueError (of JSON, of Unicode, of Arrow) are accidents and go through.
    """
    try:
        return call()
    except ValueError as error:
        if type(error).__module__.split(".")[0] not in ("builtins", "data", "distributed", "es", "jobs", "models"):
            raise
        if isinstance(error, UnicodeError):
            raise
        if len(str(error).split()) < 3:
            raise AssertionError(f"says nothing: {error!r}") from error
        return REFUSED
