"""Freed memory stays with a training: steps after the first ones ask the system for nothing more."""

import resource
import threading
from pathlib import Path

import pytest
import torch
from conftest import gang

from distributed.training import memory
from distributed.training.memory import keep_freed_memory

STEPS = ((6,) * 6, (8, 6, 5, 4) * 3, (20, 30, 10, 20, 30), (9,) * 8)
"""MiB of the blocks that steps take one after the other; every third time the oldest is freed."""
WARM, COUNTED = 6, 4


def step(sizes: tuple[int, ...]) -> int:
    """The pages that the system gives this thread for it."""
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    taken: list[torch.Tensor] = []
    for number, size in enumerate(sizes):
        taken.append(torch.ones(size << 18))
        if number % 3 == 2:
            taken.pop(0)
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before


def count_faults(rank: int, folder: str) -> None:
    """Of steps after the first ones, in a thread of a fresh process, which keeps what it has freed if it is the
    second."""
    torch.set_num_threads(1)
    found = []

    def work() -> None:
        for sizes in STEPS:
            found.append(sum([step(sizes) for _ in range(WARM + COUNTED)][WARM:]))

    known = keep_freed_memory() if rank else True
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    Path(folder, str(rank)).write_text(str(sum(found) if known else "unknown"))


@pytest.mark.slow
def test_a_thread_takes_again_what_it_has_freed(tmp_path: Path) -> None:
    gang(count_faults, (str(tmp_path),), 2)
    without, with_it = ((tmp_path / str(rank)).read_text() for rank in range(2))
    if with_it == "unknown":
        pytest.skip("not glibc, or the environment has chosen")
    pages = COUNTED * sum(map(sum, STEPS)) * 2**20 // resource.getpagesize()
    assert int(with_it) < pages / 50
    assert int(without) > pages / 50


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_what_the_environment_has_chosen_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: pytest.fail("asked"))
    monkeypatch.setenv(name, "1")
    assert not keep_freed_memory()
